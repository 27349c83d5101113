package alkfs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/crdtsync"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Names of what this package hands on.
type (
	NodeKey      = identity.Key
	Role         = identity.Role
	BucketStatus = crdtsync.BucketStatus
	MemberStatus = crdtsync.MemberStatus
	Connection   = crdtsync.Connection
)

// Roles of a node in a shared bucket.
const (
	NoRole    = identity.None
	ReadOnly  = identity.ReadOnly
	ReadWrite = identity.ReadWrite
	Admin     = identity.Admin
)

// ParseRole accepts ro, rw and admin.
func ParseRole(s string) (Role, error) { return identity.ParseRole(s) }

// SyncOptions configures StartSync.
type SyncOptions struct {
	Addr     string   // HOST:PORT to listen on, UDP; port 0 for any
	Announce []string // HOST:PORT at which others find this node. Default: Addr, on every address of the machine if it names none
	Links    int      // connections for content with each node, besides the one for changes. Default 4
	Up, Down int64    // at most so many bytes a second to and from all others together; 0: no bound. Not below 128 KiB/s
	NoMDNS   bool     // neither announce this node on the local network nor look for others there; never done on a loopback address
}

// Syncer keeps the shared buckets of a store the same as those of other nodes.
type Syncer struct {
	s        *Store
	o        SyncOptions
	limits   crdtsync.Limits
	at       *net.UDPAddr
	node     atomic.Pointer[syncNode]
	contents *contents
	lock     *os.File
	addrs    atomic.Pointer[[]string]
	stop     context.CancelFunc
	done     chan struct{}
	err      error // of the engine; set before done is closed
}

// syncNode is what goes by the node's key.
type syncNode struct {
	replica *crdtsync.Replica
	quic    *crdtsync.QUIC
	engine  *crdtsync.Engine
}

const (
	syncLockFile   = "sync.lock"
	syncStatusFile = "sync.json"
)

// ErrSyncing says that another process synchronises the store.
var ErrSyncing = errors.New("another process already synchronises this store")

// StartSync begins to synchronise the shared buckets with their other members,
// and lets nodes with a ticket join. One process of a store does this.
func (s *Store) StartSync(o SyncOptions) (y *Syncer, err error) {
	if err := s.everything(); err != nil {
		return nil, err
	}
	limits := crdtsync.Limits{Up: o.Up, Down: o.Down}
	if err := limits.Check(); err != nil {
		return nil, err
	}
	y = &Syncer{s: s, o: o, limits: limits, done: make(chan struct{})}
	if y.lock, err = s.lockSync(); err != nil {
		if st, running, _ := s.readSyncState(); running && st.PID != 0 {
			err = fmt.Errorf("%w: process %d", err, st.PID)
		}
		return nil, err
	}
	n, err := y.listen(o.Addr)
	if err != nil {
		return nil, errors.Join(err, y.lock.Close())
	}
	y.at = n.quic.Addr()
	addrs := y.findAddrs()
	y.addrs.Store(&addrs)
	y.contents = s.newContents(n.replica, func() NodeKey { return y.node.Load().replica.Key() }, limits.Stall())
	y.makeEngine(n)
	ctx, stop := context.WithCancel(context.Background())
	y.stop = stop
	s.obs.syncer.Store(y)
	go func() {
		defer close(y.done)
		var wg sync.WaitGroup
		wg.Go(func() { y.publishStatus(ctx) })
		wg.Go(func() { y.watchAddrs(ctx) })
		wg.Go(func() { y.contents.run(ctx, s) })
		y.err = y.run(ctx)
		stop()
		wg.Wait()
	}()
	return y, nil
}

// listen opens a socket under the key that the node has now.
func (y *Syncer) listen(addr string) (*syncNode, error) {
	r, err := y.s.replica()
	if err != nil {
		return nil, err
	}
	q, err := crdtsync.ListenQUIC(r, addr)
	return &syncNode{replica: r, quic: q}, err
}

func (y *Syncer) makeEngine(n *syncNode) {
	n.engine = crdtsync.NewEngine(n.replica, crdtsync.Limit(n.quic, y.limits), crdtsync.Options{
		Addrs: y.Addrs(), BulkLinks: y.o.Links,
		Joined: func(p *crdtsync.Node) { y.contents.fetcher.AddPeer(p) },
		Left:   y.contents.fetcher.RemovePeer,
		Blobs:  y.contents.serve,
		Held:   y.s.heldByMounts,
	})
	y.node.Store(n)
}

