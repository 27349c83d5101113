package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/alkdev/alkfs"
)

func (a *app) shareCommand() *cobra.Command {
	var o alkfs.ShareOptions
	var role, expires string
	c := &cobra.Command{
		Use: "share BUCKET", Short: "Print a ticket with which another machine joins a bucket",
		Long: `Prints a ticket, on a terminal as a QR code too. Whoever has it can join the bucket
from another machine with "alkfs join", until it expires or was used. Changes then go
both ways, as long as "alkfs serve --sync ADDR" runs on both. The machine that shares
a bucket first owns it: only it makes and unmakes admins.

Roles: ro reads, rw also changes, admin also lets others in.`,
		Example: `  alkfs serve --sync :4747 &
  alkfs share work
  alkfs share work --role ro --expires 7d --uses 5`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Role, err = alkfs.ParseRole(role); err != nil {
				return usageError{err}
			}
			var ok bool
			if o.Expires, ok = alkfs.ParseSpan(expires); !ok || o.Expires < time.Second {
				return usagef("--expires %s: a time such as 30m, 24h or 7d is meant", quote(expires))
			}
			if o.Uses < 1 || o.Uses > 1e9 {
				return usagef("--uses %d: a number from 1 is meant", o.Uses)
			}
			if err := checkAddrs("--addr", false, o.Addrs...); err != nil {
				return err
			}
			if o.Self == "" {
				o.Self, _ = os.Hostname()
			}
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				ticket, err := s.Share(args[0], o)
				if err != nil {
					return err
				}
				if a.json {
					return a.emit("bucket", args[0], "role", role, "expires", time.Now().Add(o.Expires).UTC().Format(time.RFC3339), "uses", o.Uses, "ticket", ticket)
				}
				a.printf("%s\n", ticket)
				if err := a.printQR(ticket); err != nil {
					return err
				}
				machines := "one machine"
				if o.Uses > 1 {
					machines = fmt.Sprintf("%d machines", o.Uses)
				}
				a.note("good for %s, until %s, as %s; on the other machine: alkfs join TICKET, and alkfs serve --sync :4747",
					machines, humanTime(time.Now().Add(o.Expires)), role)
				if _, pid, err := s.SyncStatus(); err == nil && pid == 0 {
					a.note("it can be used while this runs here: %s serve --sync :4747", a.selfWithStore())
				}
				return nil
			})
		},
	}
	f := c.Flags()
	f.StringVar(&role, "role", "rw", "what who joins may do: ro, rw or admin")
	c.ValidArgsFunction = completeEach(a.completeBuckets)
	_ = c.RegisterFlagCompletionFunc("role", completeRoles)
	f.StringVar(&expires, "expires", "1h", "how long the ticket is good: 30m, 24h, 7d")
	f.IntVar(&o.Uses, "uses", 1, "how many machines may use it")
	f.StringVar(&o.Self, "name", "", "what the others are to call this machine, if it is the owner and has no name yet (default: its host name)")
	f.StringArrayVar(&o.Addrs, "addr", nil, "HOST:PORT at which this machine is reached, any number of times (default: where serve listens)")
	return c
}

func (a *app) joinCommand() *cobra.Command {
	var as, self string
	var branches []string
	c := &cobra.Command{
		Use: "join TICKET", Short: "Join a bucket that another machine shares",
		Long: `Joins the bucket that the ticket is for. Its names and attributes come as soon as
"alkfs serve --sync ADDR" runs here; the bytes of a file come when it is read.

With --branches only those branches come whose names match a pattern, and those that
they descend from. "alkfs sync branches" shows and changes that.`,
		Example: `  alkfs join alkfs-aejrq…
  alkfs join alkfs-aejrq… --branches 'main,agent-7*'
  alkfs join --as team-work alkfs-aejrq…`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if self == "" {
				self, _ = os.Hostname()
			}
			ticket := strings.Join(args, "")
			if err := alkfs.CheckTicket(ticket); err != nil {
				return err // before a store is made for it
			}
			return a.with(cmd.Context(), making, func(s *alkfs.Store) error {
				if a.terminal() && !a.json {
					a.note("asking the machine that gave the ticket out…")
				}
				j, err := s.Join(cmd.Context(), ticket, as, self, branches...)
				if errors.Is(err, fs.ErrExist) {
					return withHint(err, "a bucket of that name is here already: choose another with --as NAME")
				}
				if err != nil {
					return err
				}
				if a.json {
					return a.emit("bucket", j.Name, "uuid", fmt.Sprintf("%x", j.UUID), "role", j.Role.String())
				}
				a.printf("joined %s (%s)\n", quote(j.Name), j.Role)
				if _, pid, err := s.SyncStatus(); err == nil && pid == 0 {
					a.note("to fill it, and keep it the same: %s serve --sync :4747", a.selfWithStore())
				}
				return nil
			})
		},
	}
	c.ValidArgsFunction = completeNothing
	c.Flags().StringVar(&as, "as", "", "name of the bucket here (default: its name there)")
	c.Flags().StringSliceVar(&branches, "branches", nil, "keep only branches whose names match: PATTERN,PATTERN… (default: all)")
	c.Flags().StringVar(&self, "name", "", "what the others are to call this machine, with a number where that is taken (default: its host name)")
	return c
}

