package traffic

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestWatchSeesSuperFramesAndTheirUnfinishedSums(t *testing.T) {
	a, b := pair(t)
	w := b.listen("watch-frames", "eth0", "--verify")
	r := b.listen("receive")
	s := a.start("send", "10.9.0.2:5001", "--bytes=8000000")
	s.end()
	r.end()
	w.stop()
	var f Frames
	w.result(&f)
	w.end()
	if f.In.Large == 0 || f.In.Largest < 3000 || f.In.Unfinished[SumTCP4] == 0 {
		t.Errorf("in: %+v", f.In)
	}
	if f.In.Bytes < 8000000 || f.Out.Frames == 0 || f.Missed != 0 || len(f.In.Bad)+len(f.Out.Bad) != 0 {
		t.Errorf("%+v", f)
	}
}
func TestWatchVerifiesEverySumOfAWireWithoutOffloads(t *testing.T) {
	a, b := pair(t)
	a.finishSums()
	b.finishSums()
	w := b.listen("watch-frames", "eth0", "--verify")
	for _, to := range []string{"10.9.0.2", "[fd09::2]"} {
		r := b.listen("receive")
		s := a.start("send", to+":5001", "--bytes=2000000")
		s.end()
		r.end()
		sink := b.listen("stream-sink")
		src := a.start("stream", to+":5002", "--packets=100")
		src.end()
		sink.end()
	}
	w.stop()
	var f Frames
	w.result(&f)
	w.end()
	for _, k := range []SumKind{SumIPv4, SumTCP4, SumUDP4, SumTCP6, SumUDP6} {
		if f.In.Good[k] < 100 {
			t.Errorf("%d good sums of %s", f.In.Good[k], k)
		}
	}
	if len(f.In.Bad)+len(f.Out.Bad)+len(f.In.Unfinished) != 0 || f.In.Large != 0 || f.Missed != 0 {
		t.Errorf("%+v", f)
	}
}

// finishSums turns checksums and with them segmentation off in eth0, so that the
// kernel finishes both in software.
func (h *host) finishSums() {
	h.t.Helper()
	const setTxChecksum = 0x17 // ETHTOOL_STXCSUM
	must(h.t, h.space.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{cmd: setTxChecksum}
		ifr := struct { // struct ifreq with ifr_data
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&value)}
		copy(ifr.name[:], "eth0")
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
			return errno
		}
		return nil
	}))
}
