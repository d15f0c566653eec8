// Package await waits in tests for what no event tells of. It is for tests only.
package await

import (
	"testing"
	"time"
)

// limit is ten times what anything may take on a busy machine, with the race detector.
const limit = 20 * time.Second

// That waits until ok returns true, and ends the test with what it waited for if that takes
// too long.
func That(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
