package integration_test

import (
	"os"
	"path/filepath"
	"testing"
)

// A tree of some 14,000 files comes back equal: at once, after kill -9, after
// unmount, and seen as of a snapshot.
func TestUnpackedTreeComesBackEqual(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	root := unpackGoroot(t, m.path("go"))
	if out := (tool{}).run(t, "diff", "-r", "--no-dereference", root, m.path("go")); out != "" {
		t.Fatalf("diff -r says:\n%s", tail([]byte(out)))
	}
	sameTree(t, root, m.path("go"))
	m.settle(t)
	m.kill9(t)

	m = s.mount(t)
	sameTree(t, root, m.path("go"))
	s.alkfs(t, "snapshot", "create", "unpacked", "default/main")
	tool{}.run(t, "rm", "-rf", m.path("go"))
	m.unmount(t)

	m = s.mount(t, "--at", "unpacked", "default/main")
	sameTree(t, root, m.path("go"))
	m.unmount(t)
	s.fsckDeep(t)
}

// Unmounting by every means publishes everything.
func TestEveryWayToStopKeepsTheTree(t *testing.T) {
	part := gorootPart(t, "src", "net", "http")
	ways := []struct {
		name string
		stop func(t testing.TB, m *mount)
	}{
		{"fusermount3 -u", func(t testing.TB, m *mount) { m.unmount(t) }},
		{"SIGTERM", func(t testing.TB, m *mount) { m.terminate(t) }},
		{"alkfs umount", func(t testing.TB, m *mount) {
			m.store.alkfs(t, "umount", m.dir)
			must(t, m.wait(t))
		}},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			s := newStore(t)
			m := s.mount(t)
			tool{}.run(t, "cp", "-a", part, m.path("part"))
			way.stop(t, m)
			if info, ok := mountedOn(t, m.dir); ok {
				t.Fatalf("still mounted: %+v", info)
			}
			m = s.mountAt(t, m.dir)
			sameTree(t, part, m.path("part"))
			m.unmount(t)
		})
	}
}

// A mount in the background is there when the command returns, and everything
// is published when umount returns.
func TestBackgroundMount(t *testing.T) {
	s := newStore(t)
	dir := t.TempDir()
	t.Cleanup(func() { detach(dir) }) // its server ends with it
	for i := range 3 {
		s.alkfs(t, "mount", "--background", dir)
		if i > 0 {
			holds(t, filepath.Join(dir, "file"), 'a', 300_000)
		}
		must(t, os.WriteFile(filepath.Join(dir, "file"), filled('a', 300_000), 0o644))
		s.alkfs(t, "umount", dir)
		if info, ok := mountedOn(t, dir); ok {
			t.Fatalf("still mounted: %+v", info)
		}
	}
	s.fsckDeep(t)
}
