package blobs

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

// holdFor is how long members are asked to keep what is dropped here, in
// seconds: longer than an eviction takes, shorter than anybody minds.
const holdFor = 600

// Where asks all peers how much of a content they have. Peers that do not answer
// are left out.
func (f *Fetcher) Where(ctx context.Context, c Content) (map[identity.Key]Presence, error) {
	buckets, err := f.o.Buckets(ctx, c.Hash)
	if err != nil {
		return nil, err
	}
	found := make(map[identity.Key]Presence)
	for _, b := range buckets {
		for key, words := range f.ask(ctx, opHave, b, []Content{c}, 0, nil) {
			found[key] = max(found[key], words[0].has)
		}
	}
	return found, nil
}

// MayDrop is the blobstore.MayDrop of a node with peers: it has one of them
// promise to keep each content.
func (f *Fetcher) MayDrop(ctx context.Context, hashes []blobstore.Hash) ([]bool, error) {
	may := make([]bool, len(hashes))
	for i, h := range hashes {
		buckets, err := f.o.Buckets(ctx, h)
		if err != nil {
			return nil, err
		}
		for _, b := range buckets {
			// The size does not matter to a node that has the whole.
			for _, words := range f.ask(ctx, opHave, b, []Content{{Hash: h, Size: 1}}, holdFor, nil) {
				may[i] = may[i] || words[0].has == Held
			}
			if may[i] {
				break
			}
		}
	}
	return may, nil
}

// ask asks all peers, or those among some, at once about contents of a bucket, and
// returns the answers that came.
func (f *Fetcher) ask(ctx context.Context, o op, bucket [16]byte, contents []Content, hold uint32, among []identity.Key) map[identity.Key][]word {
	f.mu.Lock()
	var peers []*peer
	for k, p := range f.mu.peers {
		if among == nil || slices.Contains(among, k) {
			peers = append(peers, p)
		}
	}
	f.mu.Unlock()
	var mu sync.Mutex
	answers := make(map[identity.Key][]word)
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			words, err := askOne(ctx, p, o, bucket, contents, hold)
			if err != nil {
				f.log.Info("a member did not say what it has", "peer", p.Key().Short(), "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[p.Key()] = words
		})
	}
	wg.Wait()
	return answers
}

func askOne(ctx context.Context, p Peer, o op, bucket [16]byte, contents []Content, hold uint32) ([]word, error) {
	if len(contents) > MaxItems {
		return nil, errors.New("too many contents in one question")
	}
	s, err := p.Open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return newConn(s).ask(ctx, o, bucket, contents, hold)
}
