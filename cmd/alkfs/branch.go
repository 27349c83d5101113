package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) bucketCommand() *cobra.Command {
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a bucket with an empty branch main",
		Example: "  alkfs bucket create work",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), making, func(s *alkfs.Store) error {
				b, err := s.CreateBucket(args[0])
				if err == nil && a.json {
					err = a.printBucket(s, b)
				}
				return err
			})
		},
	}
	ls := &cobra.Command{
		Use: "ls", Short: "List the buckets",
		Example: "  alkfs bucket ls",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Buckets()
				for _, b := range list {
					if err == nil {
						err = a.printBucket(s, b)
					}
				}
				return err
			})
		},
	}
	var force bool
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Remove a bucket with all branches and their history",
		Long: `Removes a bucket with all branches and their history. Of a shared bucket the other
machines keep theirs, and with a new ticket this one can join it again.`,
		Example: "  alkfs bucket rm --force work",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if _, err := s.Branches(args[0]); err != nil { // does it exist?
					return err
				}
				question, err := removal(s, args[0])
				if err != nil {
					return err
				}
				if err := a.confirm(force, question); err != nil {
					return err
				}
				return s.RemoveBucket(args[0])
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeBuckets),
	}
	forceFlag(rm, &force)
	return group("bucket", "Make, list, configure and remove buckets", "  alkfs bucket create work\n  alkfs mount work ./work", create, ls, a.bucketSetCommand(), rm)
}

// removal asks whether a bucket is to be removed.
func removal(s *alkfs.Store, name string) (question string, err error) {
	all, _, err := s.SyncStatus()
	if err != nil {
		return "", err
	}
	for _, b := range all {
		if b.Name != name {
			continue
		}
		question = fmt.Sprintf("Remove bucket %s from this machine? The %d others that share it keep theirs", quote(name), len(b.Members))
		if b.Waiting > 0 || !slices.ContainsFunc(b.Members, func(m alkfs.MemberStatus) bool { return m.Connected && m.Behind == 0 }) {
			question += ", but none is known to have everything that is here (`alkfs sync status`)"
		}
		return question + ".", nil
	}
	return fmt.Sprintf("Remove bucket %s with all its branches and history? It cannot be brought back.", quote(name)), nil
}

func (a *app) printBucket(s *alkfs.Store, b alkfs.Bucket) error {
	q, _, err := s.Quota(b.Name)
	if err != nil {
		return err
	}
	if a.json {
		return a.emit(append(bucketFields(b), "quota_bytes", q.MaxBytes, "quota_inodes", q.MaxInodes, "counted_bytes", q.Bytes, "counted_inodes", q.Inodes)...)
	}
	text := quote(b.Name) + policyText(b.Policy)
	if t := quotaText(q); t != "" {
		text += "  holds " + t
	}
	a.printf("%s\n", text)
	return nil
}

// quotaText says how far a quota is used up; "" without one.
func quotaText(q alkfs.Quota) string {
	var parts []string
	if q.MaxBytes > 0 {
		parts = append(parts, bytesText(q.Bytes)+" of "+bytesText(q.MaxBytes))
	}
	if q.MaxInodes > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d files and directories", q.Inodes, q.MaxInodes))
	}
	return strings.Join(parts, ", ")
}

func bucketFields(b alkfs.Bucket) []any {
	policy := lastCloseWins
	if b.Policy.ExclusiveWrites {
		policy = exclusive
	}
	keep := int64(b.Policy.Retention / time.Second) // 0: the default
	if b.Policy.Retention < 0 {
		keep = -1 // for ever
	}
	held := int64(b.Policy.HoldBack / time.Second)
	if b.Policy.HoldBack < 0 {
		held = -1
	}
	return []any{"name", b.Name, "uuid", fmt.Sprintf("%x", b.UUID), "created", jsonTime(b.Created), "policy", policy, "keep_seconds", keep,
		"hold_back_seconds", held}
}

// What becomes of a second writer of a file.
const (
	exclusive     = "exclusive"
	lastCloseWins = "last-close-wins"
)