func (a *app) peerCommand() *cobra.Command {
	return group("peer", "The machines that share a bucket",
		`  alkfs peer ls work
  alkfs peer revoke work laptop
  alkfs peer grant work laptop ro
  alkfs peer rotate-key`,
		a.peerLsCommand(), a.peerGrantCommand(), a.peerRevokeCommand(), a.peerRenameCommand(), a.peerAcceptCommand(), a.peerRotateCommand())
}

func (a *app) peerLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls [BUCKET]", Short: "List the members of shared buckets", Args: cobra.MaximumNArgs(1),
		Long: `Lists the members of a shared bucket, or of all: bucket, role, name and key. A machine
that was shut out has the role none.`,
		Example: "  alkfs peer ls\n  alkfs peer ls work --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				all, _, err := a.sharedBuckets(s, args)
				if err != nil {
					return err
				}
				key, err := s.NodeKey()
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
				for _, b := range all {
					own := alkfs.MemberStatus{Key: key, Role: b.Role, Name: b.Self}
					for i, m := range append([]alkfs.MemberStatus{own}, b.Members...) {
						if err := a.printMember(w, b, m, i == 0); err != nil {
							return err
						}
					}
				}
				return w.Flush()
			})
		},
		ValidArgsFunction: completeEach(a.completeBuckets),
	}
}

// sharedBuckets is Store.SyncStatus, of the bucket that is named or of all, and says so
// when none is shared.
func (a *app) sharedBuckets(s *alkfs.Store, name []string) (all []alkfs.BucketStatus, pid int, err error) {
	if all, pid, err = s.SyncStatus(); err != nil {
		return nil, 0, err
	}
	if len(name) == 0 {
		if len(all) == 0 && !a.json {
			a.note("no bucket is shared: `alkfs share BUCKET` shares one, `alkfs join TICKET` joins another machine's")
		}
		return all, pid, nil
	}
	if _, err := s.Bucket(name[0]); err != nil {
		return nil, 0, err
	}
	i := slices.IndexFunc(all, func(b alkfs.BucketStatus) bool { return b.Name == name[0] })
	if i < 0 {
		return nil, 0, fmt.Errorf("bucket %s is not shared: `alkfs share %s` shares it", quote(name[0]), shellWord(name[0]))
	}
	return all[i : i+1], pid, nil
}

func (a *app) printMember(w io.Writer, b alkfs.BucketStatus, m alkfs.MemberStatus, here bool) error {
	if a.json {
		return a.emit("bucket", b.Name, "key", m.Key.String(), "name", m.Name, "role", m.Role.String(), "addrs", append([]string{}, m.Addrs...), "here", here)
	}
	name := quote(m.Name)
	if here {
		name += " (this machine)"
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", quote(b.Name), m.Role, name, m.Key)
	return err
}

// peerChange is a command about one member of a bucket, with more arguments that are
// completed so.
func (a *app) peerChange(use, short, example string, do func(s *alkfs.Store, args []string) error, more ...completion) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: example, Args: cobra.ExactArgs(2 + len(more)),
		Long:              short + ".\n\nA PEER is the name of a machine, or the beginning of its key, as \"alkfs peer ls\"\nshows them.",
		ValidArgsFunction: completeEach(slices.Concat([]completion{a.completeBuckets, a.completePeers}, more)...),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				if _, _, err := a.sharedBuckets(s, args[:1]); err != nil {
					return err
				}
				return do(s, args)
			})
		},
	}
}

func (a *app) peerGrantCommand() *cobra.Command {
	return a.peerChange("grant BUCKET PEER ROLE", "Give a machine another role: ro, rw or admin", "  alkfs peer grant work laptop ro",
		func(s *alkfs.Store, args []string) error {
			role, err := alkfs.ParseRole(args[2])
			if err != nil {
				return usageError{err}
			}
			_, err = s.SetRole(args[0], args[1], role, "")
			return err
		}, completeRoles)
}

