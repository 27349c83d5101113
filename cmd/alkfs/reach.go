package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) syncNowCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "now [BUCKET]", Short: "Reach for every other member at once, and get what it has",
		Long: `Has "alkfs serve --sync", which must be running, dial every member that is not
connected, however long ago it was last reached, and ask the connected ones for what
is not here. Prints for each member whether it was reached: then all that it had is
here. On a terminal it shows how many changes have come; give the first sync of a
large bucket its --timeout. The exit status is 1 when none was reached.`,
		Example: "  alkfs sync now\n  alkfs sync now work --timeout 10m\n  alkfs sync now work --timeout 5s --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				all, _, err := a.sharedBuckets(s, args)
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(all, func(b alkfs.BucketStatus) bool { return len(b.Members) > 0 }) {
					return errors.New("nobody else is a member yet: `alkfs share BUCKET` prints a ticket for another machine")
				}
				hide := a.showSync(cmd.Context(), s, strings.Join(args, ""))
				reached, err := s.SyncNow(cmd.Context(), timeout)
				hide()
				if err != nil {
					return err
				}
				any := false
				for _, b := range all {
					ok, err := a.printReached(b, reached)
					if err != nil {
						return err
					}
					any = any || ok
				}
				if !any {
					return errors.New("no other member was reached")
				}
				return nil
			})
		},
	}
	c.ValidArgsFunction = completeEach(a.completeBuckets)
	c.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long a member may take")
	return c
}

// printReached prints what came of the members of a bucket, and reports whether
// any was reached.
func (a *app) printReached(b alkfs.BucketStatus, reached []alkfs.Reached) (any bool, err error) {
	for _, m := range b.Members {
		i := slices.IndexFunc(reached, func(r alkfs.Reached) bool { return r.Key == m.Key })
		if i < 0 {
			continue
		}
		r := reached[i]
		any = any || r.Err == ""
		state := "reached"
		if r.Err != "" {
			state = "not reached: " + r.Err
		}
		if a.json {
			err = a.emit("bucket", b.Name, "peer", r.Key.String(), "name", m.Name, "reached", r.Err == "", "error", r.Err)
		} else {
			a.printf("%-16s %-20s %s\n", quote(b.Name), quote(m.Name), state)
		}
		if err != nil {
			return any, err
		}
	}
	return any, nil
}

func (a *app) whereCommand() *cobra.Command {
	var at string
	c := &cobra.Command{
		Use: "where SPEC...", Short: "Show which machines have the bytes of a file",
		Long: `Shows which members of the bucket have the bytes of a file: this machine, and the
connected ones, which are asked. "all" means that it has the whole content, "part"
that it has some of it, "none" that it has to fetch it, "?" that it cannot say.`,
		Example: "  alkfs where work:video.mp4\n  alkfs where --at yesterday work:notes.txt --json",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				for _, arg := range args {
					spec, err := parseSpec(arg, at)
					if err != nil {
						return err
					}
					places, err := s.Where(cmd.Context(), spec)
					if err != nil {
						return err
					}
					if err := a.printPlaces(spec, places, len(args) > 1); err != nil {
						return err
					}
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeSpecs,
	}
	atFlag(c, &at, "look for what it was")
	return c
}

func (a *app) printPlaces(spec alkfs.Spec, places []alkfs.Place, several bool) error {
	if several && !a.json {
		a.printf("%s:\n", quote(spec.String()))
	}
	for i, p := range places {
		has := map[alkfs.Presence]string{alkfs.Absent: "none", alkfs.Partial: "part", alkfs.Whole: "all"}[p.Has]
		if p.Err != "" {
			has = "?"
		}
		name := quote(p.Name)
		if i == 0 {
			name = "(this machine)"
		}
		if a.json {
			err := a.emit("spec", spec.String(), "here", i == 0, "peer", p.Key.String(), "name", p.Name, "has", has, "error", p.Err)
			if err != nil {
				return err
			}
			continue
		}
		line := fmt.Sprintf("%-4s %s", has, name)
		if p.Err != "" {
			line += " (" + p.Err + ")"
		}
		a.printf("%s\n", line)
	}
	return nil
}
