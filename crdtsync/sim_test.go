package crdtsync

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "replay the one history of TestSimulation that this seed makes, with the log of every node")
	simKeep  = flag.String("sim.keep", "", "directory for the trace, and the stores, of a history that failed")
	simFrom  = flag.Uint64("sim.from", simFirstSeed(), "seed of the first history of TestSimulation")
	simRuns  = flag.Int("sim.runs", simHistories, "histories of TestSimulation")
	simHarsh = flag.Bool("sim.harsh", false, "have histories with more faults, roles, keys, parts and compactions, with backups, and less content: other ones by the same seeds")
)

// TestSimulation has a few nodes, each with a real store and engine, live
// through random histories on a simulated network and a virtual clock: file
// operations while connections break, nodes are cut off, stall, are killed and
// come back, and clocks are wrong. In the end the network is whole, and what is
// left must be the same everywhere and whole too, and nothing lost that a node
// had answered for. In some histories files have content, which nodes fetch from
// each other, and in some of those history is pruned and content collected.
func TestSimulation(t *testing.T) {
	defer uuid.SetRand(nil)
	top := simTop(t)
	if *simSeed != 0 {
		simulate(t, top, *simSeed)
		return
	}
	seed := *simFrom
	failed := 0
	for i := range uint64(*simRuns) {
		if !t.Run(fmt.Sprint(seed+i), func(t *testing.T) { simulate(t, top, seed+i) }) {
			if failed++; failed == 3 {
				break
			}
		}
	}
}

// sim is one history.
type sim struct {
	t           *testing.T
	seed        uint64
	rng         *rand.Rand
	root        string
	net         *simNet
	nodes       []*simNode
	bucket      [16]byte
	shares      simShares
	roles       bool   // they change
	keys        bool   // they are replaced
	outlaw      string // name of the node that is shut out in the end, wherever its changes have got to; "": none
	bytes       bool   // files have content
	prunes      bool   // history is, too
	texts       simTexts
	serial      int
	busy        sync.WaitGroup // byte operations that take their time
	trace       *simTrace
	filters     simPart
	sessions    simSessions
	compactions simPart
	accepts     simPart // of what does not count
	backups     simPart // that nodes are restored from
}

// simPart is something that happens in a part of the histories. Its numbers are its own,
// so that without it a history is what it was.
type simPart struct {
	rng *rand.Rand
	on  bool
}

// newSimPart returns the part of that number, which is on in a share of the histories.
func newSimPart(seed, number uint64, in simShare) simPart {
	p := simPart{rng: rand.New(rand.NewPCG(seed, number))}
	p.on = in.draw(p.rng)
	return p
}

func (s *sim) logf(format string, args ...any) { s.trace.did(format, args...) }

// errorf notes down an error, with which the history goes on; see end.
func (s *sim) errorf(format string, args ...any) {
	s.logf("error: "+format, args...)
	s.t.Errorf(format, args...)
}

// fatalf fails with what happened and how to have it happen again.
func (s *sim) fatalf(format string, args ...any) {
	s.t.Helper()
	for _, n := range s.nodes {
		if *simKeep != "" && n.up {
			copyStore(s.t, n.dir, filepath.Join(*simKeep, fmt.Sprint(s.seed), n.name))
		}
	}
	how := "to replay"
	if !simReplays {
		how = "this was not a run that can be replayed exactly; to try the seed with those that can"
	}
	s.t.Fatalf("%s\n%s\nseed %d, trace %s, all of it in %s; %s: go test -tags simseeded -overlay \"$(go run ./crdtsync/seededgo)\" ./crdtsync -run 'TestSimulation$' -sim.harsh=%v -sim.seed=%d -v",
		s.trace.last(400), fmt.Sprintf(format, args...), s.seed, s.trace.hash(), s.trace.keep(*simKeep, s.seed, "failed"), how, *simHarsh, s.seed)
}