func (a *app) peerRevokeCommand() *cobra.Command {
	return a.peerChange("revoke BUCKET PEER", "Shut a machine out of a bucket, at once wherever that is heard", "  alkfs peer revoke work laptop",
		func(s *alkfs.Store, args []string) error {
			m, err := s.SetRole(args[0], args[1], alkfs.NoRole, "")
			if err == nil && !a.json {
				a.note("%s is shut out; what it wrote before stays, and what it has already fetched cannot be taken back", quote(m.Name))
			}
			return err
		})
}

func (a *app) peerRenameCommand() *cobra.Command {
	return a.peerChange("rename BUCKET PEER NAME", "Give a machine another name; the owner, itself", "  alkfs peer rename work laptop ann-laptop",
		func(s *alkfs.Store, args []string) error { return s.RenameMember(args[0], args[1], args[2]) }, completeNothing)
}

func (a *app) peerAcceptCommand() *cobra.Command {
	return a.peerChange("accept BUCKET PEER", "Let what a machine wrote count that was shut out before it was heard", "  alkfs peer accept work laptop",
		func(s *alkfs.Store, args []string) error { return s.AcceptChanges(args[0], args[1]) })
}

func (a *app) peerRotateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rotate-key", Short: "Give this machine a new key in place of the one it has", Args: cobra.NoArgs,
		Long: `Replaces the key by which other machines know this one. The old key signs that the
new one takes its place, with the same role, in every bucket that is shared here; what
was written with it stays. Members hear of it when they meet this machine or one that
has; from then on they refuse the old key. "alkfs serve --sync" may be running, and
goes on with the new key.

Tickets that this machine gave out before are void, and a backup made before holds
the old key: make new ones.

This is of use before somebody has the old key, and no help against one who used it
while it was good. A key that was stolen is shut out by an admin ("alkfs peer revoke").`,
		Example: "  alkfs peer rotate-key\n  alkfs peer rotate-key --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				old, now, err := s.RotateKey()
				if err != nil {
					return err
				}
				if a.json {
					return a.emit("key", now.String(), "was", old.String())
				}
				a.printf("%s\n", now)
				a.note("the other machines refuse the old key, %s, from when they hear of it; tickets and backups from before are to be made anew", old.Short())
				return nil
			})
		},
	}
}

func (a *app) syncCommand() *cobra.Command {
	return group("sync", "How shared buckets stand",
		`  alkfs sync status
  alkfs sync now
  alkfs sync wait work --timeout 1m
  alkfs sync policy work eager
  alkfs sync branches work 'agent-7*'
  alkfs sync compact work`,
		a.syncStatusCommand(), a.syncNowCommand(), a.syncWaitCommand(), a.syncPolicyCommand(), a.syncBranchesCommand(), a.syncCompactCommand())
}

