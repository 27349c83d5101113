package crdtsync

import (
	"context"
	"net"
	"net/netip"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/crdtsync/nearby"
)

// FindNearby announces this node on the local network, to members of its buckets
// alone, and looks there for those that are not connected, until ctx ends. at is
// where the node listens; on a loopback address it does nothing.
func (e *Engine) FindNearby(ctx context.Context, at *net.UDPAddr) {
	if at.IP.IsLoopback() {
		return
	}
	var known map[string]identity.Key // used by one goroutine at a time, as Run calls
	nearby.Run(ctx, nearby.Options{
		IP: at.IP, Port: at.Port, Logger: e.log,
		IDs: e.nearbyIDs,
		Wanted: func() bool {
			var wanted bool
			known, wanted = e.nearbyMembers()
			return wanted
		},
		Found: func(id string, addr netip.AddrPort) {
			if k, ok := known[id]; ok {
				e.Nearby(k, addr.String())
			}
		},
	})
}

// nearbyIDs returns what members know this node by on the local network.
func (e *Engine) nearbyIDs() (ids []string) {
	uuids, err := e.Buckets()
	if err != nil {
		e.log.Error("buckets could not be listed", "err", err)
	}
	for _, b := range uuids {
		ids = append(ids, nearby.ID(b, e.key, e.now()))
	}
	return ids
}

// nearbyMembers returns what other members may be known by, and whether any of
// them is not connected.
func (e *Engine) nearbyMembers() (known map[string]identity.Key, wanted bool) {
	known = map[string]identity.Key{}
	uuids, err := e.Buckets()
	for _, b := range uuids {
		m, err := e.Membership(b)
		if err != nil {
			continue // it has just been removed
		}
		for _, o := range m.All() {
			if o.Key == e.key || o.Role < identity.ReadOnly {
				continue
			}
			for _, id := range nearby.IDs(b, o.Key, e.now()) {
				known[id] = o.Key
			}
			e.mu.Lock()
			wanted = wanted || e.sessions[o.Key] == nil
			e.mu.Unlock()
		}
	}
	if err != nil {
		e.log.Error("buckets could not be listed", "err", err)
	}
	return known, wanted
}
