// Package integration holds the tests that need the real thing: the alkfs
// binary as a child process, a kernel mount, and the programs people run in
// one (git, go, npm, rsync, sqlite3, vim, gcc, …). It has no code of its own.
//
// # How a test is written
//
// newStore makes a store below t.TempDir; store.mount starts `alkfs mount` as a
// child and returns when the mount answers; everything a test starts is killed
// by its process id and everything it mounts is unmounted when the test ends,
// however it ends. A child dies with the test process. Nothing here asserts a
// duration: deadlines exist only so that a hang becomes a failure with the
// child's log beside it.
//
// # What is where
//
// Each file is named after the promise it holds: unpack_test.go (a big tree
// comes back equal), tools_test.go (programs just work), branches_test.go,
// sessions_test.go (what others see and when), killloop_test.go (what survives
// kill -9), churn_test.go (what a store needs when it is used hard and looks after
// itself), faults_test.go (full disk, damage, newer format), limits_test.go
// (sizes and counts), users_test.go (ordinary users). deps_test.go checks the
// direction of imports. Long variants carry the build tag nightly.
//
// bench is a command that compares a native directory, go-fuse's loopback and
// alkfs in one run.
package integration