func simulate(t *testing.T, top string, seed uint64) (trace *simTrace) {
	root, err := os.MkdirTemp(top, "history")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	var key [32]byte
	copy(key[:], fmt.Sprint("uuids of ", seed))
	uuid.SetRand(rand.NewChaCha8(key))
	defer inOrder()()
	synctest.Test(t, func(t *testing.T) {
		seedRuntime(seed)
		trace = &simTrace{began: time.Now()}
		in := simSharesOf(*simHarsh)
		s := &sim{t: t, seed: seed, shares: in, rng: rand.New(rand.NewPCG(seed, 1)), root: root, net: newSimNet(seed, trace), trace: trace, filters: newSimPart(seed, 2, in.filters), compactions: newSimPart(seed, 4, in.compactions)}
		s.accepts, s.backups = newSimPart(seed, 5, in.accepts), newSimPart(seed, 6, in.backups)
		s.texts.all = map[blobstore.Hash][]byte{}
		s.bytes = in.bytes.draw(s.rng)
		s.prunes = s.bytes && in.prunes.draw(s.rng)
		s.roles = in.roles.draw(s.rng) && !s.bytes // what somebody who was shut out wrote need not be anywhere
		if s.roles && in.outlaw.draw(s.rng) {
			s.outlaw = simNames[1:2]
		}
		s.keys = in.keys.draw(s.rng)
		s.sessions.simPart = newSimPart(seed, 3, in.sessions)
		s.sessions.on = s.sessions.on && s.bytes
		nodes := 3
		if s.rng.IntN(3) == 0 {
			nodes += 1 + s.rng.IntN(4)
		}
		s.setUp(nodes)
		defer s.stop()
		for range 10 + s.rng.IntN(40) {
			s.pause()
			s.refilter()
			s.work()
			s.compact()
			s.accept()
			s.backUp()
			switch {
			case in.fault.draw(s.rng):
				s.fault()
			case s.bytes && s.rng.IntN(2) == 0:
				s.byteOperation()
			default:
				s.operation()
			}
		}
		s.heal()
		alike := s.checkFilters()
		for _, n := range s.nodes {
			n.fsck()
		}
		if alike {
			s.check()
		}
		if t.Failed() {
			s.fatalf("there were errors")
		}
		s.end()
	})
	t.Logf("seed %d: trace %s", seed, trace.hash())
	return trace
}

// end notes down what there is in the end.
func (s *sim) end() {
	for _, n := range s.nodes {
		s.logf("%s has\n%s\n%s", n.name, n.marks(), strings.Join(n.versions(), "\n"))
	}
	for _, n := range s.nodes {
		s.logf("%s shows\n%s", n.name, strings.Join(n.shown(), "\n"))
	}
}

// setUp starts n nodes that share a bucket.
func (s *sim) setUp(n int) {
	for i := range n {
		s.nodes = append(s.nodes, s.newNode(simNames[i:][:1]))
	}
	owner := s.nodes[0]
	s.bucket = owner.makeBucket()
	for _, m := range s.nodes[1:] {
		m.admit(owner, []identity.Role{identity.ReadWrite, identity.ReadWrite, identity.Admin}[s.rng.IntN(3)])
	}
	for _, n := range s.nodes {
		n.start()
	}
}

func (s *sim) stop() {
	for _, n := range s.nodes {
		n.stop()
	}
}

// pause lets time pass: mostly little, so that what happens meets what is on its
// way.
func (s *sim) pause() {
	most := []int64{2e6, 2e6, 60e6, 60e6, 60e6, 2e9, 40e9}[s.rng.IntN(7)]
	time.Sleep(time.Duration(1 + s.rng.Int64N(most)))
}

// fault has something go wrong, or be right again.
func (s *sim) fault() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if s.roles && s.rng.IntN(4) == 0 {
		s.grant(n)
		return
	}
	if s.keys && s.rng.IntN(4) == 0 {
		if n.up {
			n.rotate()
		}
		return
	}
	switch s.rng.IntN(9) {
	case 0, 1:
		group := map[string]int{}
		for _, n := range s.nodes {
			group[n.name] = s.rng.IntN(2)
		}
		s.logf("parted: %v", group)
		s.net.change(func() { s.net.group = group })
	case 2:
		s.logf("no longer parted")
		s.net.change(func() { clear(s.net.group) })
	case 3:
		s.logf("a connection breaks")
		s.net.breakOne(s.rng)
	case 4:
		s.logf("%s stalls, or goes on: %v", n.name, !s.net.stalled[n.name])
		s.net.change(func() { s.net.stalled[n.name] = !s.net.stalled[n.name] })
	case 5, 6:
		if n.up {
			n.crash()
		} else {
			n.restart()
		}
	case 7:
		s.join()
	case 8:
		d := time.Duration(s.rng.Int64N(8*60e9) - 4*60e9)
		if s.rng.IntN(4) == 0 {
			d *= 8 // more than others listen to
		}
		s.logf("the clock of %s jumps from %v to %v", n.name, n.offset(), d)
		n.skew.Store(int64(d))
	}
}

// join has another node join the bucket, if there is one left and somebody to
// let it in.
func (s *sim) join() {
	by := s.nodes[s.rng.IntN(len(s.nodes))]
	if len(s.nodes) == len(simNames) || !by.up || by.role() < identity.Admin {
		return
	}
	n := s.newNode(simNames[len(s.nodes):][:1])
	s.logf("%s joins through %s", n.name, by.name)
	n.admit(by, identity.ReadWrite)
	n.start()
	s.nodes = append(s.nodes, n)
}

