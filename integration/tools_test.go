package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// gitTool runs git without the user's configuration.
func gitTool(dir string) tool {
	return tool{dir: dir, env: []string{
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
	}}
}

// sourceRepository makes a git repository of some thousand files outside of any mount.
func sourceRepository(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	must(t, os.Mkdir(dir, 0o755))
	for _, part := range []string{"net", "go", "crypto", "os"} {
		tool{}.run(t, "cp", "-a", gorootPart(t, "src", part), dir)
	}
	git := gitTool(dir)
	git.run(t, "git", "init", "-q", "-b", "main")
	git.run(t, "git", "add", "-A")
	git.run(t, "git", "commit", "-q", "-m", "all of it")
	return dir
}

func TestGit(t *testing.T) {
	source := sourceRepository(t)
	s := newStore(t)
	m := s.mount(t)
	gitTool(m.dir).run(t, "git", "clone", "-q", "--no-local", source, "clone")
	git := gitTool(m.path("clone"))
	clean := func() {
		t.Helper()
		if out := git.run(t, "git", "status", "--porcelain"); out != "" {
			t.Fatalf("git status says:\n%s", tail([]byte(out)))
		}
	}
	clean()
	git.run(t, "git", "checkout", "-q", "-b", "work")
	write(t, m.path("clone", "os", "file.go"), "package os\n")
	must(t, os.Remove(m.path("clone", "net", "dial.go")))
	must(t, os.Rename(m.path("clone", "crypto", "md5"), m.path("clone", "crypto", "md6")))
	must(t, os.Chmod(m.path("clone", "os", "env.go"), 0o755))
	git.run(t, "git", "add", "-A")
	out := git.run(t, "git", "diff", "--cached", "--summary", "-M")
	for _, want := range []string{"delete mode 100644 net/dial.go", "{md5 => md6}", "mode change 100644 => 100755 os/env.go"} {
		if !strings.Contains(out, want) {
			t.Errorf("git diff lacks %q:\n%s", want, out)
		}
	}
	git.run(t, "git", "commit", "-q", "-m", "work")
	clean()
	git.run(t, "git", "checkout", "-q", "main")
	clean()
	git.run(t, "git", "merge", "-q", "work")
	git.run(t, "git", "gc", "-q")
	m.settle(t)
	m.kill9(t)

	m = s.mountAt(t, m.dir)
	clean()
	git.run(t, "git", "fsck", "--full", "--strict")
	m.unmount(t)
}

