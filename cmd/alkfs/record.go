package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mountRecord says which process serves a mount. It is a file in mounts/ of the
// store, locked (flock) from before the mount appears until its process has
// published everything and ends; an unlocked record is of a process that died.
type mountRecord struct {
	Dir     string    `json:"dir"`
	Spec    string    `json:"spec"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

func recordPath(store, dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(store, "mounts", hex.EncodeToString(sum[:12])+".json")
}

// writeRecord makes the record of this process and locks it. EWOULDBLOCK means
// that another process serves that directory.
func writeRecord(store string, r mountRecord) (*os.File, error) {
	path := recordPath(store, r.Dir)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		if !sameFile(f, path) { // removed by its last owner between open and lock
			f.Close()
			continue
		}
		r.PID, r.Started = os.Getpid(), time.Now().UTC().Truncate(time.Second)
		text, err := json.Marshal(r)
		if err == nil {
			err = f.Truncate(0)
		}
		if err == nil {
			_, err = f.WriteAt(append(text, '\n'), 0)
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// dropRecord removes the record and lets go of its lock, in this order.
func dropRecord(f *os.File) {
	_ = os.Remove(f.Name())
	f.Close()
}

// awaitRecord returns when no process holds the record at path any more.
func awaitRecord(ctx context.Context, path string) error {
	for {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		f.Close()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// liveRecords returns the records of processes that run.
func liveRecords(store string) ([]mountRecord, error) {
	paths, err := filepath.Glob(filepath.Join(globEscape(store), "mounts", "*.json"))
	var live []mountRecord
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
			var r mountRecord
			if json.NewDecoder(f).Decode(&r) == nil {
				live = append(live, r)
			}
		}
		f.Close()
	}
	return live, err
}

func globEscape(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// fuseMount is what the kernel says about a mount of ours.
type fuseMount struct {
	dir, source string
}

// mountAt returns the topmost alkfs mount at dir, an absolute path whose parents
// are no symlinks.
func mountAt(dir string) (m fuseMount, ok bool, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return m, false, err
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		// ID parent major:minor root DIR options fields… - TYPE SOURCE options
		head, tail, found := strings.Cut(line, " - ")
		f, t := strings.Fields(head), strings.Fields(tail)
		if !found || len(f) < 5 || len(t) < 2 || unescapeMount(f[4]) != dir {
			continue
		}
		m, ok = fuseMount{dir, unescapeMount(t[1])}, t[0] == "fuse.alkfs"
	}
	return m, ok, nil
}

// unescapeMount undoes the octal escapes of /proc/self/mountinfo.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(s string) bool {
	return strings.Trim(s, "01234567") == ""
}

// mountPoint returns dir absolute, with the symlinks in its parents resolved,
// as the kernel lists it. dir itself may be a mount that no longer answers.
func mountPoint(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if full, err := filepath.EvalSymlinks(abs); err == nil {
		return full, nil
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return abs, nil
	}
	return filepath.Join(parent, filepath.Base(abs)), nil
}

// storeSource is the source of a mount as df and mount show it; it names the
// store, so that umount finds the record.
func storeSource(store string) string { return "alkfs:" + store }
