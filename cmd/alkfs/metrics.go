package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/alkdev/alkfs"
	"github.com/alkdev/alkfs/latency"
)

// serveHTTP answers /metrics and /healthz at addr until the function it returns
// is called.
func (r *service) serveHTTP(addr string) (stop func(), err error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, withHint(err, "another address is named with --http HOST:PORT")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := r.s.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, q *http.Request) {
		text, err := r.metrics(q.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(text)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // it ends by stop alone
	}()
	r.a.httpAddr(ln.Addr().String())
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
		_ = server.Close()
		<-done
	}, nil
}

func (a *app) httpAddr(addr string) {
	if a.json {
		_ = a.emit("http", addr)
		return
	}
	a.printf("metrics at http://%s/metrics\n", addr)
}

// exposition collects metrics in the text format of Prometheus
// (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4).
type exposition struct{ bytes.Buffer }

// metric writes one value; labels are names and values in turn.
func (e *exposition) metric(kind, name, help string, value int64, labels ...string) {
	if head := fmt.Sprintf("# TYPE %s ", name); !bytes.Contains(e.Bytes(), []byte(head)) {
		fmt.Fprintf(e, "# HELP %s %s\n%s%s\n", name, help, head, kind)
	}
	e.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		fmt.Fprintf(e, "%s%s=%q", sep, labels[i], labels[i+1])
	}
	if len(labels) > 0 {
		e.WriteByte('}')
	}
	fmt.Fprintf(e, " %d\n", value)
}

// opMetrics writes a histogram for each operation that happened.
func (e *exposition) opMetrics(process string, all latency.Surfaces) {
	const name = "alkfs_operation_seconds"
	for _, o := range operations(all) {
		if !bytes.Contains(e.Bytes(), []byte("# TYPE "+name+" ")) {
			fmt.Fprintf(e, "# HELP %s How long operations took.\n# TYPE %s histogram\n", name, name)
		}
		labels := fmt.Sprintf("process=%q,surface=%q,op=%q", process, o.surface, o.op)
		for k := 12; k <= 36; k += 2 { // 4 µs to 69 s
			le := (time.Duration(1) << k).Seconds()
			fmt.Fprintf(e, "%s_bucket{%s,le=\"%g\"} %d\n", name, labels, le, o.Below(k))
		}
		fmt.Fprintf(e, "%s_bucket{%s,le=\"+Inf\"} %d\n%s_sum{%s} %g\n%s_count{%s} %d\n",
			name, labels, o.Total(), name, labels, o.Sum.Seconds(), name, labels, o.Total())
	}
}

// contentMetrics are those for which whole tables are read. They are read anew
// when they are older than a minute.
type contentMetrics struct {
	mu       sync.Mutex
	at       time.Time
	usage    alkfs.Usage
	branches []alkfs.BranchUsage
}

func (c *contentMetrics) write(e *exposition, s *alkfs.Store) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) > time.Minute {
		if c.usage, err = s.Usage(); err != nil {
			return err
		}
		if c.branches, err = s.BranchUsage(); err != nil {
			return err
		}
		c.at = time.Now()
	}
	b := c.usage.Blobs
	e.metric("gauge", "alkfs_stored_bytes", "Bytes of all content, each once.", b.InlineBytes+b.FileBytes)
	e.metric("gauge", "alkfs_version_bytes", "Bytes that all versions would take without sharing.", b.VersionBytes)
	e.metric("gauge", "alkfs_blobs", "Contents.", b.Inline+b.Files)
	e.metric("gauge", "alkfs_blobs_unsynced", "Contents not known to be on the disk.", b.Unsynced)
	e.metric("gauge", "alkfs_blobs_quarantined", "Damaged contents in quarantine.", b.Quarantined)
	for _, u := range c.branches {
		e.metric("gauge", "alkfs_branch_bytes", "Bytes of the versions a branch has of its own.", u.Bytes, "bucket", u.Bucket, "branch", u.Branch)
	}
	return nil
}

// byName adds up what processes of one name count.
func byName(list []alkfs.Process) map[string]alkfs.Process {
	sum := map[string]alkfs.Process{}
	for _, p := range list {
		t, ok := sum[p.Name]
		if !ok {
			t.Ops = latency.Surfaces{}
		}
		t.Ops.AddAll(p.Ops)
		t.Slow += p.Slow
		t.Goroutines += p.Goroutines
		t.HeapBytes += p.HeapBytes
		t.CPU += p.CPU
		t.Blobs.OpenBlobs += p.Blobs.OpenBlobs
		t.Blobs.Opened += p.Blobs.Opened
		t.Blobs.Reused += p.Blobs.Reused
		t.Blobs.Verified += p.Blobs.Verified
		t.Blobs.Hashed += p.Blobs.Hashed
		sum[p.Name] = t
	}
	return sum
}

