package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// logger is what the store logs to: with --verbose everything; in a process that
// serves, warnings and errors with their times; in a single command warnings, as
// a person reads them. Errors reach a single command as what it returns.
func (a *app) logger() *slog.Logger {
	switch {
	case a.verbose:
		return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelDebug}))
	case a.serving:
		return slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	return slog.New(warnings{w: a.err})
}

// warnings is a slog.Handler that prints warnings in a line of text.
type warnings struct {
	w     io.Writer
	attrs string
}

func (h warnings) Enabled(_ context.Context, l slog.Level) bool { return l == slog.LevelWarn }

func (h warnings) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(h.attrs)
	r.Attrs(func(at slog.Attr) bool {
		fmt.Fprintf(&b, ", %s %s", at.Key, quote(at.Value.String()))
		return true
	})
	_, err := fmt.Fprintf(h.w, "alkfs: warning: %s%s\n", r.Message, b.String())
	return err
}

func (h warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, at := range attrs {
		h.attrs += fmt.Sprintf(", %s %s", at.Key, quote(at.Value.String()))
	}
	return h
}

func (h warnings) WithGroup(string) slog.Handler { return h }
