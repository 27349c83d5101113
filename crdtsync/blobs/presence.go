package blobs

import (
	"context"
	"errors"
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
		for key, ps := range f.ask(ctx, b, []Content{c}, 0) {
			found[key] = max(found[key], ps[0])
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
			for _, ps := range f.ask(ctx, b, []Content{{Hash: h, Size: 1}}, holdFor) {
				may[i] = may[i] || ps[0] == Held
			}
			if may[i] {
				break
			}
		}
	}
	return may, nil
}

// ask asks all peers at once about contents of a bucket, and returns the answers
// that came.
func (f *Fetcher) ask(ctx context.Context, bucket [16]byte, contents []Content, hold uint32) map[identity.Key][]Presence {
	f.mu.Lock()
	var peers []*peer
	for _, p := range f.mu.peers {
		peers = append(peers, p)
	}
	f.mu.Unlock()
	var mu sync.Mutex
	answers := make(map[identity.Key][]Presence)
	var wg sync.WaitGroup
	for _, p := range peers {
		wg.Go(func() {
			ps, err := askOne(ctx, p, bucket, contents, hold)
			if err != nil {
				f.log.Info("a member did not say what it has", "peer", p.Key().Short(), "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[p.Key()] = ps
		})
	}
	wg.Wait()
	return answers
}

func askOne(ctx context.Context, p Peer, bucket [16]byte, contents []Content, hold uint32) ([]Presence, error) {
	if len(contents) > MaxItems {
		return nil, errors.New("too many contents in one question")
	}
	s, err := p.Open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return newConn(s).have(ctx, bucket, contents, hold)
}
