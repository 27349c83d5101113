package pathtree

import (
	"cmp"
	"slices"
	"strings"
	"syscall"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/schema"
)

// SyncConflictKind says how versions of different nodes exclude each other.
type SyncConflictKind uint8

const (
	ContentConflict   SyncConflictKind = iota + 1 // a file's content changed in different ways
	AttributeConflict                             // mode, owner or an extended attribute set to different values
	NameConflict                                  // one name given to different things
	DeleteConflict                                // deleted by one, changed by another
)

var syncConflictNames = [...]string{ContentConflict: "content", AttributeConflict: "attributes", NameConflict: "name", DeleteConflict: "deletion"}

func (k SyncConflictKind) String() string { return syncConflictNames[k] }

// SyncConflict is a thing that nodes changed without knowing of each other, in
// ways that exclude each other. What counts is the version with the greatest ID;
// the others are kept until the conflict is resolved.
type SyncConflict struct {
	Kind   SyncConflictKind
	Branch int64
	Path   string // on that branch; of a removed file one that it had; "" when nothing shows it
	Thing  VersionKind
	Ino    Ino    // of the file; of a name the directory
	Name   string // of a name or extended attribute
	Shown  ConflictSide
	Others []ConflictSide // greatest ID first
}

// ConflictSide is one of the versions that exclude each other.
type ConflictSide struct {
	ID   VersionID
	Gone bool // it deletes
	Ino  Ino
	Hash blobstore.Hash
	Size int64 // bytes
	Mode uint32
	UID  uint32
	GID  uint32

	Target string // of a symbolic link
	Value  string // of an extended attribute
	Copy   string // name of the conflict copy that shows it, "" without one
}

// SyncConflicts returns the conflicts of a bucket's branches that exist, by
// branch and path.
func (t *Tree) SyncConflicts(tx *schema.Tx, bucket int64) ([]SyncConflict, error) {
	all, err := t.syncConflicts(tx, bucket)
	return all, fail("conflicts", "", err)
}

func (t *Tree) syncConflicts(tx *schema.Tx, bucket int64) ([]SyncConflict, error) {
	x, err := t.newExchange(tx, bucket)
	if err != nil {
		return nil, err
	}
	s := tx.Stmt(`SELECT c.branch, c.kind, c.ino, c.name FROM contest c JOIN branch b ON b.id = c.branch
		WHERE b.bucket = ? AND b.deleted IS NULL AND c.conflict ORDER BY c.branch, c.kind, c.ino, c.name`)
	s.BindInt64(1, bucket)
	var things []thingAt
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		things = append(things, thingAt{
			s.ColumnInt64(0), thing{VersionKind(s.ColumnInt64(1)), Ino(s.ColumnInt64(2)), s.ColumnText(3)},
		})
	}
	var all []SyncConflict
	for _, at := range things {
		f, err := x.conflictAt(at)
		if err != nil {
			return nil, err
		}
		if f != nil {
			all = append(all, *f)
		}
	}
	slices.SortStableFunc(all, func(a, b SyncConflict) int {
		return cmp.Or(cmp.Compare(a.Branch, b.Branch), strings.Compare(a.Path, b.Path))
	})
	return all, nil
}

// conflictAt returns the conflict about a thing, nil without one.
func (x *exchange) conflictAt(at thingAt) (*SyncConflict, error) {
	c, err := x.loadContest(at)
	if err != nil {
		return nil, err
	}
	f, err := x.conflictOf(c)
	if f == nil || err != nil {
		return nil, err
	}
	f.Path, err = x.conflictPath(f)
	return f, err
}

// Keep says which side of a conflict stays.
type Keep uint8

const (
	KeepShown Keep = iota // what counts already
	KeepOther             // the one that the caller names
	KeepBoth              // what counts, and the others beside it under other names
)

// ResolveSyncConflict decides a conflict as SyncConflicts returned it: with a
// version that puts an end to all of its sides, and so ends it on every node.
// other is the ID of the side that KeepOther keeps. What is not kept stays in
// history. ESTALE when the conflict is no longer what it was. KeepBoth applies
// to files: extended attributes and modes have only one value (EINVAL).
func (t *Tree) ResolveSyncConflict(tx *schema.Tx, f SyncConflict, keep Keep, other VersionID) error {
	t.moved.Add(1)
	return fail("resolve", f.Path, t.resolveSyncConflict(tx, f, keep, other))
}

