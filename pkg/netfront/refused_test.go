package netfront

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// The reader alone knows of them: they never get to a queue.
func TestFramesThatTheKernelCouldNotHandOverAreCountedAsDrops(t *testing.T) {
	enterNamespace(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	link, err := tap.Create(tap.Config{Name: "refused", MTU: 1500})
	check(err)
	defer func() { check(link.Close()) }()
	queues, err := link.SetQueues(1)
	check(err)
	check(link.SetUp(true))
	check(link.SetCarrier(true))
	p := &pair{tx: newTxRig(t, AllFeatures(), fullMaps).q, rx: newRxRig(t, fullMaps).q}
	p.reader, err = queues[0].NewReader(1)
	check(err)
	defer func() { check(p.reader.Close()) }()

	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	check(err)
	defer unix.Close(socket)
	check(unix.Sendto(socket, mark(60, 1), 0, &unix.SockaddrLinklayer{Ifindex: link.Index()}))
	for p.reader.Refused() == 0 { // the kernel sends frames of its own, too
		// There is no room for the virtio header: the kernel gives up the frame.
		n, err := p.reader.Read([][]byte{make([]byte, tap.VirtioHeaderSize-1)}, make([]int, 1))
		if n != 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	want := p.reader.Refused()
	if got := p.txStatus().Counters["drop_refused"]; got != want {
		t.Errorf("the queue's counters have %d, want %d", got, want)
	}
	totals := addPairs([]QueueTotals{{Tx: map[string]uint64{"drop_refused": 5}, Rx: map[string]uint64{}}}, []*pair{p})
	if got := totals[0].Tx["drop_refused"]; got != 5+want {
		t.Errorf("the totals have %d, want %d", got, 5+want)
	}
}
