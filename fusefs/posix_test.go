package fusefs

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
)

// TestPosix runs go-fuse's own suite on a mount. It leaves out what go-fuse's
// run on a plain directory leaves out because the test is wrong: the POSIX
// locks of FcntlFlockLocksFile are of one process and so do not conflict.
func TestPosix(t *testing.T) {
	dir, _ := testMount(t, testStore(t, t.TempDir()), mainBranch)
	var names []string
	for name := range posixtest.All {
		if name != "FcntlFlockLocksFile" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			sub := filepath.Join(dir, name)
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Fatal(err)
			}
			posixtest.All[name](t, sub)
		})
	}
}
