package crdtsync

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// check holds what is left of a history to what it must be.
func (s *sim) check() {
	s.checkSessions()
	if s.bytes {
		s.checkContent()
	}
	if s.prunes {
		return // what is forked from a past that is gone elsewhere differs
	}
	first := s.nodes[0]
	versions := first.versions()
	shown := first.shown()
	for _, n := range s.lawful() {
		if d := difference(versions, n.versions()); d != "" {
			s.fatalf("%s has other versions than %s: %s", n.name, first.name, d)
		}
		if d := difference(shown, n.shown()); d != "" {
			s.fatalf("%s shows something else than %s: %s\n%s shows\n%s", n.name, first.name, d, first.name, strings.Join(shown, "\n"))
		}
	}
	s.checkKept()
	s.checkSent()
}

// checkKept holds every node to have what each answered for when all was well
// again, or what its author put in its place.
func (s *sim) checkKept() {
	for _, author := range s.lawful() {
		now := author.own()
		for thing, id := range author.kept {
			if now[thing].Compare(id) < 0 {
				s.fatalf("lost: %s of %s by %s; there is %v", thing, id, author.name, now[thing])
			}
		}
	}
}

// checkSent holds the first node, which has the same as the others, to have every
// version and record that any change or pack has brought which counts, and none that only
// others have. Of records it has the newest of each thing.
func (s *sim) checkSent() {
	n := s.nodes[0]
	have := map[string]bool{}
	records := n.eachVersion(func(v *pathtree.Version) { have[thingKey(v)+v.ID.String()] = true })
	newest := map[string]pathtree.VersionID{}
	for i := range records {
		newest[recordKey(&records[i])] = records[i].ID
	}
	all, err := n.Since(s.bucket, 0, 1<<30)
	n.must(err)
	m, err := n.Membership(s.bucket)
	n.must(err)
	counts := map[string]bool{}             // by version: whether a change that counts says it
	last := map[string]pathtree.VersionID{} // by thing: the newest record that counts
	add := func(b pathtree.Batch, does bool) {
		for i := range b.Versions {
			v := &b.Versions[i]
			k := thingKey(v) + v.ID.String()
			counts[k] = counts[k] || does
		}
		for i := range b.Records {
			r := &b.Records[i]
			if k := recordKey(r); does && last[k].Compare(r.ID) < 0 {
				last[k] = r.ID
			}
		}
	}
	for _, c := range all {
		a, err := open(c.Envelope, s.bucket)
		n.must(err)
		add(a.batch, a.counts(m))
	}
	n.eachPacked(func(b pathtree.Batch) { add(b, true) })
	for k, counts := range counts {
		if have[k] != counts {
			s.fatalf("%s is here: %v, counts: %v", k, have[k], counts)
		}
	}
	if !maps.Equal(last, newest) {
		s.fatalf("the records that count are\n%v\nand those that are here\n%v", last, newest)
	}
}

func recordKey(r *pathtree.BucketRecord) string {
	k := fmt.Sprintf("%v %x", r.Kind, r.UUID[:4])
	if r.Kind == pathtree.MergeRecord {
		k += fmt.Sprint(r.At)
	}
	return k
}

// versions returns every version that n keeps, a line each, in order.
func (n *simNode) versions() (all []string) {
	n.eachVersion(func(v *pathtree.Version) { all = append(all, thingKey(v)+" "+v.ID.String()) })
	slices.Sort(all)
	return all
}

func (n *simNode) fsck() {
	n.read(func(tx *schema.Tx) error {
		report := func(problem string) {
			if n.s.bytes || !strings.Contains(problem, "not in the blob store") { // else there is none
				n.s.fatalf("%s: check: %s", n.name, problem)
			}
		}
		if err := Check(tx, false, report); err != nil {
			return err
		}
		return n.tree.Check(tx, report)
	})
}