func (t *Tree) resolveSyncConflict(tx *schema.Tx, f SyncConflict, keep Keep, other VersionID) error {
	v, err := t.View(tx, f.Branch, 0)
	if err != nil {
		return err
	}
	x, err := t.newExchange(tx, v.bucket.ID)
	if err != nil {
		return err
	}
	now, err := x.conflictAt(thingAt{f.Branch, thing{f.Thing, f.Ino, f.Name}})
	if err != nil {
		return err
	}
	if now == nil || now.Shown != f.Shown || !slices.Equal(now.Others, f.Others) {
		return syscall.ESTALE
	}
	c, err := v.begin(tx)
	if err != nil {
		return err
	}
	r := &resolver{change: &c, x: x, f: now}
	if r.all, err = x.loadContest(thingAt{f.Branch, thing{f.Thing, f.Ino, f.Name}}); err != nil {
		return err
	}
	kept := now.Shown.ID
	switch {
	case keep == KeepOther:
		kept = other
		if !slices.ContainsFunc(now.Others, func(s ConflictSide) bool { return s.ID == other }) {
			return syscall.EINVAL
		}
	case keep == KeepBoth && r.undeletes():
		kept = now.Others[0].ID // a file cannot be both there and removed
	case keep == KeepBoth:
		if err := r.keepOthers(kept); err != nil {
			return err
		}
	}
	if err := r.say(&r.all.all[r.all.index(kept)]); err != nil {
		return err
	}
	if keep == KeepBoth && r.undeletes() { // beside the name that it has again
		if err := r.keepOthers(kept); err != nil {
			return err
		}
	}
	if err := r.settle(); err != nil {
		return err
	}
	return c.event(notify.Event{ // it makes the branch one with news, for the export
		Op: notify.OpConflict, Ino: uint64(f.Ino), Name: []byte(f.Name), Ref: int64(f.Kind),
	})
}

// resolver decides one conflict.
type resolver struct {
	*change
	x   *exchange
	f   *SyncConflict
	all *contest
}

// undeletes reports whether what does not count is content of a removed file.
func (r *resolver) undeletes() bool { return r.f.Thing == InodeVersion && r.f.Kind == DeleteConflict }

// say writes again what a version says.
func (r *resolver) say(m *member) error {
	switch r.f.Thing {
	case DentryVersion:
		return r.sayName(m)
	case InodeVersion:
		return r.sayInode(m)
	}
	cur, found, err := findXattr(r.tx, r.v.chain, r.f.Ino, r.f.Name)
	if err != nil {
		return err
	}
	if err := r.setXattr(r.f.Ino, r.f.Name, cur, found, m.v.Value); err != nil {
		return err
	}
	return r.event(notify.Event{Op: notify.OpXattr, Ino: uint64(r.f.Ino), Name: []byte(r.f.Name)})
}

// apply makes an edit, which has a stamp of its own: a directory can be in several.
func (r *resolver) apply(d *edit) error {
	c, err := r.v.begin(r.tx)
	if err != nil {
		return err
	}
	return d.apply(&c)
}

// sayName makes the name lead to what m says, through the edit that a merge uses.
func (r *resolver) sayName(m *member) error {
	e := edge{r.f.Ino, r.f.Name}
	d := newEdit(newViewSide(r.v))
	d.set(e, m.v.Ino)
	d.affirmed[e] = true           // it may lead there already
	for _, s := range r.f.Others { // the copy of what has the name again
		if at := (edge{r.f.Ino, s.Copy}); s.Copy != "" && s.Ino == m.v.Ino {
			if i, err := d.old.lookup(r.tx, at); err != nil {
				return err
			} else if i == s.Ino {
				d.set(at, 0)
			}
		}
	}
	return r.apply(d)
}

func (r *resolver) sayInode(m *member) error {
	row, err := r.v.inode(r.tx, r.f.Ino)
	if err != nil {
		return err
	}
	in, was := m.v.Inode, row.Inode
	row.Ctime = r.now
	groups, e := groupContent, notify.Event{Op: notify.OpContent, Ino: uint64(row.Ino), Old: hashBytes(row.Hash)}
	switch {
	case r.f.Kind == AttributeConflict:
		groups, e = groupAttrs, notify.Event{Op: notify.OpAttr, Ino: uint64(row.Ino)}
		row.Mode, row.UID, row.GID = in.Mode, in.UID, in.GID
	case in.Groups&groupContent == 0: // the removal: the file stays removed
		groups, e = 0, notify.Event{Op: notify.OpAttr, Ino: uint64(row.Ino)}
	default:
		row.Hash, row.Size, row.Target, row.Mtime = in.Hash, in.Size, in.Target, in.Mtime
		e.New = hashBytes(in.Hash)
	}
	if r.f.Kind == DeleteConflict && groups != 0 {
		return r.undelete(row.Inode)
	}
	if err := r.charge(&was, &row.Inode); err != nil {
		return err
	}
	row.groups, row.Branch, row.Stamp, row.node = groups, r.at.branch, r.at.stamp, r.at.node
	if err := r.insert(&row, false); err != nil {
		return err
	}
	e.Size = row.Size
	return r.event(e)
}

