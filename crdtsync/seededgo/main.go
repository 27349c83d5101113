// Seededgo makes a program of Go go the same way each time. It writes files that
// stand in for some of the standard library's, for go build and go test to take
// with -overlay, and prints the name of the list of them:
//
//	go test -tags simseeded -overlay "$(go run ./crdtsync/seededgo)" ./crdtsync -run 'TestSimulation$' -sim.seed=7
//
// In a bubble of testing/synctest, with one processor and no garbage collection,
// what the runtime does at random then follows one seed: which case of a select is
// taken, which of two timers fires first that are due at once, where the iteration
// of a map begins, whether a goroutine that was woken runs next or last, and
// what math/rand gives. The background thread that takes the processor from
// goroutines that are slow is left out. No other program is to be built so.
//
// It replaces text of the sources of the toolchain that it is run with, and says so
// where they are not what it knows.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// edit replaces old, which comes once in a file of the standard library.
type edit struct{ file, old, new string }

var edits = []edit{
	// Maps draw at different times in two runs of one process, as pools and caches are
	// filled, so they have all the same number, and the others a row for each purpose.
	{"runtime/rand.go", "func rand() uint64 {\n", `func rand() uint64 {
	if gp := getg().m.curg; gp != nil && gp.bubble != nil {
		return bubble.maps
	}
`},
	{"runtime/rand.go", "// mrandinit initializes", `var bubble struct{ maps, order, program uint64 }

//go:linkname seedBubble
func seedBubble(x uint64) {
	bubble.maps = splitMix(&x)
	bubble.order = splitMix(&x)
	bubble.program = splitMix(&x)
}

// splitMix is SplitMix64.
//
//go:nosplit
func splitMix(x *uint64) uint64 {
	*x += 0x9e3779b97f4a7c15
	z := *x
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

func bubbleOrder() uint64 { return splitMix(&bubble.order) }

//go:linkname programRand
func programRand() uint64 {
	if getg().bubble != nil {
		return splitMix(&bubble.program)
	}
	return rand()
}

// mrandinit initializes`},
	{"math/rand/rand.go", "runtime.rand\n", "runtime.programRand\n"},
	{"math/rand/v2/rand.go", "runtime.rand\n", "runtime.programRand\n"},
	{"os/tempfile.go", "runtime.rand\n", "runtime.programRand\n"},
	{"runtime/select.go", "j := cheaprandn(uint32(norder + 1))", `j := cheaprandn(uint32(norder + 1))
		if gp.bubble != nil {
			j = uint32(bubbleOrder() % uint64(norder+1))
		}`},
	{"runtime/time.go", "t.rand = cheaprand()", "t.rand = uint32(bubbleOrder())"},
	{"runtime/proc.go", `const haveSysmon = GOARCH != "wasm"`, "const haveSysmon = false"},
	{"runtime/proc.go", "if !haveSysmon && next {", "if next && (gp.bubble == nil || bubbleOrder()&1 == 0) {"},
	// A goroutine that waits for a mutex for a millisecond of real time is preferred.
	{"internal/sync/mutex.go", "starvationThresholdNs = 1e6", "starvationThresholdNs = 1 << 62"},
	// The order of a map of pointers follows from where they point to.
	{"context/context.go", "children map[canceler]struct{}", "serial   uint64\n\tchildren map[canceler]uint64"},
	{"context/context.go", "p.children = make(map[canceler]struct{})", "p.children = make(map[canceler]uint64)"},
	{"context/context.go", "p.children[child] = struct{}{}", "p.serial++\n\t\t\tp.children[child] = p.serial"},
	{"context/context.go", "for child := range c.children {", `all := make([]canceler, 0, len(c.children))
	for child := range c.children {
		all = append(all, child)
	}
	slices.SortFunc(all, func(a, b canceler) int { return cmp.Compare(c.children[a], c.children[b]) })
	for _, child := range all {`},
	{"context/context.go", "import (\n", "import (\n\t\"cmp\"\n\t\"slices\"\n"},
}

func main() {
	list, err := write()
	if err != nil {
		fmt.Fprintln(os.Stderr, "seededgo:", err)
		os.Exit(1)
	}
	fmt.Println(list)
}

// write writes the files and the list, whose name it returns.
func write() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT", "GOVERSION").Output()
	if err != nil {
		return "", err
	}
	env := strings.Fields(string(out))
	if len(env) != 2 {
		return "", fmt.Errorf("go env says %q", out)
	}
	src := filepath.Join(env[0], "src")
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "alkfs-seededgo", env[1])
	texts := map[string]string{}
	for _, e := range edits {
		if texts[e.file] == "" {
			b, err := os.ReadFile(filepath.Join(src, e.file))
			if err != nil {
				return "", err
			}
			texts[e.file] = string(b)
		}
		if n := strings.Count(texts[e.file], e.old); n != 1 {
			return "", fmt.Errorf("%s of %s has %q %d times, not once: change the edits in crdtsync/seededgo for this version of Go", e.file, env[1], e.old, n)
		}
		texts[e.file] = strings.Replace(texts[e.file], e.old, e.new, 1)
	}
	replace := map[string]string{}
	for file, text := range texts {
		to := filepath.Join(dir, file)
		replace[filepath.Join(src, file)] = to
		if err := replaceFile(to, []byte(text)); err != nil {
			return "", err
		}
	}
	b, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "\t")
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, replaceFile(list, b)
}

// replaceFile writes a file that others may read meanwhile.
func replaceFile(name string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	tmp := fmt.Sprint(name, ".", os.Getpid())
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}
