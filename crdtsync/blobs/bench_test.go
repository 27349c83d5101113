package blobs

import (
	"context"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

const benchSize = 512 << 20

// tcp is a Peer over the loopback.
type tcp struct{ addr string }

func (tcp) Key() identity.Key { return identity.Key{1} }
func (p tcp) Open(ctx context.Context, _ bool) (io.ReadWriteCloser, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", p.addr)
}

func cpuNow() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkFetch brings 512 MiB into a new store: verified, written and adopted.
// cpu-ns/B is of both sides together.
func BenchmarkFetch(b *testing.B) {
	p := noise(1, benchSize)
	a := newNode(b, 1, Options{})
	content := a.add(b, p)
	p = nil
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			go a.server.Serve(context.Background(), identity.Key{9}, s)
		}
	}()
	for name, peer := range map[string]Peer{"pipe": &link{key: a.key, to: a}, "tcp": tcp{l.Addr().String()}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(benchSize)
			cpu := int64(0)
			for range b.N {
				b.StopTimer()
				c := newNode(b, 2, Options{})
				c.expect(b, content)
				c.f.AddPeer(peer)
				b.StartTimer()
				cpu -= cpuNow()
				if err := c.blobs.Fetch(context.Background(), content.Hash, content.Size, blobstore.Reading); err != nil {
					b.Fatal(err)
				}
				cpu += cpuNow()
			}
			b.ReportMetric(float64(cpu)/float64(b.N)/benchSize, "cpu-ns/B")
		})
	}
}