// run synchronises until ctx ends, and when the node's key is replaced, goes on
// with the new one on the same address.
func (y *Syncer) run(ctx context.Context) error {
	for {
		n := y.node.Load()
		err := y.runNode(ctx, n)
		if err2 := n.quic.Close(); !errors.Is(err, crdtsync.ErrReplaced) {
			return errors.Join(err, err2)
		}
		if n, err = y.listen(y.at.String()); err != nil {
			return fmt.Errorf("go on with the node's new key: %w", err)
		}
		y.s.log.Info("this machine has another key", "key", n.replica.Key().String())
		y.makeEngine(n)
	}
}

func (y *Syncer) runNode(ctx context.Context, n *syncNode) error {
	ctx, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	if !y.o.NoMDNS {
		wg.Go(func() { n.engine.FindNearby(ctx, n.quic.Addr()) })
	}
	return n.engine.Run(ctx)
}

// lockSync makes this process the one that synchronises the store. It waits for those
// who only look whether there is one (syncing).
func (s *Store) lockSync() (*os.File, error) {
	for {
		f, err := lockFile(filepath.Join(s.dir, syncLockFile), syscall.LOCK_EX)
		if !errors.Is(err, ErrSyncing) {
			return f, err
		}
		if is, err := s.syncing(); is || err != nil {
			return nil, cmp.Or(err, ErrSyncing)
		}
		time.Sleep(time.Millisecond)
	}
}

// syncing reports whether some process synchronises the store.
func (s *Store) syncing() (bool, error) {
	f, err := lockFile(filepath.Join(s.dir, syncLockFile), syscall.LOCK_SH)
	if errors.Is(err, ErrSyncing) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

// lockFile takes a lock that ends with the process, without waiting: ErrSyncing.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrSyncing
		}
		return nil, err
	}
	return f, nil
}

// announced returns where a socket can be reached.
func announced(a *net.UDPAddr) (addrs []string) {
	if !a.IP.IsUnspecified() {
		return []string{a.String()}
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, i := range all {
		if n, ok := i.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && len(addrs) < 16 {
			addrs = append(addrs, net.JoinHostPort(n.IP.String(), fmt.Sprint(a.Port)))
		}
	}
	return addrs
}

// findAddrs returns where other nodes are to be told to find this one.
func (y *Syncer) findAddrs() []string {
	if len(y.o.Announce) > 0 {
		return y.o.Announce
	}
	return announced(y.at)
}

// watchAddrs looks now and then whether the machine has other addresses, as when
// it has come to another network, until ctx ends.
func (y *Syncer) watchAddrs(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for had := announced(y.at); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		has := announced(y.at)
		if slices.Equal(has, had) {
			continue
		}
		if had = has; len(has) == 0 {
			continue // nobody can be told
		}
		addrs := y.findAddrs()
		y.addrs.Store(&addrs)
		y.node.Load().engine.SetAddrs(addrs)
	}
}

// Addr returns where the syncer listens.
func (y *Syncer) Addr() net.Addr { return y.at }

// Addrs returns where other nodes are told to find this one.
func (y *Syncer) Addrs() []string { return *y.addrs.Load() }

// Done is closed when synchronising has ended; Close says why.
func (y *Syncer) Done() <-chan struct{} { return y.done }

// Close ends synchronising.
func (y *Syncer) Close() error {
	y.s.obs.syncer.Store(nil)
	y.stop()
	<-y.done
	y.contents.close(y.s)
	os.Remove(filepath.Join(y.s.dir, syncStatusFile))
	return errors.Join(y.err, y.lock.Close())
}

// syncState is what a syncer leaves in the store directory for others to read.
type syncState struct {
	PID     int
	Key     string
	Addrs   []string
	Drained uint32 // generation of the database up to which changes were made ready
	Buckets []BucketStatus
}

