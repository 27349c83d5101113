package alkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/latency"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// What Diff, Merge and Log return; see pathtree for the fields.
type (
	Change        = pathtree.Change
	ChangeKind    = pathtree.ChangeKind
	Conflict      = pathtree.Conflict
	MergeResult   = pathtree.MergeResult
	MergeStrategy = pathtree.Strategy
	LogEntry      = pathtree.LogEntry
)

// Kinds of Change, and strategies of Merge.
const (
	Added        = pathtree.Added
	Deleted      = pathtree.Deleted
	Modified     = pathtree.Modified
	Renamed      = pathtree.Renamed
	ModeChanged  = pathtree.ModeChanged
	TypeChanged  = pathtree.TypeChanged
	XattrChanged = pathtree.XattrChanged

	Ask    = pathtree.Ask
	Ours   = pathtree.Ours
	Theirs = pathtree.Theirs
	Both   = pathtree.Both
)

// ErrConflict is returned by Merge with the strategy Ask when there are
// conflicts; nothing was changed then.
var ErrConflict = pathtree.ErrConflict

// MergeOptions says how to merge.
type MergeOptions struct {
	Strategy MergeStrategy // default Ask
	DryRun   bool          // only say what would be done
	Message  string        // kept with the merge and shown by Log
	Lines    bool          // where both sides edited a text, merge it line by line
}

// Diff returns what one must change to get from a to b, sorted by path. A path
// in b (or else in a) limits it to what is there and below. Its cost is that of
// what was changed, not that of the tree.
func (s *Store) Diff(a, b Spec) (changes []Change, err error) {
	defer s.done(opDiff, latency.Now())
	va, err := s.View(a)
	if err != nil {
		return nil, err
	}
	vb, err := s.View(b)
	if err != nil {
		return nil, err
	}
	return s.diffViews(va, vb, b.Path, a.Path)
}

// DiffViews is Diff between open views, below a path, "" or "." for all.
func (s *Store) DiffViews(a, b *View, under string) ([]Change, error) {
	defer s.done(opDiff, latency.Now())
	return s.diffViews(a, b, under, "")
}

func (s *Store) diffViews(a, b *View, under, orUnder string) (changes []Change, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) (err error) {
		changes, err = s.tree.Diff(tx, a.v, b.v, 0)
		return err
	})
	if under = cleanPath(under); under == "" {
		under = cleanPath(orUnder)
	}
	if err != nil || under == "" {
		return changes, err
	}
	changes = slices.DeleteFunc(changes, func(c Change) bool { return !within(c.Path, under) && !within(c.OldPath, under) })
	if len(changes) == 0 && !a.has(under) && !b.has(under) {
		return nil, pathError("diff", under, fs.ErrNotExist)
	}
	return changes, nil
}

func (v *View) has(name string) bool {
	_, err := v.stat("lstat", name, false)
	return err == nil
}

// ForkView returns the view that the branch of spec was forked from, as it was
// then, and false when it has no parent.
func (s *Store) ForkView(spec Spec) (*View, bool, error) {
	view := &View{store: s}
	found := false
	err := s.db.Read(func(tx *schema.Tx) error {
		br, _, err := s.resolve(tx, spec)
		if err != nil || br.Parent == 0 {
			return err
		}
		at := br.Fork
		if br.Live {
			at = 0
		}
		if s.mayByID(tx, br.Parent, access.Read) != nil {
			return nil // as if there were none
		}
		found = true
		view.v, err = s.tree.View(tx, br.Parent, at)
		return err
	})
	if err != nil || !found {
		return nil, false, err
	}
	return view, true, nil
}

// Merge brings what changed in src since it and dst last had the same state into
// dst, in one transaction. Conflicts that o does not decide are in the result,
// with ErrConflict and nothing changed. src may be as of a time (src.At).
func (s *Store) Merge(src, dst Spec, o MergeOptions) (r MergeResult, err error) {
	defer s.done(opMerge, latency.Now())
	from, err := s.View(src)
	if err != nil {
		return r, err
	}
	to, err := s.View(Spec{Bucket: dst.Bucket, Branch: dst.Branch})
	if err != nil {
		return r, err
	}
	po := pathtree.MergeOptions{Strategy: o.Strategy, DryRun: o.DryRun, Message: o.Message}
	large := sealedText{s: s}
	if o.Lines {
		po.Text = &pathtree.TextMerge{Read: s.blobs.Content, Store: large.add}
	}
	err = large.prepare(func() error {
		return s.write(func(tx *schema.Tx) (err error) {
			if !o.DryRun {
				if err := s.mayByID(tx, to.v.Branch().ID, access.Write); err != nil {
					return err
				}
			}
			if r, err = s.tree.Merge(tx, from.v, to.v, po); err != nil || o.DryRun {
				return err
			}
			return s.mayApply(tx, to, r.Applied)
		})
	})
	if err == nil && !o.DryRun {
		s.refresh(to, r.Applied)
	}
	return r, err
}

