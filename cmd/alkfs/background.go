package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alkdev/alkfs"
)

// A mount in the background is this program run again in a session of its own,
// with a pipe (descriptor readyFD) on which it reports once how it went. What it
// has to say later goes to mount.log of the store.
const (
	readyFD     = 3
	childMarker = "ALKFS_BACKGROUND_CHILD"
	logName     = "mount.log"
	logMax      = 1 << 20 // bytes from which mount.log starts anew
)

func isChild() bool { return os.Getenv(childMarker) != "" }

// mountReport is what the child tells its parent.
type mountReport struct {
	OK     bool   `json:"ok"`
	PID    int    `json:"pid,omitempty"`
	Status int    `json:"status,omitempty"`
	Text   string `json:"text,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// remoteError is an error of the child.
type remoteError struct{ mountReport }

func (e remoteError) Error() string { return e.Text }

func (a *app) report(err error) mountReport {
	return mountReport{Status: exitStatus(err), Text: message(err), Hint: a.hint(err)}
}

func tellParent(r mountReport) {
	f := os.NewFile(readyFD, "ready")
	if f == nil {
		return
	}
	if p, err := json.Marshal(r); err == nil {
		_, _ = f.Write(append(p, '\n'))
	}
	f.Close()
}

func (a *app) mountInBackground(ctx context.Context, store string, spec alkfs.Spec, dir string) error {
	if err := os.MkdirAll(store, 0o700); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	log, err := openLog(filepath.Join(store, logName))
	if err != nil {
		return err
	}
	defer log.Close()
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	exe, err := os.Executable()
	if err != nil {
		exe = os.Args[0]
	}
	cmd := exec.Command(exe)
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), childMarker+"=1")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return fmt.Errorf("start the mount's process: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	r, err := readReport(ready)
	if err != nil {
		_ = cmd.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return withHint(errors.New("the mount's process ended before it was ready"), "see %s", quote(log.Name()))
	}
	if !r.OK {
		_ = cmd.Wait()
		return remoteError{r}
	}
	if err := awaitMount(ctx, dir); err != nil {
		return err
	}
	if a.json {
		return a.emit("dir", dir, "spec", spec.String(), "pid", r.PID)
	}
	a.printf("%s is at %s (process %d). `%s umount %s` ends it.\n", spec, quote(dir), r.PID, self(), shellWord(dir))
	return cmd.Process.Release()
}

func readReport(from io.Reader) (r mountReport, err error) {
	line, err := bufio.NewReader(from).ReadBytes('\n')
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(line, &r)
}

// awaitMount returns when the mount answers.
func awaitMount(ctx context.Context, dir string) error {
	answered := make(chan error, 1)
	go func() {
		_, err := os.ReadDir(dir)
		answered <- err
	}()
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return withHint(fmt.Errorf("%s was mounted but does not answer", quote(dir)), "`alkfs umount --lazy %s` takes it away", shellWord(dir))
	}
}

func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > logMax {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// fusermount runs fusermount3 (or fusermount) and returns what it says as an
// error.
func fusermount(args ...string) error {
	name, err := exec.LookPath("fusermount3")
	if err != nil {
		if name, err = exec.LookPath("fusermount"); err != nil {
			return fmt.Errorf("neither root nor fusermount3 here (%w)", syscall.EPERM)
		}
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if strings.Contains(text, "busy") {
		return fmt.Errorf("%s (%w)", text, syscall.EBUSY)
	}
	return errors.New(text)
}
