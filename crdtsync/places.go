package crdtsync

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/schema"
)

// heard keeps where the peer, and others it knows of, can be found: what was
// heard of a node last counts, whoever heard it.
func (e *Engine) heard(k identity.Key, h *hello) {
	was, _, err := e.placesOf(k)
	if err == nil {
		err = e.setPlaces(k, h.Addrs)
	}
	if err != nil {
		e.log.Error("an address could not be kept", "err", err)
	} else if !slices.Equal(was, h.Addrs) {
		e.moved.wake()
	}
	e.heardOfAll(k, h.Others)
	e.grantsNews.wake()
}

// heardOfAll keeps what k says of where others are, of members.
func (e *Engine) heardOfAll(k identity.Key, others []peerPlaces) {
	news := false
	for _, o := range others {
		if o.Key == e.key || o.Key == k || len(o.Addrs) == 0 || !e.Admits(o.Key) {
			continue
		}
		changed, err := e.heardOf(o)
		if err != nil {
			e.log.Error("an address could not be kept", "err", err)
		}
		news = news || changed
	}
	if news {
		e.moved.wake()
	}
}

// heardOf keeps what another says of where a node is, if it is newer than what
// is known, and reports whether it is something else.
func (e *Engine) heardOf(o peerPlaces) (changed bool, err error) {
	was, heard, err := e.placesOf(o.Key)
	if err != nil {
		return false, err
	}
	at := time.Unix(0, o.Heard)
	if now := e.now(); at.After(now) {
		at = now // a clock that is ahead must not have the last word for ever
	}
	if len(was) > 0 && !at.After(heard) {
		return false, nil
	}
	return !slices.Equal(was, o.Addrs), e.setPlacesAt(o.Key, o.Addrs, at)
}

// places returns where this node listens, and where the members do that it has
// in common with k.
func (e *Engine) places(k identity.Key) (own []string, others []peerPlaces) {
	keys, err := e.peers()
	if err != nil {
		return e.ownAddrs(), nil
	}
	for _, o := range keys {
		if o == k || len(others) == maxPlaces {
			continue
		}
		if addrs, heard, err := e.placesOf(o); err == nil && len(addrs) > 0 {
			others = append(others, peerPlaces{o, addrs, heard.UnixNano()})
		}
	}
	return e.ownAddrs(), others
}

// samePlaces reports whether two say the same but for when it was heard.
func samePlaces(a, b []peerPlaces) bool {
	return slices.EqualFunc(a, b, func(x, y peerPlaces) bool { return x.Key == y.Key && slices.Equal(x.Addrs, y.Addrs) })
}

// setPlaces keeps the addresses of a node, which was just heard.
func (r *Replica) setPlaces(k identity.Key, addrs []string) error {
	return r.setPlacesAt(k, addrs, r.now())
}

// setPlacesAt is setPlaces for a node that somebody heard at a time.
func (r *Replica) setPlacesAt(k identity.Key, addrs []string, at time.Time) error {
	if addrs == nil {
		addrs = []string{}
	}
	b, err := json.Marshal(addrs)
	if err != nil {
		return err
	}
	return r.db.Write(func(tx *schema.Tx) error {
		s := tx.Stmt(`INSERT INTO sync_peer (key, addrs, heard) VALUES (?, ?, ?)
			ON CONFLICT DO UPDATE SET addrs = iif(excluded.addrs = '[]', addrs, excluded.addrs), heard = excluded.heard`)
		s.BindBytes(1, k[:])
		s.BindText(2, string(b))
		s.BindInt64(3, at.UnixNano())
		_, err := s.Step()
		return err
	})
}

// placesOf returns where a node was last found, and when it was last heard, here
// or by another node.
func (r *Replica) placesOf(k identity.Key) (addrs []string, heard time.Time, err error) {
	err = r.db.Read(func(tx *schema.Tx) error {
		s := tx.Stmt(`SELECT addrs, heard FROM sync_peer WHERE key = ?`)
		s.BindBytes(1, k[:])
		ok, err := s.Step()
		if err != nil || !ok {
			return err
		}
		heard = time.Unix(0, s.ColumnInt64(1))
		return json.Unmarshal([]byte(s.ColumnText(0)), &addrs)
	})
	return addrs, heard, err
}
