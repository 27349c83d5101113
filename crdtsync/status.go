package crdtsync

import (
	"cmp"
	"errors"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// BucketStatus says how a shared bucket stands.
type BucketStatus struct {
	UUID    [16]byte
	Name    string
	Self    string        // what this node is called; the beginning of its key when nobody named it
	Role    identity.Role // of this node
	Changes int64         // kept here, of all authors (CountChanges)
	Packed  int64         // changes in whose place a pack is
	Waiting int64         // versions of this node's that are not in a change yet; of a reader's they stay here
	Void    int64         // changes of this node's that do not count, and are not sent: it may not write, and who says so had not heard them
	Stubs   int64         // changes of branches that are not kept here, of which only the hash is here
	Lacks   int64         // changes of branches that are kept, of which only the hash is here yet
	Leaving []LeavingBranch
	Members []MemberStatus
}

// MemberStatus says how another member stands, as this node sees it.
type MemberStatus struct {
	Key   identity.Key
	Name  string
	Role  identity.Role
	Addrs []string  // where it was last found
	Heard time.Time // when it was last connected, here or to a member that told; zero: never
	Void  int64     // changes of it that are here and do not count
	Connection
}

// Connection says how a member is connected. It is known only where an Engine runs.
type Connection struct {
	Connected bool
	Since     time.Time
	Behind    int64  // changes that it has not acknowledged; of use while connected
	Ahead     int64  // changes that it has told of and that are not here; of use while connected
	Lacks     int64  // changes that it has heard of and not got yet, as it told; of use while connected
	Err       string // why it is not connected
	Traffic   Traffic
}

// Status returns how every shared bucket stands, by name. Changes are
// left to CountChanges.
func (r *Replica) Status() (all []BucketStatus, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		shares, err := r.sharedBuckets(tx)
		if err != nil {
			return err
		}
		for _, sh := range shares {
			st, err := r.status(tx, sh)
			if err != nil {
				return err
			}
			all = append(all, st)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range all {
		for j := range all[i].Members {
			m := &all[i].Members[j]
			if m.Addrs, m.Heard, err = r.placesOf(m.Key); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func (r *Replica) status(tx *schema.Tx, sh shared) (st BucketStatus, err error) {
	m, err := r.membership(tx, sh)
	if err != nil {
		return st, err
	}
	marks, err := readMarks(tx, sh.bucket.ID)
	if err != nil {
		return st, err
	}
	void := map[identity.Key]int64{}
	for _, k := range marks {
		void[m.Heir(k.Author)] += int64(k.Seq - min(k.Seq, m.Counts(k.Author, k.Stream)))
	}
	st = BucketStatus{UUID: sh.bucket.UUID, Name: sh.bucket.Name, Role: m.Role(r.key), Void: void[r.key]}
	if st.Role < identity.ReadWrite { // else it has said again what it wrote with keys before
		for k, n := range void {
			if k != r.key && m.Speaks(r.key, k) {
				st.Void += n
			}
		}
	}
	for _, o := range m.All() {
		o.Name = cmp.Or(o.Name, o.Key.Short())
		switch {
		case o.Key == r.key:
			st.Self = o.Name
		case !o.Replaced:
			st.Members = append(st.Members, MemberStatus{Key: o.Key, Name: o.Name, Role: o.Role, Void: void[o.Key]})
		}
	}
	if st.Waiting, err = count(tx, `SELECT count(*) FROM sync_out WHERE bucket = ?`, sh.bucket.ID); err != nil {
		return st, err
	}
	if st.Lacks, _, err = r.wantedStubs(tx, sh, 0); err != nil {
		return st, err
	}
	if st.Packed, err = count(tx, `SELECT coalesce(sum(folded), 0) FROM sync_stream WHERE bucket = ?`, sh.bucket.ID); err != nil {
		return st, err
	}
	st.Stubs, err = count(tx, `SELECT count(*) FROM sync_stub WHERE bucket = ?`, sh.bucket.ID)
	st.Stubs -= st.Lacks
	if err != nil {
		return st, err
	}
	st.Leaving, err = r.leaving(tx, sh, st.Members, func(identity.Key, [16]byte) ([]Mark, bool, string) { return nil, false, notConnected }, nil)
	return st, err
}

// CountChanges fills in the Changes of a Status, for which it looks through all of them.
func (r *Replica) CountChanges(all []BucketStatus) error {
	return r.db.Read(func(tx *schema.Tx) error {
		for i := range all {
			sh, err := r.lookup(tx, all[i].UUID)
			if errors.Is(err, ErrNotShared) {
				continue // any more
			}
			if err == nil {
				all[i].Changes, err = count(tx, `SELECT count(*) FROM sync_change WHERE bucket = ?`, sh.bucket.ID)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func count(tx *schema.Tx, query string, args ...int64) (int64, error) {
	s := tx.Stmt(query)
	for i, a := range args {
		s.BindInt64(i+1, a)
	}
	_, err := s.Step()
	return s.ColumnInt64(0), err
}

// Status returns how every shared bucket stands, connections included.
func (e *Engine) Status() ([]BucketStatus, error) {
	all, err := e.Replica.Status()
	if err != nil {
		return nil, err
	}
	for i := range all {
		for j := range all[i].Members {
			if err := e.connection(all[i].UUID, &all[i].Members[j]); err != nil {
				return nil, err
			}
		}
		if len(all[i].Leaving) == 0 {
			continue
		}
		if err := e.leaving(&all[i]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// connection fills in what is about connections.
func (e *Engine) connection(b [16]byte, m *MemberStatus) error {
	e.mu.Lock()
	l, p := e.sessions[m.Key], e.problems[m.Key]
	e.mu.Unlock()
	m.Traffic = e.traffic.with(m.Key)
	if l == nil {
		if p.err != nil {
			m.Err = p.err.Error()
		}
		return nil
	}
	m.Connected, m.Since = true, l.since
	acked := int64(0)
	var theirs []Mark
	if f := l.find(b); f != nil {
		l.session.mu.Lock()
		acked, theirs, m.Lacks = f.acked, f.theirs, f.last.Lacks
		l.session.mu.Unlock()
	}
	return e.db.Read(func(tx *schema.Tx) (err error) {
		sh, err := e.lookup(tx, b)
		if err != nil {
			return err
		}
		if m.Behind, err = behind(tx, sh.bucket.ID, acked, m.Key); err != nil {
			return err
		}
		ours, err := readMarks(tx, sh.bucket.ID)
		m.Ahead = lead(theirs, ours)
		return err
	})
}

// selectBehind counts by number: most of a bucket was acknowledged long ago.
const selectBehind = `SELECT count(*) FROM (SELECT arrived, author, source FROM sync_change WHERE arrived > ?2 AND +bucket = ?1
		UNION ALL SELECT arrived, author, source FROM sync_stub WHERE arrived > ?2 AND +bucket = ?1) c
	CROSS JOIN node a ON a.id = author CROSS JOIN node o ON o.id = source
	WHERE a.key <> ?3 AND o.key <> ?3`

// behind counts the changes after a number that others than k made.
func behind(tx *schema.Tx, bucket, acked int64, k identity.Key) (int64, error) {
	s := tx.Stmt(selectBehind)
	s.BindInt64(1, bucket)
	s.BindInt64(2, acked)
	s.BindBytes(3, k[:])
	_, err := s.Step()
	return s.ColumnInt64(0), err
}

// Progress returns a channel that is closed when a node acknowledges something,
// connects or leaves.
func (e *Engine) Progress() <-chan struct{} { return e.progress.wait() }
