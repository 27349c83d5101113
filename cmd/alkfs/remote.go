package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alkdev/alkfs"
)

// remoteCommands are those that `ssh HOST COMMAND` runs. Each must work on
// nothing but the store it gets, which obeys the user's grants (alkfs.Store.As):
// no file of the host, no terminal, no other store.
var remoteCommands = []string{"branch", "snapshot", "diff", "merge", "log", "ls", "df"}

// runRemote runs a command of an SSH user and returns its exit status.
func runRemote(ctx context.Context, s *alkfs.Store, c alkfs.SSHCommand) int {
	args := c.Args
	if len(args) > 0 && args[0] == "alkfs" {
		args = args[1:]
	}
	if len(args) == 0 || !slices.Contains(remoteCommands, args[0]) {
		fmt.Fprintf(c.Stderr, "alkfs: there is no shell here, only: %s\n", strings.Join(remoteCommands, ", "))
		return statusUsage
	}
	rights, err := c.Rights()
	if err != nil {
		fmt.Fprintln(c.Stderr, "alkfs: permission denied")
		return statusError
	}
	a := newApp(noInput{}, c.Stdout, c.Stderr)
	a.shared = s.As(rights)
	return a.run(ctx, args)
}

type noInput struct{}

func (noInput) Read([]byte) (int, error) { return 0, io.EOF }
