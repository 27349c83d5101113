package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	fsType = "alkfs" // shown as fuse.alkfs
	// requestBytes is the size of the largest read or write, a span of the blob
	// store: smaller ones split groups and read-ahead windows. Replies are not
	// spliced, for which the header would not fit the kernel's 256 pages.
	requestBytes = 1 << 20
	// readAheadKB is how far ahead the kernel reads; by itself it stops at 128.
	readAheadKB = 2048
)

func mountOptions(o Options, log *slog.Logger) *fuse.MountOptions {
	m := &fuse.MountOptions{
		AllowOther:    o.AllowOther,
		Options:       []string{"default_permissions"},
		MaxBackground: 64,
		MaxWrite:      requestBytes,
		FsName:        o.FsName,
		Name:          fsType,
		Debug:         o.Debug,
		Logger:        slog.NewLogLogger(log.Handler(), slog.LevelDebug),

		EnableSymlinkCaching:     true,
		ExplicitDataCacheControl: true,
		EnableAcl:                true,
		DisableSplice:            true,
		ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_EXPORT_SUPPORT | fuse.CAP_DONT_MASK |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_SETXATTR_EXT | fuse.CAP_ASYNC_DIO | fuse.CAP_READDIRPLUS_AUTO,
		PanicHandler: func(p any) fuse.Status {
			log.Error("request failed", "panic", p)
			return fuse.EIO
		},
	}
	if o.Debug {
		m.Logger = slog.NewLogLogger(log.Handler(), slog.LevelInfo)
	}
	if m.FsName == "" {
		m.FsName = fsType
	}
	if os.Geteuid() == 0 {
		m.DirectMountStrict = true
		m.DirectMountFlags = syscall.MS_MGC_VAL // that is: neither nosuid nor nodev
		if o.ReadOnly {
			m.DirectMountFlags = syscall.MS_RDONLY
		}
	} else if o.ReadOnly {
		m.Options = append(m.Options, "ro")
	}
	return m
}

// explainMount adds what to do to the errors of mounting.
func explainMount(err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w: install fuse3, or mount as root", err)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%w: is the fuse module loaded, and is there a /dev/fuse?", err)
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("%w: mounting is not allowed here; a container needs /dev/fuse and CAP_SYS_ADMIN", err)
	}
	return err
}

func explainBusy(err error) error {
	if errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("%w: programs still have files or their working directory in it (fuser -vm shows which)", err)
	}
	return err
}

// prepareDir returns the absolute path of a directory that can be mounted on,
// after taking away what a killed mount left there.
func prepareDir(dir, store string, log *slog.Logger) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	kind := mountedOn(dir)
	if err = probe(dir); errors.Is(err, syscall.ENOTCONN) {
		if kind != "fuse."+fsType {
			return "", fmt.Errorf("%w: the program that served this %s mount is gone; run fusermount3 -u %s (as root: umount %s) and try again", err, kind, dir, dir)
		}
		log.Warn("taking away a dead mount", keyDir, dir)
		if err := unmountDir(dir, true); err != nil {
			return "", fmt.Errorf("a dead alkfs mount is there and cannot be taken away: %w", err)
		}
		kind = mountedOn(dir)
	}
	st, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", syscall.ENOTDIR
	}
	if kind == "fuse."+fsType {
		return "", fmt.Errorf("alkfs is already mounted there: %w", syscall.EBUSY)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	return dir, notAround(dir, store)
}

// probe asks the file system dir is on, where stat(2) may answer from a cache.
func probe(dir string) error {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st)
}

// notAround refuses a mount point that holds the store or is in it: the mount
// would wait for itself.
func notAround(dir, store string) error {
	store, err := filepath.Abs(store)
	if err != nil {
		return err
	}
	if store, err = filepath.EvalSymlinks(store); err != nil {
		return err
	}
	within := func(a, b string) bool { return a == b || strings.HasPrefix(a+"/", strings.TrimSuffix(b, "/")+"/") }
	if within(store, dir) {
		return fmt.Errorf("the store %s would be hidden by the mount: %w", store, syscall.EINVAL)
	}
	if within(dir, store) {
		return fmt.Errorf("it is inside the store %s: %w", store, syscall.EINVAL)
	}
	return nil
}

// mountedOn returns the file system type of the topmost mount on dir, "" when
// dir is no mount point.
func mountedOn(dir string) (kind string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && len(fields) > 4 && unescapeMount(fields[4]) == dir {
			kind, _, _ = strings.Cut(after, " ")
		}
	}
	return kind
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmountDir undoes the mount on dir; lazy does it even while it is in use.
func unmountDir(dir string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if lazy {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	args := []string{"-u", "--", dir}
	if lazy {
		args = []string{"-u", "-z", "--", dir}
	}
	out, err := exec.Command("fusermount3", args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	switch {
	case err == nil:
		return nil
	case strings.Contains(text, "busy"):
		return syscall.EBUSY
	case strings.Contains(text, "not found") || strings.Contains(text, "not mounted"):
		return syscall.EINVAL
	case text != "":
		return errors.New(text)
	}
	return err
}

// deviceOf returns the minor number of the device dir is on. FUSE mounts have
// major 0.
func deviceOf(dir string) uint32 {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return 0
	}
	return unix.Minor(st.Dev)
}

// raiseReadAhead lets the kernel read further ahead on the mount than FUSE can
// ask for, which only root may.
func raiseReadAhead(device uint32, log *slog.Logger) {
	if os.Geteuid() != 0 {
		return
	}
	path := fmt.Sprintf("/sys/class/bdi/0:%d/read_ahead_kb", device)
	if err := os.WriteFile(path, []byte(strconv.Itoa(readAheadKB)), 0); err != nil {
		log.Debug("read-ahead stays at the kernel's default", keyError, err)
	}
}

// abort ends the kernel's connection: whoever still uses the mount, which is
// out of the tree by now, gets ENOTCONN.
func (s *Server) abort() {
	path := fmt.Sprintf("/sys/fs/fuse/connections/%d/abort", s.device)
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		s.fs.log.Debug("the connection stays until the programs let go", keyError, err) // no fusectl mounted
	}
}