// undelete gives a file its content and the name it had last, or one like it.
func (r *resolver) undelete(in Inode) error {
	at, err := r.x.placeOfRemoved(r.v, in.Ino)
	if err != nil {
		return err
	}
	return r.name(&in, at)
}

// placeOfRemoved returns a place that a removed file had, in a directory that is
// there still, or else one like it in the root.
func (x *exchange) placeOfRemoved(v *View, i Ino) (edge, error) {
	es, err := x.everNamed(i)
	if err != nil {
		return edge{}, err
	}
	for _, e := range es {
		if _, err := v.dir(x.tx, e.parent); err == nil {
			return e, nil
		}
	}
	if len(es) == 0 {
		return edge{}, syscall.ENOENT
	}
	return edge{v.Root(), es[0].name}, nil
}

// name gives an inode a name, or one like it where that is taken.
func (r *resolver) name(in *Inode, e edge) error {
	d := newEdit(newViewSide(r.v))
	if in.Nlink == 0 {
		d.put(*in, groupContent)
	}
	for n := 0; ; n++ {
		at := e
		if n > 0 {
			at.name = suffixed(e.name, conflictMark+shortHash(in.Ino.String(), n))
		}
		if taken, err := d.old.lookup(r.tx, at); err != nil {
			return err
		} else if taken == 0 {
			d.set(at, in.Ino)
			return r.apply(d)
		}
	}
}

// keepOthers gives the sides that do not count, but for the one that is to,
// names of their own.
func (r *resolver) keepOthers(kept VersionID) error {
	if r.f.Kind == AttributeConflict {
		return syscall.EINVAL
	}
	for _, s := range r.f.Others {
		if s.Gone || s.ID == kept {
			continue
		}
		m := &r.all.all[r.all.index(s.ID)]
		if r.f.Thing == DentryVersion {
			e := edge{r.f.Ino, copyName(r.f.Name, s.ID)}
			if i, err := findRaw(r.x, r.v.chain, e); err != nil {
				return err
			} else if i.node == copyNode { // it is shown: that becomes its name
				if err := insertDentry(r.tx, e.parent, e.name, r.at, s.Ino, m.v.FileType); err != nil {
					return err
				}
				continue
			}
			in, err := r.v.Inode(r.tx, s.Ino)
			if err == nil {
				err = r.name(&in, e)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := r.copyContent(s, m); err != nil {
			return err
		}
	}
	return nil
}

// copyContent makes a file of content that does not count, beside the file.
func (r *resolver) copyContent(s ConflictSide, m *member) error {
	at, err := r.v.place(r.tx, r.f.Ino)
	if err != nil {
		return err
	}
	row, err := r.v.inode(r.tx, r.f.Ino)
	if err != nil {
		return err
	}
	_, err = r.v.create(r.tx, at.parent, copyName(at.name, s.ID), NewInode{
		Mode: row.Mode, UID: row.UID, GID: row.GID, Hash: s.Hash, Size: s.Size, Target: m.v.Inode.Target, Mtime: m.v.Inode.Mtime,
	})
	return err
}

// settle records that the version written puts an end to all the others.
func (r *resolver) settle() error {
	th := thing{r.f.Thing, r.f.Ino, r.f.Name}
	last, err := r.x.loadContest(thingAt{r.f.Branch, th})
	if err != nil {
		return err
	}
	newest := last.all[len(last.all)-1].at
	for _, k := range r.all.maximal(anyMember) {
		if err := r.x.setSettled(th, newest, r.all.all[k].at); err != nil {
			return err
		}
	}
	for _, s := range r.f.Others {
		at, err := r.x.place(r.f.Branch, s.ID)
		if err == nil {
			err = r.x.setSettled(th, newest, at)
		}
		if err != nil {
			return err
		}
	}
	if err := r.v.tree.seal(r.tx, r.f.Branch, r.tx.NextStamp()); err != nil {
		return err
	}
	im, err := newImporter(r.x)
	if err != nil {
		return err
	}
	im.forked[thingAt{r.f.Branch, th}] = true
	if r.f.Thing == DentryVersion { // a directory may have lost its only name
		sp := im.suspect(r.f.Branch)
		for _, s := range append(r.f.Others, r.f.Shown) {
			sp.edge(edge{r.f.Ino, r.f.Name}, s.Ino)
		}
	}
	return im.settle()
}
