package blobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Keep names content that is fetched without being read: what a branch, or each
// of a bucket, shows below a path. It says nothing of history.
type Keep struct {
	Bucket int64
	Branch int64  // 0: all of the bucket's
	Path   string // from the root of the branch; "": all
	Pinned bool   // else eager, which comes after what is pinned
}

// AddKeep begins to keep k.
func AddKeep(tx *schema.Tx, k Keep) error {
	return keepRow(tx, "INSERT INTO sync_keep (bucket, branch, path, pinned) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", k)
}

// RemoveKeep ends that. What was fetched stays; what is wanted only by policy is
// found again by a Keeper, if another Keep names it.
func RemoveKeep(tx *schema.Tx, k Keep) error {
	if err := keepRow(tx, "DELETE FROM sync_keep WHERE bucket = ? AND branch = ? AND path = ? AND pinned = ?", k); err != nil {
		return err
	}
	q := tx.Stmt("DELETE FROM sync_want WHERE priority <= ?")
	q.BindInt64(1, int64(blobstore.Pinned))
	_, err := q.Step()
	return err
}

func keepRow(tx *schema.Tx, query string, k Keep) error {
	q := tx.Stmt(query)
	q.BindInt64(1, k.Bucket)
	q.BindInt64(2, k.Branch)
	q.BindBytes(3, []byte(k.Path))
	q.BindBool(4, k.Pinned)
	_, err := q.Step()
	return err
}

// Keeps lists what is kept.
func Keeps(tx *schema.Tx) (all []Keep, err error) {
	q := tx.Stmt("SELECT bucket, branch, path, pinned FROM sync_keep ORDER BY bucket, branch, path, pinned")
	for err := range schema.Rows(q) {
		if err != nil {
			return nil, err
		}
		path := schema.Bytes(q, 2)
		all = append(all, Keep{q.ColumnInt64(0), q.ColumnInt64(1), string(path), q.ColumnInt64(3) != 0})
	}
	return all, nil
}

const (
	keepAhead   = 256 // contents by policy on the wanted list that have not failed
	keepLook    = 512 // absent contents looked at in one transaction
	keepRanges  = 16
	keepPause   = 200 * time.Millisecond // between two looks, as every commit asks for one
	keepRecheck = 10 * time.Second       // of a disk that was full
)

// ErrReserve says that no more is fetched by policy, to leave room on the disk.
var ErrReserve = fmt.Errorf("the disk has less free than is kept in reserve (%w)", syscall.ENOSPC)

// Keeper puts what is kept and absent on the wanted list, the newest first and
// never much at a time.
type Keeper struct {
	db      *schema.DB
	tree    *pathtree.Tree
	reserve int64 // bytes
	log     *slog.Logger

	keeps  []keepAt
	ranges []span // of absent contents that were not looked at, the newest first
	top    place  // the newest that was seen
}

// keepAt is a Keep with the places it is about, as pathtree.Tree.Places spells
// them.
type keepAt struct {
	Keep
	prefixes []string // BUCKET/BRANCH:
}

// place is where a content is in the order of arrival.
type place struct{ created, id int64 }

func (p place) next() place { return place{p.created, p.id + 1} }

// span is the contents from after lo up to before hi.
type span struct{ lo, hi place }

// NewKeeper returns a Keeper that leaves reserve bytes of the disk free; 0: those of
// Room.
func NewKeeper(db *schema.DB, tree *pathtree.Tree, reserve int64, log *slog.Logger) *Keeper {
	return &Keeper{db: db, tree: tree, reserve: reserve, log: log}
}

// Run works until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	full := false
	for {
		gen := k.db.Generation()
		more, err := k.look()
		if was := full; errors.Is(err, ErrReserve) {
			if full = true; !was {
				k.log.Warn("nothing more is fetched by policy", "err", err)
			}
		} else if err != nil {
			return err
		} else if full = false; was {
			k.log.Info("content is fetched by policy again")
		}
		pause := keepPause
		if full {
			pause = keepRecheck
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		if more || full {
			continue
		}
		if _, err := k.db.Wait(ctx, gen); err != nil {
			return nil // ctx ended
		}
	}
}

