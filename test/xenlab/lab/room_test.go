package lab

import (
	"strings"
	"testing"
)

func TestAMachineGetsNoMoreLabsThanItHasRoomFor(t *testing.T) {
	for _, c := range []struct {
		want, each, cpus, free int
		labs                   int
		why                    string
	}{
		{2, 3072, 2, 20000, 2, ""},
		{2, 3072, 2, 6144, 2, ""},
		{2, 3072, 2, 6143, 1, "6143 are free"},
		{2, 3072, 2, 100, 1, "100 are free"}, // it is for the boot to fail
		{2, 3072, 1, 20000, 1, "there are 1"},
		{1, 3072, 1, 100, 1, ""},
		{4, 3072, 8, 10000, 3, "10000 are free"},
		{4, 3072, 8, 0, 4, ""}, // not known
	} {
		labs, why := room(c.want, c.each, c.cpus, c.free)
		if labs != c.labs || !strings.Contains(why, c.why) || (c.why == "") != (why == "") {
			t.Errorf("%+v: %d labs, because %q", c, labs, why)
		}
	}
}

func TestNoMoreCPUsAreEmulatedThanThereAre(t *testing.T) {
	for _, c := range []struct{ labs, cpus, want int }{
		{1, 1, 1}, {1, 2, 2}, {2, 2, 1}, {2, 3, 1}, {2, 4, 2}, {3, 2, 1}, {1, 64, 2},
	} {
		if got := cpusEach(c.labs, c.cpus); got != c.want {
			t.Errorf("%d labs on %d CPUs: %d each, want %d", c.labs, c.cpus, got, c.want)
		}
	}
}

func TestTheFreeMemoryIsKnown(t *testing.T) {
	if mib := availableMiB(); mib < 1 || mib > 1<<30 {
		t.Errorf("%d MiB", mib)
	}
}
