package main

import (
	"fmt"
	"io"
	"time"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs"
)

func (a *app) conflictsCommand() *cobra.Command {
	return group("conflicts", "What machines changed at the same time in different ways",
		`  alkfs conflicts ls work
  alkfs conflicts show work:notes.txt
  alkfs conflicts resolve work:notes.txt --other 1`,
		a.conflictsLsCommand(), a.conflictsShowCommand(), a.conflictsResolveCommand())
}

func (a *app) conflictsLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls BUCKET", Short: "List what is not settled", Args: cobra.ExactArgs(1),
		Long: `Lists what members of a shared bucket changed at the same time in different ways.
Every machine shows the same side, the later one; the others are kept until the
conflict is settled, or the thing is changed by somebody who has seen them.`,
		Example: "  alkfs conflicts ls work\n  alkfs conflicts ls work --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.SyncConflicts(args[0])
				if err != nil {
					return err
				}
				if len(list) == 0 {
					return nil
				}
				by, err := s.Authors(args[0])
				if err != nil {
					return err
				}
				for _, c := range list {
					if err := a.printConflict(s, args[0], c, by); err != nil {
						return err
					}
				}
				return nil
			})
		},
		ValidArgsFunction: completeEach(a.completeBuckets),
	}
}

func (a *app) printConflict(s *alkfs.Store, bucket string, c alkfs.SyncConflict, by authors) error {
	where := bucket + "/" + s.BranchName(c.Branch) + ":" + c.Path
	if a.json {
		others := make([]any, 0, len(c.Others))
		for _, o := range c.Others {
			others = append(others, sideObject(o, by))
		}
		return a.emit("kind", c.Kind.String(), "spec", where, "name", c.Name, "shown", sideObject(c.Shown, by), "others", others)
	}
	a.printf("%s: %s\n  shown    %s\n", quote(where), c.Kind, versionText(c, c.Shown, by))
	for i, o := range c.Others {
		a.printf("  other %d  %s\n", i+1, versionText(c, o, by))
	}
	return nil
}

// authors says which machine made a version.
type authors = func(alkfs.VersionID) alkfs.Author

func sideObject(o alkfs.ConflictSide, by authors) object {
	who := by(o.ID)
	return object{"time", o.ID.Stamp.Time().UTC().Format(time.RFC3339Nano), "node", fmt.Sprintf("%x", o.ID.Node[:]),
		"peer", who.Key.String(), "peer_name", who.Name, "here", who.Here, "gone", o.Gone,
		"hash", o.Hash.String(), "size", o.Size, "mode", fmt.Sprintf("%o", o.Mode), "uid", o.UID, "gid", o.GID,
		"target", o.Target, "value", []byte(o.Value), "copy", o.Copy}
}

// versionText says when who made a thing what.
func versionText(c alkfs.SyncConflict, o alkfs.ConflictSide, by authors) string {
	who := by(o.ID)
	name := quote(who.Name)
	if who.Here {
		name = "this machine"
	}
	text := fmt.Sprintf("%s by %s: %s", o.ID.Stamp.Time().Format(time.DateTime), name, versionSays(c, o))
	if o.Copy != "" {
		text += ", as " + quote(o.Copy)
	}
	return text
}

func versionSays(c alkfs.SyncConflict, o alkfs.ConflictSide) string {
	attributes := c.Kind == alkfs.AttributeConflict
	switch kind := o.Mode & unix.S_IFMT; {
	case attributes && c.Name != "" && o.Gone:
		return quote(c.Name) + " removed"
	case attributes && c.Name != "":
		return fmt.Sprintf("%s is %q", quote(c.Name), o.Value)
	case o.Gone:
		return "deleted"
	case attributes:
		return fmt.Sprintf("mode %o, owner %d:%d", o.Mode&0o7777, o.UID, o.GID)
	case kind == unix.S_IFDIR:
		return "a directory"
	case kind == unix.S_IFLNK:
		return "a link to " + quote(o.Target)
	}
	return fmt.Sprintf("%s, %.12s", bytesText(o.Size), o.Hash)
}

