package main

import (
	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) syncCompactCommand() *cobra.Command {
	return &cobra.Command{
		Use: "compact BUCKET", Short: "Put what the changes of a shared bucket came to in their place",
		Long: `The changes of a shared bucket are kept, for members that have yet to hear of them.
This writes what they came to into a pack, which every member fetches and puts in
their place: a machine that joins, or was away, then gets the pack. What shows,
conflicts and the history that "alkfs gc" keeps stay. Only the owner and admins may, on
a machine that keeps all branches; what an admin compacts counts once the owner's
machine has signed it.
It is only done when asked; run "alkfs gc" before to have less kept.`,
		Example: "  alkfs sync compact work\n  alkfs sync compact work --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if _, _, err := a.sharedBuckets(s, args); err != nil {
					return err
				}
				b := a.newBar("versions", -1, false)
				c, err := s.CompactBucket(cmd.Context(), args[0], func(done int64) { b.at(done, -1) })
				b.done()
				if err != nil {
					return err
				}
				if a.json {
					return a.emit("bucket", args[0], "generation", c.Gen, "proposed", c.Proposed, "versions", c.Versions, "pack_bytes", c.PackBytes,
						"changes_before", c.Changes, "bytes_before", c.Bytes, "changes_after", c.NowChanges, "bytes_after", c.NowBytes)
				}
				a.printf("%s: %d changes (%s) came to %d versions, a pack of %s; %d changes (%s) stay\n", quote(args[0]),
					c.Changes, bytesText(c.Bytes), c.Versions, bytesText(c.PackBytes), c.NowChanges, bytesText(c.NowBytes))
				if c.Proposed && c.NowChanges > 0 {
					a.printf("it counts once the owner's machine has signed it\n")
				}
				return nil
			})
		},
		ValidArgsFunction: completeEach(a.completeBuckets),
	}
}
