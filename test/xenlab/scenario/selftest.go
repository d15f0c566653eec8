package scenario

import (
	"bytes"
	"context"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

func selfTest() Scenario {
	return Scenario{
		Name:   "lab",
		Proves: "the lab itself: every byte passes a guest's console, a new session can begin at any time, a guest whose console has a kernel's last words is reported as crashed",
		Takes:  15 * time.Second,
		Run: func(t *T) {
			d := t.DomU(lab.DomUConfig{Name: "lab"})
			roundTrips(t, t.Dom0)
			roundTrips(t, d.Guest)
			consoleBytes(t, d.Guest)
			t.NoError(d.Reconnect(t.Context()), "a second session")
			consoleBytes(t, d.Guest)
			lastWords(t, d.Guest)
		},
	}
}

// roundTrips reports what it takes to execute something.
func roundTrips(t *T, g *lab.Guest) {
	const times = 10
	begun := time.Now()
	for range times {
		_, err := g.Run(t.Context(), "true")
		t.NoError(err, "true")
	}
	t.Reportf("%s: a command takes %.0f ms", g.Name(), time.Since(begun).Seconds()*1000/times)
}

// consoleBytes writes a file with every byte in every place, and reads it back.
func consoleBytes(t *T, g *lab.Guest) {
	want := make([]byte, 64<<10)
	rand.NewChaCha8([32]byte{}).Read(want)
	begun := time.Now()
	t.NoError(g.WriteFile(t.Context(), "/tmp/bytes", want, 0o600), "write")
	written := time.Now()
	got, err := g.ReadFile(t.Context(), "/tmp/bytes")
	t.NoError(err, "read")
	t.Require(bytes.Equal(got, want), "%d bytes came back that are not the %d that were written", len(got), len(want))
	kib := float64(len(want) >> 10)
	t.Reportf("%s: its console carries %.0f KiB/s in and %.0f out", g.Name(), kib/written.Sub(begun).Seconds(), kib/time.Since(written).Seconds())
}

// lastWords has the kernel say what it says when it panics, and wants to hear of that. The
// guest is well all the same.
func lastWords(t *T, g *lab.Guest) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err := g.Shell(ctx, "echo '<0>Kernel panic - not syncing: so the test says' >/dev/kmsg; sleep 1000")
	t.Require(err != nil && strings.Contains(err.Error(), "domU lab crashed: Kernel panic"), "the console has the words of a panic, and the error is: %v", err)
	t.Logf("as it must be: %v", err)
}
