package transport

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// translator is a router that translates the address of one machine behind it, as
// NAT does. Its own port can change, as when it forgets a translation.
type translator struct {
	t    *testing.T
	in   *net.UDPConn // towards the machine behind it
	to   *net.UDPAddr
	wg   sync.WaitGroup
	mu   sync.Mutex   // guards what follows
	out  *net.UDPConn // towards everybody else
	from *net.UDPAddr // the machine
}

func translate(t *testing.T, to net.Addr) *translator {
	t.Helper()
	in, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &translator{t: t, in: in, to: to.(*net.UDPAddr)}
	r.rebind()
	r.wg.Go(func() {
		p := make([]byte, 64<<10)
		for {
			n, from, err := in.ReadFromUDP(p)
			if err != nil {
				return
			}
			r.mu.Lock()
			r.from = from
			r.out.WriteToUDP(p[:n], r.to)
			r.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		in.Close()
		r.mu.Lock()
		r.out.Close()
		r.mu.Unlock()
		r.wg.Wait()
	})
	return r
}

// rebind has the machine seen under another port. What is sent to the one before it
// is lost.
func (r *translator) rebind() {
	r.t.Helper()
	out, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	old := r.out
	r.out = out
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	r.wg.Go(func() {
		p := make([]byte, 64<<10)
		for {
			n, err := out.Read(p)
			if err != nil {
				return
			}
			r.mu.Lock()
			from := r.from
			r.mu.Unlock()
			r.in.WriteToUDP(p[:n], from)
		}
	})
}

// TestAddressIsTranslatedAnew: a connection goes on when the address changes under
// which a machine behind a router is seen, in the middle of a transfer either way.
func TestAddressIsTranslatedAnew(t *testing.T) {
	for _, uploads := range []bool{false, true} {
		pa, pb := private(t), private(t)
		a, b := listen(t, pa, anybody, nil), listen(t, pb, anybody, nil)
		r := translate(t, b.Addr())
		out, err := a.Dial(t.Context(), r.in.LocalAddr().String(), identity.KeyOf(pb))
		if err != nil {
			t.Fatal(err)
		}
		in, err := b.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before := in.RemoteAddr().String()
		from, to := in, out // of the bytes
		if uploads {
			from, to = out, in
		}
		part := bytes.Repeat([]byte("some bytes of a transfer "), 40_000)
		w, err := from.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("!")); err != nil {
			t.Fatal(err)
		}
		s, err := to.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		written := make(chan error, 1)
		const parts = 8
		go func() {
			for range parts {
				if _, err := w.Write(part); err != nil {
					written <- err
					return
				}
			}
			written <- w.CloseWrite()
		}()
		for i := range parts {
			got := make([]byte, len(part))
			if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, part) {
				t.Fatalf("part %d: wrong bytes, or %v", i, err)
			}
			if i == 2 || i == 5 {
				r.rebind()
			}
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		if after := in.RemoteAddr().String(); after == before {
			t.Errorf("the machine is still seen at %s", after)
		}
		if out.Err() != nil || in.Err() != nil {
			t.Errorf("the connection ended: %v, %v", out.Err(), in.Err())
		}
	}
}