// grant has some admin give a node another role, or none.
func (s *sim) grant(n *simNode) {
	by := s.nodes[s.rng.IntN(len(s.nodes))]
	if !by.up || by.role() < identity.Admin {
		return
	}
	role := []identity.Role{identity.None, identity.ReadOnly, identity.ReadOnly, identity.ReadWrite, identity.Admin}[s.rng.IntN(5)]
	err := by.Grant(s.bucket, n.keyAt(by), role, n.name)
	s.logf("%s makes %s %v: %v", by.name, n.name, role, err)
}

// accept has some admin let count what is there of some node, now and then.
func (s *sim) accept() {
	p := s.accepts
	if !p.on || !s.roles || p.rng.IntN(8) != 0 {
		return
	}
	by, n := s.nodes[p.rng.IntN(len(s.nodes))], s.nodes[p.rng.IntN(len(s.nodes))]
	if by.up {
		err := by.Accept(s.bucket, n.keyAt(by))
		s.logf("%s accepts what %s wrote: %v", by.name, n.name, err)
	}
}

// grantAll has the owner make everybody a writer, but for the outlaw, and reports whether
// somebody was none. Who was shut out joins anew.
func (s *sim) grantAll() (news bool) {
	owner := s.nodes[0]
	m, err := owner.Membership(s.bucket)
	owner.must(err)
	for _, n := range s.nodes[1:] {
		k := n.keyAt(owner)
		if n.name == s.outlaw {
			if m.Role(k) != identity.None {
				s.logf("a shuts %s out", n.name)
				n.must(owner.Grant(s.bucket, k, identity.None, n.name))
				news = true
			}
			continue
		}
		if k != n.Key() && m.Role(k) >= identity.ReadWrite {
			continue // it has yet to prove its key
		}
		if m.Role(n.Key()) < identity.ReadWrite || n.role() == identity.None {
			s.logf("a makes %s a writer again, which was %v, for itself %v", n.name, m.Role(n.Key()), n.role())
			n.admit(owner, identity.ReadWrite)
			news = true
		}
	}
	return news
}

// heal makes the network whole and waits until all have the same.
func (s *sim) heal() {
	s.logf("all is well again")
	s.net.change(func() { clear(s.net.group); clear(s.net.stalled) })
	for _, n := range s.nodes {
		if !n.up {
			n.restart()
		}
		n.skew.Store(0)
		n.remember()
	}
	s.busy.Wait() // what is changed meanwhile is told later
	s.finishSessions()
	s.settle()
	s.logf("all have the same")
}

// settle waits until all have the same, and the owner has heard of nobody who may not
// write: what such a node wrote need not count.
func (s *sim) settle() {
	for wait := time.Second; s.grantAll() || !s.same(); wait = wait * 5 / 4 {
		if wait > 20*time.Minute {
			s.fatalf("the nodes did not come to have the same: %s", s.marks())
		}
		time.Sleep(wait)
	}
}

// same reports whether every node has every change and grant.
func (s *sim) same() bool {
	for _, n := range s.lawful() {
		n.must(n.db.Commit())
		if done, err := n.drained(s.bucket, false); !done || err != nil {
			n.must(err)
			return false
		}
	}
	for _, n := range s.lawful() {
		if n.marks() != s.nodes[0].marks() || n.grants() != s.nodes[0].grants() {
			return false
		}
	}
	return s.compacted()
}

// grants returns all that n heard, in a form that can be compared.
func (n *simNode) grants() string {
	all, _, err := n.Grants(n.s.bucket, 0)
	n.must(err)
	return string(bytes.Join(all, nil))
}

// lawful returns the nodes that must agree in the end.
func (s *sim) lawful() []*simNode {
	return slices.DeleteFunc(slices.Clone(s.nodes), func(n *simNode) bool { return n.name == s.outlaw })
}

func (s *sim) marks() string {
	var all []string
	for _, n := range s.nodes {
		done, _ := n.drained(s.bucket, false)
		all = append(all, fmt.Sprintf("\n%s, has told all %v:\n%s", n.name, done, n.marks()))
	}
	return strings.Join(all, "")
}

func (n *simNode) marks() string {
	all, err := n.Marks(n.s.bucket)
	if err != nil {
		n.s.fatalf("%s: %v", n.name, err)
	}
	var lines []string
	for _, m := range all {
		lines = append(lines, fmt.Sprintf("%s %x %d", m.Author.Short(), m.Stream[:4], m.Seq))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
