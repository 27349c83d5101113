package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func nsTime(ns int64) time.Time { return time.Unix(0, ns) }

func (a *app) putCommand() *cobra.Command {
	var o alkfs.PutOptions
	c := &cobra.Command{
		Use:   "put [-r] FILE... SPEC",
		Short: "Copy files of this machine into a branch",
		Long: `Copies files, and with -r directories, into a branch: contents with their holes,
modes, times, symlinks and hard links. If SPEC is an existing directory they go
into it; otherwise the one FILE becomes SPEC. FILE "-" is standard input, and
DIR/. stands for what is in DIR. Each file appears whole; what was put before an
interruption stays.`,
		Example: `  alkfs put notes.txt :
  alkfs put -r ./project /experiment:
  alkfs put -r ./project/. :
  echo hello | alkfs put - :hello.txt`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(args[len(args)-1], "")
			if err != nil {
				return err
			}
			for _, host := range args[:len(args)-1] {
				if _, err := os.Lstat(host); host != "-" && err != nil {
					return err
				}
			}
			return a.with(cmd.Context(), making, func(s *alkfs.Store) error {
				return a.put(cmd.Context(), s, args[:len(args)-1], spec, o)
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 0 || !strings.ContainsAny(word, ":/") {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeSpecs(cmd, args, word)
		},
	}
	c.Flags().BoolVarP(&o.Recursive, "recursive", "r", false, "take directories with what is in them")
	c.Flags().BoolVar(&o.Owners, "owners", false, "keep owner and group instead of yours")
	c.Flags().BoolVar(&o.Sync, "sync", false, "return when all of it is on the disk, proof against a power cut")
	return c
}

func (a *app) put(ctx context.Context, s *alkfs.Store, hosts []string, spec alkfs.Spec, o alkfs.PutOptions) error {
	v, err := s.View(spec)
	if err != nil {
		return err
	}
	into, err := isDir(v, fsPath(spec))
	if err != nil {
		return err
	}
	if len(hosts) > 1 && !into {
		return usagef("%s is not a directory, and several files need one", quote(spec.String()))
	}
	b := a.newBar("put", -1, true)
	o.Progress = b.transfer()
	var total alkfs.Progress
	for _, host := range hosts {
		to := fsPath(spec)
		if into {
			if to, err = nameIn(to, host); err != nil {
				b.done()
				return err
			}
		}
		p, err := a.putOne(ctx, v, host, to, o)
		total.Files, total.Dirs, total.Bytes = total.Files+p.Files, total.Dirs+p.Dirs, total.Bytes+p.Bytes
		if err != nil {
			b.done()
			return err
		}
	}
	b.done()
	return a.transferred("put", total)
}

func (a *app) putOne(ctx context.Context, v *alkfs.View, host, to string, o alkfs.PutOptions) (alkfs.Progress, error) {
	if host != "-" {
		return v.Put(ctx, host, to, o)
	}
	if to == "." || strings.HasSuffix(to, "/-") || to == "-" {
		return alkfs.Progress{}, usagef("standard input needs a name in the store: alkfs put - :NAME")
	}
	n, err := v.WriteFrom(ctx, to, a.input(), 0o644)
	return alkfs.Progress{Files: 1, Bytes: n}, err
}

// nameIn returns where the host file goes in an existing directory.
func nameIn(dir, host string) (string, error) {
	if host == "-" {
		return join(dir, "-"), nil
	}
	base := filepath.Base(host)
	if strings.HasSuffix(host, "/.") || host == "." {
		return dir, nil
	}
	if base == ".." || base == "/" {
		full, err := filepath.Abs(host)
		if err != nil {
			return "", err
		}
		if base = filepath.Base(full); base == "/" {
			return dir, nil
		}
	}
	return join(dir, base), nil
}

// isDir reports whether name is an existing directory of v; a missing name is
// none.
func isDir(v *alkfs.View, name string) (bool, error) {
	st, err := v.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.IsDir(), err
}

func (a *app) transferred(what string, p alkfs.Progress) error {
	if a.json {
		return a.emit("files", p.Files, "dirs", p.Dirs, "bytes", p.Bytes)
	}
	if a.verbose || a.terminal() {
		a.note("%s: %d files, %d directories, %s", what, p.Files, p.Dirs, bytesText(p.Bytes))
	}
	return nil
}

func (a *app) getCommand() *cobra.Command {
	var o alkfs.GetOptions
	var at string
	c := &cobra.Command{
		Use:   "get [-r] SPEC [FILE]",
		Short: "Copy files of a branch to this machine",
		Long: `Copies a file, or with -r a directory, to FILE (default: its name, here). If FILE
is an existing directory it goes into it; "-" is standard output. A file, and a
tree that goes where nothing is, appears at once and whole or not at all.`,
		Example: `  alkfs get :notes.txt
  alkfs get -r /experiment:src ./src
  alkfs get -r --at yesterday : ./before
  alkfs get :notes.txt - | less`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(args[0], at)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				if len(args) == 2 && args[1] == "-" {
					return a.cat(s, spec)
				}
				return a.get(cmd.Context(), s, spec, args[1:], o)
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeSpecs),
	}
	atFlag(c, &at, "fetch what was there")
	c.Flags().BoolVarP(&o.Recursive, "recursive", "r", false, "fetch directories with what is in them")
	c.Flags().BoolVar(&o.Owners, "owners", false, "keep owner and group (root only)")
	return c
}

func (a *app) get(ctx context.Context, s *alkfs.Store, spec alkfs.Spec, to []string, o alkfs.GetOptions) error {
	v, err := s.View(spec)
	if err != nil {
		return err
	}
	name := fsPath(spec)
	base := filepath.Base(name)
	if name == "." {
		base = v.Spec().Branch
	}
	host := base
	if len(to) == 1 {
		host = to[0]
		if st, err := os.Stat(host); err == nil && st.IsDir() && name != "." {
			host = filepath.Join(host, base)
		}
	}
	if host == "" {
		return usagef("the name of the file to write is empty")
	}
	b := a.newBar("get "+quote(base), -1, true)
	o.Progress = b.transfer()
	p, err := v.Get(ctx, name, host, o)
	b.done()
	if err != nil {
		return err
	}
	return a.transferred(fmt.Sprintf("get %s", quote(host)), p)
}
