package alkfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// shareTeam has a store share a bucket, and returns the ticket.
func shareTeam(t *testing.T, s *Store, role Role) string {
	t.Helper()
	if _, err := s.Bucket("team"); err != nil {
		_, err := s.CreateBucket("team")
		mustDo(t, err)
	}
	ticket, err := s.Share("team", ShareOptions{Role: role, Uses: 9})
	mustDo(t, err)
	return ticket
}

func startSync(t *testing.T, s *Store, addr string) *Syncer {
	t.Helper()
	y, err := s.StartSync(SyncOptions{Addr: addr})
	mustDo(t, err)
	waitFor(t, "its addresses", func() bool {
		st, _, err := s.readSyncState()
		return err == nil && len(st.Addrs) > 0
	})
	return y
}

// memberOf returns what s knows of a member of the bucket.
func memberOf(t *testing.T, s *Store, k NodeKey) Role {
	t.Helper()
	r, b, err := s.syncBucket("team")
	mustDo(t, err)
	m, err := r.Membership(b.UUID)
	mustDo(t, err)
	return m.Role(k)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

func shows(s *Store, name string) bool {
	v, err := s.View(Spec{Bucket: "team"})
	if err != nil {
		return false
	}
	_, err = fs.Stat(v, name)
	return err == nil
}

// TestRotateKeyAfterACrash has the process that replaces the key die after each
// step. The store can be opened, has one key, and talks to the others, which know
// the old one, whoever dials.
func TestRotateKeyAfterACrash(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps func(s *Store) error
	}{
		{"before the first step", func(*Store) error { return nil }},
		{"with the new key written", func(s *Store) error {
			_, err := s.nextKey(mustKey(t, s))
			return err
		}},
		{"with the place handed over", func(s *Store) error {
			next, err := s.nextKey(mustKey(t, s))
			if err == nil {
				err = s.replicaOf(mustKey(t, s)).HandOver(next.key())
			}
			return err
		}},
		{"at the end", func(s *Store) error {
			_, _, err := s.RotateKey()
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			a, b := openStore(t, t.TempDir()), openNamed(t, dir, Options{})
			ya := startSync(t, a, "127.0.0.1:0")
			_, err := b.Join(t.Context(), shareTeam(t, a, ReadWrite), "", "b")
			mustDo(t, err)
			yb := startSync(t, b, "127.0.0.1:0")
			waitFor(t, "the bucket on b", func() bool { return shows(b, ".") })
			at := yb.Addr().String()
			mustDo(t, yb.Close())
			old := mustKey(t, b).key()
			mustDo(t, c.steps(b))
			mustDo(t, b.Close())

			b = openNamed(t, dir, Options{})
			if _, err := os.Stat(filepath.Join(dir, nodeKeyNext)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a half-replaced key is left: %v", err)
			}
			now := mustKey(t, b).key()
			if kept := now == old; kept != (c.name == "before the first step") {
				t.Errorf("the key was kept: %v", kept)
			}
			yb = startSync(t, b, at)
			v := openView(t, b, Spec{Bucket: "team"})
			writeFile(t, v, "from b", []byte("1"))
			waitFor(t, "the file on a", func() bool { return shows(a, "from b") })
			if memberOf(t, a, now) != ReadWrite || now != old && memberOf(t, a, old) != NoRole {
				t.Errorf("for a, b is %v and its old key %v", memberOf(t, a, now), memberOf(t, a, old))
			}
			was, again, err := b.RotateKey() // while it synchronises
			mustDo(t, err)
			if was != now || mustKey(t, b).key() != again {
				t.Errorf("%s was replaced by %s, want %s", was.Short(), again.Short(), now.Short())
			}
			writeFile(t, v, "with another key", []byte("1"))
			waitFor(t, "the file on a", func() bool { return shows(a, "with another key") })
			if memberOf(t, a, again) != ReadWrite || memberOf(t, a, now) != NoRole {
				t.Errorf("for a, b is %v and its old key %v", memberOf(t, a, again), memberOf(t, a, now))
			}
			mustDo(t, yb.Close())
			mustDo(t, ya.Close())
			mustDo(t, b.Close())
		})
	}
}

func mustKey(t *testing.T, s *Store) keyring {
	t.Helper()
	k, err := nodeKey(s.dir)
	mustDo(t, err)
	return k
}

// A bucket is not joined under a name that another has, and nobody is asked for it.
func TestJoinUnderANameThatIsTaken(t *testing.T) {
	a, b := openStore(t, t.TempDir()), openStore(t, t.TempDir())
	y := startSync(t, a, "127.0.0.1:0")
	ticket := shareTeam(t, a, ReadWrite)
	_, err := b.CreateBucket("team")
	mustDo(t, err)
	if _, err := b.Join(t.Context(), ticket, "", "b"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("under a name that is taken: %v", err)
	}
	if role := memberOf(t, a, mustKey(t, b).key()); role != NoRole {
		t.Errorf("it came to be a member: %v", role)
	}
	for range 2 { // again is no error
		j, err := b.Join(t.Context(), ticket, "theirs", "b")
		if err != nil || j.Name != "theirs" {
			t.Errorf("under another: %+v, %v", j, err)
		}
	}
	mustDo(t, y.Close())
}

// TestStolenKeyIsRefused dials with a key that was replaced, at the node that
// heard of it, as a member and with a ticket that it has from before.
func TestStolenKeyIsRefused(t *testing.T) {
	dir := t.TempDir()
	a, b := openStore(t, t.TempDir()), openNamed(t, dir, Options{})
	ya := startSync(t, a, "127.0.0.1:0")
	ticket := shareTeam(t, a, ReadWrite)
	_, err := b.Join(t.Context(), ticket, "", "b")
	mustDo(t, err)
	stolen := t.TempDir()
	mustDo(t, b.Close())
	mustDo(t, os.CopyFS(stolen, os.DirFS(dir)))
	b = openStore(t, dir)
	_, now, err := b.RotateKey()
	mustDo(t, err)
	yb := startSync(t, b, "127.0.0.1:0")
	waitFor(t, "a hears of it", func() bool { return memberOf(t, a, now) == ReadWrite })

	thief := openStore(t, stolen)
	if _, err := thief.Join(t.Context(), ticket, "", "b"); err == nil {
		t.Error("the old key came in by a ticket")
	}
	yt := startSync(t, thief, "127.0.0.1:0")
	all, err := yt.reach(t.Context(), "1m")
	mustDo(t, err)
	if len(all) != 1 || all[0].Err == "" {
		t.Errorf("the old key reached %+v", all)
	}
	for _, y := range []*Syncer{yt, yb, ya} {
		mustDo(t, y.Close())
	}
}