// policyText says what is unusual about a bucket.
func policyText(p alkfs.Policy) (text string) {
	if p.ExclusiveWrites {
		text += "  exclusive"
	}
	switch {
	case p.Retention < 0:
		text += "  history is kept for ever"
	case p.Retention > 0:
		text += fmt.Sprintf("  history is kept %v", p.Retention)
	}
	switch {
	case p.HoldBack < 0:
		text += "  content waits for other members for ever"
	case p.HoldBack > 0:
		text += fmt.Sprintf("  content waits %v for other members", p.HoldBack)
	}
	return text
}

// bucketSettings are the flags of bucket set, as given.
type bucketSettings struct{ policy, keep, holdBack, bytes, inodes string }

func (a *app) bucketSetCommand() *cobra.Command {
	var f bucketSettings
	c := &cobra.Command{
		Use: "set NAME", Short: "Say who may write, how much, and how long history is kept",
		Long: `Sets what becomes of a second program that writes a file through another mount or
connection: with last-close-wins, the default, the last to close the file wins and
history keeps the other's version; with exclusive the second is refused as long as
the first has written what no close has published yet (EBUSY).

A quota bounds what the branches of a bucket hold together. A fork counts what it
has beyond the moment it was forked: new files, and the size of files with new
content. What was replaced or removed, a whole branch too, is free at once, and
history is not counted. Whoever wants more gets "disk quota exceeded" (EDQUOT).
What comes from other machines counts and is never refused: they follow the same
quota, and where they are over it together, nobody may write more until there is
room. A first quota reads the whole tree to count it.

In a bucket that is shared with other machines, content that no version here names
any more waits for their word before it goes (alkfs gc), for --hold-back where a
member does not answer.`,
		Example: "  alkfs bucket set work --policy exclusive\n  alkfs bucket set work --keep 720h\n  alkfs bucket set work --hold-back 1440h\n  alkfs bucket set work --quota-bytes 10G --quota-inodes 100000\n  alkfs bucket set work --quota-bytes none",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f == (bucketSettings{}) {
				return usagef("nothing to set: --policy, --keep, --hold-back, --quota-bytes or --quota-inodes")
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error { return a.setBucket(s, args[0], f) })
		},
		ValidArgsFunction: a.completeThen(1, a.completeBuckets),
	}
	flags := c.Flags()
	flags.StringVar(&f.policy, "policy", "", "exclusive or last-close-wins")
	flags.StringVar(&f.keep, "keep", "", `how long history is kept (720h), "forever" or "default" (7 days)`)
	flags.StringVar(&f.holdBack, "hold-back", "", `how long content waits for members that do not answer (720h), "forever" or "default" (30 days)`)
	flags.StringVar(&f.bytes, "quota-bytes", "", `how many bytes it may hold (10G, 512M), or "none"`)
	flags.StringVar(&f.inodes, "quota-inodes", "", `how many files, directories and links it may hold, or "none"`)
	return c
}

func (a *app) setBucket(s *alkfs.Store, name string, f bucketSettings) error {
	b, err := s.Bucket(name)
	if err != nil {
		return err
	}
	if err := f.apply(&b.Policy); err != nil {
		return err
	}
	if err := s.SetPolicy(name, b.Policy); err != nil || !a.json {
		return err
	}
	return a.printBucket(s, b)
}

// apply sets what the flags say.
func (f bucketSettings) apply(p *alkfs.Policy) (err error) {
	switch f.policy {
	case "":
	case exclusive, lastCloseWins:
		p.ExclusiveWrites = f.policy == exclusive
	default:
		return usagef("--policy %s: exclusive or last-close-wins", quote(f.policy))
	}
	if f.keep != "" {
		if p.Retention, err = parseKeep(f.keep); err != nil {
			return usagef("--keep %s: %v", quote(f.keep), err)
		}
	}
	if f.holdBack != "" {
		if p.HoldBack, err = parseKeep(f.holdBack); err != nil {
			return usagef("--hold-back %s: %v", quote(f.holdBack), err)
		}
	}
	if f.bytes != "" {
		if p.QuotaBytes, err = parseQuota(f.bytes); err != nil {
			return usagef("--quota-bytes %s: a number of bytes such as 10G or 512M, or none", quote(f.bytes))
		}
	}
	if f.inodes != "" {
		if p.QuotaInodes, err = parseQuota(f.inodes); err != nil {
			return usagef("--quota-inodes %s: a number, or none", quote(f.inodes))
		}
	}
	return nil
}

