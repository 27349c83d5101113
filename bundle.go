package alkfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

// BundleOptions configures DebugBundle.
type BundleOptions struct {
	Version   string // of the program
	WithNames bool   // with names of buckets, branches and directories, and the log as it is
}

// DebugBundle writes what helps to find a bug, as a tar.gz: the machine, the
// store's numbers and structure, the background work, and of each process that
// answers (see Answer) its numbers, log, goroutines and heap. It has no content
// and, unless asked, no name of anything: neither of files nor of buckets,
// branches, users or directories.
func (s *Store) DebugBundle(ctx context.Context, w io.Writer, o BundleOptions) error {
	if err := s.everything(); err != nil {
		return err
	}
	z := gzip.NewWriter(w)
	b := bundle{ctx: ctx, s: s, o: o, tar: tar.NewWriter(z), at: time.Now().Truncate(time.Second)} // tar would round it up
	for _, part := range []struct {
		name string
		make func() ([]byte, error)
	}{
		{"about.json", b.about},
		{"stats.json", b.stats},
		{"buckets.json", b.buckets},
		{"jobs.json", b.jobs},
		{"database.txt", b.database},
	} {
		text, err := part.make()
		if err := b.add(part.name, text, err); err != nil {
			return err
		}
	}
	if err := b.processes(); err != nil {
		return err
	}
	return errors.Join(b.tar.Close(), z.Close())
}

type bundle struct {
	ctx context.Context
	s   *Store
	o   BundleOptions
	tar *tar.Writer
	at  time.Time
}

// add writes a file, or why it could not be made: a bundle is for when things
// fail.
func (b *bundle) add(name string, text []byte, failed error) error {
	if b.ctx.Err() != nil {
		return b.ctx.Err()
	}
	if failed != nil {
		name, text = name+".error", []byte(b.errorText(failed)+"\n")
	}
	h := &tar.Header{Name: "alkfs-debug/" + name, Mode: 0o644, Size: int64(len(text)), ModTime: b.at}
	if err := b.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := b.tar.Write(text)
	return err
}

func (b *bundle) errorText(err error) string {
	if b.o.WithNames {
		return err.Error()
	}
	return errorKind(err)
}

// name is a name, or what stands for it.
func (b *bundle) name(name, kind string, n int) string {
	if b.o.WithNames {
		return name
	}
	return fmt.Sprintf("%s %d", kind, n)
}

func (b *bundle) about() ([]byte, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(b.s.dir, &disk); err != nil {
		return nil, err
	}
	var mem unix.Sysinfo_t
	if err := unix.Sysinfo(&mem); err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, e := range os.Environ() {
		if k, v, _ := strings.Cut(e, "="); strings.HasPrefix(k, "ALKFS_") || k == "GOMAXPROCS" || k == "GOMEMLIMIT" || k == "GOGC" {
			if !b.o.WithNames && !slices.Contains([]string{"ALKFS_LOG", "ALKFS_SLOW", "GOMAXPROCS", "GOMEMLIMIT", "GOGC"}, k) {
				v = "…"
			}
			env[k] = v
		}
	}
	return indented(map[string]any{
		"version": b.o.Version, "format": Format, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH,
		"kernel": unix.ByteSliceToString(u.Release[:]), "cpus": runtime.NumCPU(), "memory_bytes": uint64(mem.Totalram) * uint64(mem.Unit),
		"uptime_seconds": mem.Uptime, "load": float64(mem.Loads[0]) / 65536, "uid": os.Geteuid(),
		"file_system": fmt.Sprintf("%#x", disk.Type), "disk_size": int64(disk.Blocks) * disk.Bsize, "disk_free": int64(disk.Bavail) * disk.Bsize,
		"time": b.at.UTC(), "environment": env,
	})
}

func indented(v any) ([]byte, error) { return json.MarshalIndent(v, "", "\t") }

