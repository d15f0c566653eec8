package main

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

// hotLoop is one benchmark of a package.
type hotLoop struct {
	Package string `json:"package"`
	Name    string `json:"name"`
	// Figures are by unit, with one for each run: ns/op and allocs/op, and what the
	// benchmark itself reports, such as ns/slot.
	Figures map[string][]float64 `json:"figures"`
}

const modulePath = "github.com/xnetfrontd/xnetfrontd/"

// hotLoopRuns are the benchmarks of everything that a frame passes. Those of the TAP
// set up a link each time, so that their length is a number of frames.
var hotLoopRuns = [...]struct{ pkg, bench, length string }{
	{"pkg/xen/ring", "SlotLife", "100ms"},
	{"pkg/busdma", "Round/(map|run)", "50ms"},
	{"pkg/netfront", "Service", "100ms"},
	{"pkg/tap", "^Benchmark(Read|Write)$/^(64|1514|65531)$/^(single|uring32)$", "5000x"},
}

// hotLoopCount is how often each benchmark runs.
const hotLoopCount = "5"

// runHotLoops runs the benchmarks of the packages. A benchmark that fails is an error.
func runHotLoops(ctx context.Context) ([]hotLoop, error) {
	var loops []hotLoop
	for _, run := range hotLoopRuns {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", run.bench, "-benchtime", run.length,
			"-count", hotLoopCount, "-benchmem", modulePath+run.pkg)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("benchmarks of %s: %w\n%s", run.pkg, err, out)
		}
		found, err := parseBenchmarks(run.pkg, string(out))
		if err != nil {
			return nil, fmt.Errorf("benchmarks of %s: %w", run.pkg, err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("benchmarks of %s: there is none that is called %s", run.pkg, run.bench)
		}
		loops = append(loops, found...)
	}
	return loops, nil
}

// parseBenchmarks reads what `go test -bench` prints: a name, how often it ran, then
// figures with their units.
func parseBenchmarks(pkg, out string) ([]hotLoop, error) {
	var loops []hotLoop
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(f[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.Atoi(name[i+1:]); err == nil { // the number of CPUs
				name = name[:i]
			}
		}
		i := slices.IndexFunc(loops, func(l hotLoop) bool { return l.Name == name })
		if i < 0 {
			i = len(loops)
			loops = append(loops, hotLoop{Package: pkg, Name: name, Figures: map[string][]float64{}})
		}
		for j := 2; j+1 < len(f); j += 2 {
			v, err := strconv.ParseFloat(f[j], 64)
			if err != nil {
				return nil, fmt.Errorf("line %q: %w", strings.TrimSpace(line), err)
			}
			loops[i].Figures[f[j+1]] = append(loops[i].Figures[f[j+1]], v)
		}
	}
	return loops, nil
}

// times are the units of l's figures that are times: what the benchmark reports
// itself, or ns/op if that is nothing.
func (l *hotLoop) times() []string {
	units := slices.Sorted(maps.Keys(l.Figures))
	units = slices.DeleteFunc(units, func(u string) bool { return !strings.HasPrefix(u, "ns/") })
	if len(units) > 1 {
		units = slices.DeleteFunc(units, func(u string) bool { return u == "ns/op" })
	}
	return units
}

// allocating lists the hot loops that allocate.
func (r *result) allocating() []string {
	var lines []string
	for _, l := range r.HotLoops {
		if n := figures.SpreadOf(l.Figures["allocs/op"]).Max; !(n <= 0) {
			lines = append(lines, fmt.Sprintf("%s %s: %g allocations", l.Package, l.Name, n))
		}
	}
	return lines
}
