package alkfs

import (
	"slices"
	"testing"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

func TestOnlySharedContentIsHeldBack(t *testing.T) {
	s := openStore(t, t.TempDir())
	b, err := s.Bucket(DefaultBucket)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.replica()
	if err != nil {
		t.Fatal(err)
	}
	v, seed := openView(t, s, Spec{}), uint64(60)
	writeFile(t, v, "f", randomBytes(seed, 50_000))
	replace := func() Hash {
		t.Helper()
		old := blobstore.Sum(randomBytes(seed, 50_000))
		seed++
		writeFile(t, v, "f", randomBytes(seed, 50_000))
		return old
	}
	collect := func(dry bool) GCReport {
		t.Helper()
		rep, err := s.GC(t.Context(), GCOptions{DryRun: dry, Retention: time.Nanosecond, Grace: -1})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	first := replace()
	if rep := collect(false); rep.Blobs != 1 || rep.HeldBlobs != 0 {
		t.Errorf("of a bucket that is not shared: %+v", rep)
	}
	if u, err := r.BucketsOf(t.Context(), first); err != nil || len(u) != 0 {
		t.Errorf("what went is of %x, %v", u, err)
	}

	err = s.db.Write(func(tx *schema.Tx) error {
		_, err := tx.Stmt("UPDATE bucket SET shared = 1").Step()
		return err
	})
	if err == nil {
		err = r.Share(b.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	replace()
	if rep := collect(false); rep.Blobs != 1 || rep.HeldBlobs != 0 {
		t.Errorf("of a bucket that nobody joined: %+v", rep)
	}

	laptop := NodeKey{1, 2, 3}
	if err := r.Grant(b.UUID, laptop, ReadOnly, "laptop"); err != nil {
		t.Fatal(err)
	}
	old := replace()
	for _, dry := range []bool{false, true} {
		rep := collect(dry)
		if rep.Blobs != 0 || rep.HeldBlobs != 1 || rep.HeldBytes != 50_000 {
			t.Errorf("with a member that is away, dry run %v: %+v", dry, rep)
		}
		if !dry && (!slices.Equal(rep.Unheard, []string{"laptop"}) || len(rep.WantedBy) != 0) {
			t.Errorf("it is held back for %q and %q", rep.Unheard, rep.WantedBy)
		}
	}
	if !r.MayRead(t.Context(), laptop, b.UUID, old) {
		t.Error("the member may not read what is held back for it")
	}
	if named, err := r.Named(t.Context(), laptop, b.UUID, []Hash{old, blobstore.Sum(randomBytes(seed, 50_000))}); err != nil || !slices.Equal(named, []bool{false, true}) {
		t.Errorf("named: %v, %v", named, err)
	}
	if _, err := r.Named(t.Context(), NodeKey{9}, b.UUID, []Hash{old}); err == nil {
		t.Error("a stranger is told what versions name")
	}
	if err := r.Grant(b.UUID, laptop, NoRole, ""); err != nil {
		t.Fatal(err)
	}
	if rep := collect(false); rep.Blobs != 1 || rep.HeldBlobs != 0 {
		t.Errorf("when the member is revoked: %+v", rep)
	}
}
