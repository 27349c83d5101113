package alkfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync"
	"github.com/alkdev/alkfs/crdtsync/blobs"
	"github.com/alkdev/alkfs/schema"
)

// What other processes ask the one that synchronises (see Answer).
const (
	askReach   = "reach"   // for DURATION
	askWhere   = "where"   // for HASH SIZE
	askCollect = "collect" // for GRACE
	askCompact = "compact" // for UUID
)

const wherePatience = 5 * time.Second // for members to look up a content

// Reached says what came of reaching for a member.
type Reached = crdtsync.Reached

// Presence is how much of a content a node has.
type Presence = blobs.Presence

// How much of a content a node has.
const (
	Absent  = blobs.Absent
	Partial = blobs.Parts
	Whole   = blobs.Whole
)

// ErrNotSyncing says that no process synchronises the store.
var ErrNotSyncing = errors.New("nothing synchronises this store: start `alkfs serve --sync ADDR`")

// syncAnswer is the answer to a question, as JSON.
type syncAnswer[T any] struct {
	Err string
	All []T
}

// answerSync answers a question until ctx ends or the one who asks hangs up.
func (s *Store) answerSync(ctx context.Context, c *net.UnixConn, question, about string) {
	y := s.obs.syncer.Load()
	if y == nil {
		return // it is about to end
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = c.SetDeadline(time.Time{})
	go func() {
		_, _ = c.Read(make([]byte, 1))
		cancel()
	}()
	switch question {
	case askReach:
		all, err := y.reach(ctx, about)
		answerJSON(c, all, err)
	case askWhere:
		all, err := y.where(ctx, about)
		answerJSON(c, all, err)
	case askCompact:
		all, err := y.compact(ctx, about)
		answerJSON(c, all, err)
	case askCollect:
		one, err := y.collect(ctx, about)
		answerJSON(c, []collected{one}, err)
	}
}

func answerJSON[T any](c io.Writer, all []T, err error) {
	a := syncAnswer[T]{All: all}
	if err != nil {
		a.Err = err.Error()
	}
	_ = json.NewEncoder(c).Encode(a)
}

// askSyncer puts a question to the process that synchronises the store, which
// takes as long as patience to answer it.
func askSyncer[T any](ctx context.Context, s *Store, patience time.Duration, question string, about ...any) ([]T, error) {
	ctx, cancel := context.WithTimeout(ctx, patience+askDeadline)
	defer cancel()
	question += " for " + strings.TrimSpace(fmt.Sprintln(about...))
	st, running, err := s.readSyncState()
	if err != nil {
		return nil, err
	}
	if !running {
		return nil, ErrNotSyncing
	}
	names, err := s.sockets()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, fmt.Sprintf("%d-", st.PID)) {
			continue
		}
		var a syncAnswer[T]
		text, err := s.ask(ctx, name, question)
		if err == nil {
			err = json.Unmarshal(text, &a)
		}
		if err == nil && a.Err != "" {
			return nil, errors.New(a.Err)
		}
		switch {
		case err == nil:
			return a.All, nil
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, fmt.Errorf("the process that synchronises (%d) did not answer in time", st.PID)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		s.log.Debug("a process did not answer", "socket", name, keyError, err)
	}
	return nil, fmt.Errorf("the process that synchronises (%d) does not answer: it may be starting or ending", st.PID)
}

// SyncNow has the process that synchronises dial every member that is not
// connected, and ask those that are for what is not here. It returns when every
// member has sent all it has or was not reached, and when patience is at its end.
func (s *Store) SyncNow(ctx context.Context, patience time.Duration) ([]Reached, error) {
	if err := s.everything(); err != nil {
		return nil, err
	}
	return askSyncer[Reached](ctx, s, patience, askReach, patience)
}

// reach reaches for all members for a time, a time.Duration as text.
func (y *Syncer) reach(ctx context.Context, about string) ([]Reached, error) {
	d, err := time.ParseDuration(about)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return y.node.Load().engine.Reach(ctx)
}

// Place is a node, and how much it has of a content.
type Place struct {
	Key  NodeKey
	Name string   // "" of this node
	Has  Presence // as it says
	Err  string   // not "": it was not asked, or did not answer
}

// answered is a Place as the process that synchronises has it.
type answered struct {
	Key NodeKey
	Has Presence
}

// Where returns which members of the bucket have the bytes of a file: this node
// first, and the others as they say themselves. An empty file has none, and is
// only here.
func (s *Store) Where(ctx context.Context, spec Spec) (list []Place, err error) {
	_, b, err := s.syncBucket(spec.withDefaults().Bucket)
	if err != nil {
		return nil, err
	}
	c, err := s.contentAt(spec)
	if err != nil {
		return nil, err
	}
	own, err := s.NodeKey()
	if err != nil {
		return nil, err
	}
	here := Place{Key: own}
	if here.Has, err = s.presence(c); err != nil {
		return nil, err
	}
	list = []Place{here}
	all, _, err := s.SyncStatus()
	i := slices.IndexFunc(all, func(st BucketStatus) bool { return st.UUID == b.UUID })
	if err != nil || i < 0 || c.Size == 0 {
		return list, err
	}
	has, err := askSyncer[answered](ctx, s, wherePatience, askWhere, c.Hash, c.Size)
	if err != nil && !errors.Is(err, ErrNotSyncing) {
		return nil, err
	}
	for _, m := range all[i].Members {
		p := Place{Key: m.Key, Name: m.Name}
		switch k := slices.IndexFunc(has, func(a answered) bool { return a.Key == m.Key }); {
		case m.Role == NoRole:
			continue
		case k >= 0:
			p.Has = has[k].Has
		case m.Connected:
			p.Err = "it does not say"
		default:
			p.Err = "not connected"
		}
		list = append(list, p)
	}
	return list, nil
}

// contentAt returns the content of the file of spec.
func (s *Store) contentAt(spec Spec) (c blobs.Content, err error) {
	v, err := s.View(spec)
	if err != nil {
		return c, err
	}
	name := strings.Trim(spec.Path, "/")
	if name == "" {
		name = "."
	}
	in, err := v.stat("where", name, true)
	if err == nil && !in.IsRegular() {
		err = pathError("where", name, errors.New("not a regular file: name one that has content"))
	}
	return blobs.Content{Hash: in.Hash, Size: in.Size}, err
}

// presence returns how much of a content is here.
func (s *Store) presence(c blobs.Content) (p Presence, err error) {
	err = s.db.Read(func(tx *schema.Tx) error {
		here, err := s.blobs.Here(tx, c.Hash)
		switch {
		case here:
			p = Whole
		case s.blobs.HasParts(c.Hash, c.Size):
			p = Partial
		}
		return err
	})
	return p, err
}

// where asks the connected members about a content, "HASH SIZE".
func (y *Syncer) where(ctx context.Context, about string) (all []answered, err error) {
	var text string
	var c blobs.Content
	if _, err := fmt.Sscan(about, &text, &c.Size); err != nil {
		return nil, err
	}
	if c.Hash, err = blobstore.ParseHash(text); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, wherePatience)
	defer cancel()
	found, err := y.contents.fetcher.Where(ctx, c)
	for k, p := range found {
		all = append(all, answered{k, p})
	}
	return all, err
}