// publishStatus writes syncStatusFile whenever something changes. It counts what
// is there, and rests for longer than that takes: some times as long, where there is much.
func (y *Syncer) publishStatus(ctx context.Context) {
	for {
		wait, began := y.node.Load().engine.Progress(), time.Now()
		if err := y.writeStatus(); err != nil {
			y.s.log.Error("the state of synchronisation could not be written", "err", err)
		}
		rest := 10 * time.Since(began)
		select {
		case <-wait:
		case <-time.After(max(time.Second, rest)):
		case <-ctx.Done():
			return
		}
		select { // not more than some times a second
		case <-time.After(max(100*time.Millisecond, min(rest, 2*time.Second))):
		case <-ctx.Done():
			return
		}
	}
}

func (y *Syncer) writeStatus() error {
	engine := y.node.Load().engine
	drained := engine.Drained()
	all, err := engine.Status()
	if err != nil {
		return err
	}
	b, err := json.Marshal(syncState{PID: os.Getpid(), Key: engine.Key().String(), Addrs: y.Addrs(), Drained: drained, Buckets: all})
	if err != nil {
		return err
	}
	path := filepath.Join(y.s.dir, syncStatusFile)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// replica returns this node's part in its shared buckets.
func (s *Store) replica() (*crdtsync.Replica, error) {
	k, err := s.keyring()
	if err != nil {
		return nil, err
	}
	return s.replicaOf(k), nil
}

func (s *Store) replicaOf(k keyring) *crdtsync.Replica {
	return crdtsync.NewReplica(crdtsync.Config{
		DB: s.db, Tree: s.tree, Private: k.private, Past: k.past, Logger: s.logger("crdtsync"),
	})
}

// syncBucket returns the replica and a bucket by name.
func (s *Store) syncBucket(name string) (r *crdtsync.Replica, b Bucket, err error) {
	if err := s.everything(); err != nil {
		return nil, b, err
	}
	if r, err = s.replica(); err != nil {
		return nil, b, err
	}
	b, err = s.Bucket(name)
	return r, b, err
}

// NodeKey returns the identity of this store's node.
func (s *Store) NodeKey() (NodeKey, error) {
	k, err := nodeKey(s.dir)
	if err != nil {
		return NodeKey{}, err
	}
	return k.key(), nil
}

// ShareOptions configures Share.
type ShareOptions struct {
	Role    Role          // default ReadWrite
	Expires time.Duration // default one hour
	Uses    int           // nodes that may use the ticket. Default 1
	Addrs   []string      // HOST:PORT of this node. Default: what the process that synchronises listens on
	Self    string        // what the others are to call this node, when it is the owner and has no name yet; "": the beginning of its key
}

// ErrNoAddress says that a ticket could not say where to go.
var ErrNoAddress = errors.New("nobody could reach this machine: start `alkfs serve --sync ADDR` first, or say where it will be with --addr HOST:PORT")

// Share returns a ticket with which other nodes join a bucket. The node that
// shares a bucket first owns it.
func (s *Store) Share(bucket string, o ShareOptions) (ticket string, err error) {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return "", err
	}
	if o.Role == NoRole {
		o.Role = ReadWrite
	}
	if o.Expires == 0 {
		o.Expires = time.Hour
	}
	if o.Uses == 0 {
		o.Uses = 1
	}
	if len(o.Addrs) == 0 {
		st, _, err := s.readSyncState()
		if err != nil {
			return "", err
		}
		if o.Addrs = st.Addrs; len(o.Addrs) == 0 {
			return "", ErrNoAddress
		}
	}
	t, err := r.Invite(b.ID, o.Role, time.Now().Add(o.Expires), o.Uses, o.Addrs)
	if err != nil {
		return "", err
	}
	return t.String(), nameOwner(r, t.Bucket, o.Self)
}

// nameOwner gives this node a name, or one like it, if it owns the bucket and has none.
func nameOwner(r *crdtsync.Replica, bucket [16]byte, name string) error {
	m, err := r.Membership(bucket)
	if err != nil || name == "" {
		return err
	}
	if own, _ := m.Member(r.Key()); own.Role != identity.Owner || own.Name != "" {
		return nil
	}
	return r.Rename(bucket, r.Key(), m.FreeName(r.Key(), name))
}

// CheckTicket says what is wrong with the text of a ticket, nil when nothing is. Whether
// it is still good only the machine knows that gave it out.
func CheckTicket(ticket string) error {
	_, err := identity.ParseTicket(ticket)
	return err
}

// Joined is a bucket that was joined.
type Joined = crdtsync.Joined

