package pathtree

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/schema"
)

func (w *world) log(v *View, path string, limit int) (entries []LogEntry, err error) {
	err = w.db.Read(func(tx *schema.Tx) (err error) {
		entries, err = w.tree.Log(tx, v, path, limit)
		return err
	})
	return entries, err
}

func renderLog(entries []LogEntry, c texts) string {
	var lines []string
	for _, e := range entries {
		var s []string
		for _, f := range []struct {
			on   bool
			name string
		}{{e.Created, "created"}, {e.Deleted, "deleted"}, {e.Content, "content " + c[e.Inode.Hash]}, {e.Attributes, "mode"}, {e.Xattrs, "xattr"}, {e.RenamedFrom != "", "from " + e.RenamedFrom}} {
			if f.on {
				s = append(s, f.name)
			}
		}
		line := e.Path + ": " + strings.Join(s, ", ")
		if e.Merge != nil {
			line += " by " + e.Merge.Message
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "; ")
}

func TestLogCases(t *testing.T) {
	store := newWorld(t)
	for _, tc := range []struct{ name, ops, path, want string }{
		{"file", "f a 1; f a 2; c a 600", "a", "a: mode; a: content 2; a: created"},
		{"xattr", "f a 1; a a user.k v", "a", "a: xattr; a: created"},
		{"renamed", "f a 1; m a b; f b 2", "b", "b: content 2; b: from a; a: created"},
		{"by its old name", "f a 1; m a b", "a", "b: from a; a: created"},
		{"below a renamed directory", "d d; f d/a 1; m d e; f e/a 2", "e/a", "e/a: content 2; d/a: created"},
		{"replaced as editors do", "f a 1; r a 2; r a 3", "a", "a: content 3; a: content 2; a: created"},
		{"deleted", "f a 1; - a", "a", "a: deleted; a: created"},
		{"deleted with its directory", "d d; f d/a 1; - d", "d/a", "d/a: deleted; d/a: created"},
		{"made again", "f a 1; - a; f a 2", "a", "a: created; a: deleted; a: created"},
		{"hard link", "f a 1; h a b; f b 2", "b", "b: content 2; a: created"},
		{"renamed over another", "f a 1; f b 2; m a b", "b", "b: from a; a: created"},
		{"directory", "d d; f d/a 1; c d 700", "d", "d: mode; d: created"},
		{"root", "c / 700", "", ": mode; : created"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := store.another(t), texts{}
			for op := range strings.SplitSeq(tc.ops, ";") {
				w.seal(w.main)
				if tc.name == "renamed over another" {
					w.write(func(tx *schema.Tx) error { tx.ObserveStamp(tx.NextStamp() + 70000<<16); return nil })
				}
				w.script(w.main, c, op)
			}
			dev := w.fork(w.main, "dev", Origin{})
			for _, v := range []*View{w.main, dev} {
				entries, err := w.log(v, tc.path, 0)
				if got := renderLog(entries, c); err != nil || got != tc.want {
					t.Errorf("got %s %v\nwant %s", got, err, tc.want)
				}
			}
			if entries, err := w.log(w.main, tc.path, 1); err != nil || len(entries) != 1 {
				t.Errorf("limit 1: %v %v", entries, err)
			}
		})
	}
}

func TestLogNamesTheMerge(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "f a 1")
	dev := w.fork(w.main, "dev", Origin{})
	w.script(dev, c, "f a 2")
	if _, err := w.merge(dev, w.main, MergeOptions{Message: "take dev"}); err != nil {
		t.Fatal(err)
	}
	entries, err := w.log(w.main, "a", 0)
	if got := renderLog(entries, c); err != nil || got != "a: content 2 by take dev; a: created" {
		t.Error(got, err)
	}
	if _, err := w.log(w.main, "nothing", 0); Errno(err) != unix.ENOENT {
		t.Errorf("got %v, want ENOENT", err)
	}
}
