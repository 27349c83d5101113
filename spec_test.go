package alkfs

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseSpec(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Spec
		out  string
	}{
		{"", Spec{}, "default/main"},
		{"work", Spec{Bucket: "work"}, "work/main"},
		{"work/exp", Spec{Bucket: "work", Branch: "exp"}, "work/exp"},
		{"/exp", Spec{Branch: "exp"}, "default/exp"},
		{":src/a.go", Spec{Path: "src/a.go"}, "default/main:src/a.go"},
		{":/src//a.go/", Spec{Path: "src/a.go"}, "default/main:src/a.go"},
		{":../../etc", Spec{Path: "etc"}, "default/main:etc"},
		{":", Spec{}, "default/main"},
		{"work/exp:a:b/c", Spec{Bucket: "work", Branch: "exp", Path: "a:b/c"}, "work/exp:a:b/c"},
		{"work:caf\xe9", Spec{Bucket: "work", Path: "caf\xe9"}, "work/main:caf\xe9"},
	} {
		got, err := ParseSpec(c.in)
		if err != nil || got != c.want || got.String() != c.out {
			t.Errorf("ParseSpec(%q) = %+v (%v), %v; want %+v (%v)", c.in, got, got, err, c.want, c.out)
		}
	}
	for _, in := range []string{"work/", "/", "a/b/c", "a\x00b", "work/:x"} {
		if got, err := ParseSpec(in); !errors.Is(err, ErrBadSpec) {
			t.Errorf("ParseSpec(%q) = %+v, %v; want ErrBadSpec", in, got, err)
		}
	}
}

func TestParseBranchSpec(t *testing.T) {
	for in, want := range map[string]string{"exp": "default/exp", "work/exp": "work/exp", "": "default/main", "/exp": "default/exp"} {
		got, err := ParseBranchSpec(in)
		if err != nil || got.String() != want {
			t.Errorf("ParseBranchSpec(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	if _, err := ParseBranchSpec("work/exp:a"); !errors.Is(err, ErrBadSpec) {
		t.Errorf("a path was taken for a branch: %v", err)
	}
}

func TestParseTime(t *testing.T) {
	zone := time.FixedZone("there", 2*3600)
	now := time.Date(2026, 3, 14, 15, 9, 26, 0, zone)
	for in, want := range map[string]time.Time{
		"2026-03-01T10:00:00Z": time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC),
		"2026-03-01 10:00":     time.Date(2026, 3, 1, 10, 0, 0, 0, zone),
		"2026-03-01 10:00:30":  time.Date(2026, 3, 1, 10, 0, 30, 0, zone),
		"2026-03-01":           time.Date(2026, 3, 1, 0, 0, 0, 0, zone),
		"10m ago":              now.Add(-10 * time.Minute),
		"-10m":                 now.Add(-10 * time.Minute),
		"1h30m ago":            now.Add(-90 * time.Minute),
		"2 days ago":           now.Add(-48 * time.Hour),
		"-1w":                  now.Add(-7 * 24 * time.Hour),
		"1.5d ago":             now.Add(-36 * time.Hour),
		"5 minutes ago":        now.Add(-5 * time.Minute),
		"yesterday":            now.AddDate(0, 0, -1),
		"now":                  now,
	} {
		if got, err := ParseTime(in, now); err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "soon", "10m", "-", "ago", "--10m", "-10parsecs", "2026-13-01", "-999999999w"} {
		if got, err := ParseTime(in, now); !errors.Is(err, ErrBadSpec) {
			t.Errorf("ParseTime(%q) = %v, %v; want ErrBadSpec", in, got, err)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"", "a/b:c", ":..", "/x", "a:b:c/../d", "\xff:\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := ParseSpec(s)
		if err != nil {
			if !errors.Is(err, ErrBadSpec) {
				t.Fatalf("%q: %v", s, err)
			}
			return
		}
		for el := range strings.SplitSeq(spec.Path, "/") {
			if el == ".." || el == "." || (el == "" && spec.Path != "") {
				t.Fatalf("%q: path %q is not clean", s, spec.Path)
			}
		}
		again, err := ParseSpec(spec.String())
		if err != nil || again != spec.withDefaults() {
			t.Fatalf("%q: %q parses as %+v, %v; want %+v", s, spec.String(), again, err, spec)
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"10m ago", "-2d", "2026-01-01", "1h2m3s ago", "yesterday"} {
		f.Add(s)
	}
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := ParseTime(s, now); err != nil && !errors.Is(err, ErrBadSpec) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
