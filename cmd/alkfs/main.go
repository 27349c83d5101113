package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run(os.Args[1:])) }

// run executes one command line and returns its exit status.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once, unless someone else listens

	return newApp(os.Stdin, os.Stdout, os.Stderr).run(ctx, args)
}

// run is run on this app.
func (a *app) run(ctx context.Context, args []string) int {
	a.ctx = ctx
	root := a.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if e := a.out.Flush(); err == nil {
		err = e
	}
	if err == nil {
		return statusOK
	}
	if !a.started {
		err = usageError{err}
		if c, _, e := root.Find(args); e == nil {
			a.command = c.CommandPath()
		}
	}
	if text := a.explain(err); text != "" {
		fmt.Fprint(a.err, text)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return statusInterrupted
	}
	return exitStatus(err)
}
