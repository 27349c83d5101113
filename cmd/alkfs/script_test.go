package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"alkfs": main})
}

// TestScripts runs the command line as a user types it. Each script has a HOME
// of its own, and $ODD is a name that is not UTF-8.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("STORE", filepath.Join(home, ".local/share/alkfs"))
			env.Setenv("ODD", "caf\xe9")
			env.Setenv("NL", "two\nlines")
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", os.Getenv("GORACE"))
			for _, name := range []string{"ALKFS_STORE", "XDG_DATA_HOME", childMarker} {
				env.Setenv(name, "")
			}
			env.Defer(func() { unmountBelow(t, env.WorkDir) })
			return os.Mkdir(home, 0o755)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status": cmdStatus, "eventually": cmdEventually, "mounted": cmdMounted,
		},
	})
}

// unmountBelow takes away what a script left mounted, and waits for the
// processes behind it.
func unmountBelow(t *testing.T, dir string) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	lines := strings.Split(string(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		f := strings.Fields(lines[i])
		if len(f) < 5 || !strings.HasPrefix(unescapeMount(f[4]), dir+"/") {
			continue
		}
		if err := unix.Unmount(unescapeMount(f[4]), unix.MNT_DETACH); err != nil {
			_ = fusermount("-u", "-z", "--", unescapeMount(f[4]))
		}
	}
	records, _ := filepath.Glob(filepath.Join(dir, "*", "mounts", "*.json"))
	usual, _ := filepath.Glob(filepath.Join(dir, "home/.local/share/alkfs/mounts/*.json"))
	for _, path := range append(records, usual...) {
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		for range 2000 {
			if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		f.Close()
	}
}

// cmdStatus runs a program and checks its exit status: status 3 alkfs cat :no.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// cmdEventually runs a program until it succeeds, for half a minute at most.
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
	}
	ts.Fatalf("never happened: %s (%v)", strings.Join(args, " "), err)
}

// cmdMounted checks that a directory is, or with ! is not, a mount of ours.
func cmdMounted(ts *testscript.TestScript, neg bool, args []string) {
	at, err := mountPoint(ts.MkAbs(args[0]))
	ts.Check(err)
	if _, ours, err := mountAt(at); err != nil || ours == neg {
		ts.Fatalf("%s: mounted is %v (%v)", args[0], ours, err)
	}
}

func TestEveryCommandExplainsItself(t *testing.T) {
	root := newApp(os.Stdin, os.Stdout, os.Stderr).rootCommand()
	seen := 0
	for todo := root.Commands(); len(todo) > 0; todo = todo[1:] {
		c := todo[0]
		todo = append(todo, c.Commands()...)
		if c.IsAdditionalHelpTopicCommand() || c.Name() == "help" || c.Name() == "completion" || c.Hidden {
			continue
		}
		seen++
		if c.Short == "" || c.Example == "" || c.RunE == nil {
			t.Errorf("%s lacks a description or an example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: example %q is not indented", c.CommandPath(), line)
			}
		}
	}
	if seen < 30 {
		t.Errorf("%d commands", seen)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "with space": "with space", "ünïcode": "ünïcode", "caf\xe9": `$'caf\xe9'`,
		"a\nb": `$'a\nb'`, "it's\x01": `$'it\'s\x01'`, "": "$''", "\u202e": `$'\xe2\x80\xae'`,
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
		if out, err := exec.Command("bash", "-c", "printf %s "+shellWord(in)).Output(); err != nil || string(out) != in {
			t.Errorf("bash reads %s as %q, %v", shellWord(in), out, err)
		}
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 3 << 30: "3.0 GiB", -2048: "-2.0 KiB", 1<<63 - 1: "8.0 EiB"} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestObjectKeepsOddNames(t *testing.T) {
	p, err := object{"path", "caf\xe9", "n", 1, "ok", "é<"}.MarshalJSON()
	want := `{"path":"caf\ufffd","path_base64":"Y2Fm6Q==","n":1,"ok":"é<"}`
	if err != nil || strings.ReplaceAll(string(p), "\ufffd", `\ufffd`) != want {
		t.Errorf("%s, %v; want %s", p, err, want)
	}
}

func TestUnescapeMount(t *testing.T) {
	for in, want := range map[string]string{`/a\040b\134c`: `/a b\c`, `/plain`: `/plain`, `/x\9`: `/x\9`, `/\303\251`: "/é"} {
		if got := unescapeMount(in); got != want {
			t.Errorf("%s gives %q, want %q", in, got, want)
		}
	}
}
