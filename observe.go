package alkfs

import (
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv"
	"github.com/alkdev/alkfs/writesession"
)

// defaultSlow is from when on an operation is worth a line in the log.
const defaultSlow = time.Second

// Operations of the Go API, and so of the command line, that are counted.
const (
	opOpen = iota
	opRead
	opWrite
	opPut
	opGet
	opExport
	opImport
	opCopy
	opRename
	opRemove
	opMkdir
	opList
	opBranch
	opSnapshot
	opDiff
	opMerge
	opLog
	opRestore
	opGC
	opCheck
	opBackup
)

var apiNames = []string{
	opOpen: "open", opRead: "read", opWrite: "write", opPut: "put", opGet: "get", opExport: "export", opImport: "import", opCopy: "copy",
	opRename: "rename", opRemove: "remove", opMkdir: "mkdir", opList: "list", opBranch: "branch", opSnapshot: "snapshot",
	opDiff: "diff", opMerge: "merge", opLog: "log", opRestore: "restore", opGC: "gc", opCheck: "check", opBackup: "backup",
}

// mayTakeLong are those that are never slow: how long they take is up to what
// they are given.
var mayTakeLong = []int{opPut, opGet, opExport, opImport, opCopy, opRemove, opGC, opCheck, opBackup}

// observer is what a process knows about itself.
type observer struct {
	name   string
	began  time.Time
	moment latency.Moment // began
	api    *latency.Set
	serves atomic.Bool            // it answers: it is no single command
	syncer atomic.Pointer[Syncer] // nil: it does not synchronise
	slow   time.Duration

	mu struct {
		sync.Mutex
		mounts  []*Mount
		servers []*SSHServer
	}
}

func newObserver(o Options, s *Store) *observer {
	b := &observer{name: o.Name, began: time.Now(), moment: latency.Now(), slow: o.Slow}
	if b.slow == 0 {
		b.slow = defaultSlow
	}
	b.slow = max(0, b.slow)
	b.api = latency.NewSet("api", apiNames, b.slow, s.logger("alkfs"))
	return b
}

// done counts an operation of the API.
func (s *Store) done(op int, began latency.Moment) {
	if slices.Contains(mayTakeLong, op) {
		s.obs.api.Waited(op, began)
		return
	}
	s.obs.api.Done(op, began)
}

func (b *observer) addMount(m *Mount) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.mounts = append(b.mu.mounts, m)
}

func (b *observer) addServer(s *SSHServer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.servers = append(b.mu.servers, s)
}

// Process is what one process that has the store open counts, since it opened
// it.
type Process struct {
	PID     int
	Name    string // what it does, "mount" say; Options.Name
	Started time.Time

	Ops          latency.Surfaces // fuse, sftp and api
	Slow         int64            // operations logged as slow
	Transactions schema.Stats
	Files        writesession.Stats
	Blobs        blobstore.Counters
	Mounts       []MountProcess
	SSH          *SSHProcess // nil: it serves none

	Goroutines int
	HeapBytes  uint64 // in use
	CPU        time.Duration
}

// MountProcess is a mount of a process.
type MountProcess struct {
	Dir    string
	Bucket string // "": it shows all
	Branch string // "": it shows all of the bucket
	MountStats
}

// SSHProcess counts connections of a server.
type SSHProcess struct {
	Open, Accepted, Refused, Failed, Commands int64
}

// Process returns what this process counts.
func (s *Store) Process() Process {
	b := s.obs
	p := Process{
		PID: os.Getpid(), Name: b.name, Started: b.began, Ops: latency.Surfaces{}, Slow: b.api.Slow(),
		Transactions: s.db.Stats(), Files: s.sessions.Stats(), Blobs: s.blobs.Counters(),
		Goroutines: runtime.NumGoroutine(),
	}
	p.Ops.Add("api", b.api.Counts())
	b.mu.Lock()
	mounts, servers := slices.Clone(b.mu.mounts), slices.Clone(b.mu.servers)
	b.mu.Unlock()
	for _, m := range mounts {
		st := m.Stats()
		p.Ops.Add("fuse", m.server.Ops())
		p.Slow += st.SlowRequests
		if !m.server.Gone() {
			p.Mounts = append(p.Mounts, MountProcess{m.dir, m.bucket, m.branch, st})
		}
	}
	for _, srv := range servers {
		p.addSSH(srv)
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	p.HeapBytes = mem.HeapInuse
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		p.CPU = time.Duration(use.Utime.Nano() + use.Stime.Nano())
	}
	return p
}

func (p *Process) addSSH(srv *sftpsrv.Server) {
	p.Ops.Add("sftp", srv.Ops())
	p.Slow += srv.SlowRequests()
	if p.SSH == nil {
		p.SSH = &SSHProcess{}
	}
	st := srv.Stats()
	p.SSH.Open += st.Open.Load()
	p.SSH.Accepted += st.Accepted.Load()
	p.SSH.Refused += st.Refused.Load()
	p.SSH.Failed += st.Failed.Load()
	p.SSH.Commands += st.Commands.Load()
}