// showBranches adds to lines what the heads of branches show, of all that can be shown or
// of those in keeps, and returns which branches follow another, or have parents that do.
func (n *simNode) showBranches(tx *schema.Tx, bucket int64, keeps map[[16]byte]bool, lines *[]string) (onLive map[int64]bool, err error) {
	branches, err := n.tree.Branches(tx, bucket)
	if err != nil {
		return nil, err
	}
	onLive = map[int64]bool{}
	for _, b := range branches {
		onLive[b.ID] = b.Live || onLive[b.Parent]
	}
	for _, b := range branches {
		if keeps != nil && !keeps[b.UUID] {
			continue
		}
		v, err := n.tree.View(tx, b.ID, 0)
		if keeps == nil && errors.Is(err, pathtree.ErrNotKept) {
			continue
		}
		if err != nil {
			return nil, err
		}
		*lines = append(*lines, fmt.Sprintf("== branch %s %x, live %v", b.Name, b.UUID[:4], b.Live))
		if err := n.walk(tx, v, v.Root(), "", map[pathtree.Ino]bool{}, onLive[b.ID], lines); err != nil {
			return nil, err
		}
	}
	return onLive, nil
}

// shown returns all that the heads of branches and the snapshots show, of those that can
// be shown, and the conflicts, in lines.
func (n *simNode) shown() (lines []string) {
	n.read(func(tx *schema.Tx) error {
		lines = nil
		sh, err := n.lookup(tx, n.s.bucket)
		if err != nil {
			return err
		}
		onLive, err := n.showBranches(tx, sh.bucket.ID, nil, &lines)
		if err != nil {
			return err
		}
		snaps, err := n.tree.Snapshots(tx, sh.bucket.ID)
		if err != nil {
			return err
		}
		for _, sn := range snaps {
			v, err := n.tree.View(tx, sn.Branch, sn.Stamp)
			if errors.Is(err, pathtree.ErrNotKept) {
				continue
			}
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("== snapshot %s at %d", sn.Name, sn.Stamp))
			if err := n.walk(tx, v, v.Root(), "", map[pathtree.Ino]bool{}, onLive[v.Branch().ID], &lines); err != nil {
				return err
			}
		}
		conflicts, err := n.tree.SyncConflicts(tx, sh.bucket.ID)
		for _, c := range conflicts {
			line := fmt.Sprintf("== conflict %v of %s, %d %d %q: %v", c.Kind, c.Path, c.Thing, c.Ino, c.Name, c.Shown.ID)
			for _, o := range c.Others {
				line += fmt.Sprintf(", %v %s", o.ID, o.Copy)
			}
			lines = append(lines, line)
		}
		return err
	})
	return lines
}

// walk adds a line for each name below dir. A head in which a directory comes
// twice, or below itself, is no tree.
func (n *simNode) walk(tx *schema.Tx, v *pathtree.View, dir pathtree.Ino, at string, seen map[pathtree.Ino]bool, live bool, lines *[]string) error {
	if seen[dir] && v.ReadOnly() {
		return nil // the past is shown as it was written: only heads are repaired
	}
	if seen[dir] {
		n.s.fatalf("%s: directory %d is at %s and elsewhere, on branch %s at %d, live %v", n.name, dir, at, v.Branch().Name, v.At(), live)
	}
	seen[dir] = true
	es, ins, err := v.ReadDirPlus(tx, dir, "", 0)
	if err != nil {
		return err
	}
	for i, e := range es {
		in := &ins[i]
		if v.ReadOnly() || live && in.IsDir() {
			in.Nlink = 0 // counts of the past and of directories of live branches are approximate
		}
		line := fmt.Sprintf("%s/%s %d mode %o links %d size %d %s mtime %d %s", at, e.Name, e.Ino, in.Mode, in.Nlink, in.Size, in.Hash, in.Mtime, in.Target)
		names, err := v.Listxattr(tx, e.Ino)
		if err != nil {
			return err
		}
		for _, name := range names {
			value, err := v.Getxattr(tx, e.Ino, name)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %s=%q", name, value)
		}
		*lines = append(*lines, line)
		if e.IsDir() {
			if err := n.walk(tx, v, e.Ino, at+"/"+e.Name, seen, live, lines); err != nil {
				return err
			}
		}
	}
	return nil
}

// difference returns the first difference of two lists, "" without one.
func difference(want, got []string) string {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(want):
			return "more: " + got[i]
		case i >= len(got):
			return "less: " + want[i]
		case want[i] != got[i]:
			return fmt.Sprintf("\nwant %s\n got %s", want[i], got[i])
		}
	}
	return ""
}
