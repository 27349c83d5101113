package alkfs

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"iter"
	"strings"
	"syscall"
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
	Node           string    // public key of the node that made it, hexadecimal
	Op             notify.Op // create, remove, rename, link, content, attr, xattr, branch, …
	Bucket, Branch string    // names; "" where the event is of no branch
	Path, OldPath  string    // "" where the place is not known any more; OldPath of a rename
	Ino            pathtree.Ino
	Size           int64          // bytes, after
	Hash, OldHash  blobstore.Hash // of the content, after and before; of a removal what it had; zero: empty, or not about content
	Ref            int64          // id of the write session that published content, of the merge, snapshot, branch or bucket; 0: none
}

// ErrFellBehind is given to a consumer of events that asks for some which are no
// longer kept: it must look at the present state and follow from there.
var ErrFellBehind = notify.ErrFellBehind

// Watch yields the changes after the event number after, as they are committed,
// until ctx ends or an error is yielded; LastEvent is where the present ends.
// spec limits them to a branch and to what is below its path; nil means all. A
// slow consumer holds up nobody and misses nothing; when it is slower than events
// are pruned (7 days, or what the policy of the bucket that keeps most says) it
// gets ErrFellBehind.
func (s *Store) Watch(ctx context.Context, spec *Spec, after int64) iter.Seq2[Event, error] {
	return s.watch(ctx, spec, notify.Watch(ctx, s.db, after))
}

// Follow is Watch for a consumer with a name, whose place the store keeps: it goes
// on after the last event that it was done with, and the first time with the
// present. An event is done with when the loop asks for the next one; leaving the
// loop leaves the event to be seen again, unless SetConsumer says otherwise. A
// consumer that is killed sees some events again, and misses none.
func (s *Store) Follow(ctx context.Context, name string, spec *Spec) iter.Seq2[Event, error] {
	if name == "" {
		return func(yield func(Event, error) bool) { yield(Event{}, errNoConsumerName) }
	}
	return s.watch(ctx, spec, notify.Follow(ctx, s.db, consumerPrefix+name))
}

// consumerPrefix keeps consumers apart from the store's own cursors.
const consumerPrefix = "watch/"

var errNoConsumerName = &nameError{"a consumer of events needs a name", syscall.EINVAL}

func (s *Store) watch(ctx context.Context, spec *Spec, from iter.Seq2[notify.Event, error]) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := watcher{store: s, branches: make(map[int64]*pathtree.View), nodes: make(map[int64]string)}
		if spec != nil {
			view, err := s.View(Spec{Bucket: spec.Bucket, Branch: spec.Branch})
			if err != nil {
				yield(Event{}, err)
				return
			}
			w.branch, w.under = view.v.Branch().ID, cleanPath(spec.Path)
		}
		for e, err := range from {
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

// Consumer is a named consumer of events: where it is, and how far behind.
type Consumer = notify.Consumer

// Consumers lists the consumers that Follow and SetConsumer made.
func (s *Store) Consumers() (list []Consumer, err error) {
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		list, err = notify.Consumers(tx, consumerPrefix)
		return err
	})
	for i := range list {
		list[i].Name = strings.TrimPrefix(list[i].Name, consumerPrefix)
	}
	return list, err
}

// SetConsumer says that a consumer is done with the events up to seq.
func (s *Store) SetConsumer(name string, seq int64) error {
	if name == "" {
		return errNoConsumerName
	}
	return s.write(func(tx *schema.Tx) error { return notify.SetCursor(tx, consumerPrefix+name, seq) })
}

// RemoveConsumer forgets a consumer.
func (s *Store) RemoveConsumer(name string) error {
	return s.write(func(tx *schema.Tx) error {
		known, err := notify.DropCursor(tx, consumerPrefix+name)
		if err == nil && !known {
			err = &nameError{fmt.Sprintf("there is no consumer of events %q", name), fs.ErrNotExist}
		}
		return err
	})
}

// EventBefore returns the number of the newest event before t, for Watch: what
// comes after it is what happened since. It is ErrFellBehind when events as old
// as that are no longer kept.
func (s *Store) EventBefore(t time.Time) (seq int64, err error) {
	if err := s.db.Commit(); err != nil {
		return 0, err
	}
	err = s.db.Read(func(tx *schema.Tx) (err error) {
		seq, err = notify.Before(tx, schema.StampAt(t.Add(-time.Millisecond))+1)
		return err
	})
	return seq, err
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

// branchesKnown bounds the branches whose names a watcher remembers.
const branchesKnown = 256

type watcher struct {
	store    *Store
	branch   int64 // 0: all
	under    string
	branches map[int64]*pathtree.View // heads, for names of branches and buckets
	nodes    map[int64]string         // keys
}

// node returns the public key of a node.
func (w *watcher) node(tx *schema.Tx, id int64) (string, error) {
	if name, ok := w.nodes[id]; ok {
		return name, nil
	}
	key, err := tx.NodeKey(id)
	if err == nil {
		w.nodes[id] = hex.EncodeToString(key)
	}
	return w.nodes[id], err
}

func (w *watcher) event(e notify.Event) (Event, error) {
	out := Event{
		Seq: e.Seq, Time: e.Stamp.Time(), Op: e.Op, Ino: pathtree.Ino(e.Ino),
		Size: e.Size, Hash: blobstore.HashOf(e.New), Ref: e.Ref,
	}
	switch e.Op {
	case notify.OpContent, notify.OpRemove:
		out.OldHash = blobstore.HashOf(e.Old)
	case notify.OpRename:
		out.Ref = 0 // the old directory, which OldPath tells
	case notify.OpBucket:
		out.Bucket = string(e.Name) // it may be gone
	}
	err := w.store.db.Read(func(tx *schema.Tx) (err error) {
		if out.Node, err = w.node(tx, e.Node); err != nil || e.Branch == 0 {
			return err
		}
		head := w.branches[e.Branch]
		if len(w.branches) >= branchesKnown {
			clear(w.branches) // of a store that forks and drops all day
		}
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