func (a *app) conflictsShowCommand() *cobra.Command {
	var side int
	c := &cobra.Command{
		Use: "show SPEC", Short: "Compare the sides of a path", Args: cobra.ExactArgs(1),
		Long: `Shows the conflicts of a path as "alkfs conflicts ls" does and, where they are about
contents, how each other side differs from what shows. With --side N it prints the
content of the side N, 0 for what shows, and nothing else.`,
		Example: `  alkfs conflicts show work:notes.txt
  alkfs conflicts show work:notes.txt --side 1 > theirs.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(args[0], "")
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := conflictsAt(s, args[0], spec)
				if err != nil {
					return err
				}
				if cmd.Flags().Changed("side") {
					return a.printSide(s, args[0], list, side)
				}
				by, err := s.Authors(spec.Bucket)
				if err != nil {
					return err
				}
				for _, c := range list {
					if err := a.printConflict(s, spec.Bucket, c, by); err != nil {
						return err
					}
					if err := a.compareSides(s, c); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.ValidArgsFunction = completeEach(a.completeSpecs)
	c.Flags().IntVar(&side, "side", 0, "print the content of this side; 0 is what shows")
	return c
}

// conflictsAt returns the conflicts of a path, of which there is one at least.
func conflictsAt(s *alkfs.Store, arg string, spec alkfs.Spec) (at []alkfs.SyncConflict, err error) {
	v, err := s.View(spec)
	if err != nil {
		return nil, err
	}
	list, err := s.SyncConflicts(spec.Bucket)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		if c.Path == spec.Path && c.Branch == v.Tree().Branch().ID {
			at = append(at, c)
		}
	}
	if len(at) == 0 {
		return nil, fmt.Errorf("%s has no conflict: see `alkfs conflicts ls %s`", quote(arg), shellWord(spec.Bucket))
	}
	return at, nil
}

func hasContent(c alkfs.SyncConflict, o alkfs.ConflictSide) bool {
	return c.Kind != alkfs.AttributeConflict && !o.Gone && o.Mode&unix.S_IFMT == unix.S_IFREG
}

// printSide prints the content of a side, of the first conflict in which that has one.
func (a *app) printSide(s *alkfs.Store, arg string, list []alkfs.SyncConflict, n int) error {
	for _, c := range list {
		sides := append([]alkfs.ConflictSide{c.Shown}, c.Others...)
		if n < 0 || n >= len(sides) || !hasContent(c, sides[n]) {
			continue
		}
		r, err := s.OpenConflictSide(a.ctx, sides[n])
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(a.out, r)
		return err
	}
	return fmt.Errorf("%s has no side %d with content: `alkfs conflicts show %s` shows what there is", quote(arg), n, shellWord(arg))
}

// compareSides prints how the other sides of a conflict differ in content from what shows.
func (a *app) compareSides(s *alkfs.Store, c alkfs.SyncConflict) error {
	if a.json || !hasContent(c, c.Shown) {
		return nil
	}
	shown, text, err := a.textOf(s, c.Shown)
	if err != nil {
		return err
	}
	for i, o := range c.Others {
		if !hasContent(c, o) {
			continue
		}
		other, alsoText, err := a.textOf(s, o)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("other %d", i+1)
		if !text || !alsoText {
			a.printf("Binary files shown and %s differ\n", name)
			continue
		}
		a.printf("%s", udiff.Unified("shown", name, shown, other))
	}
	return nil
}

// textOf returns the content of a side, and false where it is not text.
func (a *app) textOf(s *alkfs.Store, o alkfs.ConflictSide) (string, bool, error) {
	if o.Size > textMax {
		return "", false, nil
	}
	r, err := s.OpenConflictSide(a.ctx, o)
	if err != nil {
		return "", false, err
	}
	defer r.Close()
	p, err := io.ReadAll(r)
	return string(p), isText(p), err
}

func (a *app) conflictsResolveCommand() *cobra.Command {
	var other int
	var both bool
	c := &cobra.Command{
		Use: "resolve SPEC", Short: "Settle the conflicts of a path", Args: cobra.ExactArgs(1),
		Long: `Settles every conflict of the path: what shows stays, or with --other N the side N
of "alkfs conflicts ls" takes its place, or with --both the others are put beside
it. The other machines hear of it.`,
		Example: "  alkfs conflicts resolve work:notes.txt\n  alkfs conflicts resolve work:notes.txt --other 1",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(args[0], "")
			if err != nil {
				return err
			}
			keep := alkfs.KeepShown
			switch {
			case both && other != 0:
				return usagef("--other and --both: one of them is meant")
			case both:
				keep = alkfs.KeepBoth
			case other != 0:
				keep = alkfs.KeepOther
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				list, err := conflictsAt(s, args[0], spec)
				if err != nil {
					return err
				}
				for _, c := range list {
					switch {
					case both && c.Kind == alkfs.AttributeConflict:
						return fmt.Errorf("%s: a mode, an owner and an extended attribute have one value: leave out --both, or name a side by --other", quote(args[0]))
					case other < 0 || other > len(c.Others):
						return fmt.Errorf("%s has no side %d: `alkfs conflicts ls %s` counts them", quote(args[0]), other, shellWord(spec.Bucket))
					}
					if err := s.ResolveSyncConflict(c, keep, other-1); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.ValidArgsFunction = completeEach(a.completeSpecs)
	c.Flags().IntVar(&other, "other", 0, "the side to show instead, counted from 1")
	c.Flags().BoolVar(&both, "both", false, "keep all sides, beside each other")
	return c
}
