package crdtsync

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// refilter has some node, but not the first, keep other branches, now and then.
func (s *sim) refilter() {
	f := s.filters
	if !f.on || !s.shares.refilter.draw(f.rng) {
		return
	}
	n := s.nodes[f.rng.IntN(len(s.nodes))]
	var patterns []string
	for _, p := range []string{"main", "x*", "y*", "z*"} {
		if f.rng.IntN(2) == 0 {
			patterns = append(patterns, p)
		}
	}
	if !n.up || n == s.nodes[0] {
		return
	}
	all := len(patterns) == 0
	err := n.SetPatterns(s.bucket, patterns, all, func(branch string) []string { return n.held("", branch) })
	s.logf("%s keeps %q, all: %v: %v", n.name, patterns, all, err)
	n.must(n.db.Commit())
}

// checkFilters holds every node to have, of the branches that it keeps, what the
// first node has, which keeps all. Then all keep all. It reports false where some lack
// for good what only a node has that was shut out: they need not show the same.
func (s *sim) checkFilters() bool {
	if !s.filters.on {
		return true
	}
	s.settleFilters()
	if s.someWithOutlaw() {
		return false
	}
	first := s.nodes[0]
	for _, n := range s.lawful()[1:] {
		keeps := n.wanted()
		s.logf("%s keeps %d branches", n.name, len(keeps))
		if s.prunes {
			continue
		}
		if d := difference(first.versionsOf(keeps), n.versionsOf(keeps)); d != "" {
			s.fatalf("%s, which keeps some branches, has other versions of them than %s: %s", n.name, first.name, d)
		}
		if d := difference(first.shownOf(keeps), n.shownOf(keeps)); d != "" {
			s.fatalf("%s, which keeps some branches, shows something else than %s: %s", n.name, first.name, d)
		}
	}
	for _, n := range s.lawful()[1:] {
		n.must(n.SetPatterns(s.bucket, nil, true, nil))
		n.must(n.db.Commit())
	}
	s.settleFilters()
	if s.someWithOutlaw() {
		return false
	}
	for _, n := range s.lawful() {
		if a, b := n.stubs(), len(n.wanted()); a != 0 && s.outlaw == "" || b != len(first.wanted()) {
			s.fatalf("%s, which keeps all, has %d stubs, and %d branches of %d", n.name, a, b, len(first.wanted()))
		}
	}
	return true
}

// isWithOutlaw reports whether n lacks only changes that a node alone has which was shut
// out.
func (s *sim) isWithOutlaw(n *simNode) bool {
	all, err := n.lacking(s.bucket, 0)
	n.must(err)
	for i := range all {
		e := &all[i].Envelope
		q := &need{Bucket: s.bucket, Ask: 1, Changes: []changeRange{{e.Author, e.Stream, e.Seq, 1}}}
		for _, o := range s.lawful() {
			if found, err := o.whole(q); err != nil || len(found) > 0 {
				return false
			}
		}
	}
	return s.outlaw != "" && len(all) > 0
}

// someWithOutlaw reports whether isWithOutlaw holds for some node. Others cannot let go by
// such a node what it might lack too.
func (s *sim) someWithOutlaw() bool { return slices.ContainsFunc(s.lawful(), s.isWithOutlaw) }

// settleFilters waits until nobody lacks anything, nor has what it does not keep.
func (s *sim) settleFilters() {
	for wait := time.Second; ; wait = wait * 5 / 4 {
		s.settle()
		left := ""
		for _, n := range s.lawful() {
			_, lacks, _, err := n.marksAndLacks(s.bucket)
			n.must(err)
			if lacks > 0 && !s.isWithOutlaw(n) {
				left += fmt.Sprintf("\n%s lacks %d changes", n.name, lacks)
			}
			all, err := n.Branches(s.bucket)
			n.must(err)
			for _, b := range all {
				if b.Keep == leaving && !s.someWithOutlaw() || b.Keep == coming && !s.isWithOutlaw(n) {
					left += fmt.Sprintf("\n%s: %s is %v, %d stubs", n.name, b.Name, b.Keep, b.Stubs)
				}
			}
		}
		if left == "" {
			return
		}
		if wait > 20*time.Minute {
			s.fatalf("the nodes did not come to have what they keep:%s", left)
		}
		time.Sleep(wait)
	}
}

// wanted returns the uuids of the branches that n keeps.
func (n *simNode) wanted() map[[16]byte]bool {
	all, err := n.Branches(n.s.bucket)
	n.must(err)
	keeps := map[[16]byte]bool{}
	for _, b := range all {
		if b.Keep == kept {
			keeps[b.uuid] = true
		}
	}
	return keeps
}

func (n *simNode) stubs() (left int64) {
	n.read(func(tx *schema.Tx) (err error) {
		left, err = count(tx, `SELECT count(*) FROM sync_stub`)
		return err
	})
	return left
}

func (n *simNode) versionsOf(keeps map[[16]byte]bool) (all []string) {
	n.eachVersion(func(v *pathtree.Version) {
		if keeps[v.Branch] {
			all = append(all, thingKey(v)+" "+v.ID.String())
		}
	})
	slices.Sort(all)
	return all
}

// shownOf returns what the heads of branches show, in lines.
func (n *simNode) shownOf(keeps map[[16]byte]bool) (lines []string) {
	n.read(func(tx *schema.Tx) error {
		lines = nil
		sh, err := n.lookup(tx, n.s.bucket)
		if err != nil {
			return err
		}
		_, err = n.showBranches(tx, sh.bucket.ID, keeps, &lines)
		return err
	})
	return strings.Split(strings.Join(lines, "\n"), "\n")
}
