package alkfs

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// Names of what exists from the start.
const (
	DefaultBucket = "default"
	DefaultBranch = "main"
)

// ErrBadSpec is wrapped by the errors of ParseSpec and ParseTime.
var ErrBadSpec = errors.New("not understood")

// Spec names a place in a store, written BUCKET[/BRANCH][:PATH].
type Spec struct {
	Bucket string // "" means DefaultBucket
	Branch string // "" means DefaultBranch
	Path   string // slash-separated from the root of the branch, no leading slash; "" is the root
	At     string // a time (ParseTime) or the name of a snapshot of the bucket; "" is now
}

// ParseSpec parses BUCKET[/BRANCH][:PATH]. Each part may be left out: "" is the
// root of default/main, "/exp" a branch of the default bucket, ":src" a path in
// default/main. PATH may hold any bytes but NUL and is cleaned; it cannot leave
// the branch.
func ParseSpec(s string) (Spec, error) {
	bad := func(why string) (Spec, error) {
		return Spec{}, fmt.Errorf("spec %q: %s: %w", s, why, ErrBadSpec)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return bad("it holds a NUL byte")
	}
	where, name, hasPath := strings.Cut(s, ":")
	bucket, branch, hasBranch := strings.Cut(where, "/")
	if hasBranch && branch == "" {
		return bad("a branch name must follow the slash (BUCKET/BRANCH:PATH)")
	}
	if strings.Contains(branch, "/") {
		return bad("branch names hold no slash; a path follows a colon (BUCKET/BRANCH:PATH)")
	}
	spec := Spec{Bucket: bucket, Branch: branch}
	if hasPath {
		spec.Path = cleanPath(name)
	}
	return spec, nil
}

// ParseBranchSpec parses what names a branch where only a branch makes sense:
// "exp" is a branch of the default bucket, "work/exp" one of the bucket work.
func ParseBranchSpec(s string) (Spec, error) {
	if s != "" && !strings.ContainsAny(s, "/:") {
		s = "/" + s
	}
	spec, err := ParseSpec(s)
	if err == nil && spec.Path != "" {
		err = fmt.Errorf("spec %q: a branch is meant here, not a path: %w", s, ErrBadSpec)
	}
	return spec, err
}

// cleanPath returns name without leading slash, "." and ".." elements, "" for
// the root. ".." at the root stays there.
func cleanPath(name string) string {
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// String returns the spec in the form that ParseSpec takes, bucket and branch
// always spelt out. At is not part of it.
func (s Spec) String() string {
	s = s.withDefaults()
	out := s.Bucket + "/" + s.Branch
	if s.Path != "" {
		out += ":" + s.Path
	}
	return out
}

// branchName is s without its path.
func (s Spec) branchName() string { return Spec{Bucket: s.Bucket, Branch: s.Branch}.String() }

func (s Spec) withDefaults() Spec {
	if s.Bucket == "" {
		s.Bucket = DefaultBucket
	}
	if s.Branch == "" {
		s.Branch = DefaultBranch
	}
	s.Path = cleanPath(s.Path)
	return s
}

// Join returns the spec of name below s.
func (s Spec) Join(name string) Spec {
	s.Path = cleanPath(s.Path + "/" + name)
	return s
}

var timeLayouts = []string{
	time.RFC3339Nano, time.RFC3339,
	"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02",
}

// ParseTime parses a moment: RFC 3339, "2006-01-02 15:04[:05]" or "2006-01-02"
// in the local time zone, or one relative to now: "10m ago", "-10m", "2d ago",
// "1h30m ago", "yesterday", "now". Units are those of time.ParseDuration, d
// (24 hours) and w (7 days).
func ParseTime(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	switch s {
	case "now":
		return now, nil
	case "yesterday":
		return now.AddDate(0, 0, -1), nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	span, ago := strings.CutSuffix(s, "ago")
	if !ago {
		span, ago = strings.CutPrefix(s, "-")
	}
	if ago {
		if d, ok := ParseSpan(strings.ReplaceAll(span, " ", "")); ok {
			return now.Add(-d), nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q: try 2006-01-02T15:04:05Z, \"2006-01-02 15:04\", \"10m ago\" or -2d: %w", s, ErrBadSpec)
}

// ParseSpan is time.ParseDuration for spans without sign, with days (d) and weeks (w).
func ParseSpan(s string) (time.Duration, bool) {
	total, any := time.Duration(0), s != ""
	for s != "" {
		n := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if n <= 0 {
			return 0, false
		}
		rest := s[n:]
		end := strings.IndexFunc(rest, func(r rune) bool { return r >= '0' && r <= '9' || r == '.' })
		if end < 0 {
			end = len(rest)
		}
		var d time.Duration
		switch unit := rest[:end]; unit {
		case "d", "day", "days", "w", "week", "weeks":
			f, err := strconv.ParseFloat(s[:n], 64)
			hours := 24.0
			if unit[0] == 'w' {
				hours *= 7
			}
			if err != nil || f*hours > 1e6 {
				return 0, false
			}
			d = time.Duration(f * hours * float64(time.Hour))
		default:
			var err error
			if d, err = time.ParseDuration(s[:n] + longUnit(unit)); err != nil {
				return 0, false
			}
		}
		if total += d; total < 0 {
			return 0, false
		}
		s = rest[end:]
	}
	return total, any
}

func longUnit(unit string) string {
	switch unit {
	case "sec", "second", "seconds":
		return "s"
	case "min", "minute", "minutes":
		return "m"
	case "hour", "hours":
		return "h"
	}
	return unit
}
