package blobstore

import (
	"bytes"
	"io"
	"sync/atomic"
)

// comparing takes an outboard and compares it with the one there is.
type comparing struct {
	r       io.ReaderAt
	differs atomic.Bool
}

func (c *comparing) WriteAt(p []byte, off int64) (int, error) {
	if c.differs.Load() {
		return len(p), nil
	}
	have := make([]byte, len(p))
	if readFull(c.r, have, off) != nil || !bytes.Equal(have, p) {
		c.differs.Store(true)
	}
	return len(p), nil
}
