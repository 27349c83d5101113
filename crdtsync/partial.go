package crdtsync

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// A partial node keeps some branches of a bucket: those whose names match its
// patterns, those that were made here, and those that these descend from. See
// the package comment.

const (
	kept    = pathtree.Kept
	notKept = pathtree.NotKept
	coming  = pathtree.Coming
	leaving = pathtree.Leaving
)

// Limits of filters.
const (
	maxPatterns = 64
	maxPattern  = 256     // bytes
	maxWanted   = 1 << 16 // branches
)

// BranchStatus says how a branch of a shared bucket stands here.
type BranchStatus struct {
	Name    string
	Keep    pathtree.Keeping
	For     string // a branch for the sake of which it is kept; "" when for its own
	Changes int64  // that are here
	Stubs   int64  // changes of which only the hash is here
	id      int64
	uuid    [16]byte
}

// CheckPatterns refuses what is no list of patterns over branch names.
func CheckPatterns(patterns []string) error {
	if len(patterns) > maxPatterns {
		return fmt.Errorf("%d patterns: at most %d can be kept; use wider ones", len(patterns), maxPatterns)
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" || len(p) > maxPattern || !utf8.ValidString(p) || strings.Contains(p, "/") {
			return fmt.Errorf("%q is no pattern over branch names: use * ? and [a-z], as in 'agent-7*'", p)
		}
	}
	return nil
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// branchRow is what is needed of a branch to decide about it.
type branchRow struct {
	id, parent int64
	uuid       [16]byte
	name       string
	keep       pathtree.Keeping
	own        bool // this node made it
	void       bool // no record of it counts: it is kept for the sake of others alone
}

func findBranch(tx *schema.Tx, bucket int64, uuid [16]byte) (b branchRow, ok bool, err error) {
	s := tx.Stmt(`SELECT id, keep FROM branch WHERE uuid = ? AND bucket = ?`)
	s.BindBytes(1, uuid[:])
	s.BindInt64(2, bucket)
	if ok, err = s.Step(); err != nil || !ok {
		return b, false, err
	}
	return branchRow{id: s.ColumnInt64(0), uuid: uuid, keep: pathtree.Keeping(s.ColumnInt64(1))}, true, nil
}

// branchRows returns all branches of a bucket, deleted ones too, parents before
// children.
func branchRows(tx *schema.Tx, bucket int64) (all []branchRow, err error) {
	s := tx.Stmt(`SELECT b.id, coalesce(parent, 0), uuid, name, keep, coalesce(r.node, 2) = 2, deleted = 1
		FROM branch b LEFT JOIN record r ON r.bucket = b.bucket AND r.kind = 1 AND r.key = b.uuid WHERE b.bucket = ? ORDER BY b.id`)
	s.BindInt64(1, bucket)
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		b := branchRow{id: s.ColumnInt64(0), parent: s.ColumnInt64(1), name: s.ColumnText(3), keep: pathtree.Keeping(s.ColumnInt64(4)), own: s.ColumnInt64(5) != 0, void: s.ColumnInt64(6) != 0}
		s.ColumnBytes(2, b.uuid[:])
		all = append(all, b)
	}
	return all, nil
}

// readFilter returns the patterns of a bucket; false when all branches are kept.
func readFilter(tx *schema.Tx, bucket int64) (patterns []string, partial bool, err error) {
	s := tx.Stmt(`SELECT patterns FROM sync_filter WHERE bucket = ?`)
	s.BindInt64(1, bucket)
	if partial, err = s.Step(); err != nil || !partial {
		return nil, false, err
	}
	return patterns, true, json.Unmarshal([]byte(s.ColumnText(0)), &patterns)
}

func writeFilter(tx *schema.Tx, bucket int64, patterns []string) error {
	js, err := json.Marshal(append([]string{}, patterns...))
	if err != nil {
		return err
	}
	s := tx.Stmt(`INSERT INTO sync_filter (bucket, patterns) VALUES (?, ?) ON CONFLICT DO UPDATE SET patterns = excluded.patterns`)
	s.BindInt64(1, bucket)
	s.BindText(2, string(js))
	_, err = s.Step()
	return err
}

