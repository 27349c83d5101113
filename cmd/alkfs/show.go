package main

import (
	"context"
	"io"
	"io/fs"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) treeCommand() *cobra.Command {
	var at string
	var depth int
	c := &cobra.Command{
		Use:   "tree [SPEC]",
		Short: "Show a directory and all below it as a tree",
		Example: `  alkfs tree
  alkfs tree --depth 2 /experiment:src`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(first(args), at)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				v, err := s.View(spec)
				if err != nil {
					return err
				}
				t := treePrinter{app: a, v: v, depth: depth}
				if !a.json {
					a.printf("%s\n", quote(spec.String()))
				}
				if err := t.dir(fsPath(spec), "", 1); err != nil {
					return err
				}
				if !a.json {
					a.printf("\n%d directories, %d files\n", t.dirs, t.files)
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeSpecs),
	}
	atFlag(c, &at, "show what was there")
	c.Flags().IntVar(&depth, "depth", 0, "levels to show; 0: all")
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

type treePrinter struct {
	*app
	v           *alkfs.View
	depth       int
	dirs, files int
}

func (t *treePrinter) dir(dir, indent string, level int) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	entries, err := t.v.ReadDir(dir)
	if err != nil {
		return err
	}
	for i, e := range entries {
		st, err := e.Info()
		if err != nil {
			return err
		}
		path := join(dir, e.Name())
		if t.json {
			if err := t.emit(fileFields(path, st)...); err != nil {
				return err
			}
		} else {
			branch, name := "├── ", quote(e.Name())
			if i == len(entries)-1 {
				branch = "└── "
			}
			if in := st.Sys().(alkfs.Inode); in.IsSymlink() {
				name += " -> " + quote(in.Target)
			}
			t.printf("%s%s%s\n", indent, branch, name)
		}
		if !e.IsDir() {
			t.files++
			continue
		}
		t.dirs++
		if t.depth > 0 && level >= t.depth {
			continue
		}
		further := indent + "│   "
		if i == len(entries)-1 {
			further = indent + "    "
		}
		if err := t.dir(path, further, level+1); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) catCommand() *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:   "cat SPEC...",
		Short: "Print files",
		Example: `  alkfs cat :README.md
  alkfs cat --at "10m ago" :notes.txt`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSpec(cmd.Context(), args, at, a.cat)
		},
		ValidArgsFunction: a.completeSpecs,
	}
	atFlag(c, &at, "print what they were")
	return c
}

// eachSpec opens the store for reading and calls f for each of args in turn.
func (a *app) eachSpec(ctx context.Context, args []string, at string, f func(*alkfs.Store, alkfs.Spec) error) error {
	return a.with(ctx, reading, func(s *alkfs.Store) error {
		for _, arg := range args {
			spec, err := parseSpec(arg, at)
			if err != nil {
				return err
			}
			if err := f(s, spec); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *app) cat(s *alkfs.Store, spec alkfs.Spec) error {
	v, err := s.View(spec)
	if err != nil {
		return err
	}
	f, err := v.OpenContext(a.ctx, fsPath(spec))
	if err != nil {
		return err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.IsDir() {
		return withHint(&fs.PathError{Op: "cat", Path: fsPath(spec), Err: fs.ErrInvalid}, "it is a directory: `alkfs ls` lists it")
	}
	_, err = io.Copy(a.out, f)
	return err
}

func (a *app) statCommand() *cobra.Command {
	var at string
	c := &cobra.Command{
		Use:   "stat SPEC...",
		Short: "Show everything about files: times, links, hash",
		Example: `  alkfs stat :README.md
  alkfs stat --json :README.md | jq .hash`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachSpec(cmd.Context(), args, at, a.stat)
		},
		ValidArgsFunction: a.completeSpecs,
	}
	atFlag(c, &at, "show what they were")
	return c
}

func (a *app) stat(s *alkfs.Store, spec alkfs.Spec) error {
	v, err := s.View(spec)
	if err != nil {
		return err
	}
	st, err := v.Lstat(fsPath(spec))
	if err != nil {
		return err
	}
	xattrs, err := v.Xattrs(fsPath(spec))
	if err != nil {
		return err
	}
	in := st.Sys().(alkfs.Inode)
	changed := alkfs.StampTime(in.Stamp)
	if a.json {
		names := make([]any, 0, len(xattrs))
		for _, x := range xattrs {
			names = append(names, object{"name", x.Name, "value", string(x.Value)})
		}
		return a.emit(append(fileFields(fsPath(spec), st),
			"atime", jsonTime(nsTime(in.Atime)), "ctime", jsonTime(nsTime(in.Ctime)), "btime", jsonTime(nsTime(in.Btime)),
			"rdev", in.Rdev, "version", jsonTime(changed), "branch", s.BranchName(in.Branch), "xattrs", names)...)
	}
	name := quote(spec.String())
	if in.IsSymlink() {
		name += " -> " + quote(in.Target)
	}
	a.printf("%s\n", name)
	a.printf("  type     %s\n  size     %d\n  mode     %s %s\n  owner    %d:%d\n  inode    %d, %d links\n",
		typeName(st.Mode()), in.Size, octal(in.Mode), modeText(st.Mode()), in.UID, in.GID, in.Ino, in.Nlink)
	if h := hashText(in); h != "" {
		a.printf("  hash     %s\n", h)
	}
	a.printf("  modified %s\n  changed  %s\n  created  %s\n  version  of %s, in branch %s\n",
		humanTime(st.ModTime()), humanTime(nsTime(in.Ctime)), humanTime(nsTime(in.Btime)), humanTime(changed), s.BranchName(in.Branch))
	for _, x := range xattrs {
		a.printf("  xattr    %s = %s\n", quote(x.Name), quote(string(x.Value)))
	}
	return nil
}
