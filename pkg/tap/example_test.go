package tap_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/printed"
	"github.com/xnetfrontd/xnetfrontd/internal/testspace"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// A program makes a TAP and hands one frame to Linux. It needs CAP_NET_ADMIN.
// TestExampleHandsAFrameToLinux runs this.
func Example() {
	device, err := tap.Create(tap.Config{Name: "example0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer device.Close() // removes the link
	queues, err := device.SetQueues(1)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := device.SetUp(true); err != nil {
		fmt.Println(err)
		return
	}
	if err := device.SetCarrier(true); err != nil {
		fmt.Println(err)
		return
	}
	writer, err := queues[0].NewWriter(16)
	if err != nil {
		fmt.Println(err)
		return
	}
	// A frame that needs no offload has a virtio header of zeros before it.
	frame := make([]byte, tap.VirtioHeaderSize+60)
	copy(frame[tap.VirtioHeaderSize:], "\xff\xff\xff\xff\xff\xff\x00\x16\x3e\x00\x00\x01\x88\xb5")
	piece := unix.Iovec{Base: &frame[0]}
	piece.SetLen(len(frame))
	result := make([]int32, 1)
	if err := writer.Write([][]unix.Iovec{{piece}}, result); err != nil {
		fmt.Println(err)
		return
	}
	stats, err := device.Stats()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(device.Name(), "took", result[0], "bytes: Linux has received", stats.RxPackets, "frame")
}

// A UDP frame from the guest's kernel has a blank checksum, and the backend takes none: what
// must be done before it goes on the ring? The answer comes from the virtio header and the
// frame's own headers.
func ExampleCheckTx() {
	frame := make([]byte, 60)
	copy(frame[12:], "\x08\x00\x45") // Ethernet type and version of IPv4
	frame[17], frame[23] = 46, 17    // IPv4: length of the packet, UDP
	frame[39] = 26                   // UDP: length
	frame[41] = 17 + 26              // the kernel leaves the sum of the pseudo header there
	headers, err := tap.ParseHeaders(frame, len(frame))
	if err != nil {
		fmt.Println(err)
		return
	}
	const needsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	v := tap.VirtioHeader{Flags: needsCsum, CsumStart: 34, CsumOffset: 6}
	plan, err := tap.CheckTx(v, headers, len(frame), tap.TxFeatures{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if plan.Action == tap.TxFinish {
		err = tap.FinishChecksum(frame[:plan.End], int(plan.Start), int(plan.Offset))
	}
	fmt.Printf("checksum %x, %v\n", frame[40:42], err)
	// Output:
	// checksum ffba, <nil>
}

func TestExampleHandsAFrameToLinux(t *testing.T) {
	testspace.Enter(t)
	printed.Check(t, Example, "example0 took 72 bytes: Linux has received 1 frame\n")
}
