package crdtsync

import (
	"fmt"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// LeavingBranch is a branch that is not kept any more and still here, and what it
// waits for; nothing: it is about to go.
type LeavingBranch struct {
	Branch string `json:"branch"`
	Waits  []Wait `json:"waits"`
}

// Wait is why a branch does not leave by a member. One member without a reason is
// enough, if none is of this node.
type Wait struct {
	Member string `json:"member"` // its name; "": this node
	Why    string `json:"why"`
}

// reliance returns what a member has of a bucket, as void says not all of what does
// not count; or why a branch cannot leave by it.
type reliance func(k identity.Key, branch [16]byte) (has []Mark, void bool, why string)

// leaving returns the branches of a bucket that are to leave, children first. held
// says what else of this node holds a branch; it may be nil.
func (r *Replica) leaving(tx *schema.Tx, sh shared, members []MemberStatus, rely reliance, held func(bucket, branch string) []string) ([]LeavingBranch, error) {
	rows, err := leavingBranches(tx, sh.bucket.ID)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	m, err := r.membership(tx, sh)
	if err != nil {
		return nil, err
	}
	var all []LeavingBranch
	for _, b := range rows {
		l := LeavingBranch{Branch: b.name, Waits: []Wait{}}
		why, err := r.holds(tx, sh, &b)
		if err != nil {
			return nil, err
		}
		if held != nil {
			why = append(why, held(sh.bucket.Name, b.name)...)
		}
		for _, w := range why {
			l.Waits = append(l.Waits, Wait{"", w})
		}
		mine, err := branchMarks(tx, sh.bucket.ID, b.uuid)
		if err != nil {
			return nil, err
		}
		for _, o := range members {
			if o.Role < identity.ReadOnly {
				continue
			}
			has, void, why := rely(o.Key, b.uuid)
			if why == "" {
				if why, err = lacksOf(tx, sh.bucket.ID, mine, has, void, m); err != nil {
					return nil, err
				}
			}
			if why != "" {
				l.Waits = append(l.Waits, Wait{o.Name, why})
			}
		}
		all = append(all, l)
	}
	return all, nil
}

// holds returns what of this node keeps a branch from leaving.
func (r *Replica) holds(tx *schema.Tx, sh shared, b *branchRow) (why []string, err error) {
	if why, err = r.tree.Holds(tx, b.id); err != nil {
		return nil, err
	}
	s := tx.Stmt(`SELECT count(*) FROM sync_out WHERE bucket = ? AND branch = ?`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindBytes(2, b.uuid[:])
	if _, err := s.Step(); err != nil {
		return nil, err
	}
	if n := s.ColumnInt64(0); n > 0 {
		why = append(why, fmt.Sprintf("%d versions were not sent yet", n))
	}
	return why, nil
}

// branchMarks returns how far the changes of a branch go that are here whole.
func branchMarks(tx *schema.Tx, bucket int64, branch [16]byte) ([]Mark, error) {
	s := tx.Stmt(`SELECT node.key, stream, max(seq) FROM sync_change JOIN node ON node.id = author
		WHERE doc IN (SELECT id FROM sync_doc WHERE bucket = ? AND branch = ?) GROUP BY author, stream`)
	s.BindInt64(1, bucket)
	s.BindBytes(2, branch[:])
	return scanMarks(s)
}

// lacksOf says what a node with some marks lacks of a branch, or of what packs took the
// place of; "": nothing. With void it has not all changes that do not count.
func lacksOf(tx *schema.Tx, bucket int64, mine, has []Mark, void bool, m *identity.Membership) (string, error) {
	theirs := byStream(has)
	if lacks, err := lacksFolded(tx, bucket, theirs); lacks || err != nil {
		return "has not said that it has all that a pack has", err
	}
	for _, k := range mine {
		if theirs[k.stream()] < k.Seq {
			return "has not said that it has all of it", nil
		}
		if void && !m.Accepts(k.Author, k.Stream, k.Seq) {
			return "lacks changes that do not count", nil
		}
	}
	return "", nil
}

// rely is the reliance on a connection. own identifies what this node keeps.
func (l *live) rely(b, branch [16]byte, own uint64) (has []Mark, void bool, why string) {
	f := l.find(b)
	if f == nil {
		return nil, false, "has not said what it keeps"
	}
	l.session.mu.Lock()
	defer l.session.mu.Unlock()
	switch {
	case f.filter == nil:
		why = "has not said what it keeps"
	case !f.filter.names(branch):
		why = "does not keep it"
	case f.last.Seen != own:
		why = "has not confirmed that it knows what this machine keeps"
	case f.last.Filter != f.filter.id():
		why = "has not confirmed that it has what it has come to keep"
	case f.last.Lacks > 0:
		why = fmt.Sprintf("has yet to get %d changes", f.last.Lacks)
	}
	return f.theirs, f.last.Void > 0, why
}

const notConnected = "is not connected"

// leaving is that of a Replica, with what is known of connections.
func (e *Engine) leaving(st *BucketStatus) error {
	own, err := e.filter(st.UUID)
	if err != nil {
		return err
	}
	id, links := own.id(), map[identity.Key]*live{}
	for _, l := range e.connected() {
		links[l.peer] = l
	}
	return e.db.Read(func(tx *schema.Tx) error {
		sh, err := e.lookup(tx, st.UUID)
		if err != nil {
			return err
		}
		st.Leaving, err = e.Replica.leaving(tx, sh, st.Members, func(k identity.Key, branch [16]byte) ([]Mark, bool, string) {
			if l := links[k]; l != nil {
				return l.rely(st.UUID, branch, id)
			}
			return nil, false, notConnected
		}, e.o.Held)
		return err
	})
}
