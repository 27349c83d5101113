package writesession

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// owner is this process in the eyes of others: a name, and a file
// staging/owner-NAME.lock that it holds a flock on for as long as it lives.
type owner struct {
	name string
	lock *os.File
}

const stagingDir = "staging"

func ownerFile(dir, name string) string {
	return filepath.Join(dir, stagingDir, "owner-"+name+".lock")
}

// newOwner makes a name out of pid, start time, boot id and chance, and locks
// its file, in which it says what this process is. The file gets its name when
// it is locked, so nobody finds it free.
func newOwner(dir string) (*owner, error) {
	if err := os.MkdirAll(filepath.Join(dir, stagingDir), 0o700); err != nil {
		return nil, err
	}
	for {
		o, err := tryOwner(dir)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue // before it was locked a collection took it for left behind
		}
		return o, err
	}
}

func tryOwner(dir string) (*owner, error) {
	r := make([]byte, 4)
	rand.Read(r)
	name := fmt.Sprintf("%d-%s-%s-%s", os.Getpid(), startTime(), bootID(), hex.EncodeToString(r))
	path := ownerFile(dir, name)
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
		_, err = f.WriteString(commandLine())
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = nil // it is held all the same, and who looks at a store must not fail for it
		}
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		f.Close()
		os.Remove(path + ".new")
		return nil, err
	}
	return &owner{name, f}, nil
}

func (o *owner) release() {
	os.Remove(o.lock.Name()[:len(o.lock.Name())-len(".new")])
	o.lock.Close()
}

// lookTime is for how long claimDead waits for those who only look whether an
// owner lives, who hold a shared lock meanwhile.
const lookTime = time.Second

// claimDead locks the file of an owner that no longer runs, so that of several
// processes one cleans up after it. It reports false when the owner lives, or
// somebody else cleans up. An owner without a file is dead.
func claimDead(dir, name string) (lock *os.File, dead bool) {
	f, err := os.OpenFile(ownerFile(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false
	}
	for began := time.Now(); time.Since(began) < lookTime; time.Sleep(time.Millisecond) {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			return f, true
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil {
			break
		}
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	}
	f.Close()
	return nil, false
}

// alive reports whether the process of that name runs.
func alive(dir, name string) bool {
	f, err := os.Open(ownerFile(dir, name))
	if err != nil {
		return !os.IsNotExist(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// commandLine is how this process was called, shortened.
func commandLine() string {
	args := append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...)
	text := []rune(strings.ToValidUTF8(strings.Join(args, " "), "?"))
	return string(text[:min(len(text), 200)])
}

// describe says for people which process an owner is.
func describe(dir, name string) string {
	text := "process " + pidOf(name)
	if call, err := os.ReadFile(ownerFile(dir, name)); err == nil && len(call) > 0 {
		text += " (" + string(call) + ")"
	}
	return text
}

// pidOf returns the process id in an owner's name.
func pidOf(name string) string {
	pid, _, _ := strings.Cut(name, "-")
	return pid
}

// startTime returns field 22 of /proc/self/stat, in clock ticks since boot.
func startTime() string {
	b, _ := os.ReadFile("/proc/self/stat")
	_, rest, _ := strings.Cut(string(b), ") ") // the command may hold anything
	if f := strings.Fields(rest); len(f) > 19 {
		return f[19]
	}
	return "0"
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if len(b) < 8 {
		return "0"
	}
	return string(b[:8])
}
