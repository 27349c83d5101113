package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) initCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make a store (mount and put do it by themselves)",
		Example: `  alkfs init
  alkfs init --store /srv/alkfs`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.storePath()
			if err != nil {
				return err
			}
			existed := alkfs.Exists(dir)
			return a.with(cmd.Context(), making, func(s *alkfs.Store) error {
				switch {
				case a.json:
					return a.emit("store", s.Dir(), "created", !existed)
				case existed:
					a.printf("%s is a store already; nothing was changed\n", quote(s.Dir()))
				default:
					a.printf("made a store in %s, with the bucket %s and its branch %s\n", quote(s.Dir()), alkfs.DefaultBucket, alkfs.DefaultBranch)
				}
				return nil
			})
		},
	}
}

func (a *app) sessionsCommand() *cobra.Command {
	ls := &cobra.Command{
		Use: "ls", Short: "List files that are being written, and what dead processes left",
		Example: "  alkfs sessions ls",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.OpenSessions()
				for _, i := range list {
					if err != nil {
						break
					}
					err = a.printSession(i)
				}
				return err
			})
		},
	}
	recover := &cobra.Command{
		Use: "recover ID FILE", Short: "Write what a session holds to a file of this machine",
		Long:    `Writes what a session holds to FILE ("-" is standard output). The session stays; abort or publish it then.`,
		Example: "  alkfs sessions recover 7 ./rescued.txt",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := sessionID(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if args[1] == "-" {
					return s.RecoverSession(cmd.Context(), id, a.out)
				}
				return toFile(args[1], func(w io.Writer) error { return s.RecoverSession(cmd.Context(), id, w) })
			})
		},
	}
	publish := &cobra.Command{
		Use: "publish ID", Short: "Make what a dead process left the content of its file",
		Example: "  alkfs sessions publish 7",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := sessionID(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				_, err := s.PublishSession(cmd.Context(), id)
				return err
			})
		},
	}
	var force bool
	abort := &cobra.Command{
		Use: "abort ID", Short: "Drop what a dead process left",
		Example: "  alkfs sessions abort --force 7",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := sessionID(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				i, err := s.Session(id)
				if err != nil {
					return err
				}
				if err := a.confirm(force, fmt.Sprintf("Drop what was written to %s and not published (%s)?", quote(pathOrRoot(i.Path)), bytesText(i.Size))); err != nil {
					return err
				}
				return s.AbortSession(cmd.Context(), id)
			})
		},
	}
	forceFlag(abort, &force)
	return group("sessions", "Files being written, and what crashed processes left",
		"  alkfs sessions ls\n  alkfs sessions recover 7 ./rescued.txt", ls, recover, publish, abort)
}

func sessionID(arg string) (int64, error) {
	id, err := strconv.ParseInt(arg, 10, 64)
	if err != nil {
		return 0, usagef("session %q: a number is meant, as `alkfs sessions ls` prints it", arg)
	}
	return id, nil
}

func (a *app) printSession(i alkfs.SessionInfo) error {
	spec := alkfs.Spec{Bucket: i.Bucket, Branch: i.BranchName, Path: i.Path}
	if a.json {
		return a.emit("id", i.ID, "bucket", i.Bucket, "branch", i.BranchName, "path", i.Path, "size", i.Size, "owner", i.Owner,
			"alive", i.Alive, "synced", i.Synced, "created", jsonTime(i.Created), "updated", jsonTime(i.Updated))
	}
	state := "left by a process that died: recover, publish or abort it"
	if i.Alive {
		state = "being written"
	}
	a.printf("%d  %s  %s  %s  %s\n", i.ID, quote(spec.String()), bytesText(i.Size), humanTime(i.Updated), state)
	return nil
}

// toFile writes a host file by a temporary name, so that it is whole or absent.
func toFile(path string, f func(w io.Writer) error) error {
	t, err := os.CreateTemp(filepath.Dir(path), ".alkfs-*")
	if err != nil {
		return err
	}
	err = f(t)
	if e := t.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		os.Remove(t.Name())
	}
	return err
}