// resolve returns the branches that are wanted, each with the one for the sake of
// which it is: itself, or one that descends from it.
func resolve(all []branchRow, patterns []string, also func(*branchRow) bool) map[int64]int64 {
	wanted := map[int64]int64{}
	for i := len(all) - 1; i >= 0; i-- { // children first
		b := &all[i]
		if also(b) || !b.void && matches(patterns, b.name) {
			wanted[b.id] = b.id
		}
		if _, ok := wanted[b.id]; ok && b.parent != 0 {
			if _, ok := wanted[b.parent]; !ok {
				wanted[b.parent] = b.id
			}
		}
	}
	return wanted
}

// refilter decides anew which branches are kept, and begins to keep, or to let go,
// those about which it is decided otherwise than before.
func (r *Replica) refilter(tx *schema.Tx, sh shared) error {
	patterns, partial, err := readFilter(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	if !partial {
		n, err := count(tx, `SELECT EXISTS (SELECT 1 FROM branch WHERE bucket = ? AND keep <> 0)`, sh.bucket.ID)
		if err != nil || n == 0 {
			return err
		}
	}
	all, err := branchRows(tx, sh.bucket.ID)
	if err != nil {
		return err
	}
	wanted := resolve(all, patterns, func(b *branchRow) bool { return !partial || b.own && !b.void })
	for i := range all { // parents first
		b := &all[i]
		if _, want := wanted[b.id]; want == b.keep.Wanted() {
			continue
		} else if want {
			err = r.takeUp(tx, sh, b)
		} else {
			err = r.letGo(tx, sh, b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Replica) setKeep(tx *schema.Tx, sh shared, branch int64, k pathtree.Keeping) error {
	return r.tree.SetKeep(tx, sh.bucket.ID, map[int64]pathtree.Keeping{branch: k})
}

// takeUp begins to keep a branch: what is here whole of it is imported, and it is
// shown once nothing is missing.
func (r *Replica) takeUp(tx *schema.Tx, sh shared, b *branchRow) error {
	if err := r.setKeep(tx, sh, b.id, coming); err != nil {
		return err
	}
	if err := r.importFolded(tx, sh, b.uuid); err != nil {
		return err
	}
	m, err := r.membership(tx, sh)
	if err != nil {
		return err
	}
	s := tx.Stmt(`SELECT envelope FROM sync_change WHERE doc IN (SELECT id FROM sync_doc WHERE bucket = ? AND branch = ?) ORDER BY arrived`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindBytes(2, b.uuid[:])
	var in pathtree.Batch
	for a, err := range opened(s, sh, nil) {
		if err != nil {
			return err
		}
		if a.counts(m) {
			in.Versions = append(in.Versions, a.batch.Versions...)
		}
	}
	if !in.Empty() {
		if _, err := r.tree.ImportAgain(tx, sh.bucket.ID, in); err != nil {
			return err
		}
	}
	return r.show(tx, sh, b.id)
}

// show shows a branch that was coming if nothing of it is missing, and no pack is on
// its way into the tree.
func (r *Replica) show(tx *schema.Tx, sh shared, branch int64) error {
	if n, err := count(tx, `SELECT EXISTS (SELECT 1 FROM sync_compaction WHERE bucket = ? AND state = 0 AND taken > 0)`, sh.bucket.ID); err != nil || n > 0 {
		return err
	}
	if n, _, err := r.wantedStubs(tx, sh, branch); err != nil || n > 0 {
		return err
	}
	return r.setKeep(tx, sh, branch, kept)
}

// showAll shows the branches that were coming of which nothing is missing now.
func (r *Replica) showAll(tx *schema.Tx, sh shared) error {
	rows, err := branchRows(tx, sh.bucket.ID)
	for i := range rows {
		if err == nil && rows[i].keep == coming {
			err = r.show(tx, sh, rows[i].id)
		}
	}
	return err
}

// letGo ends keeping a branch, at once when there is nothing of it here. Otherwise
// it stays until drop finds that another node has it.
func (r *Replica) letGo(tx *schema.Tx, sh shared, b *branchRow) error {
	some, err := hasSome(tx, sh, b.id, b.uuid)
	if err != nil {
		return err
	}
	if some {
		return r.setKeep(tx, sh, b.id, leaving)
	}
	return r.tree.DropVersions(tx, b.id)
}

// hasSome reports whether anything of a branch is here: changes, what is to become
// some, or what a pack brought.
func hasSome(tx *schema.Tx, sh shared, branch int64, uuid [16]byte) (bool, error) {
	s := tx.Stmt(`SELECT 1 FROM sync_doc WHERE bucket = ?1 AND branch = ?2 UNION ALL SELECT 1 FROM sync_out WHERE bucket = ?1 AND branch = ?2
		UNION ALL SELECT 1 FROM inode WHERE branch = ?3 UNION ALL SELECT 1 FROM dentry WHERE branch = ?3
		UNION ALL SELECT 1 FROM xattr WHERE branch = ?3 UNION ALL SELECT 1 FROM aside WHERE branch = ?3 LIMIT 1`)
	s.BindInt64(1, sh.bucket.ID)
	s.BindBytes(2, uuid[:])
	s.BindInt64(3, branch)
	return s.Step()
}

// Patterns returns which branches of a bucket this node keeps; false: all.
func (r *Replica) Patterns(uuid [16]byte) (patterns []string, partial bool, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err == nil {
			patterns, partial, err = readFilter(tx, sh.bucket.ID)
		}
		return err
	})
	return patterns, partial, err
}

// KeptError says what holds a branch that would leave.
type KeptError struct {
	Branch string
	Why    []string
}

func (e *KeptError) Error() string {
	return fmt.Sprintf("branch %s cannot leave this machine: %s", e.Branch, strings.Join(e.Why, "; "))
}

// SetPatterns says which branches of a bucket this node keeps: those whose names
// match a pattern, or all. It refuses, with a *KeptError, to let one go that is in
// use: held, which may be nil, says why besides what the store knows.
func (r *Replica) SetPatterns(uuid [16]byte, patterns []string, all bool, held func(branch string) []string) error {
	if err := CheckPatterns(patterns); err != nil {
		return err
	}
	return r.db.Write(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		if err := r.take(tx, sh); err != nil {
			return err
		}
		if all {
			s := tx.Stmt(`DELETE FROM sync_filter WHERE bucket = ?`)
			s.BindInt64(1, sh.bucket.ID)
			if _, err := s.Step(); err != nil {
				return err
			}
			return r.refilter(tx, sh)
		}
		if err := writeFilter(tx, sh.bucket.ID, patterns); err != nil {
			return err
		}
		before, err := branchRows(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		if err := r.refilter(tx, sh); err != nil {
			return err
		}
		for _, b := range before {
			now, _, err := findBranch(tx, sh.bucket.ID, b.uuid)
			if err != nil || b.keep != kept || now.keep == kept {
				if err != nil {
					return err
				}
				continue
			}
			why, err := r.tree.Holds(tx, b.id)
			if err != nil {
				return err
			}
			if held != nil {
				why = append(why, held(b.name)...)
			}
			if len(why) > 0 {
				return &KeptError{b.name, why}
			}
		}
		return nil
	})
}

// Branches returns how the branches of a bucket stand here, by name.
func (r *Replica) Branches(uuid [16]byte) (all []BranchStatus, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		all = nil
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		patterns, partial, err := readFilter(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		rows, err := branchRows(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		names := map[int64]string{}
		for _, b := range rows {
			names[b.id] = b.name
		}
		wanted := resolve(rows, patterns, func(b *branchRow) bool { return !partial || b.own && !b.void })
		live, err := r.tree.Branches(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		for _, b := range live {
			st := BranchStatus{Name: b.Name, Keep: b.Keep, id: b.ID, uuid: b.UUID}
			if by, ok := wanted[b.ID]; ok && by != b.ID {
				st.For = names[by]
			}
			if st.Stubs, err = count(tx, `SELECT count(*) FROM sync_stub WHERE branch = ?`, b.ID); err != nil {
				return err
			}
			s := tx.Stmt(`SELECT count(*) FROM sync_change WHERE doc IN (SELECT id FROM sync_doc WHERE bucket = ? AND branch = ?)`)
			s.BindInt64(1, sh.bucket.ID)
			s.BindBytes(2, b.UUID[:])
			if _, err := s.Step(); err != nil {
				return err
			}
			st.Changes = s.ColumnInt64(0)
			all = append(all, st)
		}
		return nil
	})
	return all, err
}

// leavingBranches returns those of a bucket that are to leave, children first.
func leavingBranches(tx *schema.Tx, bucket int64) (all []branchRow, err error) {
	rows, err := branchRows(tx, bucket)
	for i := len(rows) - 1; i >= 0; i-- {
		if rows[i].keep == leaving {
			all = append(all, rows[i])
		}
	}
	return all, err
}

// errHeld says why a branch cannot leave yet.
var errHeld = errors.New("the branch cannot leave yet")

// drop has a branch that is leaving gone: its changes become stubs, its versions go.
// has are the marks of a node that has every change of it up to there, whole, and
// keeps it; with void not all of those that do not count.
func (r *Replica) drop(uuid [16]byte, branch [16]byte, has []Mark, void bool) error {
	return r.db.Write(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		if err := r.take(tx, sh); err != nil {
			return err
		}
		b, ok, err := findBranch(tx, sh.bucket.ID, branch)
		if err != nil || !ok || b.keep != leaving {
			return err
		}
		why, err := r.holds(tx, sh, &b)
		if err != nil {
			return err
		}
		if len(why) > 0 {
			return fmt.Errorf("%w: %s", errHeld, strings.Join(why, "; "))
		}
		m, err := r.membership(tx, sh)
		if err != nil {
			return err
		}
		mine, err := branchMarks(tx, sh.bucket.ID, branch)
		if err != nil {
			return err
		}
		lacks, err := lacksOf(tx, sh.bucket.ID, mine, has, void, m)
		if err != nil {
			return err
		}
		if lacks != "" {
			return fmt.Errorf("%w: the other node %s", errHeld, lacks)
		}
		all, err := changesOf(tx, sh.bucket.ID, branch)
		if err != nil {
			return err
		}
		for i := range all {
			c := &all[i]
			stub, ok := c.Stub()
			if !ok {
				continue // it can only be kept whole
			}
			s := tx.Stmt(`DELETE FROM sync_change WHERE arrived = ?`)
			s.BindInt64(1, c.arrived)
			if _, err := s.Step(); err != nil {
				return err
			}
			if err := insertStub(tx, sh.bucket.ID, &stubRow{arrived: c.arrived, branch: b.id, author: c.author, source: c.source, Envelope: stub}); err != nil {
				return err
			}
		}
		s := tx.Stmt(`DELETE FROM sync_doc WHERE bucket = ? AND branch = ? AND NOT EXISTS (SELECT 1 FROM sync_change WHERE doc = sync_doc.id)`)
		s.BindInt64(1, sh.bucket.ID)
		s.BindBytes(2, branch[:])
		if _, err := s.Step(); err != nil {
			return err
		}
		return r.tree.DropVersions(tx, b.id)
	})
}

// changesOf returns the changes of a branch that are here whole.
func changesOf(tx *schema.Tx, bucket int64, branch [16]byte) (all []stubRow, err error) {
	s := tx.Stmt(`SELECT arrived, author, source, envelope FROM sync_change
		WHERE doc IN (SELECT id FROM sync_doc WHERE bucket = ? AND branch = ?) ORDER BY arrived`)
	s.BindInt64(1, bucket)
	s.BindBytes(2, branch[:])
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		e, err := identity.DecodeEnvelope(schema.Bytes(s, 3))
		if err != nil {
			return nil, err
		}
		all = append(all, stubRow{arrived: s.ColumnInt64(0), author: s.ColumnInt64(1), source: s.ColumnInt64(2), Envelope: e})
	}
	return all, nil
}

// filter says which branches of a bucket a node keeps: all, or those named, and
// those that match a pattern, with what they descend from. Names can differ between
// nodes: what the node names counts, and the patterns spare a round where a
// branch is new.
type filter struct {
	Bucket   [16]byte   `cbor:"1,keyasint"`
	All      bool       `cbor:"2,keyasint"`
	Branches [][16]byte `cbor:"3,keyasint,omitempty"`
	Patterns []string   `cbor:"4,keyasint,omitempty"`
}

// id identifies what f says.
func (f *filter) id() uint64 {
	b, err := encMode.Marshal(f)
	if err != nil {
		panic(err) // plain data always encodes
	}
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:]) | 1
}