// processMetrics are those of every process that serves the store.
func (e *exposition) processMetrics(list []alkfs.Process) {
	sums := byName(list)
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		p := sums[name]
		e.metric("counter", "alkfs_slow_operations_total", "Operations logged as slow.", p.Slow, "process", name)
		e.metric("gauge", "alkfs_goroutines", "Goroutines.", int64(p.Goroutines), "process", name)
		e.metric("gauge", "alkfs_heap_bytes", "Bytes of heap in use.", int64(p.HeapBytes), "process", name)
		e.metric("counter", "alkfs_cpu_milliseconds_total", "CPU time.", p.CPU.Milliseconds(), "process", name)
		e.metric("gauge", "alkfs_content_files_open", "Content files open.", p.Blobs.OpenBlobs, "process", name)
		e.metric("counter", "alkfs_content_files_opened_total", "Content files opened.", p.Blobs.Opened, "process", name)
		e.metric("counter", "alkfs_content_files_reused_total", "Opens of content answered with an open file.", p.Blobs.Reused, "process", name)
		e.metric("counter", "alkfs_groups_verified_total", "Groups of 16 KiB checked by reads.", p.Blobs.Verified, "process", name)
		e.metric("counter", "alkfs_groups_hashed_total", "Groups of 16 KiB hashed by writes.", p.Blobs.Hashed, "process", name)
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		e.opMetrics(name, sums[name].Ops)
	}
}

func (e *exposition) quotaMetrics(s *alkfs.Store) error {
	buckets, err := s.Buckets()
	for _, b := range buckets {
		q, ok, err := s.Quota(b.Name)
		if err != nil {
			return err
		}
		if ok {
			e.metric("gauge", "alkfs_quota_bytes", "Quota of a bucket; 0: none.", q.MaxBytes, "bucket", b.Name)
			e.metric("gauge", "alkfs_quota_inodes", "Quota of a bucket; 0: none.", q.MaxInodes, "bucket", b.Name)
			e.metric("gauge", "alkfs_counted_bytes", "Bytes that count towards it.", q.Bytes, "bucket", b.Name)
			e.metric("gauge", "alkfs_counted_inodes", "Inodes that count towards it.", q.Inodes, "bucket", b.Name)
		}
	}
	return err
}

func (r *service) metrics(ctx context.Context) ([]byte, error) {
	st, err := r.s.Stats()
	if err != nil {
		return nil, err
	}
	var e exposition
	gauge := func(name, help string, value int64, labels ...string) {
		e.metric("gauge", name, help, value, labels...)
	}
	counter := func(name, help string, value int64, labels ...string) {
		e.metric("counter", name, help, value, labels...)
	}

	gauge("alkfs_database_bytes", "Size of the database file.", st.DatabaseBytes)
	gauge("alkfs_wal_bytes", "Size of the write-ahead log.", st.WALBytes)
	gauge("alkfs_disk_free_bytes", "Free bytes of the file system of the store.", st.DiskFree)
	gauge("alkfs_disk_size_bytes", "Size of the file system of the store.", st.DiskSize)
	counter("alkfs_events_total", "Changes to the store, by any process.", st.LastEvent)
	gauge("alkfs_sessions", "Recorded unpublished writes.", int64(st.Writing), "process", "running")
	gauge("alkfs_sessions", "", int64(st.Orphaned), "process", "dead")
	gauge("alkfs_locks_held", "Named locks that are held.", int64(st.LocksHeld))
	for _, q := range st.Queues {
		gauge("alkfs_queue_jobs", "Jobs of durable queues.", int64(q.Jobs), "queue", q.Queue, "state", q.State.String())
	}
	counter("alkfs_writes_total", "Write transactions of this process.", st.Transactions.Writes)
	counter("alkfs_commits_total", "Commits of this process; each holds many writes.", st.Transactions.Commits)
	counter("alkfs_slow_transactions_total", "Transactions of this process that took over half a second.", st.Transactions.Slow)
	counter("alkfs_checkpoints_total", "Checkpoints of the log by this process.", st.Transactions.Checkpoints)
	gauge("alkfs_open_files", "Files open in this process.", st.Files.Open)
	counter("alkfs_publishes_total", "Versions published by this process.", st.Files.Publishes)
	counter("alkfs_published_bytes_total", "Bytes of content published by this process.", st.Files.Bytes)
	r.mu.Lock()
	mounts := slices.Clone(r.mounts)
	r.mu.Unlock()
	for _, m := range mounts {
		ms := m.Stats()
		gauge("alkfs_mount_nodes", "Inodes that the kernel knows.", ms.Nodes, "dir", m.Dir())
		gauge("alkfs_mount_handles", "Open files and directories.", ms.Handles, "dir", m.Dir())
		counter("alkfs_mount_invalidations_total", "Notices to the kernel of changes made elsewhere.", ms.Invalidations, "dir", m.Dir())
		counter("alkfs_mount_passthrough_total", "Opens answered with passthrough.", ms.Passthrough, "dir", m.Dir())
	}
	if r.sftp != nil {
		ss := r.sftp.Stats()
		gauge("alkfs_ssh_connections", "Connections with a user.", ss.Open.Load())
		counter("alkfs_ssh_accepted_total", "Connections accepted.", ss.Accepted.Load())
		counter("alkfs_ssh_refused_total", "Connections refused.", ss.Refused.Load())
		counter("alkfs_ssh_failed_logins_total", "Connections that failed to log in.", ss.Failed.Load())
		counter("alkfs_ssh_commands_total", "Commands run.", ss.Commands.Load())
	}
	processes, err := r.s.Processes(ctx)
	if err != nil {
		return nil, err
	}
	e.processMetrics(processes)
	if err := e.quotaMetrics(r.s); err != nil {
		return nil, err
	}
	if err := r.content.write(&e, r.s); err != nil {
		return nil, err
	}
	return e.Bytes(), nil
}
