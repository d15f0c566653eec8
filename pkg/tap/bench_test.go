package tap

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// benchFrames is how many frames a round of a benchmark moves: fewer than a queue
// holds, and at 64 KiB no more than a few megabytes.
func benchFrames(size int) int { return min(480, 8<<20/size) }

var benchModes = []struct {
	name  string
	batch int
	cfg   Config
}{
	{"single", 1, Config{}},
	{"plain", 32, Config{NoUring: true}},
	{"uring8", 8, Config{}},
	{"uring32", 32, Config{}},
}

// forEachMode runs a benchmark for each way and size; one operation is one frame.
func forEachMode(b *testing.B, bench func(b *testing.B, d *Device, q *Queue, batch, size int)) {
	for _, size := range []int{64, 1514, MaxMTU + EthernetHeader} {
		for _, mode := range benchModes {
			b.Run(fmt.Sprintf("%d/%s", size, mode.name), func(b *testing.B) {
				enterNamespace(b)
				mode.cfg.MTU = MaxMTU
				d, queues := liveDevice(b, mode.cfg, 1)
				b.ReportAllocs()
				bench(b, d, queues[0], mode.batch, size)
			})
		}
	}
}

func BenchmarkRead(b *testing.B) {
	forEachMode(b, func(b *testing.B, d *Device, q *Queue, batch, size int) {
		socket := newPacketSocket(b, d.Index())
		r := newReader(b, q, batch)
		bufs, n := readBuffers(batch)
		frame := testFrame(size, 0)
		b.ResetTimer()
		for left := b.N; left > 0; {
			b.StopTimer()
			round := min(left, benchFrames(size))
			for range round {
				socket.send(frame)
			}
			b.StartTimer()
			for got := 0; got < round; {
				k, err := r.Read(bufs[:min(batch, round-got)], n)
				if err != nil || k == 0 {
					b.Fatalf("read %d frames: %v", k, err)
				}
				got += k
			}
			left -= round
		}
	})
}

// BenchmarkWrite includes the kernel's receive path up to where it drops a frame that
// is for somebody else.
func BenchmarkWrite(b *testing.B) {
	forEachMode(b, func(b *testing.B, _ *Device, q *Queue, batch, size int) {
		w := newWriter(b, q, batch)
		frame := testFrame(size, 0)
		copy(frame, []byte{2, 9, 9, 9, 9, 9})
		frame[12], frame[13] = 8, 0
		frames, res := make([][]unix.Iovec, batch), make([]int32, batch)
		for i := range frames { // the header, then pages
			frames[i] = gather(frame, VirtioHeaderSize, VirtioHeaderSize+128)
		}
		b.ResetTimer()
		for left := b.N; left > 0; {
			k := min(batch, left)
			if err := w.Write(frames[:k], res); err != nil || int(res[0]) != VirtioHeaderSize+size {
				b.Fatalf("result %d: %v", res[0], err)
			}
			left -= k
		}
	})
}

// BenchmarkReadEmpty is what finding the queue empty costs.
func BenchmarkReadEmpty(b *testing.B) {
	enterNamespace(b)
	_, queues := liveDevice(b, Config{}, 1)
	r := newReader(b, queues[0], 32)
	for _, batch := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("batch%d", batch), func(b *testing.B) {
			bufs, n := readBuffers(batch)
			for b.Loop() {
				if k, err := r.Read(bufs, n); k != 0 || err != nil {
					b.Fatalf("read %d frames: %v", k, err)
				}
			}
		})
	}
}
