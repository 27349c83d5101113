package pathtree

import (
	"cmp"
	"fmt"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// ImportBucket adds what other nodes wrote to the bucket: any part of it, in any
// order, any number of times. Replicas that have the same versions and records
// show the same, whatever way they came:
//
//   - A version stands where its ID puts it. One that comes late changes what
//     later ones did not set, and shows in forks made after its stamp.
//   - Of two versions with one stamp that of the greater node key counts.
//   - Rows stay complete: what a version does not set is as it was before it.
//   - Link counts follow what names have come and gone.
//   - What counts towards a quota is counted, and never refused: nodes would
//     differ. Local changes that need room then fail with EDQUOT.
//   - What cannot be shown as it was written (see repair.go) is repaired by rows
//     that are derived, and never exported.
//
// ErrInvalid, ErrForged, ErrFuture and ErrUnknownBranch come in a
// *VersionError or *UnknownBranchError that says which. Return an error from the
// transaction, so that nothing of the batch is kept. Events are those of a
// local change, with the author as their node. The caller should export first,
// in the same transaction.
func (t *Tree) ImportBucket(tx *schema.Tx, bucket int64, b Batch) (ImportResult, error) {
	if err := t.CheckTime(&b); err != nil {
		return ImportResult{}, fail("import", "", err)
	}
	return t.ImportAgain(tx, bucket, b)
}

// ImportAgain is ImportBucket for what passed CheckTime when it came here, whatever
// the clock says now.
func (t *Tree) ImportAgain(tx *schema.Tx, bucket int64, b Batch) (ImportResult, error) {
	t.moved.Add(1)
	r, err := t.importBucket(tx, bucket, b)
	return r, fail("import", "", err)
}

func (t *Tree) importBucket(tx *schema.Tx, bucket int64, b Batch) (r ImportResult, err error) {
	if err := b.check(); err != nil {
		return r, err
	}
	m, err := t.newImport(tx, bucket)
	if err != nil {
		return r, err
	}
	if err := m.run(&b); err != nil {
		return ImportResult{}, err
	}
	return m.result, nil
}

// check refuses what is wrong with a batch by itself.
func (b *Batch) check() error {
	for k := range b.Records {
		if err := b.Records[k].Check(); err != nil {
			return err
		}
	}
	for k := range b.Versions {
		if err := b.Versions[k].Check(); err != nil {
			return err
		}
	}
	return nil
}

// CheckTime returns ErrFuture, in a *VersionError, when something was written more
// than ten minutes from now.
func (t *Tree) CheckTime(b *Batch) error {
	limit := schema.StampAt(t.now().Add(maxAhead))
	for k := range b.Records {
		r := &b.Records[k]
		if max(r.ID.Stamp, r.Fork, r.At) > limit {
			return &VersionError{ID: r.ID, What: r.Kind.String(), Err: ErrFuture}
		}
	}
	for k := range b.Versions {
		v := &b.Versions[k]
		if v.ID.Stamp > limit {
			return &VersionError{ID: v.ID, What: v.what(), Err: ErrFuture}
		}
	}
	return nil
}

// importer is one import.
type importer struct {
	*exchange
	touched
	tally      *tally
	policy     bool // that of the bucket is news
	revived    bool // branches were removed or came back without their rows
	result     ImportResult
	pending    map[inodeAt][]*Version // new versions of inodes, not yet written
	taken      map[rowOf]uint32       // link counts of rows of inodes that were taken out and may come again
	anyAside   bool                   // some version is put aside
	anyDerived bool                   // some inode row is derived
	added      []arrival
	conflicts  []thingAt        // that have come up
	forked     map[thingAt]bool // things whose versions may be concurrent
	contents   map[ContentRef]bool
	node       int64 // of the newest version, for events of what is derived
}

type thingAt struct {
	branch int64
	thing
}

func (t *Tree) newImport(tx *schema.Tx, bucket int64) (*importer, error) {
	x, err := t.newExchange(tx, bucket)
	if err != nil {
		return nil, err
	}
	return newImporter(x)
}

func newImporter(x *exchange) (*importer, error) {
	y, err := x.newTally()
	m := &importer{
		exchange: x, touched: newTouched(), tally: y, pending: map[inodeAt][]*Version{}, taken: map[rowOf]uint32{},
		forked: map[thingAt]bool{}, contents: map[ContentRef]bool{}, node: schema.LocalNode,
	}
	if err != nil {
		return nil, err
	}
	return m, m.look()
}

func (m *importer) run(b *Batch) error {
	s := m.tx.Stmt("UPDATE bucket SET shared = 1 WHERE id = ? AND shared = 0")
	s.BindInt64(1, m.bucket.ID)
	if err := run(s); err != nil {
		return err
	}
	if len(b.Records) > 0 {
		if err := m.applyRecords(b.Records); err != nil {
			return err
		}
	}
	fresh, err := m.fresh(b.Versions)
	if err != nil {
		return err
	}
	if len(fresh) > 0 {
		if err := m.add(fresh); err != nil {
			return err
		}
	}
	return m.finishRecords()
}

// look finds out what need not be asked for again and again.
func (m *importer) look() error {
	s := m.tx.Stmt("SELECT EXISTS (SELECT 1 FROM aside), EXISTS (SELECT 1 FROM inode WHERE node > 2000000000)")
	_, err := s.Step()
	m.anyAside, m.anyDerived = s.ColumnInt64(0) != 0, s.ColumnInt64(1) != 0
	return err
}

// arrival is a version with its place in the tables.
type arrival struct {
	*Version
	at version
}

// fresh returns the versions that are not known, each once, by ID.
func (m *importer) fresh(vs []Version) ([]arrival, error) {
	type identity struct {
		thing
		at version
	}
	seen := map[identity]*Version{}
	var fresh []arrival
	for k := range vs {
		v := &vs[k]
		b, err := m.branch(v.Branch)
		if err != nil {
			return nil, err
		}
		at, err := m.place(b.ID, v.ID)
		if err != nil {
			return nil, err
		}
		id := identity{v.thing(), at}
		known, ok := seen[id]
		if !ok {
			if known, err = m.known(v, at); err != nil {
				return nil, err
			}
		}
		switch {
		case known == nil:
			fresh = append(fresh, arrival{v, at})
			seen[id] = v
		case !sameVersion(known, v):
			return nil, &VersionError{ID: v.ID, What: v.what(), Err: ErrForged}
		default:
			m.result.Known++
			seen[id] = known
		}
	}
	slices.SortFunc(fresh, func(a, b arrival) int {
		return cmp.Or(a.ID.Compare(b.ID), compareThings(a.thing(), b.thing()), cmp.Compare(a.at.branch, b.at.branch))
	})
	return fresh, nil
}

// known returns the version that has the identity of v, nil without one.
func (m *importer) known(v *Version, at version) (*Version, error) {
	th := v.thing()
	if m.anyAside {
		all, err := m.asides(th, at.branch, at.stamp)
		if err != nil {
			return nil, err
		}
		for _, a := range all {
			if a.version == at {
				return &a.v, nil
			}
		}
	}
	switch v.Kind {
	case DentryVersion:
		s := m.tx.Stmt("SELECT ino, kind FROM dentry WHERE parent = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?")
		s.BindInt64(1, int64(th.ino))
		bindName(s, 2, th.name)
		bindVersion(s, 3, at)
		ok, err := s.Step()
		if !ok {
			return nil, err
		}
		return &Version{Ino: Ino(s.ColumnInt64(0)), FileType: uint32(s.ColumnInt64(1)) << 12}, nil
	case InodeVersion:
		s := m.tx.Stmt("SELECT " + inodeColumns + " FROM inode WHERE ino = ? AND branch = ? AND stamp = ? AND node = ?")
		s.BindInt64(1, int64(th.ino))
		bindVersion(s, 2, at)
		ok, err := s.Step()
		if !ok {
			return nil, err
		}
		var r inodeRow
		scanInode(s, &r)
		return &Version{Ino: v.Ino, Home: r.Home, Inode: toInode(&r)}, nil
	}
	s := m.tx.Stmt("SELECT value FROM xattr WHERE ino = ? AND name = ? AND branch = ? AND stamp = ? AND node = ?")
	s.BindInt64(1, int64(th.ino))
	bindName(s, 2, th.name)
	bindVersion(s, 3, at)
	ok, err := s.Step()
	if !ok {
		return nil, err
	}
	return &Version{Ino: v.Ino, Home: v.Home, Value: columnValue(s, 0)}, nil
}

// columnValue reads a blob that is NULL for nil.
func columnValue(s *sqlite.Stmt, col int) []byte {
	if s.ColumnType(col) == sqlite.TypeNull {
		return nil
	}
	p := schema.Bytes(s, col)
	return p
}

// add writes the rows of new versions.
func (m *importer) add(fresh []arrival) error {
	last := fresh[len(fresh)-1]
	m.added = fresh
	m.tx.ObserveStamp(last.ID.Stamp)
	if err := m.observeInos(fresh); err != nil {
		return err
	}
	m.node = last.at.node
	m.result.New += len(fresh)
	now := m.tx.NextStamp()
	least := map[int64]schema.Stamp{}
	for _, p := range fresh {
		if _, ok := least[p.at.branch]; !ok {
			least[p.at.branch] = p.at.stamp
			if err := m.passOver(p.at.branch, now); err != nil {
				return err
			}
		}
	}
	for branch, from := range least {
		all, err := m.reach(branch, from)
		if err != nil {
			return err
		}
		m.seen[branch] = all
	}
	for _, p := range fresh {
		if err := m.identity(p.Version); err != nil {
			return err
		}
		if err := m.touch(m.exchange, p); err != nil {
			return err
		}
	}
	for _, p := range fresh {
		if err := m.addOne(p); err != nil {
			return err
		}
	}
	return m.refill()
}

// identity refuses a version of an inode that says otherwise than what is known
// what the inode is and where it was made.
func (m *importer) identity(v *Version) error {
	if v.Kind == DentryVersion {
		return nil
	}
	s := m.tx.Stmt("SELECT home, mode & 61440, rdev FROM inode WHERE ino = ? LIMIT 1")
	s.BindInt64(1, int64(v.Ino))
	ok, err := s.Step()
	if !ok || err != nil {
		return err
	}
	var wrong error
	switch {
	case Ino(s.ColumnInt64(0)) != v.Home:
		wrong = fmt.Errorf("%w: made in %v, not %v", ErrInvalid, Ino(s.ColumnInt64(0)), v.Home)
	case v.Kind == XattrVersion:
	case uint32(s.ColumnInt64(1)) != v.Inode.Mode&0o170000 || uint32(s.ColumnInt64(2)) != v.Inode.Rdev:
		wrong = fmt.Errorf("%w: it is of type %o", ErrInvalid, s.ColumnInt64(1))
	}
	if wrong != nil {
		return &VersionError{ID: v.ID, What: v.what(), Err: wrong}
	}
	return nil
}

func (m *importer) addOne(p arrival) error {
	var waits version // newest version of the same inode that refill has yet to write
	if news := m.pending[inodeAt{p.at.branch, p.Ino}]; p.Kind == InodeVersion && len(news) > 0 {
		var err error
		if waits, err = m.place(p.at.branch, news[len(news)-1].ID); err != nil {
			return err
		}
	}
	forked, err := m.enlist(p.Version, p.at, waits)
	if err != nil {
		return err
	}
	if forked {
		m.forked[thingAt{p.at.branch, p.thing()}] = true
	}
	switch p.Kind {
	case InodeVersion:
		if in := p.Inode; !in.Hash.IsZero() {
			m.contents[ContentRef{in.Hash, in.Size}] = true
		}
		k := inodeAt{p.at.branch, p.Ino}
		m.pending[k] = append(m.pending[k], p.Version)
		return nil
	case DentryVersion:
		return m.addDentry(p)
	}
	return m.addXattr(p)
}

// rival returns the version of another node at the same stamp, if any.
func (m *importer) rival(th thing, at version) (o version, ok bool, err error) {
	t := rowTables[th.kind]
	s := m.tx.Stmt("SELECT node FROM " + t.table + " WHERE " + t.key + " AND branch = ?3 AND stamp = ?4 AND node < 2000000000")
	s.BindInt64(1, int64(th.ino))
	bindName(s, 2, th.name)
	s.BindInt64(3, at.branch)
	s.BindInt64(4, int64(at.stamp))
	if ok, err = s.Step(); !ok || err != nil {
		return o, false, err
	}
	return version{at.branch, at.stamp, s.ColumnInt64(0)}, true, nil
}

// loses decides between a version and its rival; true puts at aside, false
// leaves room for it.
func (m *importer) loses(th thing, at, rival version) (bool, error) {
	w, err := m.later(at, rival)
	if err != nil || w == rival {
		return true, err
	}
	var v *Version
	switch th.kind {
	case DentryVersion:
		v, err = m.known(&Version{Kind: th.kind, Parent: th.ino, Name: th.name}, rival)
		if err == nil {
			v.Kind, v.Parent, v.Name = th.kind, th.ino, th.name
			err = deleteDentry(m.tx, th.ino, th.name, rival)
		}
	case XattrVersion:
		v, err = m.known(&Version{Kind: th.kind, Ino: th.ino, Name: th.name}, rival)
		if err == nil {
			v.Kind, v.Ino, v.Name = th.kind, th.ino, th.name
			err = deleteXattr(m.tx, th.ino, th.name, rival)
		}
	}
	if err != nil {
		return false, err
	}
	m.anyAside = true
	return false, m.putAside(v, rival)
}

func (m *importer) addDentry(p arrival) error {
	rival, ok, err := m.rival(p.thing(), p.at)
	if err != nil {
		return err
	}
	if ok {
		if lost, err := m.loses(p.thing(), p.at, rival); err != nil {
			return err
		} else if lost {
			m.anyAside = true
			return m.putAside(p.Version, p.at)
		}
	}
	return insertDentry(m.tx, p.Parent, p.Name, p.at, p.Ino, p.FileType)
}

func (m *importer) addXattr(p arrival) error {
	home, err := m.home(p.Ino)
	if err != nil {
		return err
	}
	rival, ok, err := m.rival(p.thing(), p.at)
	if err != nil {
		return err
	}
	lost := home == 0 // waits for its inode
	if ok && !lost {
		if lost, err = m.loses(p.thing(), p.at, rival); err != nil {
			return err
		}
	}
	if lost {
		m.anyAside = true
		return m.putAside(p.Version, p.at)
	}
	return putXattr(m.tx, p.Ino, p.Name, p.at, p.Value)
}
