package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/alkdev/alkfs"
)

// options are how this command opens the store. What it logs: what --log-level
// or ALKFS_LOG say; else with --verbose everything; in a process that serves
// from def on; in a single command warnings, as a person reads them. Errors
// reach a single command as what it returns.
func (a *app) options(def slog.Level) (o alkfs.Options, err error) {
	o.Name = strings.TrimPrefix(a.command, "alkfs ")
	if o.Slow, err = slowText(cmp.Or(a.slow, os.Getenv("ALKFS_SLOW"))); err != nil {
		return o, err
	}
	text := cmp.Or(a.logLevel, os.Getenv("ALKFS_LOG"))
	if text == "" && !a.verbose && !a.serving {
		o.Logger = slog.New(warnings{w: a.err})
		if o.Slow == 0 {
			o.Slow = -1 // who waits for a command knows
		}
		return o, nil
	}
	if a.verbose {
		def = slog.LevelDebug
	}
	levels, err := alkfs.ParseLogLevels(text, def)
	if err != nil {
		return o, usagef("--log-level: %v", err)
	}
	o.Logger = slog.New(levels.Handler(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelDebug})))
	return o, nil
}

// slowText parses the threshold of the log of slow operations.
func slowText(text string) (time.Duration, error) {
	switch text {
	case "":
		return 0, nil
	case "off":
		return -1, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, usagef("--slow %s: a time such as 200ms, or off", quote(text))
	}
	return d, nil
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
		if at.Key == "package" {
			continue
		}
		h.attrs += fmt.Sprintf(", %s %s", at.Key, quote(at.Value.String()))
	}
	return h
}

func (h warnings) WithGroup(string) slog.Handler { return h }
