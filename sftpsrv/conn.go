package sftpsrv

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/alkdev/alkfs/schema"
	"github.com/alkdev/alkfs/sftpsrv/access"
)

// maxChannels is how many sessions one connection may have open, as OpenSSH's
// MaxSessions.
const maxChannels = 10

// connection is one that has logged in.
type connection struct {
	s    *Server
	conn *ssh.ServerConn
	id   *identity

	used  atomic.Int64 // when the client last asked for something, ns since 1970
	alive atomic.Int64 // when it last said anything
	open  atomic.Int64 // channels

	mu struct {
		sync.Mutex
		rights  *access.Rights
		others  uint32 // of the store, when rights were loaded
		changes uint64 // of access
	}
}

// rights returns what the user may do now. A user who could not log in any more
// loses the connection.
func (c *connection) rights() (*access.Rights, error) {
	c.touch()
	others, changes := c.s.c.DB.Others(), access.Changes()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.rights != nil && c.mu.others == others && c.mu.changes == changes {
		return c.mu.rights, nil
	}
	var r access.Rights
	err := c.s.c.DB.Read(func(tx *schema.Tx) (err error) {
		r, err = c.id.valid(tx)
		return err
	})
	if errors.Is(err, errLogin) || errors.Is(err, syscall.ENOENT) {
		c.s.log.Info("login withdrawn", "user", c.id.name)
		go c.conn.Close()
		return nil, errDenied
	}
	if err != nil {
		return nil, err
	}
	c.mu.rights, c.mu.others, c.mu.changes = &r, others, changes
	return &r, nil
}

func (c *connection) touch() {
	now := time.Now().UnixNano()
	c.used.Store(now)
	c.alive.Store(now)
}

// run serves the connection until it ends.
func (c *connection) run(ctx context.Context, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	c.touch()
	wg.Go(func() { c.refuseRequests(requests) })
	wg.Go(func() { c.watch(ctx) })
	for nc := range channels {
		switch {
		case nc.ChannelType() != "session":
			nc.Reject(ssh.Prohibited, "no forwarding")
		case c.open.Load() >= maxChannels:
			nc.Reject(ssh.ResourceShortage, "too many sessions")
		default:
			c.open.Add(1)
			wg.Go(func() {
				defer c.open.Add(-1)
				c.channel(ctx, nc)
			})
		}
	}
}

// refuseRequests answers requests of the connection: no port is forwarded, but
// asking (keepalive@openssh.com) shows that somebody is there.
func (c *connection) refuseRequests(requests <-chan *ssh.Request) {
	for r := range requests {
		c.touch()
		if r.WantReply {
			r.Reply(false, nil)
		}
	}
}

// watch ends a connection that is dead or idle.
func (c *connection) watch(ctx context.Context) {
	tick := time.NewTicker(c.s.o.KeepAlive)
	defer tick.Stop()
	var asking atomic.Bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		idle := now.Sub(time.Unix(0, c.used.Load()))
		silent := now.Sub(time.Unix(0, c.alive.Load()))
		if (c.s.o.IdleTimeout > 0 && idle > c.s.o.IdleTimeout) || silent > 4*c.s.o.KeepAlive {
			c.s.log.Info("connection timed out", "user", c.id.name, "idle", idle, "silent", silent)
			c.conn.Close()
			return
		}
		if asking.CompareAndSwap(false, true) {
			go func() { // ends with the connection
				defer asking.Store(false)
				if _, _, err := c.conn.SendRequest("keepalive@openssh.com", true, nil); err == nil {
					c.alive.Store(time.Now().UnixNano())
				}
			}()
		}
	}
}

// channel serves one session: SFTP or one command.
func (c *connection) channel(ctx context.Context, nc ssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range requests {
		c.touch()
		run := c.program(r)
		if r.WantReply {
			r.Reply(run != nil, nil)
		}
		if run == nil {
			continue
		}
		go func() { // ends when the channel is closed
			for r := range requests {
				if r.WantReply {
					r.Reply(false, nil)
				}
			}
			cancel()
		}()
		exit := run(ctx, ch)
		ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(exit)}))
		return
	}
}

// program returns what a channel request starts, nil for those refused: there
// is no shell, terminal, environment, X11 or agent here.
func (c *connection) program(r *ssh.Request) func(context.Context, ssh.Channel) int {
	var arg struct{ Text string }
	if (r.Type != "subsystem" && r.Type != "exec") || ssh.Unmarshal(r.Payload, &arg) != nil {
		return nil
	}
	if r.Type == "subsystem" {
		if arg.Text != "sftp" {
			return nil
		}
		return c.serveSFTP
	}
	if c.s.o.Exec == nil {
		return nil
	}
	return func(ctx context.Context, ch ssh.Channel) int { return c.exec(ctx, ch, arg.Text) }
}

func (c *connection) serveSFTP(ctx context.Context, ch ssh.Channel) int {
	s := newSession(c.s.c, rand.Int64(), c.rights)
	f := newFilter(ctx, ch, s, &c.s.memory)
	f.ops = c.s.ops
	defer f.stop()
	h := handlers{s}
	err := sftp.NewRequestServer(f, sftp.Handlers{FileCmd: h, FileList: h}).Serve()
	f.wait()
	s.end()
	c.s.log.Debug("sftp ended", "user", c.id.name, "error", err)
	return 0
}

func (c *connection) exec(ctx context.Context, ch ssh.Channel, line string) int {
	args, err := words(line)
	if err != nil {
		ch.Stderr().Write([]byte("alkfs: " + err.Error() + "\n"))
		return 2
	}
	c.s.stats.Commands.Add(1)
	c.s.log.Info("command", "user", c.id.name, "command", line)
	return c.s.o.Exec(ctx, Command{
		Args: args, User: c.id.name, Rights: c.rights, Stdout: ch, Stderr: ch.Stderr(),
	})
}
