package pathtree

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMergeLines(t *testing.T) {
	for _, tc := range []struct {
		name, base, ours, theirs, want string // lines by letter; want "!" is a conflict
	}{
		{"nothing", "abc", "abc", "abc", "abc"},
		{"one side", "abc", "abc", "aXc", "aXc"},
		{"apart", "abcde", "Xbcde", "abcdY", "XbcdY"},
		{"insert and delete", "abcde", "aXbcde", "abce", "aXbce"},
		{"equal edits", "abc", "aXc", "aXc", "aXc"},
		{"equal and another", "abcde", "aXcde", "aXcdY", "aXcdY"},
		{"overlapping", "abc", "aXc", "aYc", "!"},
		{"neighbours", "abc", "Xbc", "aYc", "!"},
		{"both append", "a", "ab", "ac", "!"},
		{"both append the same", "a", "ab", "ab", "ab"},
		{"delete against edit", "abc", "ac", "aXc", "!"},
		{"from empty", "", "a", "b", "!"},
		{"to empty", "abc", "", "abc", ""},
		{"repeated lines", "aaaa", "aaXaa", "aaaaY", "aaXaaY"},
		{"moved block", "abcdef", "defabc", "abcdef", "defabc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lines := func(s string) []byte {
				var b []byte
				for _, r := range s {
					b = append(b, string(r)+"\n"...)
				}
				return b
			}
			got, ok := mergeLines(lines(tc.base), lines(tc.ours), lines(tc.theirs))
			if !ok {
				got = lines("!")
			}
			if string(got) != string(lines(tc.want)) {
				t.Errorf("got %q, want %q", got, lines(tc.want))
			}
		})
	}
	if _, ok := mergeLines([]byte("a\x00"), []byte("a"), []byte("b")); ok {
		t.Error("merged what is not text")
	}
	if got, ok := mergeLines([]byte("a\nb\nc"), []byte("X\nb\nc"), []byte("a\nb\nd")); !ok || string(got) != "X\nb\nd" {
		t.Errorf("no newline at the end: %q %v", got, ok)
	}
}

func TestMergeLinesModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := func(label string) []byte {
			return []byte(strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a\n", "b\n", "c\n", "\n"}), 0, 12).Draw(rt, label), ""))
		}
		b, o, x := text("base"), text("ours"), text("theirs")
		if got, ok := mergeLines(b, o, b); !ok || !bytes.Equal(got, o) {
			rt.Fatalf("only ours changed: %q", got)
		}
		if got, ok := mergeLines(b, b, x); !ok || !bytes.Equal(got, x) {
			rt.Fatalf("only theirs changed: %q", got)
		}
		if got, ok := mergeLines(b, o, o); !ok || !bytes.Equal(got, o) {
			rt.Fatalf("both the same: %q", got)
		}
		one, ok1 := mergeLines(b, o, x)
		two, ok2 := mergeLines(b, x, o)
		if ok1 != ok2 || !bytes.Equal(one, two) {
			rt.Fatalf("sides matter: %q %v, %q %v", one, ok1, two, ok2)
		}
	})
}

func TestMergeText(t *testing.T) {
	store := newWorld(t)
	for _, tc := range []struct{ name, base, ours, theirs, want, conflicts string }{
		{"apart", `f a 1\n2\n3\n4\n5\n`, `f a X\n2\n3\n4\n5\n`, `f a 1\n2\n3\n4\nY\n`, `a=X\n2\n3\n4\nY\n`, ""},
		{"replaced on both sides", `f a 1\n2\n3\n4\n5\n`, `r a X\n2\n3\n4\n5\n`, `r a 1\n2\n3\n4\nY\n`, `a=X\n2\n3\n4\nY\n`, ""},
		{"renamed as well", `f a 1\n2\n3\n4\n5\n`, `m a b; f b X\n2\n3\n4\n5\n`, `f a 1\n2\n3\n4\nY\n; c a 600`, `b=X\n2\n3\n4\nY\n 600`, ""},
		{"overlapping", `f a 1\n`, `f a 2\n`, `f a 3\n`, "", "both modified a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, c := store.another(t), texts{}
			w.script(w.main, c, tc.base)
			dev := w.fork(w.main, "dev", Origin{})
			w.script(w.main, c, tc.ours)
			w.script(dev, c, tc.theirs)
			r, err := w.merge(dev, w.main, MergeOptions{Text: c.merge()})
			if tc.conflicts != "" {
				if !errors.Is(err, ErrConflict) || len(r.Conflicts) != 1 {
					t.Errorf("got %v, %+v", err, r.Conflicts)
				}
				return
			}
			if err != nil || !slices.Equal(r.Texts, []string{tc.want[:1]}) {
				t.Fatalf("%v, merged %q", err, r.Texts)
			}
			w.wantTree(w.main, c, tc.want)
			w.forthAndBack(dev, w.main, c)
			w.check()
		})
	}
}
