package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// git, go and rsync in a file system that sshfs mounts from the server.
func TestSSHFS(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	dir := srv.sshfs(t, "/default/main")
	origin := sourceRepository(t)

	git := gitTool(dir)
	git.run(t, "git", "clone", "-q", origin, "clone")
	git.dir = filepath.Join(dir, "clone")
	if out := git.run(t, "git", "status", "--porcelain"); out != "" {
		t.Errorf("a fresh clone looks modified:\n%s", tail([]byte(out)))
	}
	git.run(t, "git", "fsck", "--full")
	write(t, filepath.Join(git.dir, "new.txt"), "new\n")
	git.run(t, "git", "checkout", "-q", "-b", "idea")
	git.run(t, "git", "add", "new.txt")
	git.run(t, "git", "commit", "-q", "-m", "an idea")
	git.run(t, "git", "gc", "-q")
	if out := git.run(t, "git", "log", "--oneline", "-1"); !strings.Contains(out, "an idea") {
		t.Errorf("git log says %q", out)
	}

	must(t, os.Mkdir(filepath.Join(dir, "prog"), 0o755))
	write(t, filepath.Join(dir, "prog", "go.mod"), "module example.com/prog\n\ngo 1.24\n")
	write(t, filepath.Join(dir, "prog", "main.go"), "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"built over sshfs\") }\n")
	prog := tool{dir: filepath.Join(dir, "prog")}
	prog.run(t, "go", "build", "-o", "prog", ".")
	if out := prog.run(t, "./prog"); out != "built over sshfs\n" {
		t.Errorf("the program says %q", out)
	}

	from, to := sshPart(t), filepath.Join(dir, "mirror")
	sync := []string{"-rlptD", "--delete", from + "/", to}
	tool{}.run(t, "rsync", sync...)
	if out := (tool{}).run(t, "rsync", append([]string{"-nic"}, sync...)...); out != "" {
		t.Errorf("rsync still sees differences:\n%s", tail([]byte(out)))
	}
	sameFiles(t, from, to)

	// rename over, unlinked but open, append, read-only file, truncate.
	sh(t, dir, `
		echo one >a; echo two >b; mv b a; [ "$(cat a)" = two ]
		exec 3>held; echo kept >&3; rm held; echo more >&3; exec 3>&-
		for i in 1 2 3; do echo $i >>log; done; [ "$(tr -d '\n' <log)" = 123 ]
		echo x >ro; chmod 444 ro; [ "$(stat -c %a ro)" = 444 ]
		truncate -s 5 log; [ "$(stat -c %s log)" = 5 ]
		ln a hard; ln -s a soft; [ "$(cat hard soft)" = "$(printf 'two\ntwo')" ]
		mkdir -p deep/er; ! rmdir deep 2>/dev/null; rmdir deep/er deep`)
	detach(dir)
	srv.terminate(t)
	s.fsckDeep(t)
}

func TestRclone(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	write(t, filepath.Join(srv.dir, "rclone.conf"), "[srv]\ntype = sftp\nhost = 127.0.0.1\nport = "+srv.port+
		"\nuser = ann\nkey_file = "+srv.dir+"/key\nknown_hosts_file = "+srv.dir+"/known\n")
	rclone := func(args ...string) {
		t.Helper()
		tool{}.run(t, "rclone", append([]string{"--config", srv.dir + "/rclone.conf"}, args...)...)
	}
	from, work, back := sshTree(t), filepath.Join(t.TempDir(), "work"), filepath.Join(t.TempDir(), "back")
	tool{}.run(t, "cp", "-a", from, work)
	tool{}.run(t, "cp", randomFile(t, sshFile), filepath.Join(work, "big"))
	rclone("copy", work, "srv:/default/main/there")
	rclone("check", "--download", work, "srv:/default/main/there")
	sh(t, filepath.Join(work, "net", "http"), `rm -r internal; echo more >>server.go; mkdir new; echo x >new/x; mv client.go moved.go`)
	rclone("sync", work, "srv:/default/main/there")
	rclone("check", work, "srv:/default/main/there")
	rclone("sync", "srv:/default/main/there", back)
	if out := (tool{}).run(t, "diff", "-r", work, back); out != "" {
		t.Errorf("they differ:\n%s", tail([]byte(out)))
	}
	srv.terminate(t)
	s.fsckDeep(t)
}

