package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/alkdev/alkfs"
)

func (a *app) exportCommand() *cobra.Command {
	var at, file string
	c := &cobra.Command{
		Use:   "export [SPEC]",
		Short: "Write a tree as a tar archive",
		Long: `Writes a branch, directory or file as a tar archive (PAX) to standard output, with
owners, hard links, extended attributes and exact times. Holes become zeros.`,
		Example: "  alkfs export /experiment:src >src.tar\n  alkfs export --at release1 | zstd >release1.tar.zst",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(first(args), at)
			if err != nil {
				return err
			}
			if out, ok := cmd.OutOrStdout().(*os.File); file == "" && ok && term.IsTerminal(int(out.Fd())) {
				return usagef("an archive is not for a terminal: redirect it, or name a file with -o")
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				v, err := s.View(spec)
				if err != nil {
					return err
				}
				to := func(w io.Writer) error {
					_, err := v.Export(cmd.Context(), fsPath(spec), w)
					return err
				}
				if file == "" {
					return to(a.out)
				}
				return toFile(file, to)
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeSpecs),
	}
	atFlag(c, &at, "as it was")
	c.Flags().StringVarP(&file, "output", "o", "", "file to write, instead of standard output")
	return c
}

func (a *app) importCommand() *cobra.Command {
	var o alkfs.PutOptions
	c := &cobra.Command{
		Use:   "import [SPEC]",
		Short: "Read a tar archive into a directory",
		Long: `Reads a tar archive from standard input into a directory, which is made if it is
missing. Existing files get a new version. Nothing outside of the directory can be
reached, whatever names and symlinks the archive holds.`,
		Example: "  alkfs import :src <src.tar\n  curl -L https://example.org/x.tar.gz | gunzip | alkfs import work:",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := parseSpec(first(args), "")
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), making, func(s *alkfs.Store) error {
				v, err := s.View(spec)
				if err != nil {
					return err
				}
				b := a.newBar("import", -1, true)
				o.Progress = b.transfer()
				p, err := v.Import(cmd.Context(), fsPath(spec), a.input(), o)
				b.done()
				if err != nil {
					return err
				}
				return a.transferred("import", p)
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeSpecs),
	}
	c.Flags().BoolVar(&o.Owners, "owners", false, "keep owner and group instead of yours")
	c.Flags().BoolVar(&o.Sync, "sync", false, "return when all of it is on the disk, proof against a power cut")
	return c
}
