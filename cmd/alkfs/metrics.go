package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
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
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		text, err := r.metrics()
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

func (r *service) metrics() ([]byte, error) {
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
	for _, m := range r.mounts {
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
	return e.Bytes(), nil
}
