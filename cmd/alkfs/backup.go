package main

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/alkdev/alkfs"
)

func (a *app) backupCommand() *cobra.Command {
	var o alkfs.BackupOptions
	c := &cobra.Command{
		Use:   "backup DIR|FILE.tar|-",
		Short: "Back the store up, while it is used",
		Long: `Makes DIR a backup of the whole store as it is at one moment: all buckets,
branches, snapshots, history, users and keys. Writes that no close has published
are not part of it. Into an earlier backup only new content is copied. DIR holds
one backup that is whole at any time, also when this is interrupted.

A name that ends in .tar, or a file that is there, gets the backup as one file
instead, written anew each time; - is standard output.

Content is hashed when it is copied; --verify hashes what is in DIR already, too,
and replaces what is damaged. The files node.key and ssh_host_ed25519_key in it
are secrets.`,
		Example: "  alkfs backup /media/disk/alkfs\n  alkfs backup --verify /media/disk/alkfs\n  alkfs backup - | ssh host 'cat >alkfs.tar'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to := args[0]
			if out, ok := cmd.OutOrStdout().(*os.File); to == "-" && ok && term.IsTerminal(int(out.Fd())) {
				return usagef("a backup is not for a terminal: redirect it, or name a directory or a file")
			}
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				b := a.newBar("backup", -1, true)
				o.Progress = b.counting()
				r, err := a.backUp(cmd.Context(), s, to, o)
				b.done()
				if err != nil {
					return err
				}
				return a.printBackup(r, "backed up", to)
			})
		},
	}
	c.Flags().BoolVar(&o.Link, "link", false, "hard links instead of copies of content, on one file system: no time and no room, but no second copy either")
	c.Flags().BoolVar(&o.Verify, "verify", false, "hash all that is in the backup again")
	return c
}

func (a *app) backUp(ctx context.Context, s *alkfs.Store, to string, o alkfs.BackupOptions) (alkfs.BackupReport, error) {
	if to == "-" {
		return s.WriteBackup(ctx, a.out, o)
	}
	st, err := os.Stat(to)
	if err == nil && st.Mode().IsRegular() || err != nil && strings.HasSuffix(to, ".tar") {
		return s.BackupFile(ctx, to, o)
	}
	return s.Backup(ctx, to, o)
}

func (a *app) restoreStoreCommand() *cobra.Command {
	var o alkfs.BackupOptions
	c := &cobra.Command{
		Use:   "restore-store BACKUP DIR",
		Short: "Make a store of a backup",
		Long: `Makes DIR, which must be missing or empty, a store with what BACKUP holds, a
directory or a file, and hashes all content. It has the identity of the store that was backed up: use one
of the two.`,
		Example: "  alkfs restore-store /media/disk/alkfs ~/.local/share/alkfs",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.shared != nil {
				return usagef("not for users of a server")
			}
			b := a.newBar("restore", -1, true)
			o.Progress = b.counting()
			r, err := alkfs.RestoreStore(cmd.Context(), args[0], args[1], o)
			b.done()
			if err != nil {
				return err
			}
			return a.printBackup(r, "restored", args[1])
		},
	}
	c.Flags().BoolVar(&o.Link, "link", false, "hard links instead of copies of content, on one file system; the backup then changes if the store's files do")
	return c
}

func (a *app) printBackup(r alkfs.BackupReport, verb, dir string) error {
	if dir == "-" { // standard output is the backup
		a.note("%s: database %s, %d content files (%s)", verb, bytesText(r.Database), r.Files, bytesText(r.Bytes))
	} else if a.json {
		err := a.emit("dir", dir, "database_bytes", r.Database, "files", r.Files, "bytes", r.Bytes, "new", r.New, "new_bytes", r.NewBytes,
			"removed", r.Removed, "missing", hashes(r.Missing), "damaged", hashes(r.Damaged))
		if err != nil {
			return err
		}
	} else {
		a.printf("%s to %s: database %s, %d content files (%s), of them %d new (%s)\n",
			verb, quote(dir), bytesText(r.Database), r.Files, bytesText(r.Bytes), r.New, bytesText(r.NewBytes))
	}
	if r.OK() {
		return nil
	}
	for _, h := range r.Missing {
		a.note("missing: %s", h)
	}
	for _, h := range r.Damaged {
		a.note("damaged: %s", h)
	}
	a.note("%d contents are missing or damaged; all else is there", len(r.Missing)+len(r.Damaged))
	return silentError{statusDamaged}
}
