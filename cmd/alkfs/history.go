package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) logCommand() *cobra.Command {
	var at string
	var limit int
	c := &cobra.Command{
		Use:   "log [SPEC]",
		Short: "Show the versions of a file or directory, newest first",
		Example: `  alkfs log :notes.txt
  alkfs log -n 20 /experiment`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(first(args), at)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Log(spec, limit)
				if err != nil {
					return err
				}
				for _, e := range list {
					if a.json {
						if err := a.emit(logFields(s, e)...); err != nil {
							return err
						}
						continue
					}
					a.printf("%s  %-10s %-24s %s\n", humanTime(e.Stamp.Time()), quote(s.BranchName(e.Branch)), logText(s, e), quote(pathOrRoot(e.Path)))
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeSpecs),
	}
	atFlag(c, &at, "as seen then")
	c.Flags().IntVarP(&limit, "limit", "n", 0, "show at most this many versions; 0: all")
	return c
}

func pathOrRoot(path string) string {
	if path == "" {
		return "."
	}
	return path
}

func logText(s *alkfs.Store, e alkfs.LogEntry) string {
	var what []string
	add := func(yes bool, text string) {
		if yes {
			what = append(what, text)
		}
	}
	if e.Merge != nil {
		text := "merged " + quote(s.BranchName(e.Merge.Src))
		if e.Merge.Message != "" {
			text += " (" + quote(e.Merge.Message) + ")"
		}
		what = append(what, text)
	}
	add(e.Created, "created")
	add(e.Deleted, "deleted")
	add(e.RenamedFrom != "", "renamed from "+quote(e.RenamedFrom))
	add(e.Content && !e.Created, "content")
	add(e.Attributes && !e.Created, "attributes "+octal(e.Inode.Mode))
	add(e.Xattrs && !e.Created, "xattrs")
	if e.Inode.IsRegular() && (e.Created || e.Content) {
		what = append(what, bytesText(e.Inode.Size))
	}
	return strings.Join(what, ", ")
}

func logFields(s *alkfs.Store, e alkfs.LogEntry) []any {
	fields := []any{
		"time", jsonTime(e.Stamp.Time()), "branch", s.BranchName(e.Branch), "path", e.Path,
		"created", e.Created, "deleted", e.Deleted, "content", e.Content, "attributes", e.Attributes, "xattrs", e.Xattrs,
		"type", typeName(e.Inode.FileMode()), "mode", octal(e.Inode.Mode), "size", e.Inode.Size, "hash", hashText(e.Inode),
	}
	if e.RenamedFrom != "" {
		fields = append(fields, "renamed_from", e.RenamedFrom)
	}
	if m := e.Merge; m != nil {
		fields = append(fields, "merge", object{"id", m.ID, "from", s.BranchName(m.Src), "into", s.BranchName(m.Dst), "message", m.Message})
	}
	return fields
}

func (a *app) mergeCommand() *cobra.Command {
	var o alkfs.MergeOptions
	var ours, theirs, both bool
	var at string
	c := &cobra.Command{
		Use:   "merge SRC DST",
		Short: "Bring what was changed in one branch into another",
		Long: `Brings what was changed in SRC, since it and DST last were the same, into DST, in
one step. Where both changed the same thing differently there is a conflict:
each is listed with both sides, nothing is changed, and the exit status is 4,
until a flag decides: --ours keeps DST's side, --theirs takes SRC's, --both keeps
DST's and puts SRC's beside it. Texts that both edited in different places merge
line by line, unless --no-lines.`,
		Example: `  alkfs merge experiment main --dry-run
  alkfs merge experiment main -m "the parser rewrite"
  alkfs merge work/fix work/main --theirs`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := alkfs.ParseBranchSpec(args[0])
			if err != nil {
				return err
			}
			dst, err := alkfs.ParseBranchSpec(args[1])
			if err != nil {
				return err
			}
			src.At = at
			for _, choice := range []struct {
				on bool
				st alkfs.MergeStrategy
			}{{ours, alkfs.Ours}, {theirs, alkfs.Theirs}, {both, alkfs.Both}} {
				if choice.on {
					o.Strategy = choice.st
				}
			}
			o.Lines = !o.Lines // the flag is --no-lines
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				r, err := s.Merge(src, dst, o)
				if err != nil && !errors.Is(err, alkfs.ErrConflict) {
					return err
				}
				return a.merged(src, dst, o, r, err)
			})
		},
		ValidArgsFunction: a.completeThen(2, a.completeBranches),
	}
	atFlag(c, &at, "merge what SRC held")
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "only say what would be done")
	c.Flags().BoolVar(&ours, "ours", false, "in a conflict keep what DST has")
	c.Flags().BoolVar(&theirs, "theirs", false, "in a conflict take what SRC has")
	c.Flags().BoolVar(&both, "both", false, "in a conflict keep both, SRC's as NAME.BRANCH")
	c.Flags().BoolVar(&o.Lines, "no-lines", false, "do not merge texts line by line")
	c.Flags().StringVarP(&o.Message, "message", "m", "", "kept with the merge, and shown by log")
	c.MarkFlagsMutuallyExclusive("ours", "theirs", "both")
	return c
}