// Join joins the bucket of a ticket under the name given, or under its own when
// that is "". self is what others are to call this node. With branches, globs over
// names, it keeps those alone, see KeepBranches.
func (s *Store) Join(ctx context.Context, ticket, name, self string, branches ...string) (j Joined, err error) {
	if err := s.everything(); err != nil {
		return j, err
	}
	if err := crdtsync.CheckPatterns(branches); err != nil {
		return j, err // before the ticket is used
	}
	t, err := identity.ParseTicket(ticket)
	if err != nil {
		return j, err
	}
	var here *HereError
	if err := s.nameIsFree(cmp.Or(name, t.Name), t.Bucket); errors.As(err, &here) && name == "" {
		name = here.Bucket
	} else if err != nil {
		return j, err
	}
	k, err := s.keyring()
	if err != nil {
		return j, err
	}
	r := s.replicaOf(k)
	q, err := crdtsync.DialQUIC(k.private, s.log)
	if err != nil {
		return j, err
	}
	defer q.Close()
	st, _, err := s.readSyncState()
	if err != nil {
		return j, err
	}
	return r.Join(ctx, q, t, name, self, st.Addrs, branches...)
}

// HereError says that a bucket is here already, under another name than was asked for.
type HereError struct{ Bucket string }

func (e *HereError) Error() string {
	return fmt.Sprintf("the bucket is here already, as %q", e.Bucket)
}

// nameIsFree fails with EEXIST when a bucket has that name which is not the one of uuid,
// and with a HereError when that one has another.
func (s *Store) nameIsFree(name string, uuid [16]byte) error {
	return s.db.Read(func(tx *schema.Tx) error {
		all, err := s.tree.Buckets(tx)
		if err != nil {
			return err
		}
		for _, b := range all {
			if b.UUID == uuid && b.Name != name {
				return &HereError{b.Name}
			}
		}
		b, err := s.tree.Bucket(tx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err == nil && b.UUID != uuid:
			return &pathtree.Error{Op: "join", Path: name, Err: syscall.EEXIST}
		}
		return err
	})
}

var errThisMachine = errors.New("that is this machine: its role, and what counts of it, are for an admin on another one to say")

// SetRole gives a member of a bucket another role, NoRole to revoke it, or
// another name. who is its key, the beginning of it, or its name.
func (s *Store) SetRole(bucket, who string, role Role, name string) (m MemberStatus, err error) {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return m, err
	}
	if m, err = findMember(r, b, who); err != nil {
		return m, err
	}
	if m.Key == r.Key() {
		return m, errThisMachine
	}
	if err := r.Grant(b.UUID, m.Key, role, name); err != nil {
		return m, err
	}
	return m, s.db.Sync()
}

// AcceptChanges lets all changes count that are here of a member that may not
// write, also those that whoever revoked it had not heard (MemberStatus.Void).
func (s *Store) AcceptChanges(bucket, who string) error {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return err
	}
	m, err := findMember(r, b, who)
	if err != nil {
		return err
	}
	if m.Key == r.Key() {
		return errThisMachine
	}
	if err := r.Accept(b.UUID, m.Key); err != nil {
		return err
	}
	return s.db.Sync()
}

// RenameMember gives a member of a bucket another name; the owner, itself. It must not
// be another's.
func (s *Store) RenameMember(bucket, who, name string) error {
	r, b, err := s.syncBucket(bucket)
	if err != nil {
		return err
	}
	m, err := findMember(r, b, who)
	if err != nil {
		return err
	}
	if err := r.Rename(b.UUID, m.Key, name); err != nil {
		return err
	}
	return s.db.Sync()
}

func findMember(r *crdtsync.Replica, b pathtree.Bucket, who string) (found MemberStatus, err error) {
	members, err := r.Members(b.UUID)
	if err != nil {
		return found, err
	}
	n := 0
	for _, m := range members {
		if !m.Replaced && (m.Name == who || len(who) >= 4 && strings.HasPrefix(m.Key.String(), strings.ToLower(who))) {
			found = MemberStatus{Key: m.Key, Name: m.Name, Role: m.Role}
			n++
		}
	}
	switch n {
	case 1:
		return found, nil
	case 0:
		return found, fmt.Errorf("no member of %s is called %q: see `alkfs peer ls %s`", b.Name, who, b.Name)
	default:
		return found, fmt.Errorf("%d members of %s are called %q: name one by its key", n, b.Name, who)
	}
}