func (b *bundle) stats() ([]byte, error) {
	st, err := b.s.Stats()
	if err != nil {
		return nil, err
	}
	u, err := b.s.Usage()
	if err != nil {
		return nil, err
	}
	ended, err := b.s.Ended()
	if err != nil {
		return nil, err
	}
	open, err := b.s.OpenSessions()
	sessions := []map[string]any{}
	for _, i := range open {
		sessions = append(sessions, map[string]any{"size": i.Size, "alive": i.Alive, "synced": i.Synced, "created": i.Created, "updated": i.Updated})
	}
	if err != nil {
		return nil, err
	}
	if !b.o.WithNames { // queues are a user's to name
		for k := range st.Queues {
			if st.Queues[k].Queue != upkeepQueue {
				st.Queues[k].Queue = fmt.Sprintf("queue %d", k+1)
			}
		}
	}
	return indented(map[string]any{"stats": st, "usage": u, "ended": ended, "sessions": sessions})
}

func (b *bundle) buckets() ([]byte, error) {
	buckets, err := b.s.Buckets()
	if err != nil {
		return nil, err
	}
	usage, err := b.s.BranchUsage()
	if err != nil {
		return nil, err
	}
	list := []map[string]any{}
	for n, bucket := range buckets {
		q, _, err := b.s.Quota(bucket.Name)
		if err != nil {
			return nil, err
		}
		branches := []map[string]any{}
		for _, u := range usage {
			if u.Bucket == bucket.Name {
				branches = append(branches, map[string]any{"name": b.name(u.Branch, "branch", len(branches)+1), "versions": u.Versions, "bytes": u.Bytes})
			}
		}
		snapshots, err := b.s.Snapshots(bucket.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, map[string]any{
			"name": b.name(bucket.Name, "bucket", n+1), "created": bucket.Created, "policy": bucket.Policy, "quota": q,
			"snapshots": len(snapshots), "branches": branches,
		})
	}
	return indented(list)
}

func (b *bundle) jobs() ([]byte, error) {
	jobs, err := b.s.Jobs()
	if err != nil {
		return nil, err
	}
	for k := range jobs {
		if !b.o.WithNames && jobs[k].Running != "" {
			jobs[k].Running = "…"
		}
	}
	history, err := b.s.JobHistory(200)
	if err != nil {
		return nil, err
	}
	for k := range history {
		if !b.o.WithNames && history[k].Result != "" {
			history[k].Result = "…"
		}
	}
	return indented(map[string]any{"jobs": jobs, "history": history})
}

func (b *bundle) database() (text []byte, err error) {
	err = b.s.db.Snapshot(func(tx *schema.Tx) error {
		d, err := schema.Describe(tx)
		text = []byte(d)
		return err
	})
	return text, err
}

// processes adds a directory for each process that answers.
func (b *bundle) processes() error {
	names, err := b.s.sockets()
	if err != nil {
		return b.add("processes", nil, err)
	}
	log := askLog
	if b.o.WithNames {
		log = askLogNames
	}
	for _, name := range names {
		pid, _, _ := strings.Cut(name, "-")
		for _, q := range []struct{ file, question string }{
			{"stats.json", askStats}, {"log.txt", log}, {"goroutines.txt", askGoroutines}, {"heap.pb.gz", askHeap},
		} {
			text, err := b.s.ask(b.ctx, name, q.question)
			if err == nil && q.question == askStats && !b.o.WithNames {
				text, err = withoutDirs(text)
			}
			if err := b.add(path.Join("processes", pid, q.file), text, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// withoutDirs takes the directories of mounts out of the answer to askStats.
func withoutDirs(text []byte) ([]byte, error) {
	var p Process
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&p); err != nil {
		return nil, err
	}
	for k := range p.Mounts {
		p.Mounts[k].Dir = fmt.Sprintf("mount %d", k+1)
		p.Mounts[k].Bucket, p.Mounts[k].Branch = "", ""
	}
	return indented(p)
}