// merged prints what a merge did. err is nil or ErrConflict.
func (a *app) merged(src, dst alkfs.Spec, o alkfs.MergeOptions, r alkfs.MergeResult, err error) error {
	undecided := len(r.Conflicts) > 0 && o.Strategy == alkfs.Ask
	applied := r.Applied
	if a.json {
		changes, conflicts := make([]any, 0, len(applied)), make([]any, 0, len(r.Conflicts))
		for _, c := range applied {
			changes = append(changes, object(changeFields(c)))
		}
		for _, c := range r.Conflicts {
			conflicts = append(conflicts, object(conflictFields(c)))
		}
		texts := r.Texts
		if texts == nil {
			texts = []string{}
		}
		e := a.emit("from", src.String(), "into", dst.String(), "dry_run", o.DryRun, "applied", !o.DryRun && err == nil,
			"id", r.ID, "changes", changes, "conflicts", conflicts, "merged_texts", texts)
		if e != nil {
			return e
		}
	} else {
		for _, c := range applied {
			a.printf("%s\n", changeLine(c))
		}
		for _, p := range r.Texts {
			a.printf("merged line by line: %s\n", quote(p))
		}
		for _, c := range r.Conflicts {
			a.printf("CONFLICT %s: %s\n", c.Kind, quote(c.Path()))
			a.printf("  in %s: %s\n", dst, sideText(c.OurPath, c.Ours))
			a.printf("  in %s: %s\n", src, sideText(c.TheirPath, c.Theirs))
		}
	}
	if undecided {
		if a.json {
			return silentError{statusConflict}
		}
		return withHint(fmt.Errorf("%d conflicts, nothing was changed (%w)", len(r.Conflicts), alkfs.ErrConflict),
			"decide with --ours (keep %s), --theirs (take %s) or --both (keep both)", dst, src)
	}
	if err != nil {
		return err
	}
	if !a.json {
		verb := "merged"
		if o.DryRun {
			verb = "would merge"
		}
		a.printf("%s %d changes from %s into %s", verb, len(applied), src, dst)
		if n := len(r.Conflicts); n > 0 {
			a.printf(", %d conflicts decided", n)
		}
		a.printf("\n")
	}
	return nil
}

func sideText(path string, in *alkfs.Inode) string {
	if in == nil {
		return "not there"
	}
	text := fmt.Sprintf("%s %s %s", typeName(in.FileMode()), octal(in.Mode), quote(pathOrRoot(path)))
	if in.IsRegular() {
		text += fmt.Sprintf(", %s, modified %s", bytesText(in.Size), humanTime(in.ModTime()))
	}
	return text
}

func conflictFields(c alkfs.Conflict) []any {
	side := func(path string, in *alkfs.Inode) any {
		if in == nil {
			return nil
		}
		return object{"path", path, "type", typeName(in.FileMode()), "mode", octal(in.Mode), "size", in.Size, "hash", hashText(*in), "mtime", jsonTime(in.ModTime())}
	}
	return []any{"kind", c.Kind.String(), "path", c.Path(),
		"base", side(c.BasePath, c.Base), "ours", side(c.OurPath, c.Ours), "theirs", side(c.TheirPath, c.Theirs)}
}

func (a *app) restoreCommand() *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:   "restore SPEC --at TIME|SNAPSHOT",
		Short: "Make a file, directory or branch as it was",
		Long: `Makes what SPEC names as it was at --at, by new versions on top of the old, so
that it can be undone by another restore. What did not exist then is removed.`,
		Example: `  alkfs restore :notes.txt --at "10m ago"
  alkfs restore /experiment --at before-upgrade`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if at == "" {
				return usagef("say as of when: --at TIME or --at SNAPSHOT")
			}
			spec, err := parseSpec(args[0], at)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				changes, err := s.Restore(spec)
				if err != nil {
					return err
				}
				return a.printChanges(changes)
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeSpecs),
	}
	atFlag(c, &at, "as of when")
	return c
}
