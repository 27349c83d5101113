package sftpsrv

import "testing"

// Every request is counted once when it was answered: those of pkg/sftp, those
// answered at once and those that are tasks.
func TestRequestsAreCounted(t *testing.T) {
	w := newWorld(t, Options{})
	c := w.client("all", w.user("all", "*"))
	must(t, c.Mkdir("/ws/main/d"))
	put(t, c, "/ws/main/d/f", "text")
	if got := get(t, c, "/ws/main/d/f"); got != "text" {
		t.Errorf("got %q", got)
	}
	_, err := c.ReadDir("/ws/main/d")
	must(t, err)
	must(t, c.PosixRename("/ws/main/d/f", "/ws/main/d/g"))
	must(t, c.Remove("/ws/main/d/g"))
	ops := w.server.Ops()
	for name, least := range map[string]int64{"init": 1, "mkdir": 1, "open": 2, "write": 1, "read": 1, "close": 3, "opendir": 1, "readdir": 1, "extended": 1, "remove": 1} {
		if n := ops[name].Total(); n < least || n > least+2 {
			t.Errorf("%d of %s, want %d or a few more", n, name, least)
		}
	}
	if n := ops["other"].Total(); n != 0 {
		t.Errorf("%d requests of no known kind", n)
	}
}