func (f *filter) check() error {
	if len(f.Branches) > maxWanted {
		return fmt.Errorf("%w: a filter of %d branches", ErrRefused, len(f.Branches))
	}
	if err := CheckPatterns(f.Patterns); err != nil {
		return fmt.Errorf("%w: a filter: %w", ErrRefused, err)
	}
	return nil
}

// Filter returns what this node tells others that it keeps.
func (r *Replica) filter(uuid [16]byte) (f *filter, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		f = &filter{Bucket: uuid}
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		var partial bool
		if f.Patterns, partial, err = readFilter(tx, sh.bucket.ID); err != nil || !partial {
			f.All = true
			return err
		}
		rows, err := branchRows(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		for _, b := range rows {
			if b.keep.Wanted() && len(f.Branches) < maxWanted {
				f.Branches = append(f.Branches, b.uuid)
			}
		}
		return nil
	})
	return f, err
}

// wants says of branches whether a peer wants them whole.
type wants struct {
	all  bool
	uuid map[[16]byte]bool
}

func (w *wants) branch(u [16]byte) bool { return w.all || w.uuid[u] }

// wantsOf resolves the filter of a peer; nil is one that does not say, and has all.
func (r *Replica) wantsOf(tx *schema.Tx, bucket int64, f *filter) (*wants, error) {
	if f == nil || f.All {
		return &wants{all: true}, nil
	}
	w := &wants{uuid: map[[16]byte]bool{}}
	for _, u := range f.Branches {
		w.uuid[u] = true
	}
	rows, err := branchRows(tx, bucket)
	if err != nil {
		return nil, err
	}
	wanted := resolve(rows, f.Patterns, func(*branchRow) bool { return false })
	for _, b := range rows {
		if _, ok := wanted[b.id]; ok {
			w.uuid[b.uuid] = true
		}
	}
	return w, nil
}

