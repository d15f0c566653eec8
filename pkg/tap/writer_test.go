package tap

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriterKeepsEveryByteOfAFrame(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		sizes := append(append([]int(nil), frameSizes...), 65535)
		for _, depth := range []int{1, 8} {
			w := newWriter(t, queues[0], depth)
			var frames [][]unix.Iovec
			var want [][]byte
			flush := func() {
				res := make([]int32, len(frames))
				if err := w.Write(frames, res); err != nil {
					t.Fatal(err)
				}
				for i, frame := range want {
					if int(res[i]) != VirtioHeaderSize+len(frame) {
						t.Errorf("frame of %d bytes: result %d", len(frame), res[i])
					}
					if got := socket.receive(); !bytes.Equal(got, frame) {
						t.Errorf("frame of %d bytes came as other %d bytes", len(frame), len(got))
					}
				}
				frames, want = nil, nil
			}
			for i, size := range sizes {
				want = append(want, testFrame(size, i))
				// As the receive path does: header and first bytes apart, then pages.
				frames = append(frames, gather(want[len(want)-1], VirtioHeaderSize, VirtioHeaderSize+14, 4096, 8192, 40000))
				if len(frames) == depth {
					flush()
				}
			}
			flush()
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWriterKeepsTheOrderOfFrames(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		w := newWriter(t, queues[0], 16)
		frames, res := make([][]unix.Iovec, 100), make([]int32, 100) // more than the ring holds
		for i := range frames {
			frames[i] = gather(testFrame(60, i), VirtioHeaderSize)
		}
		if err := w.Write(frames, res); err != nil {
			t.Fatal(err)
		}
		for i := range frames {
			if seq := frameSeq(socket.receive()); seq != i || res[i] != VirtioHeaderSize+60 {
				t.Fatalf("frame %d came as number %d, result %d", seq, i, res[i])
			}
		}
	})
}

// A backend can make a frame that Linux refuses; its neighbours must not suffer.
func TestWriterLosesOnlyTheFrameThatIsRefused(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		w := newWriter(t, queues[0], 16)
		badHeader := func() []unix.Iovec { // a segmentation type that does not exist
			f := append(make([]byte, VirtioHeaderSize), testFrame(60, 0)...)
			f[1], f[4] = 0x7f, 100
			v := unix.Iovec{Base: &f[0]}
			v.SetLen(len(f))
			return []unix.Iovec{v}
		}
		tooMany := make([]unix.Iovec, 1025)
		const invalid, fine = -int32(unix.EINVAL), VirtioHeaderSize + 60
		unmapped := []unix.Iovec{{Len: 100}}
		frames := [][]unix.Iovec{
			gather(testFrame(60, 0)), badHeader(), gather(testFrame(60, 1)), nil,
			gather(testFrame(60, 2)[:13]), tooMany, unmapped, gather(testFrame(60, 3)),
		}
		want := []int32{fine, invalid, fine, invalid, invalid, invalid, -int32(unix.EFAULT), fine}
		res := make([]int32, len(frames))
		if err := w.Write(frames, res); err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if res[i] != want[i] {
				t.Errorf("frame %d: result %d, want %d", i, res[i], want[i])
			}
		}
		for _, want := range []int{0, 1, 3} {
			if seq := frameSeq(socket.receive()); seq != want {
				t.Errorf("frame %d came instead of %d", seq, want)
			}
		}
	})
}

func TestWriterReportsALinkThatIsDown(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		w := newWriter(t, queues[0], 4)
		if err := d.SetUp(false); err != nil {
			t.Fatal(err)
		}
		for _, k := range []int{1, 3} {
			frames, res := make([][]unix.Iovec, k), make([]int32, k)
			for i := range frames {
				frames[i] = gather(testFrame(60, i))
			}
			if err := w.Write(frames, res); err != nil {
				t.Fatal(err)
			}
			for i, r := range res {
				if r != -int32(unix.EIO) {
					t.Errorf("down, frame %d of %d: result %d", i, k, r)
				}
			}
		}
		if err := d.SetUp(true); err != nil {
			t.Fatal(err)
		}
		unix.GetsockoptInt(socket.fd, unix.SOL_SOCKET, unix.SO_ERROR) // the socket was told ENETDOWN
		res := make([]int32, 1)
		if err := w.Write([][]unix.Iovec{gather(testFrame(60, 7))}, res); err != nil || res[0] < 0 {
			t.Fatalf("up again: result %d: %v", res[0], err)
		}
		if seq := frameSeq(socket.receive()); seq != 7 {
			t.Errorf("up again: frame %d", seq)
		}
	})
}
