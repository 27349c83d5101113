package blobs

import (
	"context"
	"slices"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

const (
	dropPatience = 15 * time.Second // for members to answer one question
	dropSettle   = time.Hour        // that a Fetcher has to reach members in before silence counts for anything
)

// Dropping asks the members of a bucket before content goes that no version here
// names any more. A content may go when one of them has it and promises to keep it,
// or when each says that none of its versions names it. One that does not answer, or
// has not heard all that is known here, keeps it, but not for ever. It is for one
// collection, and not safe for concurrent use.
type Dropping struct {
	Fetcher *Fetcher // nil: nobody can be reached
	// Members returns the other members of a bucket, revoked ones not.
	Members func(bucket [16]byte) ([]identity.Key, error)
	// Current reports whether a member has all changes that are here: its word is
	// about the same history.
	Current func(bucket [16]byte, member identity.Key) (bool, error)
	// Patience returns how long the word of a silent member is waited for, from when
	// the last version here went; negative: for ever.
	Patience func(bucket [16]byte) (time.Duration, error)

	// What May counts: contents that stay as a version of a member's names them, and
	// as it did not say. To be made by the caller.
	Wanted, Silent map[identity.Key]int
}

// May is the blobstore.MayCollect. Promises are asked for only where somebody may
// need the content.
func (d *Dropping) May(ctx context.Context, bucket [16]byte, list []blobstore.Guarded) ([]bool, error) {
	members, err := d.Members(bucket)
	if err != nil {
		return nil, err
	}
	patience, err := d.Patience(bucket)
	if err != nil {
		return nil, err
	}
	current := map[identity.Key]bool{}
	for _, m := range members { // before they are asked
		if d.Fetcher == nil {
			break
		}
		if current[m], err = d.Current(bucket, m); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dropPatience)
	defer cancel()
	said := d.ask(ctx, bucket, members, list, 0)
	may := make([]bool, len(list))
	var staying []blobstore.Guarded
	var reasons []reason
	var at []int // of those in list
	for i, g := range list {
		r := reason{}
		tired := d.tired(g.Since, patience)
		for _, m := range members {
			switch w, answered := said.of(m, i); {
			case w.named:
				r.wanted = append(r.wanted, m)
			case !tired && !(answered && current[m]):
				r.silent = append(r.silent, m)
			}
		}
		if may[i] = len(r.wanted)+len(r.silent) == 0; !may[i] {
			staying, reasons, at = append(staying, g), append(reasons, r), append(at, i)
		}
	}
	said = d.ask(ctx, bucket, members, staying, holdFor)
	for n, r := range reasons {
		may[at[n]] = slices.ContainsFunc(members, func(m identity.Key) bool {
			w, _ := said.of(m, n)
			return w.has == Held
		})
		if !may[at[n]] {
			d.count(r)
		}
	}
	return may, nil
}

// reason is for whom a content stays, unless somebody else keeps it.
type reason struct{ wanted, silent []identity.Key }

func (d *Dropping) count(r reason) {
	for _, m := range r.wanted {
		d.Wanted[m]++
	}
	for _, m := range r.silent {
		d.Silent[m]++
	}
}

// answers is what members said of some contents.
type answers map[identity.Key][]word

// of returns what m said of content i.
func (a answers) of(m identity.Key, i int) (w word, answered bool) {
	if all := a[m]; i < len(all) {
		return all[i], true
	}
	return word{}, false
}

// ask returns what each member said that did, of every content.
func (d *Dropping) ask(ctx context.Context, bucket [16]byte, members []identity.Key, list []blobstore.Guarded, hold uint32) answers {
	if d.Fetcher == nil || len(members) == 0 || len(list) == 0 {
		return nil
	}
	contents := make([]Content, len(list))
	for i, g := range list {
		contents[i] = Content{g.Hash, g.Size}
	}
	return d.Fetcher.ask(ctx, opDrop, bucket, contents, hold, members)
}

// tired reports whether who has said nothing is waited for no longer. A node that
// was away itself must have had the time to reach others first.
func (d *Dropping) tired(since time.Time, patience time.Duration) bool {
	return patience >= 0 && d.Fetcher != nil && time.Since(since) > patience &&
		time.Since(d.Fetcher.began) > min(patience, dropSettle)
}
