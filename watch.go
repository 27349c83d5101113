package alkfs

import (
	"context"
	"iter"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/notify"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Event is one change of a store, made by any process.
type Event struct {
	Seq            int64 // position, for resuming: rises by one
	Time           time.Time
	Op             notify.Op // create, remove, rename, link, content, attr, xattr, branch, …
	Bucket, Branch string    // names; "" where the event is of no branch
	Path, OldPath  string    // "" where the place is not known any more; OldPath of a rename
	Ino            pathtree.Ino
	Size           int64          // bytes, after
	Hash           blobstore.Hash // of the content, after
}

// Watch yields the changes after the event number after, as they are committed,
// until ctx ends or an error is yielded; LastEvent is where the present ends.
// spec limits them to a branch and to what is below its path; nil means all.
func (s *Store) Watch(ctx context.Context, spec *Spec, after int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := watcher{store: s, branches: make(map[int64]*pathtree.View)}
		if spec != nil {
			view, err := s.View(Spec{Bucket: spec.Bucket, Branch: spec.Branch})
			if err != nil {
				yield(Event{}, err)
				return
			}
			w.branch, w.under = view.v.Branch().ID, cleanPath(spec.Path)
		}
		for e, err := range notify.Watch(ctx, s.db, after) {
			if err != nil {
				if ctx.Err() == nil {
					yield(Event{}, err)
				}
				return
			}
			if w.branch != 0 && e.Branch != w.branch {
				continue
			}
			out, err := w.event(e)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if w.under != "" && !within(out.Path, w.under) && !within(out.OldPath, w.under) {
				continue
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// LastEvent returns the number of the newest event, for Watch.
func (s *Store) LastEvent() (seq int64, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		seq, err = notify.Last(tx)
		return err
	})
	return seq, err
}

func within(path, under string) bool {
	return path == under || len(path) > len(under) && path[:len(under)] == under && path[len(under)] == '/'
}

type watcher struct {
	store    *Store
	branch   int64 // 0: all
	under    string
	branches map[int64]*pathtree.View // heads, for names of branches and buckets
}

func (w *watcher) event(e notify.Event) (Event, error) {
	out := Event{
		Seq: e.Seq, Time: e.Stamp.Time(), Op: e.Op, Ino: pathtree.Ino(e.Ino),
		Size: e.Size, Hash: blobstore.HashOf(e.New),
	}
	if e.Branch == 0 {
		return out, nil
	}
	err := w.store.db.Read(func(tx *schema.Tx) error {
		head := w.branches[e.Branch]
		if head == nil || e.Op == notify.OpBranch {
			v, err := w.store.tree.View(tx, e.Branch, 0)
			if err != nil {
				return nil // removed with its bucket
			}
			head = v
			w.branches[e.Branch] = v
		}
		out.Bucket, out.Branch = head.Bucket().Name, head.Branch().Name
		then, err := w.store.tree.View(tx, e.Branch, e.Stamp)
		if err != nil {
			then = head
		}
		w.place(tx, then, head, e, &out)
		return nil
	})
	return out, err
}

// place finds the paths of an event: as of its stamp, else as of now.
func (w *watcher) place(tx *schema.Tx, then, head *pathtree.View, e notify.Event, out *Event) {
	find := func(f func(v *pathtree.View) (string, error)) string {
		p, err := f(then)
		if err != nil {
			if p, err = f(head); err != nil {
				return ""
			}
		}
		return p
	}
	at := func(dir uint64, name []byte) string {
		return find(func(v *pathtree.View) (string, error) {
			p, err := v.Path(tx, pathtree.Ino(dir))
			return joinPath(p, string(name)), err
		})
	}
	switch e.Op {
	case notify.OpRename:
		out.Path, out.OldPath = at(e.Parent, e.Name), at(uint64(e.Ref), e.Old)
	case notify.OpContent, notify.OpAttr, notify.OpXattr:
		out.Path = find(func(v *pathtree.View) (string, error) { return v.Path(tx, pathtree.Ino(e.Ino)) })
	case notify.OpCreate, notify.OpRemove, notify.OpLink:
		out.Path = at(e.Parent, e.Name)
	}
}
