package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const module = "github.com/alkdev/alkfs"

type bench struct {
	options
	dir     string
	source  string // tree to unpack: its archive
	repo    string // repository to clone
	alkfs   string // binaries
	loop    string
	running []*server
	took    map[string]map[string][]time.Duration // workload, system → durations
}

type system struct {
	name, dir string
	large     bool // takes part in reads of a large file only
}

// readers are further mounts of the store of alkfs, on which large files are
// read as its users can choose to.
var readers = []struct{ name, flag string }{
	{"passthrough", "--passthrough"},
	{"read-only", "--read-only"},
}

type server struct {
	cmd *exec.Cmd
	dir string
}

func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=b", "GIT_AUTHOR_EMAIL=b@example.org", "GIT_COMMITTER_NAME=b", "GIT_COMMITTER_EMAIL=b@example.org")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", name, args, err, out)
	}
	return nil
}

// prepare builds the binaries and makes what the workloads take as input.
func (b *bench) prepare() error {
	b.alkfs, b.loop = filepath.Join(b.dir, "alkfs-bin"), filepath.Join(b.dir, "loopback-bin")
	build := map[string]string{b.alkfs: "/cmd/alkfs", b.loop: "/integration/bench/loopback"}
	if b.bin != "" {
		delete(build, b.alkfs)
		b.alkfs = b.bin
	}
	for out, pkg := range build {
		if err := command("", "go", "build", "-o", out, module+pkg); err != nil {
			return err
		}
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	src := filepath.Join(string(root[:len(root)-1]), "src")
	unpack, cloned := ".", []string{"net", "crypto", "go", "os", "cmd/go", "cmd/compile"}
	if b.quick {
		unpack, cloned = "net", []string{"net"}
	}
	b.source = filepath.Join(b.dir, "src.tar")
	if err := command("", "tar", "-cf", b.source, "-C", src, unpack); err != nil {
		return err
	}
	b.repo = filepath.Join(b.dir, "repo")
	if err := command("", "git", "init", "-q", "-b", "main", b.repo); err != nil {
		return err
	}
	for _, d := range cloned {
		to := filepath.Join(b.repo, filepath.Dir(d))
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := command("", "cp", "-a", filepath.Join(src, d), to); err != nil {
			return err
		}
	}
	if err := command(b.repo, "git", "add", "-A"); err != nil {
		return err
	}
	return command(b.repo, "git", "commit", "-q", "-m", "all")
}

// mountAll makes all systems afresh.
func (b *bench) mountAll(rep int) ([]system, error) {
	at := func(name string) (string, error) {
		d := filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, rep))
		return d, os.Mkdir(d, 0o755)
	}
	native, err1 := at("native")
	below, err2 := at("below-loopback")
	loop, err3 := at("loopback")
	store := filepath.Join(b.dir, fmt.Sprintf("store-%d", rep))
	mnt, err4 := at("alkfs")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	if err := command("", b.alkfs, "--store", store, "init"); err != nil {
		return nil, err
	}
	if err := b.serve(loop, b.loop, below, loop); err != nil {
		return nil, err
	}
	if err := b.serve(mnt, b.alkfs, "--store", store, "mount", mnt); err != nil {
		return nil, err
	}
	systems := []system{{name: "native", dir: native}, {name: "loopback", dir: loop}, {name: "alkfs", dir: mnt}}
	for _, r := range readers {
		dir, err := at(r.name)
		if err != nil {
			return nil, err
		}
		if err := b.serve(dir, b.alkfs, "--store", store, "mount", r.flag, dir); err != nil {
			return nil, err
		}
		systems = append(systems, system{r.name, dir, true})
	}
	return systems, nil
}

// serve starts a server and waits until its mount is there.
func (b *bench) serve(dir, name string, args ...string) error {
	var before, now syscall.Stat_t
	if err := syscall.Stat(dir, &before); err != nil {
		return err
	}
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.running = append(b.running, &server{cmd, dir})
	for range 3000 {
		if err := syscall.Stat(dir, &now); err == nil && now.Dev != before.Dev {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s does not mount on %s", name, dir)
}

func (b *bench) unmountAll() {
	for _, s := range b.running {
		for range 100 {
			if err := exec.Command("fusermount3", "-u", s.dir).Run(); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		done := make(chan struct{})
		go func() { s.cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(60 * time.Second):
			s.cmd.Process.Kill()
			_ = syscall.Unmount(s.dir, syscall.MNT_DETACH)
		}
	}
	b.running = nil
}
