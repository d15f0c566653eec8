package tap

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/xnetfrontd/xnetfrontd/internal/testspace"
)

// enterNamespace puts the test's goroutine into a new network namespace until the test ends,
// and checks then that the test left no descriptor behind. It is called first, so that its
// cleanup runs last.
func enterNamespace(t testing.TB) {
	t.Helper()
	testspace.Enter(t)
	open := openDescriptors(t)
	t.Cleanup(func() {
		if left := newDescriptors(t, open); len(left) > 0 {
			t.Errorf("descriptors left open: %v", left)
		}
		now := openDescriptors(t)
		for fd, target := range open {
			if now[fd] != target {
				t.Errorf("descriptor %s, which was not the package's, is closed: it was %s", fd, target)
			}
		}
	})
}

// openDescriptors are the process's descriptors that matter here: TAP queues, rings,
// sockets, namespaces. (The runtime opens others as it likes.)
func openDescriptors(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]string{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err != nil {
			continue
		}
		standard := len(e.Name()) == 1 && e.Name() <= "2"
		for _, kind := range []string{tunDevice, "anon_inode:[io_uring]", "socket:", "net:"} {
			if standard || strings.HasPrefix(target, kind) {
				open[e.Name()] = target
			}
		}
	}
	return open
}

func newDescriptors(t testing.TB, before map[string]string) []string {
	t.Helper()
	var left []string
	for fd, target := range openDescriptors(t) {
		if before[fd] != target {
			left = append(left, fmt.Sprintf("%s %s", fd, target))
		}
	}
	sort.Strings(left)
	return left
}

// links are the names of the links in the calling thread's namespace.
func links(t testing.TB) []string {
	t.Helper()
	for {
		list, err := netlink.LinkList()
		if err == netlink.ErrDumpInterrupted {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, l := range list {
			names = append(names, l.Attrs().Name)
		}
		sort.Strings(names)
		return names
	}
}

// linkNamed is the link as the kernel shows it.
func linkNamed(t testing.TB, name string) *netlink.LinkAttrs {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs()
}

// newDevice makes a device that the test's end closes, and checks that it is gone then.
func newDevice(t testing.TB, cfg Config) *Device {
	t.Helper()
	d, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		name := d.Name()
		if err := d.Close(); err != nil {
			t.Errorf("close device: %v", err)
		}
		for _, l := range links(t) {
			if l == name {
				t.Errorf("link %q is left", name)
			}
		}
	})
	return d
}
