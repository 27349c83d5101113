// Package transport connects nodes: QUIC (RFC 9000) over one UDP socket, TLS 1.3
// both ways, each side known by its ed25519 key and by nothing else.
//
// Certificates are self-signed and only carry the key; possession is proven by
// the handshake. A key that Config.Admit does not know is refused in the
// handshake, before a byte of any protocol above. Strangers reach one thing, the
// join protocol (its own ALPN, a few connections at a time, one short request
// each). There is no resumption and no 0-RTT, so that a revoked key never comes
// in by an older handshake; Drop ends the connections that it has.
//
// One connection carries some 200 MB/s here, whatever its windows, and two or
// more 350: those who move much content dial several.
package transport
