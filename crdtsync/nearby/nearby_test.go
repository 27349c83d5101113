package nearby

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/mdns"
	"github.com/miekg/dns"
)

// What members look for has what a node announces, also where their clocks have
// different days; others have nothing in common with it, nor with it on another
// day.
func TestIDs(t *testing.T) {
	key, bucket, noon := [32]byte{1}, [16]byte{2}, time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	announced := ID(bucket, key, noon)
	for _, off := range []time.Duration{0, -24 * time.Hour, 24 * time.Hour} {
		found := false
		for _, id := range IDs(bucket, key, noon.Add(off)) {
			found = found || id == announced
		}
		if !found {
			t.Errorf("not found by a clock that is %v off", off)
		}
	}
	for what, id := range map[string]string{
		"another bucket": ID([16]byte{3}, key, noon), "another node": ID(bucket, [32]byte{3}, noon), "next day": ID(bucket, key, noon.Add(24*time.Hour)),
	} {
		if id == announced {
			t.Errorf("%s: the same", what)
		}
	}
}

// An answer has IDs, addresses and a port, and not the name of the machine.
func TestAnswer(t *testing.T) {
	f := &finder{o: Options{Port: 4747}, instance: "x", ids: []string{"one", "two"}}
	z := zone{f, iface{net.Interface{Name: "eth0"}, []net.IP{net.IPv4(10, 0, 0, 1)}}}
	var all strings.Builder
	for _, rr := range z.Records(dns.Question{Name: "_alkfs._udp.local.", Qtype: dns.TypePTR, Qclass: dns.ClassINET}) {
		all.WriteString(rr.String() + "\n")
	}
	for _, want := range []string{"4747 x.local.", "10.0.0.1", `"one" "two"`} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("no %q in\n%s", want, &all)
		}
	}
	f.ids = nil
	if rr := z.Records(dns.Question{Name: "_alkfs._udp.local.", Qtype: dns.TypePTR, Qclass: dns.ClassINET}); len(rr) > 0 {
		t.Errorf("a node without shared buckets answers %v", rr)
	}
}

// Of what anybody may send only what makes sense is handed on.
func TestFound(t *testing.T) {
	var got []string
	f := &finder{instance: "own", o: Options{Found: func(id string, addr netip.AddrPort) { got = append(got, id+" "+addr.String()) }}}
	good := mdns.ServiceEntry{Name: "other._alkfs._udp.local.", AddrV4: net.IPv4(10, 0, 0, 2), Port: 4747, InfoFields: []string{"one"}}
	for _, bad := range []func(e *mdns.ServiceEntry){
		func(e *mdns.ServiceEntry) { e.Name = "own._alkfs._udp.local." },
		func(e *mdns.ServiceEntry) { e.Name = "other._http._tcp.local." },
		func(e *mdns.ServiceEntry) { e.Port = 0 },
		func(e *mdns.ServiceEntry) { e.AddrV4 = net.IP{1, 2} },
		func(e *mdns.ServiceEntry) { e.InfoFields = nil },
	} {
		e := good
		bad(&e)
		f.found(&e)
	}
	if len(got) > 0 {
		t.Errorf("found %q", got)
	}
	f.found(&good)
	good.AddrV4, good.AddrV6IPAddr = nil, &net.IPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}
	f.found(&good)
	if len(got) != 2 || got[0] != "one 10.0.0.2:4747" || got[1] != "one [fe80::1%eth0]:4747" {
		t.Errorf("found %q", got)
	}
}
