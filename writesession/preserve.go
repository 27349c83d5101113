package writesession

import "syscall"

// Preserve is Close for a user who went away: nothing is published. What is
// unpublished stays as a session without an owner, which List shows and Recover,
// Publish and Abort take. When f has other users it is only let go of.
func (f *File) Preserve() error { return syscall.EIO }