func TestGoBuildsAndTests(t *testing.T) {
	out := tool{}.run(t, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/dustin/go-humanize")
	from := strings.TrimSpace(out)
	if from == "" {
		t.Fatal("the module is not in the module cache: run go mod download")
	}
	s := newStore(t)
	m := s.mount(t)
	must(t, os.Mkdir(m.path("tmp"), 0o777))
	tool{}.run(t, "cp", "-r", from, m.path("humanize"))
	tool{}.run(t, "chmod", "-R", "u+w", m.path("humanize"))
	goTool := tool{dir: m.path("humanize"), env: []string{"GOTMPDIR=" + m.path("tmp"), "GOFLAGS=-buildvcs=false", "GOWORK=off"}}
	if nightly {
		goTool.env = append(goTool.env, "GOCACHE="+m.path("cache"))
	}
	goTool.run(t, "go", "build", "./...")
	goTool.run(t, "go", "test", "-count=1", "./...")
	write(t, m.path("humanize", "cmd_main.txt"), "")
	must(t, os.Mkdir(m.path("humanize", "say"), 0o755))
	write(t, m.path("humanize", "say", "main.go"), `package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

func main() { fmt.Println(humanize.Bytes(82854982)) }
`)
	goTool.run(t, "go", "build", "-o", "say/say", "./say")
	if out := (tool{}).run(t, m.path("humanize", "say", "say")); out != "83 MB\n" {
		t.Fatalf("the program built in the mount says %q", out)
	}
	m.unmount(t)
}

// npm install puts the same files into a mount as into a plain directory, and
// node runs them. The plain directory comes first: when the registry cannot be
// reached, npm's own package, which is on the machine, is installed instead.
func TestNpmInstall(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	plain := t.TempDir()
	cache := t.TempDir()
	npm := tool{env: []string{"npm_config_cache=" + cache, "npm_config_update_notifier=false", "npm_config_audit=false", "npm_config_fund=false"}}
	install := func(dir string, args ...string) result {
		write(t, filepath.Join(dir, "package.json"), `{"name": "probe", "version": "1.0.0", "private": true}`)
		npm.dir = dir
		return npm.try(t, "npm", append([]string{"install", "--no-progress", "--prefer-offline",
			"--fetch-retries=5", "--fetch-timeout=60000", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=10000"}, args...)...)
	}
	what := []string{"express@4.21.2"}
	program := `console.log(typeof require("express")().listen)`
	r := install(plain, what...)
	if r.code != 0 {
		t.Logf("npm cannot install into a plain directory either, taking npm itself instead: %s", tail([]byte(r.err)))
		global := strings.TrimSpace(tool{}.run(t, "npm", "root", "-g"))
		what = []string{"--offline", "--install-links", "--ignore-scripts", filepath.Join(global, "npm")}
		program = `console.log(typeof require("npm/node_modules/semver").valid)`
		must(t, os.RemoveAll(filepath.Join(plain, "node_modules")))
		if r = install(plain, what...); r.code != 0 {
			t.Fatalf("npm install of a local package into a plain directory: %s", r.err)
		}
	}
	work := m.path("work")
	must(t, os.Mkdir(work, 0o755))
	if r = install(work, what...); r.code != 0 {
		t.Fatalf("npm install: %s\n%s", r.out, r.err)
	}
	check := func() {
		t.Helper()
		tool{}.run(t, "diff", "-r", "--no-dereference", "-x", ".package-lock.json", filepath.Join(plain, "node_modules"), filepath.Join(work, "node_modules"))
		if out := (tool{dir: work}).run(t, "node", "-e", program); out != "function\n" {
			t.Fatalf("node says %q", out)
		}
	}
	check()
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	check()
	npm.dir = work
	npm.run(t, "npm", "ls", "--all")
	m.unmount(t)
}

func TestTarAndRsync(t *testing.T) {
	part := gorootPart(t, "src", "crypto")
	s := newStore(t)
	m := s.mount(t)
	sh(t, m.dir, `tar -C "$1" -czf part.tgz . && mkdir part && tar -C part -xpzf part.tgz && tar -C part -df part.tgz`, part)
	sameTree(t, part, m.path("part"))

	mirror := filepath.Join(t.TempDir(), "mirror")
	tool{}.run(t, "cp", "-a", part, mirror)
	sync := func() {
		t.Helper()
		tool{}.run(t, "rsync", "-aHAX", "--delete", mirror+"/", m.path("mirror"))
		if out := (tool{}).run(t, "rsync", "-aHAXnic", "--delete", mirror+"/", m.path("mirror")); out != "" {
			t.Fatalf("rsync still sees differences:\n%s", tail([]byte(out)))
		}
		sameTree(t, mirror, m.path("mirror"))
	}
	sync()
	sh(t, mirror, `rm -r tls; mv aes sea; echo more >>rsa/rsa.go; truncate -s 10 dsa/dsa.go; mkdir new; ln -s ../sea new/link; ln rsa/rsa.go new/hard; chmod 600 md5/md5.go; setfattr -n user.colour -v blue md5/md5.go`)
	sync()
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	sameTree(t, mirror, m.path("mirror"))
	if out := (tool{}).run(t, "rsync", "-aHAXnic", "--delete", mirror+"/", m.path("mirror")); out != "" {
		t.Fatalf("after remount rsync sees differences:\n%s", tail([]byte(out)))
	}
	m.unmount(t)
}

// Two sqlite3 processes write one database in WAL mode: shared memory, locks.
func TestSQLiteWALWithTwoProcesses(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	db := m.path("data.db")
	if out := (tool{}).run(t, "sqlite3", db, "PRAGMA journal_mode=WAL; CREATE TABLE n (who TEXT, i INTEGER);"); out != "wal\n" {
		t.Fatalf("journal mode: %q", out)
	}
	const each = 150
	script := func(who string) string {
		var b strings.Builder
		b.WriteString(".timeout 120000\n.bail on\n")
		for i := range each {
			fmt.Fprintf(&b, "BEGIN IMMEDIATE; INSERT INTO n SELECT '%s', %d; COMMIT;\n", who, i)
		}
		return b.String()
	}
	results := make(chan result, 2)
	for _, who := range []string{"a", "b"} {
		go func() { results <- tool{stdin: script(who)}.try(t, "sqlite3", db) }()
	}
	for range 2 {
		if r := <-results; r.code != 0 {
			t.Errorf("sqlite3: exit status %d: %s", r.code, r.err)
		}
	}
	check := func() {
		t.Helper()
		want := fmt.Sprintf("ok\na|%d|%d\nb|%d|%d\n", each, each*(each-1)/2, each, each*(each-1)/2)
		if out := (tool{}).run(t, "sqlite3", db, ".timeout 120000", "PRAGMA integrity_check; SELECT who, count(*), sum(i) FROM n GROUP BY who ORDER BY who;"); out != want {
			t.Fatalf("got %q, want %q", out, want)
		}
	}
	check()
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	check()
	m.unmount(t)
}

func TestVimSaves(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	file := m.path("notes.txt")
	write(t, file, "one\ntwo\n")
	must(t, os.Chmod(file, 0o640))
	vim := func(copy, command string) {
		t.Helper()
		tool{dir: m.dir, env: []string{"TERM=dumb", "HOME=" + t.TempDir()}}.run(t, "vim", "-N", "-u", "NONE", "-i", "NONE", "-es",
			"-c", "set backup writebackup swapfile backupskip= backupcopy="+copy, "-c", command, "-c", "wq", file)
	}
	var before, after syscall.Stat_t
	must(t, syscall.Stat(file, &before))
	vim("no", "%s/one/first/") // saves by renaming the old file away
	must(t, syscall.Stat(file, &after))
	if before.Ino == after.Ino {
		t.Error("vim did not replace the file: this test no longer tests what it should")
	}
	if after.Mode != before.Mode {
		t.Errorf("mode %o, want %o", after.Mode, before.Mode)
	}
	vim("yes", "%s/two/second/") // overwrites in place
	if got := read(t, file); got != "first\nsecond\n" {
		t.Fatalf("content %q", got)
	}
	if got := read(t, file+"~"); got != "first\ntwo\n" {
		t.Fatalf("backup %q", got)
	}
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	if got := read(t, file); got != "first\nsecond\n" {
		t.Fatalf("after remount: %q", got)
	}
	m.unmount(t)
}

const mapper = `
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv) {
	const long size = 1 << 20;
	int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || ftruncate(fd, size) != 0) { perror("open"); return 1; }
	char *p = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED) { perror("mmap"); return 1; }
	close(fd);
	for (long i = 0; i < size; i++) p[i] = (char)(i * 31 >> 7);
	if (argc > 2 && msync(p, size, MS_SYNC) != 0) { perror("msync"); return 1; }
	return munmap(p, size) != 0;
}
`

// Linkers write their output through a shared mapping; so does this program,
// which closes the descriptor before it writes.
func TestGccAndMappedOutput(t *testing.T) {
	s := newStore(t)
	m := s.mount(t)
	write(t, m.path("map.c"), mapper)
	linkers := []string{"bfd"}
	if _, err := os.Stat("/usr/bin/ld.gold"); err == nil {
		linkers = append(linkers, "gold")
	}
	for _, ld := range linkers {
		tool{dir: m.dir}.run(t, "gcc", "-O1", "-g", "-fuse-ld="+ld, "-o", "map-"+ld, "map.c")
		tool{dir: m.dir}.run(t, "./map-"+ld, ld+".out")
		tool{dir: m.dir}.run(t, "./map-"+ld, ld+".synced", "msync")
	}
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(i * 31 >> 7)
	}
	check := func() {
		t.Helper()
		for _, ld := range linkers {
			for _, name := range []string{ld + ".out", ld + ".synced"} {
				if read(t, m.path(name)) != string(want) {
					t.Errorf("%s: wrong content", name)
				}
			}
		}
	}
	check()
	m.unmount(t)
	m = s.mountAt(t, m.dir)
	check()
	tool{dir: m.dir}.run(t, "./map-bfd", "again")
	m.unmount(t)
}
