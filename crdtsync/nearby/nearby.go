package nearby

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/mdns"
	"github.com/miekg/dns"
)

const (
	service  = "_alkfs._udp"
	domain   = "local."
	maxIDs   = 32 // in an answer
	maxIfs   = 16
	maxHeard = 256 // answers to one question
	listen   = time.Second
)

// Options configures Run.
type Options struct {
	IP   net.IP // where this node listens; unspecified: on every address
	Port int
	// IDs returns what this node is announced as now.
	IDs func() []string
	// Wanted reports whether there is somebody to be found.
	Wanted func() bool
	// Found is told of each ID in an answer, and where it listens.
	Found  func(id string, addr netip.AddrPort)
	First  time.Duration // until the second question, doubling to Most. Default 2 s
	Most   time.Duration // default 1 min
	Logger *slog.Logger  // default: discard
}

var text = base32.StdEncoding.WithPadding(base32.NoPadding)

// ID returns what a node is announced as, for a bucket, on the day of t.
func ID(bucket [16]byte, key [32]byte, t time.Time) string {
	day := binary.BigEndian.AppendUint64(nil, uint64(t.Unix()/(24*60*60)))
	sum := sha256.Sum256(slices.Concat([]byte("alkfs nearby 1\x00"), bucket[:], key[:], day))
	return strings.ToLower(text.EncodeToString(sum[:16]))
}

// IDs are those of ID that may be met at t, by a clock that is not exact.
func IDs(bucket [16]byte, key [32]byte, t time.Time) []string {
	const day = 24 * time.Hour
	return []string{ID(bucket, key, t), ID(bucket, key, t.Add(-day)), ID(bucket, key, t.Add(day))}
}

// finder is a running Run.
type finder struct {
	o        Options
	instance string
	servers  map[string]*mdns.Server // by interface and its addresses

	mu  sync.Mutex // guards ids
	ids []string
}

// Run answers, and asks now and then, until ctx ends.
func Run(ctx context.Context, o Options) {
	if o.First <= 0 {
		o.First = 2 * time.Second
	}
	if o.Most <= 0 {
		o.Most = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &finder{o: o, instance: strings.ToLower(rand.Text()), servers: map[string]*mdns.Server{}}
	defer func() {
		for _, s := range f.servers {
			s.Shutdown()
		}
	}()
	for pause := o.First; ; pause = min(2*pause, o.Most) {
		ids := o.IDs()
		f.mu.Lock()
		f.ids = ids[:min(len(ids), maxIDs)]
		f.mu.Unlock()
		all := f.interfaces()
		f.serve(all)
		if o.Wanted() {
			f.ask(ctx, all)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// iface is a network interface with its addresses.
type iface struct {
	net.Interface
	ips []net.IP
}

func (i iface) key() string {
	var b strings.Builder
	b.WriteString(i.Name)
	for _, ip := range i.ips {
		b.WriteString(" " + ip.String())
	}
	return b.String()
}

// interfaces returns those that this node can be found on.
func (f *finder) interfaces() (all []iface) {
	list, err := net.Interfaces()
	if err != nil {
		f.o.Logger.Error("network interfaces could not be listed", "err", err)
	}
	const want = net.FlagUp | net.FlagMulticast
	for _, i := range list {
		if i.Flags&(want|net.FlagLoopback) != want || len(all) == maxIfs {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has just gone
		}
		n := iface{Interface: i}
		for _, a := range addrs {
			p, ok := a.(*net.IPNet)
			if ok && (f.o.IP.IsUnspecified() || f.o.IP.Equal(p.IP)) {
				n.ips = append(n.ips, p.IP)
			}
		}
		if len(n.ips) > 0 {
			all = append(all, n)
		}
	}
	return all
}

// serve has a responder on each of the interfaces and on no other.
func (f *finder) serve(all []iface) {
	had := f.servers
	f.servers = map[string]*mdns.Server{}
	for _, i := range all {
		k := i.key()
		s := had[k]
		if s == nil {
			var err error
			s, err = mdns.NewServer(&mdns.Config{Zone: zone{f, i}, Iface: &i.Interface, Logger: f.quiet()})
			if err != nil {
				f.o.Logger.Debug("nothing can be announced on a network interface", "interface", i.Name, "err", err)
				continue
			}
		}
		f.servers[k] = s
		delete(had, k)
	}
	for _, s := range had {
		s.Shutdown()
	}
}

// quiet is the library's log: what strangers send is no news.
func (f *finder) quiet() *log.Logger {
	return slog.NewLogLogger(f.o.Logger.Handler(), slog.LevelDebug)
}

// zone is what a responder answers.
type zone struct {
	f *finder
	i iface
}

// Records implements mdns.Zone.
func (z zone) Records(q dns.Question) []dns.RR {
	z.f.mu.Lock()
	ids := slices.Clone(z.f.ids)
	z.f.mu.Unlock()
	if len(ids) == 0 {
		return nil
	}
	s, err := mdns.NewMDNSService(z.f.instance, service, domain, z.f.instance+"."+domain, z.f.o.Port, z.i.ips, ids)
	if err != nil {
		z.f.o.Logger.Error("this node cannot be announced", "err", err)
		return nil
	}
	return s.Records(q)
}

// ask asks on all interfaces at once.
func (f *finder) ask(ctx context.Context, all []iface) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, i := range all {
		wg.Go(func() {
			heard := make(chan *mdns.ServiceEntry, maxHeard)
			err := mdns.QueryContext(ctx, &mdns.QueryParam{
				Service: service, Timeout: listen, Interface: &i.Interface, Entries: heard, WantUnicastResponse: true, Logger: f.quiet(),
			})
			if err != nil && ctx.Err() == nil {
				f.o.Logger.Debug("nobody can be asked on a network interface", "interface", i.Name, "err", err)
			}
			close(heard) // nothing is sent after the end of the query
			for e := range heard {
				f.found(e)
			}
		})
	}
}

func (f *finder) found(e *mdns.ServiceEntry) {
	if !strings.HasSuffix(e.Name, "."+service+"."+domain) || strings.HasPrefix(e.Name, f.instance+".") || e.Port <= 0 || e.Port > 1<<16-1 {
		return
	}
	for _, id := range e.InfoFields[:min(len(e.InfoFields), maxIDs)] {
		if ip, ok := netip.AddrFromSlice(e.AddrV4); ok {
			f.o.Found(id, netip.AddrPortFrom(ip.Unmap(), uint16(e.Port)))
		}
		if e.AddrV6IPAddr == nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(e.AddrV6IPAddr.IP); ok {
			f.o.Found(id, netip.AddrPortFrom(ip.WithZone(e.AddrV6IPAddr.Zone), uint16(e.Port)))
		}
	}
}
