package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) syncBranchesCommand() *cobra.Command {
	var all, only, drop bool
	c := &cobra.Command{
		Use: "branches BUCKET [PATTERN...]", Short: "Show or set which branches of a bucket this machine keeps",
		Long: `Shows which branches of a shared bucket are on this machine, or adds patterns to those
that say which are: the names of branches, in which * stands for any characters, ? for
one and [a-z] for one of these. Besides those that match, the branches are kept that
were made on this machine, and those that a kept one descends from. Of all others there is
a line for each change, to know that nothing is missing.

At first all are kept. --only replaces the patterns, --drop takes some away, --all goes
back to all. What comes to be kept is fetched from the others, and is shown once all of it
is here. What is not kept any more leaves once another machine is known to have it; a
branch that is mounted here, pinned, or being written does not. It is a setting of this
machine alone.`,
		Example: `  alkfs sync branches work
  alkfs sync branches work --only main 'agent-7*'
  alkfs sync branches work agent-81
  alkfs sync branches work --drop agent-81
  alkfs sync branches work --all --json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			bucket, patterns := args[0], args[1:]
			switch {
			case all && len(patterns) > 0, all && only, all && drop, only && drop:
				return usagef("give patterns, with --only or --drop or neither, or --all")
			case (only || drop) && len(patterns) == 0:
				return usagef("name at least one pattern")
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				k, err := s.KeptBranches(bucket)
				if err != nil {
					return err
				}
				switch {
				case drop && k.All:
					return errors.New("all branches are kept: --only keeps just those that match")
				case drop:
					for _, p := range patterns {
						if !slices.Contains(k.Patterns, p) {
							return fmt.Errorf("%s is none of the patterns: `alkfs sync branches %s` lists them", quote(p), shellWord(bucket))
						}
					}
					patterns = slices.DeleteFunc(slices.Clone(k.Patterns), func(p string) bool { return slices.Contains(patterns, p) })
				case len(patterns) > 0 && !only && !k.All:
					for _, p := range k.Patterns {
						if !slices.Contains(patterns, p) {
							patterns = append(patterns, p)
						}
					}
				case len(patterns) > 0 && !only:
					a.note("all branches of %s are kept: --only keeps just those that match", quote(bucket))
					patterns = nil
				}
				if all || len(patterns) > 0 || drop {
					if err := s.KeepBranches(bucket, all, patterns); err != nil {
						return err
					}
					if k, err = s.KeptBranches(bucket); err != nil {
						return err
					}
				}
				return a.printKept(s, bucket, k)
			})
		},
		ValidArgsFunction: a.completeKept,
	}
	f := c.Flags()
	f.BoolVar(&all, "all", false, "keep all branches")
	f.BoolVar(&only, "only", false, "keep those alone that match the patterns given")
	f.BoolVar(&drop, "drop", false, "take the patterns given away")
	return c
}

func (a *app) printKept(s *alkfs.Store, bucket string, k alkfs.KeptBranches) error {
	if !a.json {
		if k.All {
			a.printf("all branches are kept\n")
		} else {
			a.printf("kept:")
			for _, p := range k.Patterns {
				a.printf(" %s", quote(p))
			}
			a.printf("\n")
		}
	}
	busy := false
	for _, b := range k.Branches {
		busy = busy || b.Keep == alkfs.BranchComing || b.Keep == alkfs.BranchLeaving
		if a.json {
			err := a.emit("bucket", bucket, "branch", b.Name, "state", b.Keep.String(), "for", b.For,
				"changes", b.Changes, "stubs", b.Stubs, "waits", append([]alkfs.BranchWait{}, k.Waits[b.Name]...),
				"all", k.All, "patterns", append([]string{}, k.Patterns...))
			if err != nil {
				return err
			}
			continue
		}
		a.printf("  %-24s %s", quote(b.Name), b.Keep)
		switch {
		case b.Keep.Wanted() && b.Stubs > 0:
			a.printf(": %d of %d changes are here", b.Changes, b.Changes+b.Stubs)
		case b.Keep == alkfs.BranchLeaving:
			a.printf(": %s", waitsText(k.Waits[b.Name]))
		}
		if b.For != "" {
			a.printf(" (for %s)", quote(b.For))
		}
		a.printf("\n")
	}
	if _, pid, err := s.SyncStatus(); busy && !a.json && err == nil && pid == 0 {
		a.note("nothing synchronises this store: %s serve --sync :4747", a.selfWithStore())
	}
	return nil
}

// waitsText says what a branch that is leaving waits for.
func waitsText(waits []alkfs.BranchWait) string {
	if len(waits) == 0 {
		return "about to go"
	}
	var all []string
	for _, w := range waits {
		if w.Member == "" {
			all = append(all, w.Why)
			continue
		}
		all = append(all, quote(w.Member)+" "+w.Why)
	}
	return "waits, as " + strings.Join(all, "; ")
}

// completeKept completes a bucket, then names of its branches.
func (a *app) completeKept(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return a.completeBuckets(cmd, args, word)
	}
	list, directive := a.look(func(s *alkfs.Store) []cobra.Completion { return branchNames(s, args[0], "", word) })
	return list, directive &^ cobra.ShellCompDirectiveNoSpace
}