func (a *app) syncStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what every member has and lacks", Args: cobra.NoArgs,
		Long: `Shows, for every shared bucket and every other member, whether it is connected,
since when, how many changes it has not acknowledged yet, how many it has that are
not here, and what goes to and comes from it, a mean of the last five seconds.`,
		Example: "  alkfs sync status\n  alkfs sync status --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				all, pid, err := a.sharedBuckets(s, nil)
				if err != nil {
					return err
				}
				if !a.json && pid == 0 && len(all) > 0 {
					a.note("nothing synchronises this store: %s serve --sync :4747", a.selfWithStore())
				}
				for _, b := range all {
					if err := a.printSync(b, pid); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func (a *app) printSync(b alkfs.BucketStatus, pid int) error {
	if !a.json {
		a.printf("%s: %s here, %s kept, %d in a pack, %s to be sent", quote(b.Name), b.Role, counted(b.Changes, "change"), b.Packed, counted(b.Waiting, "version"))
		if b.Stubs > 0 {
			a.printf(", %s of other branches not kept", counted(b.Stubs, "change"))
		}
		if b.Lacks > 0 {
			a.printf(", %s still to come (`alkfs sync branches %s`)", counted(b.Lacks, "change"), b.Name)
		}
		a.printf("\n")
		if reads := b.Role < alkfs.ReadWrite && b.Waiting > 0; reads || b.Void > 0 {
			a.printf("  not sent to anybody, as this machine may not write: %d versions, and %d changes from when it might; they go when an admin makes it a writer (`alkfs peer grant`)\n", b.Waiting, b.Void)
		}
		for _, l := range b.Leaving {
			a.printf("  branch %s is leaving: %s\n", quote(l.Branch), waitsText(l.Waits))
		}
	}
	for _, m := range b.Members {
		if a.json {
			err := a.emit("bucket", b.Name, "role", b.Role.String(), "changes", b.Changes, "packed", b.Packed, "waiting", b.Waiting, "unsent", b.Void, "pid", pid,
				"peer", m.Key.String(), "name", m.Name, "peer_role", m.Role.String(), "connected", m.Connected,
				"void", m.Void, "not_kept", b.Stubs, "to_come", b.Lacks, "lacks", m.Lacks, "behind", m.Behind, "ahead", m.Ahead, "heard", stampText(m.Heard), "addrs", m.Addrs, "error", m.Err,
				"leaving", append([]alkfs.LeavingBranch{}, b.Leaving...),
				"bytes_in", m.Traffic.In, "bytes_out", m.Traffic.Out, "rate_in", m.Traffic.InRate, "rate_out", m.Traffic.OutRate)
			if err != nil {
				return err
			}
			continue
		}
		a.printf("  %-20s %-5s %s\n", quote(m.Name), m.Role, memberState(m))
	}
	return nil
}

func memberState(m alkfs.MemberStatus) string {
	state := "never connected"
	switch {
	case m.Connected:
		state = "connected, has everything"
		if m.Behind > 0 {
			state = "connected, behind by " + counted(m.Behind, "change")
		}
		if m.Lacks > 0 {
			state = "connected, has yet to get " + counted(m.Lacks, "change")
			if m.Behind > 0 {
				state += fmt.Sprintf(", behind by %d", m.Behind)
			}
		}
		if m.Ahead > 0 {
			state += fmt.Sprintf(", has %s that this machine has yet to get", counted(m.Ahead, "change"))
		}
		if t := m.Traffic; t.InRate+t.OutRate > 0 {
			state += fmt.Sprintf(", in %s/s, out %s/s", bytesText(t.InRate), bytesText(t.OutRate))
		}
	case m.Role == alkfs.NoRole:
		state = "revoked"
	case !m.Heard.IsZero():
		state = "last heard " + m.Heard.Format(time.DateTime)
	}
	if m.Void > 0 {
		state += fmt.Sprintf(", of its changes %d do not count", m.Void)
	}
	if m.Err != "" {
		state += " (" + m.Err + ")"
	}
	return state
}

// connected reports whether a member of the bucket is.
func connected(all []alkfs.BucketStatus, name string) bool {
	return slices.ContainsFunc(all, func(b alkfs.BucketStatus) bool {
		return b.Name == name && slices.ContainsFunc(b.Members, func(m alkfs.MemberStatus) bool { return m.Connected })
	})
}

// showSync shows how many changes of all that a bucket's connected members and this
// machine lack have come, any bucket's when name is "", until done is called.
func (a *app) showSync(ctx context.Context, s *alkfs.Store, name string) (done func()) {
	b := a.newBar("changes", -1, false)
	if b.p == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer b.done()
		most := int64(0)
		for ctx.Err() == nil {
			if all, _, err := s.SyncStatus(); err == nil {
				left := lacking(all, name)
				most = max(most, left)
				b.at(most-left, most)
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func lacking(all []alkfs.BucketStatus, name string) (n int64) {
	for _, b := range all {
		if name != "" && b.Name != name {
			continue
		}
		ahead := int64(0)
		for _, m := range b.Members {
			if m.Connected {
				n += m.Behind
				ahead = max(ahead, m.Ahead) // several may have the same ones
			}
		}
		n += ahead
	}
	return n
}

// counted says how many of what, whose plural has an s, there are.
func counted(n int64, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func stampText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (a *app) syncWaitCommand() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use: "wait BUCKET", Short: "Wait until every connected member has what was written before", Args: cobra.ExactArgs(1),
		Example: "  alkfs sync wait work --timeout 1m",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), writing, func(s *alkfs.Store) error {
				ctx := cmd.Context()
				if timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, timeout)
					defer cancel()
				}
				all, _, err := a.sharedBuckets(s, args)
				if err != nil {
					return err
				}
				if !connected(all, args[0]) {
					a.note("no other member of %s is connected: waiting for one", quote(args[0]))
				}
				defer a.showSync(ctx, s, args[0])()
				return s.WaitSync(ctx, args[0])
			})
		},
	}
	c.ValidArgsFunction = completeEach(a.completeBuckets)
	c.Flags().DurationVar(&timeout, "timeout", 0, "give up after so long (default: never)")
	return c
}
