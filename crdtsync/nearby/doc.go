// Package nearby finds nodes on the local network by multicast DNS (RFC 6762,
// RFC 6763), so that they need no addresses of each other.
//
// A node answers for the service _alkfs._udp with the addresses and port it
// listens at, and with an ID for each bucket that it shares: a hash of the bucket,
// the node's key and the day. Who belongs to the bucket can tell whose it is; to
// everybody else it is a number that is another one tomorrow. Nothing in an answer
// is believed but that it is worth a try to dial there: a node proves its key.
//
// There is one responder for each network interface, so that an answer has the
// addresses of the network it is sent on, and no name of the machine.
package nearby