// SyncStatus returns how the shared buckets stand, and the process that
// synchronises them; 0 when none does.
func (s *Store) SyncStatus() (all []BucketStatus, pid int, err error) {
	r, err := s.replica()
	if err == nil {
		all, pid, err = s.syncStatus(r)
	}
	if err != nil {
		return nil, 0, err
	}
	return all, pid, r.CountChanges(all)
}

// syncStatus is SyncStatus without the number of changes.
func (s *Store) syncStatus(r *crdtsync.Replica) (all []BucketStatus, pid int, err error) {
	st, running, err := s.readSyncState()
	if err != nil {
		return nil, 0, err
	}
	if all, err = r.Status(); err != nil {
		return nil, 0, err
	}
	if running {
		pid = st.PID
		st.connections(all)
	}
	return all, pid, nil
}

// connections fills in how members are connected, and what that means for branches
// that are to leave.
func (st syncState) connections(all []BucketStatus) {
	type member struct {
		bucket [16]byte
		key    NodeKey
	}
	known, leaving := map[member]Connection{}, map[[16]byte][]crdtsync.LeavingBranch{}
	for _, b := range st.Buckets {
		leaving[b.UUID] = b.Leaving
		for _, m := range b.Members {
			known[member{b.UUID, m.Key}] = m.Connection
		}
	}
	for i := range all {
		b := &all[i]
		for j := range b.Members {
			m := &b.Members[j]
			m.Connection = known[member{b.UUID, m.Key}]
		}
		for j := range b.Leaving {
			l := &b.Leaving[j]
			l.Waits = []BranchWait{{Why: "it was let go just now"}}
			for _, o := range leaving[b.UUID] {
				if o.Branch == l.Branch {
					l.Waits = o.Waits
				}
			}
		}
	}
}

// readSyncState reads what the process that synchronises has left, if there is
// one.
func (s *Store) readSyncState() (st syncState, running bool, err error) {
	if running, err = s.syncing(); !running || err != nil {
		return st, false, err
	}
	b, err := os.ReadFile(filepath.Join(s.dir, syncStatusFile))
	if errors.Is(err, fs.ErrNotExist) {
		return st, true, nil // it has just started
	}
	if err != nil {
		return st, false, err
	}
	return st, true, json.Unmarshal(b, &st)
}

// WaitSync returns when everything that was committed before is known to every
// member that is connected, and there is one; ctx ends the wait, with an UnsettledError.
func (s *Store) WaitSync(ctx context.Context, bucket string) error {
	_, b, err := s.syncBucket(bucket)
	if err != nil {
		return err
	}
	if err := s.db.Commit(); err != nil {
		return err
	}
	gen := s.db.Generation()
	for {
		st, running, err := s.readSyncState()
		if err != nil {
			return err
		}
		if !running {
			return ErrNotSyncing
		}
		if int32(st.Drained-gen) >= 0 && settled(st.Buckets, b.UUID) {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return &UnsettledError{connected: anyConnected(st.Buckets, b.UUID), cause: ctx.Err()}
		}
	}
}

// UnsettledError says that WaitSync was ended. It wraps the error of the context.
type UnsettledError struct {
	connected bool
	cause     error
}

func (e *UnsettledError) Error() string {
	if e.connected {
		return "not every connected member has everything yet: `alkfs sync status` says what they lack"
	}
	return "no other member is connected: `alkfs sync now` reaches for them"
}

func (e *UnsettledError) Unwrap() error { return e.cause }

func anyConnected(all []BucketStatus, uuid [16]byte) bool {
	return slices.ContainsFunc(all, func(b BucketStatus) bool {
		return b.UUID == uuid && slices.ContainsFunc(b.Members, func(m MemberStatus) bool { return m.Connected })
	})
}

func settled(all []BucketStatus, uuid [16]byte) bool {
	for _, b := range all {
		if b.UUID != uuid {
			continue
		}
		if b.Waiting > 0 && b.Role >= ReadWrite { // what a reader wrote stays with it
			return false
		}
		for _, m := range b.Members {
			if m.Connected && (m.Behind > 0 || m.Lacks > 0 && b.Stubs+b.Lacks == 0) { // what it lacks is here
				return false
			}
		}
	}
	return anyConnected(all, uuid)
}
