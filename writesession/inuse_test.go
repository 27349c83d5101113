package writesession

import "testing"

// Two processes have one file open; either of them keeps it in use.
func TestInUseAcrossProcesses(t *testing.T) {
	a := newWorld(t, Options{PersistAfter: 1 << 40}) // what is in the background, the test does
	b := openWorld(t, a.dir, Options{PersistAfter: 1 << 40})
	f := a.create(a.main, "f")
	if b.s.InUse(f.Ino()) {
		t.Error("in use before it was said")
	}
	a.s.holdOpen()
	for _, w := range []*world{a, b} {
		if !w.s.InUse(f.Ino()) {
			t.Error("not in use")
		}
		if w.s.InUse(f.Ino() + 1) {
			t.Error("its neighbour is in use")
		}
	}
	if err := a.db.Commit(); err != nil {
		t.Fatal(err)
	}
	g, err := b.s.Open(b.main, f.Ino())
	if err != nil {
		t.Fatal(err)
	}
	b.s.holdOpen()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if !a.s.InUse(f.Ino()) {
		t.Error("the other process still has it open")
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if a.s.InUse(f.Ino()) || b.s.InUse(f.Ino()) {
		t.Error("in use with nobody there")
	}
	f, err = a.s.Open(a.main, f.Ino())
	if err != nil {
		t.Fatal(err)
	}
	a.s.holdOpen()
	a.s.inUse.mine.Close() // as a crash does
	if b.s.InUse(f.Ino()) {
		t.Error("in use by the dead")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
