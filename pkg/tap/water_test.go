package tap

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// water opens without O_CLOEXEC: a program started meanwhile would hold the queue.
func TestQueuesAreNotInheritedByOtherPrograms(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			for _, n := range []int{4, 0} {
				if _, err := d.SetQueues(n); err != nil {
					t.Error(err)
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 30 {
		out, err := exec.Command("/bin/ls", "-l", "/proc/self/fd").CombinedOutput()
		if err != nil || strings.Contains(string(out), tunDevice) {
			t.Errorf("another program: %v\n%s", err, out)
		}
	}
	close(stop)
	wg.Wait()
	queues, err := d.SetQueues(1)
	if err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(queues[0].FD()), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x: %v", flags, err)
	}
	status, err := unix.FcntlInt(uintptr(queues[0].FD()), unix.F_GETFL, 0)
	if err != nil || status&unix.O_NONBLOCK == 0 {
		t.Errorf("file flags %#x: %v", status, err)
	}
}

// water leaks the descriptor of each open that fails.
func TestFailedOpenOfAQueueLeavesNoDescriptor(t *testing.T) {
	enterNamespace(t)
	before := openDescriptors(t)
	for range 5 {
		if _, err := openWater("lo"); err == nil {
			t.Fatal("the loopback link became a TAP")
		}
	}
	if left := newDescriptors(t, before); len(left) > 0 {
		t.Errorf("descriptors left: %v", left)
	}
}

// water clears the link's persistence: a link that lived by it would go with the queue.
func TestLinkStaysWhenAQueueWasOpenedAndClosed(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	index := d.Index()
	for range 3 {
		for _, n := range []int{1, 0} {
			if _, err := d.SetQueues(n); err != nil {
				t.Fatal(err)
			}
			if got := linkNamed(t, d.Name()).Index; got != index {
				t.Fatalf("link has index %d, was %d", got, index)
			}
		}
	}
}

// water cuts names over 15 bytes, and would join or make a link of another name.
func TestQueueOfALinkWithATooLongNameIsRefused(t *testing.T) {
	enterNamespace(t)
	before := links(t)
	if _, err := openWater("sixteen-byte-nam"); !errors.Is(err, ErrName) {
		t.Errorf("opened: %v", err)
	}
	if now := links(t); !slices.Equal(now, before) {
		t.Errorf("links %v, before %v", now, before)
	}
}

// water asks for no virtio header: only a queue that joins others has one. A queue that
// made a link of its own, since ours was renamed meanwhile, must not be taken for ours.
func TestQueueWithoutVirtioHeaderIsRefused(t *testing.T) {
	enterNamespace(t)
	before := links(t)
	fd, err := openWater("other0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkQueue(fd, false); !errors.Is(err, ErrQueue) {
		t.Errorf("taken for one of ours: %v", err)
	}
	unix.Close(fd)
	if now := links(t); !slices.Equal(now, before) {
		t.Errorf("links %v, before %v", now, before)
	}
}

// The same when the old name belongs to another link of ours by then.
func TestQueueOfAnotherLinkIsRefused(t *testing.T) {
	enterNamespace(t)
	a, b := newDevice(t, Config{}), newDevice(t, Config{})
	queues, err := b.SetQueues(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.checkOwn(queues[0].FD()); !errors.Is(err, ErrQueue) {
		t.Errorf("another link's queue: %v", err)
	}
	if err := b.checkOwn(queues[0].FD()); err != nil {
		t.Error(err)
	}
}
