package tap

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func newTestRing(t *testing.T, opcode uint8, q *Queue, depth int) *uring {
	t.Helper()
	u, err := newUring(opcode, q.FD(), depth)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

// io_uring passes by seccomp filters: a ring must be no good for anything else.
func TestRingDoesNothingButItsOneOperation(t *testing.T) {
	enterNamespace(t)
	_, queues := liveDevice(t, Config{}, 1)
	buf := make([]byte, 64)
	const denied = -int32(unix.EACCES)
	for _, opcode := range []uint8{opRead, opWritev} {
		u := newTestRing(t, opcode, queues[0], 2)
		run := func(change func(*sqe)) int32 {
			u.put(0, unsafe.Pointer(&buf[0]), 1)
			e := &u.sqes[u.tail&uint32(len(u.sqes)-1)]
			saved := *e
			change(e)
			done, err := u.submit(1)
			*e = saved
			if done != 1 || err != nil {
				t.Fatalf("submitted %d: %v", done, err)
			}
			return u.results[0]
		}
		for op := range uint8(64) {
			if op == opcode {
				continue
			}
			// Opcodes that this kernel does not know are EINVAL.
			if res := run(func(e *sqe) { e.opcode = op }); res != denied && res != -int32(unix.EINVAL) {
				t.Errorf("ring for operation %d: operation %d gave %d", opcode, op, res)
			}
		}
		if res := run(func(e *sqe) { e.flags = 0; e.fd = int32(queues[0].FD()) }); res != denied {
			t.Errorf("ring for operation %d: a file that is not registered gave %d", opcode, res)
		}
		for _, flag := range []uint8{1 << 1, 1 << 2, 1 << 4} { // drain, link, async
			if res := run(func(e *sqe) { e.flags |= flag }); res != denied {
				t.Errorf("ring for operation %d: flag %#x gave %d", opcode, flag, res)
			}
		}
		if res := run(func(e *sqe) { e.fd = 1 }); res != -int32(unix.EBADF) {
			t.Errorf("ring for operation %d: a second file gave %d", opcode, res)
		}
		files := [1]int32{int32(queues[0].FD())}
		for op := range uintptr(34) {
			if op == unregisterFiles {
				continue
			}
			err := u.register(op, unsafe.Pointer(&files), 1)
			if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBADFD) {
				t.Errorf("ring for operation %d: register operation %d: %v", opcode, op, err)
			}
		}
		if res := run(func(*sqe) {}); res != -int32(unix.EAGAIN) && res != -int32(unix.EFAULT) && res != -int32(unix.EINVAL) {
			t.Errorf("ring for operation %d: its own operation gave %d", opcode, res)
		}
	}
}

func TestRingHasRoomForItsDepth(t *testing.T) {
	enterNamespace(t)
	_, queues := liveDevice(t, Config{}, 1)
	for depth, want := range map[int]int{-1: 1, 0: 1, 1: 1, 2: 2, 3: 4, 8: 8, 33: 64, 64: 64, 1000: maxDepth} {
		if got := newTestRing(t, opRead, queues[0], depth).depth(); got != want {
			t.Errorf("depth %d gave %d, want %d", depth, got, want)
		}
	}
}

// The indices run over 32 bits and start at 0: the ring must work past the wrap of its
// positions, whatever the sizes of the batches.
func TestRingKeepsItsPlaceOverManyBatches(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	socket := newPacketSocket(t, d.Index())
	r := newReader(t, queues[0], 8)
	w := newWriter(t, queues[0], 8)
	bufs, n := readBuffers(8)
	seq := 0
	for round := range 200 {
		k := round%8 + 1
		frames, res := make([][]unix.Iovec, k), make([]int32, k)
		for i := range k {
			socket.send(testFrame(60, seq+i))
			frames[i] = gather(testFrame(60, seq+i))
		}
		if got, err := readAll(r, bufs, n); got != k || err != nil {
			t.Fatalf("round %d: read %d of %d: %v", round, got, k, err)
		}
		if err := w.Write(frames, res); err != nil {
			t.Fatal(err)
		}
		for i := range k {
			if got := frameSeq(bufs[i][VirtioHeaderSize:]); got != seq+i {
				t.Fatalf("round %d: read frame %d, want %d", round, got, seq+i)
			}
			if got := frameSeq(socket.receive()); got != seq+i {
				t.Fatalf("round %d: wrote frame %d, want %d", round, got, seq+i)
			}
		}
		seq += k
	}
}

