package crdtsync

import (
	"context"
	"io"

	"github.com/alkdev/alkfs/crdtsync/identity"
)

// wrapped is a Network whose streams go through wrap.
type wrapped struct {
	Network
	wrap func(peer identity.Key, s io.ReadWriteCloser) io.ReadWriteCloser
}

func (n wrapped) Dial(ctx context.Context, addr string, k identity.Key) (Link, error) {
	l, err := n.Network.Dial(ctx, addr, k)
	if err != nil {
		return nil, err
	}
	return wrappedLink{l, n}, nil
}

func (n wrapped) Accept(ctx context.Context) (Link, error) {
	l, err := n.Network.Accept(ctx)
	if err != nil {
		return nil, err
	}
	return wrappedLink{l, n}, nil
}

type wrappedLink struct {
	Link
	n wrapped
}

func (l wrappedLink) OpenStream(ctx context.Context) (io.ReadWriteCloser, error) {
	return l.stream(l.Link.OpenStream(ctx))
}

func (l wrappedLink) AcceptStream(ctx context.Context) (io.ReadWriteCloser, error) {
	return l.stream(l.Link.AcceptStream(ctx))
}

func (l wrappedLink) stream(s io.ReadWriteCloser, err error) (io.ReadWriteCloser, error) {
	if err != nil {
		return nil, err
	}
	return l.n.wrap(l.Peer(), s), nil
}