// sealedText is the large texts that a merge makes. A blob file is sealed, and
// content that is on another node fetched, outside of any transaction: where the
// merge meets one it stops, and is done again when that is ready.
type sealedText struct {
	s     *Store
	ready map[blobstore.Hash]bool
}

// unsealed is the error of a merge that needs p as a blob file first.
type unsealed struct{ p []byte }

func (*unsealed) Error() string { return "merged text is not in the store yet" }

// add stores p inside a transaction.
func (t *sealedText) add(tx *schema.Tx, p []byte) (blobstore.Hash, error) {
	if len(p) <= blobstore.InlineMax {
		return t.s.blobs.PutInline(tx, p)
	}
	h := blobstore.Sum(p)
	if !t.ready[h] {
		return h, &unsealed{p}
	}
	return h, t.s.blobs.AddFile(tx, h, int64(len(p)))
}

// prepare runs a transaction until it has what it needs.
func (t *sealedText) prepare(transact func() error) error {
	for {
		err := transact()
		var absent *blobstore.NotHereError
		var text *unsealed
		switch {
		case errors.As(err, &absent):
			err = t.s.blobs.Fetch(context.Background(), absent.Hash, absent.Size, blobstore.Reading)
		case errors.As(err, &text):
			var c content
			if c, err = t.s.contentOf(context.Background(), text.p); err == nil {
				if t.ready == nil {
					t.ready = make(map[blobstore.Hash]bool)
				}
				t.ready[c.hash] = true
			}
		default:
			return err
		}
		if err != nil {
			return err
		}
	}
}

// mayApply fails when changes gave new content to a file that somebody is writing,
// and its bucket allows one writer at a time.
func (s *Store) mayApply(tx *schema.Tx, v *View, changes []Change) error {
	for _, c := range changes {
		if c.Old == nil || c.New == nil || !c.Content || !c.New.IsRegular() {
			continue
		}
		if err := s.sessions.MayReplace(tx, v.v, c.New.Ino); err != nil {
			return fmt.Errorf("%s: %w", c.Path, err)
		}
	}
	return nil
}

// refresh tells open files of this process that their content was replaced.
func (s *Store) refresh(v *View, changes []Change) {
	for _, c := range changes {
		if c.New != nil && c.New.IsRegular() {
			s.sessions.Refresh(v.v.Branch().ID, c.New.Ino)
		}
	}
}

// Log returns at most limit versions (0: all) of what is or last was at the path
// of spec, newest first.
func (s *Store) Log(spec Spec, limit int) (list []LogEntry, err error) {
	defer s.done(opLog, latency.Now())
	v, err := s.View(spec)
	if err != nil {
		return nil, err
	}
	err = s.db.Snapshot(func(tx *schema.Tx) (err error) {
		list, err = s.tree.Log(tx, v.v, cleanPath(spec.Path), limit)
		return err
	})
	return list, pathError("log", spec.Path, err)
}

// Restore makes the path of spec as it was at spec.At, by new versions on top,
// so that it can be undone by another Restore. The rest of the branch stays.
func (s *Store) Restore(spec Spec) (changes []Change, err error) {
	defer s.done(opRestore, latency.Now())
	if err := s.everything(); err != nil {
		return nil, err
	}
	if spec.At == "" {
		return nil, fmt.Errorf("restore %s: say as of when: %w", spec, ErrBadSpec)
	}
	from, err := s.View(spec)
	if err != nil {
		return nil, err
	}
	to, err := s.View(Spec{Bucket: spec.Bucket, Branch: spec.Branch})
	if err != nil {
		return nil, err
	}
	err = s.write(func(tx *schema.Tx) (err error) {
		if changes, err = s.tree.Restore(tx, to.v, cleanPath(spec.Path), from.v); err != nil {
			return err
		}
		return s.mayApply(tx, to, changes)
	})
	if err != nil {
		return nil, pathError("restore", spec.Path, err)
	}
	s.refresh(to, changes)
	return changes, nil
}

// BranchName returns the name of a branch by its id, "" when it is not known.
func (s *Store) BranchName(id int64) (name string) {
	_ = s.db.Read(func(tx *schema.Tx) error {
		if br, err := s.tree.BranchByID(tx, id); err == nil && s.mayByID(tx, id, access.Read) == nil {
			name = br.Name
		}
		return nil
	})
	return name
}

// StampTime returns the wall-clock time of a stamp.
func StampTime(st Stamp) time.Time { return st.Time() }

// ReadInode returns the content of a regular file that Diff, Merge or Log gave.
func (v *View) ReadInode(in Inode) ([]byte, error) {
	blob, err := v.openBlob(in)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	p := make([]byte, in.Size)
	_, err = io.ReadFull(io.NewSectionReader(blob, 0, in.Size), p)
	return p, err
}