// cachedWants are those of a filter while there is no new branch.
type cachedWants struct {
	*wants
	of     *filter
	newest int64
}

// outgoing returns envelopes as the peer wants them: whole, or as stubs.
func (s *session) outgoing(b [16]byte, f *feed, all [][]byte) ([][]byte, error) {
	s.mu.Lock()
	theirs := f.filter
	s.mu.Unlock()
	if theirs == nil || theirs.All || len(all) == 0 {
		return all, nil
	}
	err := s.e.db.Read(func(tx *schema.Tx) error {
		newest, err := count(tx, `SELECT max(id) FROM branch`)
		if err != nil || f.wants.of == theirs && f.wants.newest == newest {
			return err
		}
		sh, err := s.e.lookup(tx, b)
		if err != nil {
			return err
		}
		w, err := s.e.wantsOf(tx, sh.bucket.ID, theirs)
		f.wants = cachedWants{w, theirs, newest}
		return err
	})
	for i := range all {
		if err != nil {
			return nil, err
		}
		all[i], err = outgoing(f.wants.wants, all[i])
	}
	return all, err
}

func (s *session) gotFilter(m *filter) {
	if f := s.find(m.Bucket); f != nil {
		s.mu.Lock()
		f.filter = m
		s.mu.Unlock()
	}
}

