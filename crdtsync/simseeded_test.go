//go:build simseeded

package crdtsync

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	_ "unsafe" // for go:linkname

	"github.com/google/uuid"
)

const simReplays = true

// seedRuntime seeds what the runtime does at random; see seededgo.
//
//go:linkname seedRuntime runtime.seedBubble
func seedRuntime(seed uint64)

// inOrder has goroutines run one at a time, and none for the sake of memory, until
// what it returns is called.
func inOrder() (done func()) {
	n, percent := runtime.GOMAXPROCS(1), debug.SetGCPercent(-1)
	runtime.GC()
	return func() {
		debug.SetGCPercent(percent)
		runtime.GOMAXPROCS(n)
	}
}

// TestSimulationReplays holds a history to go the same way each time: again in one
// process, in another, and with the log of every node.
func TestSimulationReplays(t *testing.T) {
	top := simTop(t)
	defer uuid.SetRand(nil)
	for seed := *simFrom; seed < *simFrom+uint64(*simRuns); seed++ {
		first, again := simulate(t, top, seed), simulate(t, top, seed)
		if first.hash() != again.hash() {
			t.Errorf("seed %d: once %s, in %s", seed, first.hash(), first.keep(*simKeep, seed, "once"))
			t.Errorf("seed %d: again %s, in %s", seed, again.hash(), again.keep(*simKeep, seed, "again"))
		}
		if (seed-*simFrom)%20 != 0 {
			continue
		}
		out, err := exec.Command(os.Args[0], "-test.run=^TestSimulation$", "-test.v", fmt.Sprint("-sim.harsh=", *simHarsh), fmt.Sprint("-sim.seed=", seed)).CombinedOutput()
		if err != nil || !strings.Contains(string(out), fmt.Sprintf("seed %d: trace %s", seed, first.hash())) {
			t.Errorf("seed %d: another process has not the trace %s, in %s; it says %v:\n%s", seed, first.hash(), first.keep(*simKeep, seed, "here"), err, out)
		}
	}
}
