package blobstore

import (
	"fmt"
	"syscall"
)

// ErrMissing and ErrDamaged are told by errors.Is; errors.As finds
// syscall.EIO in both.
var (
	ErrMissing = fmt.Errorf("content is missing (%w)", syscall.EIO)
	ErrDamaged = fmt.Errorf("content is damaged (%w)", syscall.EIO)
)

const advice = "run `alkfs fsck --deep`"

func missing(h Hash) error { return fmt.Errorf("blob %s: %w: %s", h, ErrMissing, advice) }

func damaged(h Hash, what string) error {
	return fmt.Errorf("blob %s: %w: %s: %s", h, ErrDamaged, what, advice)
}
