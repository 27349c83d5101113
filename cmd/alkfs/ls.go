package main

import (
	"errors"
	"io/fs"
	"os/user"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) lsCommand() *cobra.Command {
	var at string
	var long, recursive bool
	c := &cobra.Command{
		Use:   "ls [SPEC...]",
		Short: "List files",
		Example: `  alkfs ls
  alkfs ls -l :src
  alkfs ls -R --at "1h ago" /experiment
  alkfs ls --json work/main:docs`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{""}
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				l := lister{app: a, long: long, recursive: recursive, headings: recursive || len(args) > 1, owners: owners{make(map[uint32]string), make(map[uint32]string)}}
				for _, arg := range args {
					spec, err := parseSpec(arg, at)
					if err == nil {
						err = l.list(s, spec)
					}
					if err == nil {
						err = cmd.Context().Err()
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
	atFlag(c, &at, "list what was there")
	c.Flags().BoolVarP(&long, "long", "l", false, "with mode, links, owner, group, size and time")
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "directories with what is in them")
	return c
}

type lister struct {
	*app
	long, recursive, headings bool
	printed                   bool
	owners
}

func (l *lister) list(s *alkfs.Store, spec alkfs.Spec) error {
	v, err := s.View(spec)
	if err != nil {
		return err
	}
	st, err := v.Lstat(fsPath(spec))
	if err != nil {
		return err
	}
	if st.Mode().Type() == fs.ModeSymlink {
		if to, err := v.Stat(fsPath(spec)); err == nil && to.IsDir() {
			st = to
		}
	}
	if !st.IsDir() {
		return l.entry(v, fsPath(spec), st)
	}
	return l.dir(v, fsPath(spec))
}

func (l *lister) dir(v *alkfs.View, dir string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	entries, err := v.ReadDir(dir)
	if err != nil {
		return err
	}
	if l.headings && !l.json {
		if l.printed {
			l.printf("\n")
		}
		l.printf("%s:\n", quote(dir))
	}
	l.printed = true
	var subs []string
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return err
		}
		name := join(dir, e.Name())
		if err := l.entry(v, name, st); err != nil {
			return err
		}
		if e.IsDir() && l.recursive {
			subs = append(subs, name)
		}
	}
	for _, sub := range subs {
		if err := l.dir(v, sub); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

func (l *lister) entry(v *alkfs.View, path string, st fs.FileInfo) error {
	in := st.Sys().(alkfs.Inode)
	if l.json {
		return l.emit(fileFields(path, st)...)
	}
	name := quote(st.Name())
	if !l.long {
		l.printf("%s\n", name)
		return nil
	}
	if in.IsSymlink() {
		name += " -> " + quote(in.Target)
	}
	l.printf("%s %3d %-8s %-8s %12d %s %s\n", modeText(st.Mode()), in.Nlink, l.user(in.UID), l.group(in.GID),
		in.Size, humanTime(st.ModTime()), name)
	return nil
}

// fileFields are the JSON fields of a file.
func fileFields(path string, st fs.FileInfo) []any {
	in := st.Sys().(alkfs.Inode)
	fields := []any{
		"path", path, "name", st.Name(), "type", typeName(st.Mode()), "mode", octal(in.Mode), "size", in.Size,
		"mtime", jsonTime(st.ModTime()), "uid", in.UID, "gid", in.GID, "nlink", in.Nlink, "ino", uint64(in.Ino),
	}
	if in.IsRegular() {
		fields = append(fields, "hash", hashText(in))
	}
	if in.IsSymlink() {
		fields = append(fields, "target", in.Target)
	}
	return fields
}

func octal(mode uint32) string { return "0" + strconv.FormatUint(uint64(mode&0o7777), 8) }

// hashText is the hash of a file's content, "" when it is empty.
func hashText(in alkfs.Inode) string {
	if in.Hash.IsZero() {
		return ""
	}
	return in.Hash.String()
}

// owners are the names of users and groups by id, as far as they were looked up.
type owners struct{ users, groups map[uint32]string }

func (o owners) user(id uint32) string {
	return named(o.users, id, func(s string) (string, error) {
		u, err := user.LookupId(s)
		if err != nil {
			return "", err
		}
		return u.Username, nil
	})
}

func (o owners) group(id uint32) string {
	return named(o.groups, id, func(s string) (string, error) {
		g, err := user.LookupGroupId(s)
		if err != nil {
			return "", err
		}
		return g.Name, nil
	})
}

func named(known map[uint32]string, id uint32, lookup func(string) (string, error)) string {
	if name, ok := known[id]; ok {
		return name
	}
	number := strconv.FormatUint(uint64(id), 10)
	name, err := lookup(number)
	if err != nil {
		name = number
	}
	known[id] = name
	return name
}
