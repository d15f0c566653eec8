// Package e2e runs the program itself, as its own processes, on the embedded Xen.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// build builds the program into a folder of the test.
func build(t *testing.T, args ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "xnetfrontd")
	args = append(append([]string{"build"}, args...), "-o", bin, "../../cmd/xnetfrontd")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// copyBothWays runs the demo, which copies size each way over TCP, compares SHA-256
// at both ends and fails if they differ.
func copyBothWays(t *testing.T, bin, size string, limit time.Duration, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{"demo", "--size", size}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it takes its children with it
	cmd.WaitDelay = 20 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("demo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if n := strings.Count(string(out), "SHA-256 equal"); n != 2 {
		t.Fatalf("demo says %d times that the copies are equal, want 2:\n%s", n, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "TCP") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

// TestCopiesOfOneGiBAreEqual copies 1 GiB each way under every agreement that
// changes how frames are made. The limit is ten times what the slowest needs here.
func TestCopiesOfOneGiBAreEqual(t *testing.T) {
	needs.Root(t)
	size := "1GiB"
	if testing.Short() {
		size = "64MiB"
	}
	bin := build(t)
	var cases [][]string
	for _, n := range []int{1, 2, 4} {
		cases = append(cases, []string{"--queues", fmt.Sprint(n)})
	}
	cases = append(cases, []string{"--queues", "2", "--backend-without", "split_channels"})
	for _, f := range []string{"sg", "csum_ipv6", "gso_tcpv4", "gso_tcpv6", "gso_tcpv4,gso_tcpv6"} {
		cases = append(cases, []string{"--backend-without", f})
	}
	cases = append(cases, []string{"--disable", "csum"})
	for _, args := range cases {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			copyBothWays(t, bin, size, 5*time.Minute, args...)
		})
	}
}

// The program under the race detector, for what goroutines share in it; granted
// memory of another process is not seen.
func TestProgramHasNoDataRace(t *testing.T) {
	needs.Root(t)
	needs.Root(t)
	bin := build(t, "-race")
	copyBothWays(t, bin, "128MiB", 5*time.Minute, "--queues", "2")
}
