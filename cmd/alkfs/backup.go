package main

import (
	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) backupCommand() *cobra.Command {
	var o alkfs.BackupOptions
	c := &cobra.Command{
		Use:   "backup DIR",
		Short: "Back the store up to a directory, while it is used",
		Long: `Makes DIR a backup of the whole store as it is at one moment: all buckets,
branches, snapshots, history, users and keys. Writes that no close has published
are not part of it. Into an earlier backup only new content is copied. DIR holds
one backup that is whole at any time, also when this is interrupted.

Content is hashed when it is copied; --verify hashes what is in DIR already, too,
and replaces what is damaged. The files node.key and ssh_host_ed25519_key in it
are secrets.`,
		Example: "  alkfs backup /media/disk/alkfs\n  alkfs backup --verify /media/disk/alkfs",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				b := a.newBar("backup", -1, true)
				o.Progress = b.counting()
				r, err := s.Backup(cmd.Context(), args[0], o)
				b.done()
				if err != nil {
					return err
				}
				return a.printBackup(r, "backed up", args[0])
			})
		},
	}
	c.Flags().BoolVar(&o.Link, "link", false, "hard links instead of copies of content, on one file system: no time and no room, but no second copy either")
	c.Flags().BoolVar(&o.Verify, "verify", false, "hash all that is in the backup again")
	return c
}

func (a *app) restoreStoreCommand() *cobra.Command {
	var o alkfs.BackupOptions
	c := &cobra.Command{
		Use:   "restore-store BACKUP DIR",
		Short: "Make a store of a backup",
		Long: `Makes DIR, which must be missing or empty, a store with what BACKUP holds, and
hashes all content. It has the identity of the store that was backed up: use one
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
	if a.json {
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
