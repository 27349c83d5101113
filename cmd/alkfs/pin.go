package main

import (
	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) pinCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "pin SPEC...", Short: "Fetch the content below a path, and what comes there later",
		Long: `Has the process that synchronises (alkfs serve --sync) fetch the content of a file,
or of all files below a directory, without anybody reading them, now and whenever
other machines change something there. It goes before what a policy wants, and after
what somebody reads. A pin is of a path: it does not follow what is renamed.`,
		Example: "  alkfs pin work:photos/2026\n  alkfs pin ls",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachPin(cmd, args, (*alkfs.Store).Pin)
		},
		ValidArgsFunction: a.completeSpecs,
	}
	c.AddCommand(a.pinLsCommand())
	return c
}

func (a *app) unpinCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unpin SPEC...", Short: "End a pin", Example: "  alkfs unpin work:photos/2026",
		Long: "Ends pins, named as \"alkfs pin ls\" shows them. What was fetched stays here.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.eachPin(cmd, args, (*alkfs.Store).Unpin)
		},
		ValidArgsFunction: a.completeSpecs,
	}
}

func (a *app) eachPin(cmd *cobra.Command, args []string, do func(*alkfs.Store, alkfs.Spec) error) error {
	return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
		for _, arg := range args {
			spec, err := alkfs.ParseSpec(arg)
			if err == nil {
				err = do(s, spec)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *app) pinLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List pins, and what is still to be fetched of each", Args: cobra.NoArgs,
		Example: "  alkfs pin ls\n  alkfs pin ls --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				f, err := s.Fetching()
				if err != nil {
					return err
				}
				for _, k := range f.Kept {
					if !k.Pinned {
						continue
					}
					if err := a.printPin(s, k.Spec); err != nil {
						return err
					}
				}
				a.noteReserve(f)
				return nil
			})
		},
	}
}

func (a *app) printPin(s *alkfs.Store, spec alkfs.Spec) error {
	files, absent, bytes, err := s.Lacking(spec)
	gone := ""
	if err != nil { // the path need not be there at all times
		gone = err.Error()
	}
	if a.json {
		return a.emit("spec", spec.String(), "files", files, "absent", absent, "absent_bytes", bytes, "error", gone)
	}
	state := "all here"
	switch {
	case gone != "":
		state = gone
	case absent > 0:
		state = bytesText(bytes) + " to fetch"
	}
	a.printf("%-40s %s, %s\n", quote(spec.String()), counted(int64(files), "file"), state)
	return nil
}

// noteReserve says when nothing is fetched for want of room.
func (a *app) noteReserve(f alkfs.Fetching) {
	if !a.json && f.Full() && len(f.Kept) > 0 {
		a.note("nothing is fetched unless it is read: the disk has %s free, and %s are kept in reserve", bytesText(f.Free), bytesText(f.Reserve))
	}
}

func (a *app) syncPolicyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "policy [BUCKET[/BRANCH] on-demand|eager]", Short: "Show or set what content is fetched",
		Long: `With on-demand, as every bucket begins, the content of a file is fetched when it is
read. With eager all content that the branch shows, or every branch of the bucket, is
fetched as this machine hears of it, the newest first, until the disk has less free
than 5 % of it or 10 GiB. It is a setting of this machine alone.`,
		Example: "  alkfs sync policy\n  alkfs sync policy work eager\n  alkfs sync policy work/main on-demand",
		Args: cobra.MatchAll(cobra.MaximumNArgs(2), func(_ *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 && args[1] != "eager" && args[1] != "on-demand" {
				return usagef("name a bucket or branch, and on-demand or eager")
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if len(args) == 0 {
					return a.printPolicies(s)
				}
				spec, err := alkfs.ParseSpec(args[0])
				if err != nil {
					return err
				}
				return s.SetEager(spec, args[1] == "eager")
			})
		},
		ValidArgsFunction: completeEach(a.completeBuckets, oneOf("eager", "on-demand")),
	}
}

func (a *app) printPolicies(s *alkfs.Store) error {
	f, err := s.Fetching()
	if err != nil {
		return err
	}
	all, _, err := s.SyncStatus()
	if err != nil {
		return err
	}
	for _, b := range all {
		rules := []alkfs.Kept{{Spec: alkfs.Spec{Bucket: b.Name}}}
		policy := "on-demand"
		for _, k := range f.Kept {
			if k.Spec.Bucket != b.Name || k.Pinned {
				continue
			}
			if k.Spec.Branch == "" {
				policy = "eager"
			} else {
				rules = append(rules, k)
			}
		}
		for i, k := range rules {
			if i > 0 {
				policy = "eager"
			}
			name := k.Spec.Bucket
			if k.Spec.Branch != "" {
				name += "/" + k.Spec.Branch
			}
			if a.json {
				err = a.emit("spec", name, "policy", policy, "wanted", f.Contents, "wanted_bytes", f.Bytes,
					"free", f.Free, "reserve", f.Reserve, "stopped", f.Full())
				if err != nil {
					return err
				}
				continue
			}
			a.printf("%-30s %s\n", quote(name), policy)
		}
	}
	if !a.json && f.Contents > 0 {
		a.note("%s in %s to be fetched", bytesText(f.Bytes), counted(int64(f.Contents), "content"))
	}
	a.noteReserve(f)
	return nil
}
