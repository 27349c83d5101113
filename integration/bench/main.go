// Command bench compares three file systems in one run: a native directory,
// go-fuse's loopback over one, and alkfs. They take turns at each workload, so
// that what else the machine does hits all alike; the medians are printed as a
// table of rates and of ratios. Large files are also read through two further
// mounts of the same store: one with --passthrough and one with --read-only.
//
//	go run ./integration/bench [-quick] [-reps 3] [-best] [-only untar,rename] [-dir DIR] [-alkfs BINARY]
//
// It needs root to drop caches; without, cold rows are warm and say so.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	quick bool
	best  bool
	reps  int
	only  []string
	dir   string
	bin   string
}

func main() {
	var o options
	var only string
	flag.BoolVar(&o.quick, "quick", false, "small sizes, one repetition: to see that it runs")
	flag.IntVar(&o.reps, "reps", 3, "repetitions; medians are printed")
	flag.BoolVar(&o.best, "best", false, "print the best of the repetitions: for a machine that has other work to do")
	flag.StringVar(&only, "only", "", "workloads to run, by name, separated by commas")
	flag.StringVar(&o.dir, "dir", "", "where to work; default a temporary directory")
	flag.StringVar(&o.bin, "alkfs", "", "alkfs binary to measure; default is to build this tree's")
	flag.Parse()
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	if o.quick {
		o.reps = 1
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "alkfs-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	syscall.Umask(0o022)
	b := &bench{options: o, dir: dir, took: map[string]map[string][]time.Duration{}}
	defer b.unmountAll()
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupt
		b.unmountAll()
		os.RemoveAll(dir)
		os.Exit(130)
	}()
	if err := b.prepare(); err != nil {
		return err
	}
	for rep := range o.reps {
		if err := b.repetition(rep); err != nil {
			return err
		}
	}
	b.print()
	return nil
}

// repetition runs every workload once on every system. Each system is fresh.
func (b *bench) repetition(rep int) error {
	systems, err := b.mountAll(rep)
	if err != nil {
		return err
	}
	defer b.unmountAll()
	for i, w := range b.workloads() {
		if !b.wanted(w) {
			continue
		}
		for k := range systems {
			s := systems[(k+i+rep)%len(systems)] // nobody is always first
			if s.large && !w.large {
				continue
			}
			syscall.Sync()
			if w.cold {
				dropCaches()
			}
			var took time.Duration
			for run := range 2 {
				if run == 0 && !w.warm {
					continue
				}
				begin := time.Now()
				if err := w.run(s.dir); err != nil {
					return fmt.Errorf("%s on %s: %w", w.name, s.name, err)
				}
				took = time.Since(begin)
			}
			if b.took[w.name] == nil {
				b.took[w.name] = map[string][]time.Duration{}
			}
			b.took[w.name][s.name] = append(b.took[w.name][s.name], took)
			fmt.Fprintf(os.Stderr, "%d %-14s %-9s %v\n", rep, w.name, s.name, took.Round(time.Microsecond))
		}
	}
	return nil
}

// wanted reports whether w was asked for, or prepares for one that was.
func (b *bench) wanted(w workload) bool {
	if len(b.only) == 0 || slices.Contains(b.only, w.name) {
		return true
	}
	return slices.ContainsFunc(b.workloads(), func(o workload) bool {
		return o.after == w.name && slices.Contains(b.only, o.name)
	})
}

func dropCaches() {
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) // fails unless root, as documented
}

// typical is the one of several durations that counts.
func (b *bench) typical(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	switch {
	case len(s) == 0:
		return 0
	case b.best:
		return s[0]
	}
	return s[len(s)/2]
}

func (b *bench) print() {
	out, _ := exec.Command("uname", "-r").Output()
	what := "medians"
	if b.best {
		what = "the best"
	}
	fmt.Printf("%d CPUs (%s), Linux %s, %s; %s of %d.\n\n", runtime.NumCPU(), cpuModel(), strings.TrimSpace(string(out)), runtime.Version(), what, b.reps)
	b.table("workload", []string{"native", "loopback", "alkfs"}, func(workload) bool { return true })
	fmt.Println()
	columns := []string{"native", "loopback", "alkfs"}
	for _, r := range readers {
		columns = append(columns, r.name)
	}
	b.table("large file", columns, func(w workload) bool { return w.large })
	fmt.Println("\nRatios above 1 mean that alkfs is faster.")
}

// table prints a row for each workload that was run and that which picks, with
// the rate of every system and, at the end, the ratios of the third and later
// ones to the first and of alkfs to loopback.
func (b *bench) table(title string, systems []string, which func(workload) bool) {
	head, rule := "| "+title+" | unit | "+strings.Join(systems, " | ")+" |", "|---|---"+strings.Repeat("|--:", len(systems))+"|"
	for _, s := range systems[2:] {
		head, rule = head+" "+s+"/native |", rule+"--:|"
	}
	fmt.Printf("%s alkfs/loopback |\n%s--:|\n", head, rule)
	for _, w := range b.workloads() {
		took := b.took[w.name]
		if took == nil || !which(w) {
			continue
		}
		row := "| " + w.says + " | " + w.unit + " |"
		for _, s := range systems {
			row += " " + number(w.rate(b.typical(took[s]))) + " |"
		}
		for _, s := range systems[2:] {
			row += fmt.Sprintf(" %.2f |", ratio(b.typical(took[s]), b.typical(took[systems[0]])))
		}
		fmt.Printf("%s %.2f |\n", row, ratio(b.typical(took["alkfs"]), b.typical(took["loopback"])))
	}
}

// rate is what the row of w shows for a system that took so long.
func (w *workload) rate(took time.Duration) float64 {
	if w.amount == 0 {
		return took.Seconds()
	}
	return w.amount / took.Seconds()
}

// ratio is how many times as fast as other a system is.
func ratio(took, other time.Duration) float64 { return other.Seconds() / took.Seconds() }

func number(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 1:
		return fmt.Sprintf("%.2f", x)
	}
	return fmt.Sprintf("%.3f", x)
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), ":"))
		}
	}
	return runtime.GOARCH
}
