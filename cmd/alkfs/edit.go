package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) rmCommand() *cobra.Command {
	var recursive, force bool
	c := &cobra.Command{
		Use:   "rm [-r] SPEC...",
		Short: "Remove files",
		Long: `Removes files, and with -r directories with all in them, which is asked about on a
terminal and needs --force elsewhere. What is removed stays in history: alkfs
restore brings it back.`,
		Example: `  alkfs rm :old.txt
  alkfs rm -r --force /experiment:build`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				for _, arg := range args {
					if err := a.rm(cmd.Context(), s, arg, recursive, force); err != nil {
						return err
					}
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeSpecs,
	}
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "directories with what is in them")
	forceFlag(c, &force)
	return c
}

func (a *app) rm(ctx context.Context, s *alkfs.Store, arg string, recursive, force bool) error {
	spec, err := parseSpec(arg, "")
	if err != nil {
		return err
	}
	v, err := s.View(spec)
	if err != nil {
		return err
	}
	name := fsPath(spec)
	st, err := v.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) && force {
		return nil
	}
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return v.Remove(name)
	}
	if !recursive {
		return &fs.PathError{Op: "rm", Path: name, Err: syscall.EISDIR}
	}
	if err := a.confirm(force, fmt.Sprintf("Remove %s and everything in it?", quote(spec.String()))); err != nil {
		return err
	}
	return v.RemoveAll(ctx, name)
}

func (a *app) mkdirCommand() *cobra.Command {
	var parents bool
	c := &cobra.Command{
		Use:     "mkdir [-p] SPEC...",
		Short:   "Make directories",
		Example: `  alkfs mkdir -p /experiment:src/deep/er`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				for _, arg := range args {
					spec, err := parseSpec(arg, "")
					if err != nil {
						return err
					}
					v, err := s.View(spec)
					if err != nil {
						return err
					}
					if parents {
						err = v.MkdirAll(fsPath(spec), 0o755)
					} else {
						err = v.Mkdir(fsPath(spec), 0o755)
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeSpecs,
	}
	c.Flags().BoolVarP(&parents, "parents", "p", false, "also the directories it is in; no error if it is there")
	return c
}

func (a *app) mvCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "mv SPEC... SPEC",
		Short: "Move or rename files",
		Long: `Renames within a branch, which is one step at any size. To another branch it
copies, sharing the content, and then removes.`,
		Example: `  alkfs mv :draft.txt :final.txt
  alkfs mv :a.txt :b.txt :docs`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pairs(cmd.Context(), args, "", func(ctx context.Context, src, dst *alkfs.View, from, to string) error {
				if src.Spec() == dst.Spec() {
					return src.Rename(from, to)
				}
				if err := src.Copy(ctx, from, dst, to, alkfs.CopyOptions{Recursive: true, Preserve: true}); err != nil {
					return err
				}
				return src.RemoveAll(ctx, from)
			})
		},
		ValidArgsFunction: a.completeSpecs,
	}
}

func (a *app) cpCommand() *cobra.Command {
	var o alkfs.CopyOptions
	var at string
	c := &cobra.Command{
		Use:   "cp [-r] SPEC... SPEC",
		Short: "Copy files within the store; their content is shared, not copied",
		Example: `  alkfs cp :notes.txt :notes.bak
  alkfs cp -r :src /experiment:src
  alkfs cp --at yesterday :notes.txt :notes.old`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pairs(cmd.Context(), args, at, func(ctx context.Context, src, dst *alkfs.View, from, to string) error {
				return src.Copy(ctx, from, dst, to, o)
			})
		},
		ValidArgsFunction: a.completeSpecs,
	}
	atFlag(c, &at, "copy what was there")
	c.Flags().BoolVarP(&o.Recursive, "recursive", "r", false, "directories with what is in them")
	c.Flags().BoolVarP(&o.Preserve, "preserve", "p", false, "keep times, owners and extended attributes")
	return c
}

// pairs calls f for each source with its destination: the last SPEC, or its
// place in it if that is a directory.
func (a *app) pairs(ctx context.Context, args []string, at string, f func(ctx context.Context, src, dst *alkfs.View, from, to string) error) error {
	specs := make([]alkfs.Spec, len(args))
	for i, arg := range args {
		var err error
		if i == len(args)-1 {
			at = ""
		}
		if specs[i], err = parseSpec(arg, at); err != nil {
			return err
		}
	}
	last := specs[len(specs)-1]
	return a.with(ctx, writing, func(s *alkfs.Store) error {
		dst, err := s.View(last)
		if err != nil {
			return err
		}
		into, err := isDir(dst, fsPath(last))
		if err != nil {
			return err
		}
		if len(specs) > 2 && !into {
			return usagef("%s is not a directory, and several files need one", quote(last.String()))
		}
		for _, spec := range specs[:len(specs)-1] {
			src, err := s.View(spec)
			if err != nil {
				return err
			}
			from, to := fsPath(spec), fsPath(last)
			if into && from != "." {
				to = join(to, path.Base(from))
			}
			if err := f(ctx, src, dst, from, to); err != nil {
				return err
			}
		}
		return nil
	})
}