func TestDeviceWithoutIoUringCarriesFramesAndSaysWhy(t *testing.T) {
	enterNamespace(t)
	_, queues := liveDevice(t, Config{NoUring: true}, 1)
	before := openDescriptors(t)
	if r, w := newReader(t, queues[0], 8), newWriter(t, queues[0], 8); r.Batched() || w.Batched() {
		t.Error("io_uring is in use")
	}
	if left := newDescriptors(t, before); len(left) > 0 {
		t.Errorf("descriptors opened: %v", left)
	}
	if err := queues[0].device.UringError(); !errors.Is(err, errUringOff) {
		t.Errorf("reason: %v", err)
	}
}

// A seccomp filter that comes later, or a kernel without memory, must not lose frames.
func TestFramesStillFlowWhenTheKernelRefusesTheRing(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	socket := newPacketSocket(t, d.Index())
	r := newReader(t, queues[0], 8)
	w := newWriter(t, queues[0], 8)
	rfd, wfd := r.ring.fd, w.ring.fd
	r.ring.fd, w.ring.fd = -1, -1 // io_uring_enter gives EBADF
	defer func() { r.opened.fd, w.opened.fd = rfd, wfd }()
	bufs, n := readBuffers(6)
	frames, res := make([][]unix.Iovec, 6), make([]int32, 6)
	for round := range 2 {
		for i := range frames {
			socket.send(testFrame(60, i))
			frames[i] = gather(testFrame(60, i))
		}
		if got, err := readAll(r, bufs, n); got != 6 || err != nil {
			t.Fatalf("round %d: read %d frames: %v", round, got, err)
		}
		if err := w.Write(frames, res); err != nil {
			t.Fatal(err)
		}
		for i := range frames {
			if !bytes.Equal(bufs[i][VirtioHeaderSize:n[i]], testFrame(60, i)) {
				t.Errorf("round %d: frame %d read is another", round, i)
			}
			if got := frameSeq(socket.receive()); got != i || res[i] != VirtioHeaderSize+60 {
				t.Errorf("round %d: frame %d came as %d, result %d", round, i, got, res[i])
			}
		}
		if r.Batched() || w.Batched() {
			t.Error("the ring is still in use")
		}
		if err := d.UringError(); !errors.Is(err, unix.EBADF) {
			t.Errorf("reason: %v", err)
		}
	}
}

