package main

import (
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) debugCommand() *cobra.Command {
	var file string
	o := alkfs.BundleOptions{Version: version}
	bundle := &cobra.Command{
		Use:   "bundle",
		Short: "Write what a bug report needs to a file",
		Long: `Writes a tar.gz with the version, the machine, the numbers and the structure of the
store, the background work, and of each mount and server that runs its numbers, its
latest log records, its goroutines and its heap. It has no content and no names,
neither of files, buckets, branches or users nor of directories; records of the log
keep their text and numbers only. Look into it before you send it. With --with-names
names of buckets, branches and directories are in it, and the log as it is.`,
		Example: "  alkfs debug bundle\n  alkfs debug bundle -o report.tar.gz",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				if file == "-" {
					return s.DebugBundle(cmd.Context(), a.out, o)
				}
				if file == "" {
					file = "alkfs-debug-" + time.Now().Format("20060102-150405") + ".tar.gz"
				}
				err := toFile(file, func(w io.Writer) error { return s.DebugBundle(cmd.Context(), w, o) })
				switch {
				case err != nil:
					return err
				case a.json:
					return a.emit("file", file)
				}
				a.printf("wrote %s\n", quote(file))
				return nil
			})
		},
	}
	bundle.Flags().StringVarP(&file, "output", "o", "", `file to write; "-" is standard output (default alkfs-debug-TIME.tar.gz)`)
	bundle.Flags().BoolVar(&o.WithNames, "with-names", false, "with names of buckets, branches and directories, and the log as it is")
	return group("debug", "Help to find bugs", "  alkfs debug bundle", bundle)
}
