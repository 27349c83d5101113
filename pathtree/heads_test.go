package pathtree

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/alkdev/alkfs/schema"
)

// checkHeads compares all that is kept in memory of heads with the rows.
func checkHeads(tx *schema.Tx, t *Tree) error {
	h := t.heads
	for k, d := range h.dentries {
		ch, err := loadChain(tx, k.branch, schema.MaxStamp)
		if err != nil {
			return err
		}
		r, found, err := findDentry(tx, ch, k.parent, k.name)
		if err != nil || r != d.dentryRow || found != d.found {
			return fmt.Errorf("dentry %v is kept as %v, and is %v %v (%v)", k, d, r, found, err)
		}
		if d.alone {
			c := change{v: &View{chain: ch}}
			if older, found, err := findDentry(tx, c.below(r.version), k.parent, k.name); found || err != nil {
				return fmt.Errorf("dentry %v is kept as alone, and there is %v (%v)", k, older, err)
			}
		}
	}
	for k, i := range h.inodes {
		ch, err := loadChain(tx, k.branch, schema.MaxStamp)
		if err != nil {
			return err
		}
		r, found, err := findInode(tx, ch, false, k.ino)
		if err != nil || r != i.inodeRow || found != i.found {
			return fmt.Errorf("inode %v is kept as %+v, and is %+v %v (%v)", k, i, r, found, err)
		}
		if !i.whole {
			continue
		}
		s := tx.Stmt("SELECT name, branch, stamp FROM dentry WHERE parent = ?")
		s.BindInt64(1, int64(k.ino))
		for {
			ok, err := s.Step()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			_, kept := h.dentries[dentryKey{k.branch, k.ino, s.ColumnText(0)}]
			if ch.sees(s.ColumnInt64(1), schema.Stamp(s.ColumnInt64(2))) && !kept {
				return fmt.Errorf("directory %v is kept as whole, without %q", k, s.ColumnText(0))
			}
		}
	}
	for branch, sealed := range h.sealed {
		s := tx.Stmt("SELECT sealed FROM branch WHERE id = ? AND deleted IS NULL")
		s.BindInt64(1, branch)
		if ok, err := s.Step(); err != nil || !ok || schema.Stamp(s.ColumnInt64(0)) != sealed {
			return fmt.Errorf("branch %d is kept as sealed at %d, and is not (%v, %v)", branch, sealed, ok, err)
		}
	}
	return nil
}

func (m *machine) checkHeads(t *rapid.T) {
	err := m.w.db.Read(func(tx *schema.Tx) error { return checkHeads(tx, m.w.tree) })
	if err != nil {
		t.Fatal(err)
	}
}

// fail makes changes in a transaction that then fails: they leave no trace.
func (m *machine) fail(t *rapid.T) {
	p := m.head(t)
	at, to := m.place(t, p), name{m.dirOf(t, p), m.name(t)}
	perm := uint32(0o640)
	failed := errors.New("after all")
	err := m.w.db.Write(func(tx *schema.Tx) error {
		in, _ := p.v.Create(tx, to.parent, to.name, NewInode{Mode: rapid.SampledFrom([]uint32{file, dir}).Draw(t, "mode")})
		_, _ = p.v.Create(tx, in.Ino, "below", NewInode{Mode: file})
		_, _ = p.v.Rename(tx, at.parent, at.name, to.parent, to.name, 0)
		_, _ = p.v.SetAttr(tx, m.ino(t), SetAttr{Mode: &perm})
		_, _ = p.v.Unlink(tx, to.parent, to.name)
		return failed
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
}

// What another process does is seen, and what was kept of before is not.
func TestHeadsAndAnotherProcess(t *testing.T) {
	w := newWorld(t)
	w.make(w.main, "d/")
	w.make(w.main, "d/f")
	if err := w.db.Commit(); err != nil {
		t.Fatal(err)
	}
	other := w.elsewhere()
	main := other.view(MainBranch, 0)
	other.unlink(main, "d/f")
	other.make(main, "d/g")
	if err := other.db.Commit(); err != nil {
		t.Fatal(err)
	}
	w.wantList(w.main, other.list(main))
	in := w.mustStat(w.main, "d/g")
	err := w.db.Write(func(tx *schema.Tx) error {
		dir, _, err := w.main.ResolveParent(tx, "d/g")
		if err != nil {
			return err
		}
		if _, err = w.main.Create(tx, dir.Ino, "g", NewInode{Mode: file}); !errors.Is(err, syscall.EEXIST) {
			t.Errorf("made where another process had: %v", err)
		}
		_, err = w.main.Create(tx, dir.Ino, "f", NewInode{Mode: file})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if now := w.mustStat(w.main, "d/g"); now != in {
		t.Errorf("%+v became %+v", in, now)
	}
	w.read(func(tx *schema.Tx) error { return checkHeads(tx, w.tree) })
}

// More than fits is forgotten, not remembered wrongly.
func TestHeadsAreBounded(t *testing.T) {
	w := newWorld(t)
	w.make(w.main, "d/")
	w.make(w.main, "d/f")
	w.read(func(*schema.Tx) error { w.tree.heads.most = 1; return nil }) // with the database locked, as it is read
	for i := range 4 {
		w.make(w.main, fmt.Sprintf("d/%d", i))
		if err := w.db.Commit(); err != nil {
			t.Fatal(err)
		}
		w.read(func(tx *schema.Tx) error { return checkHeads(tx, w.tree) })
	}
	w.read(func(*schema.Tx) error {
		if n := len(w.tree.heads.dentries); n > 8 {
			t.Errorf("%d dentries kept", n)
		}
		return nil
	})
	w.wantList(w.main, w.list(w.view(MainBranch, 0)))
}