// parseKeep parses how long something is kept: 0 for default, negative for ever.
func parseKeep(text string) (time.Duration, error) {
	switch text {
	case "forever":
		return -1, nil
	case "default":
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, errors.New("a time such as 720h, or forever, or default")
	}
	return d, nil
}

// parseQuota parses a positive number with a suffix of powers of 1024 (K, M, G,
// T; KiB and so on mean the same), or none.
func parseQuota(text string) (int64, error) {
	if text == "none" {
		return 0, nil
	}
	digits := strings.TrimRight(text, "KMGTiBb")
	shift, ok := map[string]uint{"": 0, "B": 0, "K": 10, "KiB": 10, "M": 20, "MiB": 20, "G": 30, "GiB": 30, "T": 40, "TiB": 40}[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n <= 0 || n > 1<<62>>shift {
		return 0, strconv.ErrRange
	}
	return n << shift, nil
}

func (a *app) branchCommand() *cobra.Command {
	return group("branch", "Make, list, rename and remove branches",
		"  alkfs branch create experiment\n  alkfs branch ls",
		a.branchCreateCommand(), a.branchLsCommand(), a.branchRenameCommand(), a.branchRmCommand())
}

func (a *app) branchCreateCommand() *cobra.Command {
	var from string
	var o alkfs.BranchOptions
	c := &cobra.Command{
		Use: "create BRANCH", Short: "Fork a branch: a full copy at once, whatever its size",
		Long: `Makes a branch that starts as what --from (default: main) holds now, or held at
--at. From then on the two are apart until a merge; a --live branch keeps
following its parent wherever it has no version of its own.`,
		Example: `  alkfs branch create experiment
  alkfs branch create work/fix --from work/release
  alkfs branch create before --at "1h ago"`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			to, err := parseFork(args[0])
			if err != nil {
				return err
			}
			src, err := parseFork(from)
			if err != nil {
				return err
			}
			if src.Bucket != "" && to.Bucket != "" && src.Bucket != to.Bucket {
				return usagef("a branch stays in its bucket: %s is in %s, %s would be in %s", quote(from), quote(src.Bucket), quote(args[0]), quote(to.Bucket))
			}
			if to.Bucket == "" {
				to.Bucket = src.Bucket
			}
			o.From = src.Branch
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				b, err := s.CreateBranch(to.Bucket, to.Branch, o)
				if err == nil && a.json {
					err = a.emit(a.branchFields(s, b)...)
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&from, "from", "", "branch to start from (default main)")
	atFlag(c, &o.At, "start from what it held")
	c.Flags().BoolVar(&o.Live, "live", false, "keep following the branch it starts from")
	_ = c.RegisterFlagCompletionFunc("from", a.completeBranches)
	return c
}

// parseFork is ParseBranchSpec, except that a bare word has no bucket: it is in
// that of the other side of a fork.
func parseFork(arg string) (alkfs.Spec, error) {
	spec, err := alkfs.ParseBranchSpec(arg)
	if strings.HasPrefix(arg, "/") {
		spec.Bucket = alkfs.DefaultBucket
	}
	return spec, err
}

func (a *app) branchFields(s *alkfs.Store, b alkfs.Branch) []any {
	fields := []any{"name", b.Name, "uuid", fmt.Sprintf("%x", b.UUID), "created", jsonTime(b.Created), "keep", b.Keep.String(), "live", b.Live}
	if b.Parent != 0 {
		fields = append(fields, "parent", s.BranchName(b.Parent))
		if !b.Live {
			fields = append(fields, "forked", jsonTime(alkfs.StampTime(b.Fork)))
		}
	}
	return fields
}

func (a *app) branchLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls [BUCKET]", Short: "List the branches of a bucket",
		Example: "  alkfs branch ls\n  alkfs branch ls work --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Branches(first(args))
				if err != nil {
					return err
				}
				names := make(map[int64]string, len(list))
				for _, b := range list {
					names[b.ID] = b.Name
				}
				for _, b := range list {
					if a.json {
						if err := a.emit(a.branchFields(s, b)...); err != nil {
							return err
						}
						continue
					}
					a.printf("%-20s %s", quote(b.Name), humanTime(b.Created))
					if parent, ok := names[b.Parent]; b.Parent != 0 {
						if !ok {
							parent = s.BranchName(b.Parent) + " (removed)"
						}
						how := "from"
						if b.Live {
							how = "follows"
						}
						a.printf("  %s %s", how, quote(parent))
					}
					if b.Keep != alkfs.BranchKept {
						a.printf("  (%s on this machine)", b.Keep)
					}
					a.printf("\n")
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeBuckets),
	}
}

