package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// scratch is a directory for what the whole run shares: binaries, archives.
var scratch string

// workers are what the test binary can do when a test starts it again as a
// child process, named by workerVariable.
var workers = map[string]func(args []string) error{}

const workerVariable = "ALKFS_TEST_WORKER"

func TestMain(m *testing.M) {
	if name := os.Getenv(workerVariable); name != "" {
		if err := workers[name](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	syscall.Umask(0o022)
	os.Unsetenv("ALKFS_STORE")
	var err error
	if scratch, err = os.MkdirTemp("", "alkfs-integration-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(scratch)
	if err := os.Chmod(scratch, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// binaryVariable names an alkfs binary to test instead of building one.
const binaryVariable = "ALKFS_TEST_BINARY"

func buildBinary(name string, flags ...string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		if bin := os.Getenv(binaryVariable); bin != "" {
			return bin, nil
		}
		out := filepath.Join(scratch, name)
		args := append([]string{"build", "-o", out}, flags...)
		b, err := exec.Command("go", append(args, module+"/cmd/alkfs")...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build alkfs: %w\n%s", err, b)
		}
		return out, nil
	})
}

var (
	plainBinary = buildBinary("alkfs")
	raceBinary  = buildBinary("alkfs-race", "-race")
)