// look fills the wanted list. more says that not everything was looked at, and
// that there is room for it. Without anything to want it writes nothing.
func (k *Keeper) look() (more bool, err error) {
	var wants []want
	var at place
	looked := false
	err = k.db.Read(func(tx *schema.Tx) error {
		wants, looked = nil, false
		if err := k.load(tx); err != nil || len(k.keeps) == 0 {
			return err
		}
		room, err := wantRoom(tx)
		if err == nil {
			err = k.news(tx)
		}
		if err != nil || room <= 0 || len(k.ranges) == 0 {
			return err
		}
		looked = true
		wants, at, err = k.choose(tx, k.ranges[0], room)
		return err
	})
	if err != nil || !looked {
		return false, err
	}
	if len(wants) > 0 {
		n := 0
		err = k.db.Write(func(tx *schema.Tx) (err error) {
			n, err = k.want(tx, wants)
			return err
		})
		if err == nil && n < len(wants) {
			k.ranges[0].hi = wants[n].at.next()
			return false, ErrReserve
		}
	}
	if err != nil {
		return false, err
	}
	if k.ranges[0].hi = at; at == k.ranges[0].lo {
		k.ranges = k.ranges[1:]
	}
	return len(k.ranges) > 0, nil
}

// want puts contents on the wanted list, and returns for how many the disk has
// room.
func (k *Keeper) want(tx *schema.Tx, wants []want) (n int, err error) {
	_, wanted, err := Wanted(tx)
	if err != nil {
		return 0, err
	}
	free, reserve, err := Room(k.db.Dir())
	if k.reserve != 0 {
		reserve = k.reserve
	}
	for err == nil && n < len(wants) && free-wanted-wants[n].Size >= reserve {
		wanted += wants[n].Size
		err = Want(tx, wants[n].Content, wants[n].prio)
		n++
	}
	return n, err
}

// want is a content to fetch.
type want struct {
	absent
	prio blobstore.Priority
}

// choose returns which of the next contents of s are kept, at most room, and how far
// it came.
func (k *Keeper) choose(tx *schema.Tx, s span, room int) (wants []want, at place, err error) {
	found, err := absents(tx, s, keepLook)
	if err != nil {
		return nil, at, err
	}
	at = s.hi
	for _, a := range found {
		prio, kept, err := k.kept(tx, a.Hash)
		if err != nil {
			return nil, at, err
		}
		if kept && len(wants) == room {
			return wants, at, nil
		}
		if kept {
			wants = append(wants, want{a, prio})
		}
		at = a.at
	}
	if len(found) < keepLook {
		at = s.lo
	}
	return wants, at, nil
}

// load reads what is kept, and begins anew when that changed.
func (k *Keeper) load(tx *schema.Tx) error {
	all, err := Keeps(tx)
	if err != nil {
		return err
	}
	var keeps []keepAt
	for _, o := range all {
		p, err := k.prefixes(tx, o)
		if err != nil {
			return err
		}
		keeps = append(keeps, keepAt{o, p})
	}
	if !slices.EqualFunc(keeps, k.keeps, func(a, b keepAt) bool { return a.Keep == b.Keep && slices.Equal(a.prefixes, b.prefixes) }) {
		k.keeps, k.ranges, k.top = keeps, nil, place{}
	}
	return nil
}

