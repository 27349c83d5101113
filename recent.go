package alkfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// recentMax is how many log records of a process are remembered.
const recentMax = 500

// recent remembers the last log records, from info on, for DebugBundle.
type recent struct {
	mu     sync.Mutex
	lines  []recentLine
	counts map[string]int64 // by level and message
}

type recentLine struct {
	at    time.Time
	level slog.Level
	text  string
	attrs []slog.Attr
}

// tee returns a handler that hands records on to next and remembers them.
func (r *recent) tee(next slog.Handler) slog.Handler { return recentHandler{r: r, next: next} }

type recentHandler struct {
	r     *recent
	next  slog.Handler
	attrs []slog.Attr
}

func (h recentHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || h.next.Enabled(ctx, l)
}

func (h recentHandler) Handle(ctx context.Context, rec slog.Record) error {
	if rec.Level >= slog.LevelInfo {
		h.r.add(rec, h.attrs)
	}
	if !h.next.Enabled(ctx, rec.Level) {
		return nil
	}
	return h.next.Handle(ctx, rec)
}

func (h recentHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = slices.Concat(h.attrs, attrs)
	h.next = h.next.WithAttrs(attrs)
	return h
}

func (h recentHandler) WithGroup(name string) slog.Handler {
	h.next = h.next.WithGroup(name)
	return h
}

func (r *recent) add(rec slog.Record, attrs []slog.Attr) {
	l := recentLine{at: rec.Time, level: rec.Level, text: rec.Message, attrs: slices.Clone(attrs)}
	rec.Attrs(func(a slog.Attr) bool { l.attrs = append(l.attrs, a); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) == recentMax {
		r.lines = slices.Delete(r.lines, 0, 1)
	}
	r.lines = append(r.lines, l)
	if r.counts == nil {
		r.counts = map[string]int64{}
	}
	r.counts[l.level.String()+" "+l.text]++
}

// write prints how often what was logged, and then the records themselves;
// without names, of their attributes only those that cannot hold one.
func (r *recent) write(w io.Writer, names bool) error {
	r.mu.Lock()
	lines := slices.Clone(r.lines)
	var counts []string
	for text, n := range r.counts {
		counts = append(counts, fmt.Sprintf("%d times: %s\n", n, text))
	}
	r.mu.Unlock()
	slices.Sort(counts)
	var b strings.Builder
	for _, c := range counts {
		b.WriteString(c)
	}
	b.WriteByte('\n')
	for _, l := range lines {
		fmt.Fprintf(&b, "%s %v %s", l.at.UTC().Format(time.RFC3339Nano), l.level, l.text)
		for _, a := range l.attrs {
			fmt.Fprintf(&b, " %s=%s", a.Key, attrText(a, names))
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// openKeys are those of text that names nothing of a user's.
var openKeys = []string{keyPackage, "surface", "op", "job", "queue"}

// attrText is the value of an attribute, or what may be told of it.
func attrText(a slog.Attr, names bool) string {
	v := a.Value.Resolve()
	if names {
		return fmt.Sprintf("%q", v.String())
	}
	switch v.Kind() {
	case slog.KindBool, slog.KindDuration, slog.KindFloat64, slog.KindInt64, slog.KindTime, slog.KindUint64:
		return v.String()
	case slog.KindString:
		if slices.Contains(openKeys, a.Key) {
			return v.String()
		}
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			return errorKind(err)
		}
	}
	return "…"
}

// errorKind is what may be told of an error, whose text can hold a path.
func errorKind(err error) string {
	if errors.Is(err, context.Canceled) {
		return "canceled"
	}
	if name := unix.ErrnoName(Errno(err)); name != "" {
		return name
	}
	return "error"
}
