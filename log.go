package alkfs

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Keys of log records.
const (
	keyPackage = "package" // whose logger it is, see LogLevels
	keyError   = "error"
)

// logPackages are the packages that log, as LogLevels names them.
var logPackages = []string{"alkfs", "schema", "blobstore", "pathtree", "writesession", "notify", "fusefs", "sftpsrv", "crdtsync"}

// LogLevels says from which level on records are logged, by package.
type LogLevels struct {
	Default  slog.Level
	Packages map[string]slog.Level // where it is another
}

// ParseLogLevels parses "info,fusefs=debug,sftpsrv=warn": a level for all, and
// for single packages. What is left out is as in def.
func ParseLogLevels(text string, def slog.Level) (LogLevels, error) {
	l := LogLevels{Default: def, Packages: map[string]slog.Level{}}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, level, named := strings.Cut(part, "=")
		if !named {
			name, level = "", part
		}
		var v slog.Level
		if err := v.UnmarshalText([]byte(level)); err != nil {
			return l, fmt.Errorf("log level %q: debug, info, warn or error is meant", level)
		}
		switch {
		case !named:
			l.Default = v
		case !slices.Contains(logPackages, name):
			return l, fmt.Errorf("log level of %q: one of %s is meant", name, strings.Join(logPackages, ", "))
		default:
			l.Packages[name] = v
		}
	}
	return l, nil
}

// Handler returns next for the records that l lets through. next must take
// every level that l has.
func (l LogLevels) Handler(next slog.Handler) slog.Handler {
	return &levelHandler{next: next, levels: l, least: l.Default}
}

// levelHandler learns its package from the attribute keyPackage.
type levelHandler struct {
	next   slog.Handler
	levels LogLevels
	least  slog.Level
}

func (h *levelHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.least && h.next.Enabled(ctx, level)
}

func (h *levelHandler) Handle(ctx context.Context, r slog.Record) error { return h.next.Handle(ctx, r) }

func (h *levelHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.next = h.next.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key != keyPackage {
			continue
		}
		if n.least = h.levels.Default; a.Value.Kind() == slog.KindString {
			if level, ok := h.levels.Packages[a.Value.String()]; ok {
				n.least = level
			}
		}
	}
	return &n
}

func (h *levelHandler) WithGroup(name string) slog.Handler {
	n := *h
	n.next = h.next.WithGroup(name)
	return &n
}

// logger returns the logger of a package.
func (s *Store) logger(name string) *slog.Logger { return s.base.With(keyPackage, name) }