func TestLftpMirror(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	from, back := sshTree(t), filepath.Join(t.TempDir(), "back")
	lftp := func(commands string) {
		t.Helper()
		connect := "ssh -a -x -F " + srv.dir + "/config"
		tool{env: []string{"HOME=" + t.TempDir()}}.run(t, "lftp", "-c",
			`set cmd:fail-exit yes; set net:max-retries 2; set sftp:connect-program "`+connect+`"; open sftp://ann:@srv; `+commands)
	}
	lftp("cd /default/main; mirror -R --parallel=4 " + from + " there")
	lftp("cd /default/main; mirror --parallel=4 there " + back)
	sameFiles(t, from, back)
	srv.terminate(t)
	s.fsckDeep(t)
}

const paramikoScript = `
import hashlib, os, stat, sys
import paramiko
port, d, size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
c = paramiko.SSHClient()
c.load_host_keys(os.path.join(d, "known"))
c.connect("127.0.0.1", port=port, username="ann", key_filename=os.path.join(d, "key"), allow_agent=False, look_for_keys=False)
s = c.open_sftp()
s.chdir("/default/main")
body = os.urandom(size)
local = os.path.join(d, "local")
open(local, "wb").write(body)
assert s.put(local, "f").st_size == size
s.get("f", local + "2")
assert open(local + "2", "rb").read() == body
with s.open("f", "rb") as f:
    f.prefetch()
    assert f.read() == body
    # check-file, which paramiko alone speaks
    assert f.check("sha256", 0, 0, 0) == hashlib.sha256(body).digest()
    assert f.check("md5", 5, 1000, 0) == hashlib.md5(body[5:1005]).digest()
    assert len(f.check("blake3")) == 32
with s.open("f", "r+b") as f:
    f.seek(10); f.write(b"ten"); f.seek(0)
    assert f.read(13) == body[:10] + b"ten"
    f.truncate(100)
    assert f.stat().st_size == 100
with s.open("f", "ab") as f:
    f.write(b"end")
assert s.stat("f").st_size == 103
try:
    s.open("f", "x"); sys.exit("exclusive create of what is there")
except IOError: pass
s.chmod("f", 0o600); assert stat.S_IMODE(s.stat("f").st_mode) == 0o600
s.utime("f", (1000000000, 1000000001)); assert s.stat("f").st_mtime == 1000000001
s.mkdir("d", 0o750); assert stat.S_IMODE(s.stat("d").st_mode) == 0o750
s.symlink("f", "l"); assert s.readlink("l") == "f" and stat.S_ISLNK(s.lstat("l").st_mode)
s.rename("f", "d/g"); s.posix_rename("d/g", "f")
assert sorted(s.listdir()) == ["d", "f", "l"], s.listdir()
assert [a.filename for a in s.listdir_iter("/default")] == ["main"]
s.remove("l"); s.rmdir("d")
assert s.normalize("../main/./f") == "/default/main/f"
_, out, _ = c.exec_command("ls")
assert out.read().decode().strip() == "f" and out.channel.recv_exit_status() == 0
c.close()
print("ok")
`

func TestParamiko(t *testing.T) {
	s := newStore(t)
	srv := s.serve(t)
	out := tool{}.run(t, "/usr/bin/python3", "-c", paramikoScript, srv.port, srv.dir, fmt.Sprint(sshSlow))
	if out != "ok\n" {
		t.Errorf("it says %q", out)
	}
	srv.terminate(t)
	s.fsckDeep(t)
}
