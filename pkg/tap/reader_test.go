package tap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var frameSizes = []int{14, 15, 17, 59, 60, 61, 64, 127, 128, 129, 1499, 1500, 1513, 1514, 1515, 1518, 2048,
	4083, 4084, 4085, 4095, 4096, 4097, 8192, 9014, 16384, 32767, 32768, 65214, 65520, 65530, 65531}

// forEachEngine runs a test with io_uring and without.
func forEachEngine(t *testing.T, test func(t *testing.T, cfg Config)) {
	for name, cfg := range engines {
		t.Run(name, func(t *testing.T) {
			enterNamespace(t)
			test(t, cfg)
		})
	}
}

func newReader(t testing.TB, q *Queue, depth int) *Reader {
	t.Helper()
	r, err := q.NewReader(depth)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readAll is Read with batches as large as can be, whatever came before.
func readAll(r *Reader, bufs [][]byte, n []int) (int, error) {
	r.expect = maxDepth
	return r.Read(bufs, n)
}

func newWriter(t testing.TB, q *Queue, depth int) *Writer {
	t.Helper()
	w, err := q.NewWriter(depth)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestReaderKeepsEveryByteOfAFrame(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		cfg.MTU = MaxMTU
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		for _, depth := range []int{1, 8} {
			r := newReader(t, queues[0], depth)
			bufs, n := readBuffers(depth)
			var sent [][]byte
			flush := func() {
				got, err := readAll(r, bufs, n)
				if err != nil || got != len(sent) {
					t.Fatalf("depth %d: read %d of %d frames: %v", depth, got, len(sent), err)
				}
				for i, want := range sent {
					header, frame := bufs[i][:VirtioHeaderSize], bufs[i][VirtioHeaderSize:n[i]]
					if !bytes.Equal(header[:10], make([]byte, 10)) {
						t.Errorf("frame of %d bytes: virtio header % x", len(want), header)
					}
					if !bytes.Equal(frame, want) {
						t.Errorf("frame of %d bytes came as other %d bytes", len(want), len(frame))
					}
				}
				sent = nil
			}
			for i, size := range frameSizes {
				sent = append(sent, testFrame(size, i))
				socket.send(sent[len(sent)-1])
				if len(sent) == depth {
					flush()
				}
			}
			flush()
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestReaderTakesTheLongestTaggedFrame(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		cfg.MTU = MaxMTU
		d, queues := liveDevice(t, cfg, 1)
		tagOutgoing(t, d.Index())
		r := newReader(t, queues[0], 4)
		bufs, n := readBuffers(4)
		want := testFrame(MaxMTU+EthernetHeader, 1)
		newPacketSocket(t, d.Index()).send(want)
		got, err := readAll(r, bufs, n)
		if err != nil || got != 1 || n[0] != VirtioHeaderSize+MaxFrame {
			t.Fatalf("read %d frames of %d bytes: %v; want one of %d", got, n[0], err, VirtioHeaderSize+MaxFrame)
		}
		frame := bufs[0][VirtioHeaderSize:n[0]]
		if tag := binary.BigEndian.Uint32(frame[12:]); tag != 0x81000005 {
			t.Errorf("tag %#x", tag)
		}
		if !bytes.Equal(frame[:12], want[:12]) || !bytes.Equal(frame[16:], want[12:]) {
			t.Error("the frame is not the one that was sent")
		}
	})
}

func TestReaderKeepsTheOrderOfFrames(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		r := newReader(t, queues[0], 16)
		bufs, n := readBuffers(100) // more than the ring holds
		const frames = 2000
		socket := newPacketSocket(t, d.Index())
		done := make(chan struct{})
		go func() { // in time with the reader, so that batches meet an empty queue halfway
			defer close(done)
			for i := range frames {
				socket.send(testFrame(60, i))
				if i%200 == 199 { // a TAP drops what it has no room for
					for !queueEmpty(queues[0].FD()) {
					}
				}
			}
		}()
		for next := 0; next < frames; {
			waitFor(t, queues[0].FD())
			got, err := readAll(r, bufs, n)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				frame := bufs[i][VirtioHeaderSize:n[i]]
				if !bytes.Equal(frame, testFrame(60, next)) {
					t.Fatalf("frame %d came as number %d", frameSeq(frame), next)
				}
				next++
			}
		}
		<-done
		if got, err := readAll(r, bufs, n); got != 0 || err != nil {
			t.Errorf("read %d more frames: %v", got, err)
		}
	})
}

func queueEmpty(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n == 0 && err == nil
}

func TestReaderStopsWhereTheQueueIsEmpty(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		r := newReader(t, queues[0], 8)
		bufs, n := readBuffers(8)
		for _, waiting := range []int{0, 1, 5, 8, 9} {
			for i := range waiting {
				socket.send(testFrame(100, i))
			}
			got, err := readAll(r, bufs, n)
			if want := min(waiting, 8); got != want || err != nil {
				t.Errorf("%d frames wait: read %d: %v", waiting, got, err)
			}
		}
		if got, err := readAll(r, bufs, n); got != 1 || err != nil {
			t.Errorf("the frame left: read %d: %v", got, err)
		}
	})
}