// unseen reports whether the peer does not know that its filter is known here.
func (s *session) unseen(f *feed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.filter != nil && f.filter.id() != f.seen
}

// names reports whether f says that a branch is kept, by itself and not by a pattern.
func (f *filter) names(branch [16]byte) bool { return f.All || slices.Contains(f.Branches, branch) }

// marksAndLacks returns how far every stream has come, and how many of these changes
// are here as stubs and are to be here whole, or would be if they counted.
func (r *Replica) marksAndLacks(uuid [16]byte) (all []Mark, lacks, void int64, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		if all, err = readMarks(tx, sh.bucket.ID); err == nil {
			lacks, void, err = r.wantedStubs(tx, sh, 0)
		}
		return err
	})
	return all, lacks, void, err
}

// filterState changes whenever what this node keeps of a bucket may have.
func (r *Replica) filterState(uuid [16]byte) (state string, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		state = ""
		sh, err := r.lookup(tx, uuid)
		if err != nil {
			return err
		}
		patterns, partial, err := readFilter(tx, sh.bucket.ID)
		if err != nil || !partial {
			return err
		}
		s := tx.Stmt(`SELECT count(*), total(keep), total(id), (SELECT max(id) FROM branch) FROM branch WHERE bucket = ? AND keep IN (1, 3) AND keep <> 0`)
		s.BindInt64(1, sh.bucket.ID)
		_, err = s.Step()
		state = fmt.Sprint(patterns, s.ColumnInt64(0), s.ColumnFloat(1), s.ColumnFloat(2), s.ColumnInt64(3))
		return err
	})
	return state, err
}

// outgoing returns an envelope as a peer wants it: whole, or as a stub.
func outgoing(w *wants, envelope []byte) ([]byte, error) {
	if w.all {
		return envelope, nil
	}
	e, err := identity.DecodeEnvelope(envelope)
	if err != nil || e.OfBucket() || w.branch(e.Branch) {
		return envelope, err
	}
	stub, ok := e.Stub()
	if !ok || e.Form == identity.Stub {
		return envelope, nil
	}
	return stub.Encode()
}