func (a *app) gcCommand() *cobra.Command {
	var o alkfs.GCOptions
	c := &cobra.Command{
		Use:   "gc",
		Short: "Remove history past its time, and content nobody refers to",
		Long: `Removes versions that were superseded longer ago than history is kept (7 days)
and that no branch or snapshot shows, and then content that nothing refers to. It
is safe while mounts and other commands run.

Content that the last version to go named in a shared bucket goes when another
member has it, or when each says that none of its versions names it; until then it
is held back, for members that do not answer for 30 days (bucket set --hold-back).
They are asked by the process that synchronises (serve --sync).`,
		Example: `  alkfs gc
  alkfs gc --dry-run
  alkfs gc --keep 24h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				b := a.newBar("gc", -1, false)
				o.Progress = b.counting()
				r, err := s.GC(cmd.Context(), o)
				b.done()
				if err != nil {
					return err
				}
				if a.json {
					return a.emit("dry_run", o.DryRun, "versions", r.Versions, "blobs", r.Blobs, "bytes", r.Bytes,
						"strays", r.Strays, "stray_bytes", r.StrayBytes, "staging", r.Staging, "staging_bytes", r.StagingBytes,
						"held_blobs", r.HeldBlobs, "held_bytes", r.HeldBytes, "wanted_by", append([]string{}, r.WantedBy...), "unheard", append([]string{}, r.Unheard...))
				}
				verb := "removed"
				if o.DryRun {
					verb = "would remove"
				}
				a.printf("%s %d blobs (%s)", verb, r.Blobs, bytesText(r.Bytes))
				if !o.DryRun {
					a.printf(", %d old versions", r.Versions)
				}
				if n := r.Strays + r.Staging; n > 0 {
					a.printf(", %d stray files (%s)", n, bytesText(r.StrayBytes+r.StagingBytes))
				}
				a.printf("\n%s", heldText(r.HeldBack))
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&o.DryRun, "dry-run", "n", false, "only say what content would be removed")
	c.Flags().DurationVar(&o.Retention, "keep", 0, "keep history this long instead (24h, 30m)")
	c.Flags().DurationVar(&o.Grace, "grace", 0, "spare content that has been without a reference for less (default 10m)")
	return c
}

// heldText says what is held back for other members, and for whom.
func heldText(h alkfs.HeldBack) string {
	if h.HeldBlobs == 0 {
		return ""
	}
	text := fmt.Sprintf("held back %d blobs (%s) that other members may need", h.HeldBlobs, bytesText(h.HeldBytes))
	if len(h.WantedBy) > 0 {
		text += "; they have versions that name some: " + quoteAll(h.WantedBy)
	}
	if len(h.Unheard) > 0 {
		text += "; they did not say, or have yet to hear all: " + quoteAll(h.Unheard)
	}
	return text + "\n"
}

func quoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quote(n)
	}
	return strings.Join(quoted, ", ")
}

func (a *app) fsckCommand() *cobra.Command {
	var o alkfs.CheckOptions
	var repair bool
	c := &cobra.Command{
		Use:   "fsck",
		Short: "Check the store; with --deep, every byte of content",
		Long: `Checks the structure of the store, that all content is there, and that of shared
buckets no change is missing or out of place; with --deep also that content is what its
hash says, and each change what its author signed. Damaged content is moved to quarantine/ in the
store and listed, never deleted. The exit status is 6 when something is wrong.
With --repair what counts towards quotas is counted anew first.`,
		Example: `  alkfs fsck
  alkfs fsck --deep --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if repair {
					if err := s.RecountQuotas(); err != nil {
						return err
					}
				}
				b := a.newBar("fsck", -1, o.Deep)
				o.Progress = b.counting()
				r, err := s.Check(cmd.Context(), o)
				b.done()
				if err != nil {
					return err
				}
				if err := a.printCheck(s, r); err != nil {
					return err
				}
				if !r.OK() {
					return silentError{statusDamaged}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&o.Deep, "deep", false, "hash all content again")
	c.Flags().BoolVar(&repair, "repair", false, "count anew what quotas limit")
	return c
}

func (a *app) printCheck(s *alkfs.Store, r alkfs.CheckReport) error {
	lists := []struct {
		name, text string
		hashes     []alkfs.Hash
	}{
		{"missing", "content is missing", r.Missing},
		{"damaged", "content was damaged, and is in quarantine now", r.Damaged},
		{"quarantined", "content is in quarantine", r.Quarantined},
		{"rebuilt", "hash tree was made anew", r.Rebuilt},
	}
	if a.json {
		problems := r.Problems
		if problems == nil {
			problems = []string{}
		}
		fields := []any{"ok", r.OK(), "blobs", r.Blobs, "bytes", r.Bytes, "strays", r.Strays,
			"absent", r.Absent, "absent_bytes", r.AbsentBytes, "problems", problems}
		for _, l := range lists {
			fields = append(fields, l.name, hashes(l.hashes))
		}
		return a.emit(fields...)
	}
	for _, p := range r.Problems {
		a.printf("%s\n", p)
	}
	for _, l := range lists {
		for _, h := range l.hashes {
			a.printf("%s: %s\n", h, l.text)
			places, err := s.Places(h)
			if err != nil {
				return err
			}
			for _, p := range places {
				a.printf("  %s\n", quote(p))
			}
		}
	}
	verdict := "all is well"
	if !r.OK() {
		verdict = fmt.Sprintf("%d problems", len(r.Problems)+len(r.Missing)+len(r.Damaged)+len(r.Quarantined))
	}
	a.printf("%s: %d blobs, %s\n", verdict, r.Blobs, bytesText(r.Bytes))
	if r.Absent > 0 {
		a.printf("%d contents, %s, are on other machines only\n", r.Absent, bytesText(r.AbsentBytes))
	}
	return nil
}

func hashes[H fmt.Stringer](list []H) []string {
	out := make([]string, len(list))
	for i, h := range list {
		out[i] = h.String()
	}
	return out
}

func (a *app) dfCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "df",
		Short:   "Show what the store holds and how much room is left",
		Example: "  alkfs df",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				u, err := s.Usage()
				if err != nil {
					return err
				}
				buckets, err := s.Buckets()
				if err != nil {
					return err
				}
				stored := u.Blobs.InlineBytes + u.Blobs.FileBytes
				if a.json {
					quotas := []object{}
					for _, b := range buckets {
						if q, ok, err := s.Quota(b.Name); err != nil {
							return err
						} else if ok {
							quotas = append(quotas, object{"bucket", b.Name, "quota_bytes", q.MaxBytes, "quota_inodes", q.MaxInodes, "counted_bytes", q.Bytes, "counted_inodes", q.Inodes})
						}
					}
					return a.emit("quotas", quotas, "store", s.Dir(), "buckets", u.Tree.Buckets, "branches", u.Tree.Branches, "snapshots", u.Tree.Snapshots,
						"blobs", u.Blobs.Inline+u.Blobs.Files, "stored_bytes", stored, "versions", u.Blobs.Versions, "version_bytes", u.Blobs.VersionBytes, "held_blobs", u.Blobs.Held, "held_bytes", u.Blobs.HeldBytes,
						"unsynced", u.Blobs.Unsynced, "quarantined", u.Blobs.Quarantined, "disk_size", u.DiskSize, "disk_free", u.DiskFree)
				}
				if s.Dir() != "" { // not over SSH
					a.printf("store      %s\n", quote(s.Dir()))
				}
				a.printf("holds      %d buckets, %d branches, %d snapshots\ncontent    %s in %d blobs\nwithout sharing it would be %s in %d versions\ndisk       %s free of %s\n",
					u.Tree.Buckets, u.Tree.Branches, u.Tree.Snapshots, bytesText(stored), u.Blobs.Inline+u.Blobs.Files,
					bytesText(u.Blobs.VersionBytes), u.Blobs.Versions, bytesText(u.DiskFree), bytesText(u.DiskSize))
				if u.Blobs.Held > 0 {
					a.printf("held back  %s in %d blobs that only other members may need (alkfs gc)\n", bytesText(u.Blobs.HeldBytes), u.Blobs.Held)
				}
				for _, b := range buckets {
					q, ok, err := s.Quota(b.Name)
					if err != nil {
						return err
					}
					if ok {
						a.printf("quota      %s holds %s\n", quote(b.Name), quotaText(q))
					}
				}
				return nil
			})
		},
	}
}

// version is set by the linker in releases.
var version = "0.1.0-dev"

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  alkfs version --json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			commit, when := "", ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					switch s.Key {
					case "vcs.revision":
						commit = s.Value
					case "vcs.time":
						when = s.Value
					}
				}
			}
			if a.json {
				return a.emit("version", version, "commit", commit, "commit_time", when, "format", alkfs.Format, "go", runtime.Version(), "platform", runtime.GOOS+"/"+runtime.GOARCH)
			}
			a.printf("alkfs %s, store format %d, %s %s/%s\n", version, alkfs.Format, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			if commit != "" {
				a.printf("commit %s of %s\n", commit, when)
			}
			return nil
		},
	}
}
