package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
)

// onFirst is a reader and writer that calls f at its first use.
type onFirst struct {
	f    func()
	rest io.ReadWriter
}

func (o *onFirst) Read(p []byte) (int, error) {
	o.call()
	return o.rest.Read(p)
}

func (o *onFirst) Write(p []byte) (int, error) {
	o.call()
	return o.rest.Write(p)
}

func (o *onFirst) call() {
	if o.f != nil {
		o.f()
		o.f = nil
	}
}

// silence is an input that never says anything.
type silence struct{ io.Writer }

func (silence) Read([]byte) (int, error) { select {} }

func TestInterruptEndsACommandThatWaits(t *testing.T) {
	t.Setenv("ALKFS_STORE", t.TempDir())
	run := func(ctx context.Context, in io.Reader, args ...string) (status int, out, errs string) {
		var o, e bytes.Buffer
		status = newApp(in, &o, &e).run(ctx, args)
		return status, o.String(), e.String()
	}
	ctx, cancel := context.WithCancel(t.Context())
	if status, _, errs := run(ctx, &onFirst{f: cancel, rest: silence{}}, "put", "-", ":half"); status != statusInterrupted || errs != "alkfs: interrupted\n" {
		t.Errorf("put: status %d, %q", status, errs)
	}
	if status, _, errs := run(t.Context(), nil, "cat", ":half"); status != statusNotFound {
		t.Errorf("what was being put is there: status %d, %s", status, errs)
	}

	if status, _, errs := run(t.Context(), strings.NewReader("whole"), "put", "-", ":f"); status != statusOK {
		t.Fatalf("put: status %d, %s", status, errs)
	}
	ctx, cancel = context.WithCancel(t.Context())
	var errs bytes.Buffer
	out := &onFirst{f: cancel, rest: new(bytes.Buffer)}
	if status := newApp(nil, out, &errs).run(ctx, []string{"watch", "--since", "0"}); status != statusOK {
		t.Errorf("watch: status %d, %s", status, errs.String())
	}

	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if status, out, errs := run(ctx, nil, "ls"); status != statusInterrupted || out != "" {
		t.Errorf("ls: status %d, %q, %q", status, out, errs)
	}
}
