// Package testspace puts a test into a network namespace of its own, in which it can make
// TAPs and other links. It is for tests only.
package testspace

import (
	"runtime"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// Enter puts the test's goroutine, and no other, into a new network namespace until the test
// ends. It needs root. A test calls it first, so that its own cleanups run in the namespace.
func Enter(t testing.TB) {
	t.Helper()
	needs.Root(t)
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	space, err := netns.New()
	if err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() {
		if err := netns.Set(before); err != nil {
			t.Fatalf("leave network namespace: %v", err) // the thread stays locked, and ends with its goroutine
		}
		before.Close()
		space.Close()
		runtime.UnlockOSThread()
	})
}