// prefixes returns the branches that o is about: its own, and those that it sees
// files through.
func (k *Keeper) prefixes(tx *schema.Tx, o Keep) (all []string, err error) {
	buckets, err := k.tree.Buckets(tx)
	if err != nil {
		return nil, err
	}
	branches, err := k.tree.Branches(tx, o.Bucket)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(buckets, func(b pathtree.Bucket) bool { return b.ID == o.Bucket })
	if i < 0 {
		return nil, nil
	}
	prefix := func(b pathtree.Branch) string { return buckets[i].Name + "/" + b.Name + ":" }
	if o.Branch == 0 {
		for _, b := range branches {
			all = append(all, prefix(b))
		}
		return all, nil
	}
	for next := o.Branch; next != 0; {
		at := slices.IndexFunc(branches, func(b pathtree.Branch) bool { return b.ID == next })
		if at < 0 {
			break
		}
		all = append(all, prefix(branches[at]))
		next = branches[at].Parent
	}
	return all, nil
}

// news adds what has become absent since the last time to what is to be looked
// at.
func (k *Keeper) news(tx *schema.Tx) error {
	q := tx.Stmt("SELECT created, id FROM blob WHERE state = 3 ORDER BY created DESC, id DESC LIMIT 1")
	if ok, err := q.Step(); err != nil || !ok {
		return err
	}
	newest := place{q.ColumnInt64(0), q.ColumnInt64(1)}
	if newest == k.top || newest.created < k.top.created {
		return nil
	}
	k.ranges = slices.Insert(k.ranges, 0, span{k.top, newest.next()})
	k.top = newest
	if n := len(k.ranges); n > keepRanges { // what lies between is looked at once more
		k.ranges[n-2].lo = k.ranges[n-1].lo
		k.ranges = k.ranges[:n-1]
	}
	return nil
}

// absent is a content that is not here.
type absent struct {
	Content
	at place
}

func absents(tx *schema.Tx, s span, n int) (all []absent, err error) {
	q := tx.Stmt(`SELECT hash, size, created, id FROM blob WHERE state = 3 AND (created, id) > (?, ?) AND (created, id) < (?, ?)
		ORDER BY created DESC, id DESC LIMIT ?`)
	for i, v := range []int64{s.lo.created, s.lo.id, s.hi.created, s.hi.id, int64(n)} {
		q.BindInt64(i+1, v)
	}
	for err := range schema.Rows(q) {
		if err != nil {
			return nil, err
		}
		a := absent{Content{Size: q.ColumnInt64(1)}, place{q.ColumnInt64(2), q.ColumnInt64(3)}}
		q.ColumnBytes(0, a.Hash[:])
		all = append(all, a)
	}
	return all, nil
}

// kept returns with which priority h is to be fetched, if it is kept.
func (k *Keeper) kept(tx *schema.Tx, h blobstore.Hash) (prio blobstore.Priority, kept bool, err error) {
	places, err := k.tree.Places(tx, h)
	if err != nil {
		return 0, false, err
	}
	for _, o := range k.keeps {
		if !slices.ContainsFunc(places, o.holds) {
			continue
		}
		kept = true
		if o.Pinned {
			return blobstore.Pinned, true, nil
		}
	}
	return blobstore.Eager, kept, nil
}

func (o *keepAt) holds(at string) bool {
	for _, p := range o.prefixes {
		if name, ok := strings.CutPrefix(at, p); ok {
			name = strings.Trim(name, "/")
			rest, below := strings.CutPrefix(name, o.Path)
			if below && (o.Path == "" || rest == "" || rest[0] == '/') {
				return true
			}
		}
	}
	return false
}

// wantRoom returns how many contents may be put on the wanted list by policy.
func wantRoom(tx *schema.Tx) (int, error) {
	q := tx.Stmt("SELECT count(*) FROM sync_want WHERE priority <= ? AND tries = 0")
	q.BindInt64(1, int64(blobstore.Pinned))
	_, err := q.Step()
	return keepAhead - q.ColumnInt(0), err
}

// Room returns how many bytes of the disk under dir may be filled, and how many of
// them are kept free by default: 5 % of the disk, at most 10 GiB.
func Room(dir string) (free, reserve int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * st.Bsize, min(int64(st.Blocks)*st.Bsize/20, 10<<30), nil
}