func (a *app) branchRenameCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rename BRANCH NAME", Short: "Rename a branch",
		Example: "  alkfs branch rename experiment idea",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := alkfs.ParseBranchSpec(args[0])
			if err != nil {
				return err
			}
			to, err := alkfs.ParseBranchSpec(args[1])
			if err != nil {
				return err
			}
			if to.Bucket != "" && to.Bucket != spec.Bucket {
				return usagef("a branch stays in its bucket")
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				return s.RenameBranch(spec.Bucket, spec.Branch, to.Branch)
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeBranches),
	}
}

func (a *app) branchRmCommand() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "rm BRANCH...", Short: "Remove branches; those made from them stay whole",
		Example: "  alkfs branch rm --force experiment",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				for _, arg := range args {
					spec, err := alkfs.ParseBranchSpec(arg)
					if err != nil {
						return err
					}
					if _, err := s.View(spec); err != nil {
						return err
					}
					if err := a.confirm(force, fmt.Sprintf("Remove branch %s with what was changed in it?", quote(spec.String()))); err != nil {
						return err
					}
					if err := s.RemoveBranch(spec.Bucket, spec.Branch); err != nil {
						return err
					}
				}
				return nil
			})
		},
		ValidArgsFunction: a.completeBranches,
	}
	forceFlag(c, &force)
	return c
}

func (a *app) snapshotCommand() *cobra.Command {
	var message string
	create := &cobra.Command{
		Use: "create NAME [BRANCH]", Short: "Name what a branch holds now, and keep it for ever",
		Example: "  alkfs snapshot create before-upgrade\n  alkfs snapshot create v1 work/release -m 'as shipped'",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := alkfs.ParseBranchSpec(first(args[1:]))
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				snap, err := s.CreateSnapshot(spec, args[0], message)
				if err == nil && a.json {
					err = a.emit(a.snapshotFields(s, snap)...)
				}
				return err
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) != 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeBranches(cmd, args, word)
		},
	}
	create.Flags().StringVarP(&message, "message", "m", "", "what it is")
	ls := &cobra.Command{
		Use: "ls [BUCKET]", Short: "List the snapshots of a bucket",
		Example: "  alkfs snapshot ls",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), reading, func(s *alkfs.Store) error {
				list, err := s.Snapshots(first(args))
				for _, snap := range list {
					if !a.json {
						a.printf("%-20s %s  of %s  %s\n", quote(snap.Name), humanTime(snap.Created), quote(s.BranchName(snap.Branch)), snap.Message)
					} else if err == nil {
						err = a.emit(a.snapshotFields(s, snap)...)
					}
				}
				return err
			})
		},
		ValidArgsFunction: a.completeThen(1, a.completeBuckets),
	}
	var force bool
	rm := &cobra.Command{
		Use: "rm NAME", Short: "Forget a snapshot; what only it shows is no longer kept",
		Long:    "Forgets a snapshot. NAME is in the bucket default, BUCKET/NAME in another.",
		Example: "  alkfs snapshot rm --force before-upgrade",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := alkfs.ParseBranchSpec(args[0])
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if _, err := s.View(alkfs.Spec{Bucket: spec.Bucket, At: spec.Branch}); err != nil {
					return err
				}
				if err := a.confirm(force, fmt.Sprintf("Forget snapshot %s?", quote(spec.Branch))); err != nil {
					return err
				}
				return s.RemoveSnapshot(spec.Bucket, spec.Branch)
			})
		},
	}
	forceFlag(rm, &force)
	return group("snapshot", "Make, list and forget snapshots", "  alkfs snapshot create before-upgrade\n  alkfs ls --at before-upgrade", create, ls, rm)
}

func (a *app) snapshotFields(s *alkfs.Store, snap alkfs.Snapshot) []any {
	return []any{"name", snap.Name, "branch", s.BranchName(snap.Branch), "message", snap.Message,
		"time", jsonTime(alkfs.StampTime(snap.Stamp)), "created", jsonTime(snap.Created)}
}