// A frame that comes between two reads of one batch lands behind an empty read.
func TestReaderMovesFramesDownPastAnEmptyRead(t *testing.T) {
	bufs, n := readBuffers(6)
	frames := [][]byte{testFrame(60, 0), testFrame(70, 1), testFrame(80, 2)}
	const again, invalid = -int32(unix.EAGAIN), -int32(unix.EINVAL)
	results := []int32{60, again, 70, invalid, again, 80}
	copy(bufs[0], frames[0])
	copy(bufs[2], frames[1])
	copy(bufs[5], frames[2])
	var r Reader
	b, err := r.collect(bufs, n, results)
	if err != nil || b.frames != 3 || !b.empty || b.refused != 1 || r.Refused() != 1 {
		t.Fatalf("collected %+v, %d refused: %v", b, r.Refused(), err)
	}
	for i, want := range frames {
		if !bytes.Equal(bufs[i][:n[i]], want) {
			t.Errorf("frame %d is not in its place", i)
		}
	}
}

// What arrives in a burst must not cost a read of nothing for each frame of the burst
// before it.
func TestReaderAsksForNoMoreThanLatelyCame(t *testing.T) {
	r := Reader{ring: &uring{sqes: make([]sqe, 32)}}
	// burst imitates Read, and counts its system calls and the reads that found nothing.
	burst := func(frames int) (calls, wasted int) {
		for {
			calls++
			if frames == 0 {
				r.note(batch{empty: true})
				return calls, wasted
			}
			frames--
			got := batch{frames: 1}
			if k := r.size(31); k > 0 {
				calls++
				taken := min(k, frames)
				wasted += k - taken
				frames -= taken
				got.frames += taken
				got.empty = taken < k
			}
			r.note(got)
			if got.empty {
				return calls, wasted
			}
		}
	}
	for _, c := range []struct{ frames, calls, wasted int }{
		{1, 2, 0}, {3, 4, 0}, {7, 8, 0}, {16, 10, 5}, {32, 6, 14}, {64, 8, 16}, {1000, 70, 32},
	} {
		r.run, r.expect = 0, 0
		burst(c.frames)
		if calls, wasted := burst(c.frames); calls > c.calls || wasted > c.wasted {
			t.Errorf("a second burst of %d frames took %d calls and %d reads of nothing, want at most %d and %d",
				c.frames, calls, wasted, c.calls, c.wasted)
		}
	}
	if _, wasted := burst(2); wasted > 32 {
		t.Errorf("2 frames after 1000: %d reads of nothing", wasted)
	}
	if _, wasted := burst(2); wasted > 0 {
		t.Errorf("2 frames after 2: %d reads of nothing", wasted)
	}
}

func TestReaderReportsADeletedLink(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		r := newReader(t, queues[0], 4)
		w := newWriter(t, queues[0], 4)
		link, err := netlink.LinkByIndex(d.Index())
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkDel(link); err != nil {
			t.Fatal(err)
		}
		for _, k := range []int{1, 4} {
			bufs, n := readBuffers(k)
			if got, err := readAll(r, bufs, n); got != 0 || !errors.Is(err, ErrLinkGone) {
				t.Errorf("%d buffers: read %d: %v", k, got, err)
			}
			frames, res := make([][]unix.Iovec, k), make([]int32, k)
			for i := range frames {
				frames[i] = gather(testFrame(60, i))
			}
			if err := w.Write(frames, res); err != nil {
				t.Error(err)
			}
			for i, r := range res {
				if r != -int32(unix.EBADFD) {
					t.Errorf("frame %d of %d: result %d", i, k, r)
				}
			}
		}
		if name := d.Name(); name != "" {
			t.Errorf("name is %q", name)
		}
		for what, err := range map[string]error{
			"mtu": d.SetMTU(1400), "up": d.SetUp(true), "queues": second(d.SetQueues(2)), "stats": second(d.Stats()),
		} {
			if !errors.Is(err, ErrLinkGone) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestReaderRefusesSlicesThatDoNotFit(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		r := newReader(t, queues[0], 4)
		if _, err := r.Read(make([][]byte, 2), make([]int, 1)); !errors.Is(err, ErrBuffers) {
			t.Errorf("fewer lengths than buffers: %v", err)
		}
		for _, k := range []int{1, 2} { // nil buffers
			newPacketSocket(t, d.Index()).send(testFrame(60, 0))
			if got, err := r.Read(make([][]byte, k), make([]int, k)); got != 0 || !errors.Is(err, ErrBuffers) {
				t.Errorf("%d empty buffers: read %d: %v", k, got, err)
			}
		}
		if got, err := r.Read(nil, nil); got != 0 || err != nil {
			t.Errorf("no buffers: read %d: %v", got, err)
		}
		w := newWriter(t, queues[0], 4)
		if err := w.Write(make([][]unix.Iovec, 2), make([]int32, 1)); !errors.Is(err, ErrBuffers) {
			t.Errorf("fewer results than frames: %v", err)
		}
		res := make([]int32, 2)
		if err := w.Write(make([][]unix.Iovec, 2), res); err != nil || res[0] != -int32(unix.EINVAL) || res[1] != -int32(unix.EINVAL) {
			t.Errorf("empty frames: results %v: %v", res, err)
		}
	})
}

// A buffer without room for the virtio header costs the frame; it must not cost more.
func TestReaderCountsFramesThatCannotBeRead(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		r := newReader(t, queues[0], 8)
		small := make([][]byte, 8)
		for i := range small {
			small[i] = make([]byte, VirtioHeaderSize-1)
		}
		for i := range 20 {
			socket.send(testFrame(60, i))
		}
		n := make([]int, 8)
		if got, err := readAll(r, small, n); got != 0 || err != nil || r.Refused() != 20 {
			t.Errorf("read %d frames, %d refused: %v", got, r.Refused(), err)
		}
		for i := range maxRefused + 20 {
			socket.send(testFrame(60, i))
		}
		if got, err := readAll(r, small, n); got != 0 || !errors.Is(err, unix.EINVAL) {
			t.Errorf("read %d frames: %v", got, err)
		}
	})
}