func TestRefusalOfALaterRingIsSaidUntilOneIsMadeAgain(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	want := func(when string, refused error) {
		t.Helper()
		r, w := newReader(t, queues[0], 8), newWriter(t, queues[0], 8)
		if r.Batched() != (refused == nil) || w.Batched() != r.Batched() {
			t.Errorf("%s: a reader with a ring: %t, a writer: %t", when, r.Batched(), w.Batched())
		}
		if err := d.UringError(); !errors.Is(err, refused) {
			t.Errorf("%s: reason %v, want %v", when, err, refused)
		}
		if err := errors.Join(r.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	}
	want("allowed", nil)
	d.newUring = func(uint8, int, int) (*uring, error) { return nil, unix.EPERM }
	want("refused", unix.EPERM)
	d.newUring = newUring
	want("allowed again", nil)

	// The same where it was refused from the start.
	d.newUring = func(uint8, int, int) (*uring, error) { return nil, unix.ENOSYS }
	d.uringErr = d.tryUring(d.keeper)
	want("refused from the start", unix.ENOSYS)
	d.newUring = newUring
	want("allowed since", nil)
}

// A reconnect makes new readers and writers; it must not fail for want of a ring.
func TestReadersAndWritersAreMadeWithoutARingWhenNoneCanBeHad(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	socket := newPacketSocket(t, d.Index())
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	r, errR := queues[0].NewReader(8)
	w, errW := queues[0].NewWriter(8)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if errR != nil || errW != nil || r.Batched() || w.Batched() {
		t.Fatalf("reader: %v; writer: %v", errR, errW)
	}
	for i := range 6 {
		socket.send(testFrame(60, i))
	}
	bufs, n := readBuffers(8)
	if got, err := r.Read(bufs, n); got != 6 || err != nil {
		t.Errorf("read %d frames: %v", got, err)
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		t.Error(err)
	}
}

// What the kernel did not take once must not be done the next time.
func TestRingForgetsWhatWasRefused(t *testing.T) {
	enterNamespace(t)
	d, queues := liveDevice(t, Config{}, 1)
	socket := newPacketSocket(t, d.Index())
	u := newTestRing(t, opRead, queues[0], 4)
	bufs, _ := readBuffers(4)
	put := func(n int) {
		for i := range n {
			u.put(i, unsafe.Pointer(&bufs[i][0]), len(bufs[i]))
		}
	}
	for i := range 3 {
		socket.send(testFrame(60, i))
	}
	fd := u.fd
	u.fd = -1
	put(3)
	if done, err := u.submit(3); done != 0 || err != nil || u.refused != unix.EBADF || u.usable() {
		t.Errorf("refused: %d done, %v, usable %t: %v", done, u.refused, u.usable(), err)
	}
	u.fd = fd
	for seq := range 3 {
		put(1)
		if done, err := u.submit(1); done != 1 || err != nil || frameSeq(bufs[0][VirtioHeaderSize:]) != seq {
			t.Errorf("frame %d: %d done, got frame %d: %v", seq, done, frameSeq(bufs[0][VirtioHeaderSize:]), err)
		}
	}
	put(4)
	if done, err := u.submit(4); done != 4 || err != nil || u.results[0] != -int32(unix.EAGAIN) || u.results[3] != -int32(unix.EAGAIN) {
		t.Errorf("empty queue: %d done, results %v: %v", done, u.results, err)
	}
}

// The probe must notice a queue on which io_uring does not do what is needed.
func TestProbeRefusesWhatDoesNotAnswerAtOnce(t *testing.T) {
	enterNamespace(t)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	before := openDescriptors(t)
	if err := emptyDevice(Config{}).tryUring(pipe[0]); err == nil {
		t.Error("a pipe passes for a TAP's queue")
	}
	if err := emptyDevice(Config{}).tryUring(-1); err == nil {
		t.Error("no descriptor passes for a TAP's queue")
	}
	if left := newDescriptors(t, before); len(left) > 0 {
		t.Errorf("descriptors left: %v", left)
	}
}

func TestReadAndWriteDoNotAllocate(t *testing.T) {
	forEachEngine(t, func(t *testing.T, cfg Config) {
		d, queues := liveDevice(t, cfg, 1)
		socket := newPacketSocket(t, d.Index())
		r := newReader(t, queues[0], 8)
		w := newWriter(t, queues[0], 8)
		bufs, n := readBuffers(8)
		frames, res := make([][]unix.Iovec, 8), make([]int32, 8)
		for i := range frames {
			frames[i] = gather(testFrame(60, i), VirtioHeaderSize)
		}
		frame, header := testFrame(60, 0), make([]byte, 10)
		iov := [][]byte{header, frame}
		drained := make([]byte, 1<<16)
		const runs = 100
		for _, k := range []int{1, 8} { // k is what the queue has for each read
			for i := range (runs + 1) * k {
				if i < 900 { // what the queue holds
					unix.SendmsgBuffers(socket.fd, iov, nil, nil, 0)
				}
			}
			var err error
			allocs := testing.AllocsPerRun(runs, func() {
				if _, e := readAll(r, bufs[:k], n); e != nil {
					err = e
				}
				if e := w.Write(frames[:k], res); e != nil {
					err = e
				}
			})
			if allocs != 0 || err != nil {
				t.Errorf("%d frames: %v allocations: %v", k, allocs, err)
			}
			for !queueEmpty(socket.fd) {
				unix.Read(socket.fd, drained)
			}
		}
	})
}

// The kernel writes to addresses noted before the system call: on a stack, which may
// have moved by then, they would be somebody else's. The compiler must see them escape.
func TestBuffersOfACallerDoNotLiveOnItsStack(t *testing.T) {
	enterNamespace(t)
	_, queues := liveDevice(t, Config{}, 1)
	r, w := newReader(t, queues[0], 8), newWriter(t, queues[0], 8)
	reads := testing.AllocsPerRun(10, func() {
		var buf [ReadRoom]byte
		var n [1]int
		r.Read([][]byte{buf[:]}, n[:])
	})
	writes := testing.AllocsPerRun(10, func() {
		var buf [VirtioHeaderSize + 60]byte
		var res [1]int32
		frame := [1]unix.Iovec{{Base: &buf[0]}}
		frame[0].SetLen(len(buf))
		w.Write([][]unix.Iovec{frame[:]}, res[:])
	})
	if reads < 1 || writes < 2 {
		t.Errorf("read: %v allocations, want the buffer; write: %v, want the buffer and the gather list", reads, writes)
	}
}

func TestProbeLeavesNothingBehind(t *testing.T) {
	enterNamespace(t)
	d := newDevice(t, Config{})
	before, stats := openDescriptors(t), second(d.Stats())
	if err := emptyDevice(Config{}).tryUring(d.keeper); err != nil || stats != nil {
		t.Errorf("probe: %v, %v", err, stats)
	}
	if left := newDescriptors(t, before); len(left) > 0 {
		t.Errorf("descriptors left: %v", left)
	}
	if now := links(t); !slices.Contains(now, d.Name()) {
		t.Errorf("links %v", now)
	}
}
