package traffic

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Frames is the result of [WatchFrames].
type Frames struct {
	Interface string    `json:"interface"`
	In        Direction `json:"in"`  // received by the interface
	Out       Direction `json:"out"` // sent by it
	Missed    int       `json:"missed"`
	Samples   []string  `json:"samples,omitempty"` // the first bytes of bad frames, in hex
}

// Direction is what passed an interface one way.
type Direction struct {
	Frames  int `json:"frames"`
	Bytes   int `json:"bytes"`
	Large   int `json:"large"`   // over --large bytes: super-frames
	Largest int `json:"largest"` // in bytes, with the Ethernet header
	Tagged  int `json:"tagged"`  // with a VLAN tag, stripped by the kernel or not

	// By kind of checksum; with --verify only. Unfinished is what the kernel leaves to
	// a device, and says so, with the pseudo-header's sum rightly in place; the same
	// without the kernel's word for it is bad.
	Good       map[SumKind]int `json:"good,omitempty"`
	Bad        map[SumKind]int `json:"bad,omitempty"`
	Unfinished map[SumKind]int `json:"unfinished,omitempty"`
}

// WatchFrames is the command "watch-frames".
type WatchFrames struct {
	Interface string        `arg:"" help:"Interface to watch."`
	For       time.Duration `default:"60s" help:"How long; SIGTERM ends it earlier."`
	Large     int           `default:"1514" help:"Frames over so many bytes count as large."`
	Verify    bool          `help:"Compute every IPv4, TCP and UDP checksum anew."`
}

const (
	watchBuffer = 64 << 20 // bytes of socket buffer: a burst of super-frames
	maxFrame    = 1 << 17  // bytes of the largest frame there may be
	maxSamples  = 4
	sampleSize  = 96

	// drainLimit is how long frames are counted before anybody looks whether to go on,
	// and how long what waits at the end may take.
	drainLimit = 10 * time.Second
)

// Run prints Ready, and [Frames] at its end.
func (c *WatchFrames) Run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, c.For)
	defer cancel()
	f, err := c.open()
	if err != nil {
		return fmt.Errorf("watch %s: %w", c.Interface, err)
	}
	defer f.Close()
	if err := print(out, Ready{c.Interface}); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Now()) })()
	w := watcher{large: c.Large, verify: c.Verify, seen: Frames{Interface: c.Interface},
		buf: make([]byte, maxFrame), oob: make([]byte, unix.CmsgSpace(auxdataSize))}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if err := w.readAll(conn.Read); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("watch %s: %w", c.Interface, err)
	}
	err = conn.Control(func(fd uintptr) {
		// What came before the end counts, however late this program is.
		w.drain(int(fd), time.Now().Add(drainLimit))
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			w.seen.Missed = int(st.Drops)
		}
	})
	return errors.Join(err, print(out, w.seen))
}

// open returns a packet socket (packet(7)) of the interface.
func (c *WatchFrames) open() (*os.File, error) {
	link, err := net.InterfaceByName(c.Interface)
	if err != nil {
		return nil, err
	}
	// Of no protocol it gets nothing until it is bound to the interface.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket (root is needed): %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

// networkOrder is htons.
func networkOrder(v uint16) uint16 { return v<<8 | v>>8 }

// watcher counts frames.
type watcher struct {
	large    int
	verify   bool
	buf, oob []byte
	seen     Frames
}

// readAll counts frames until read, that of the socket's syscall.RawConn, fails.
func (w *watcher) readAll(read func(func(fd uintptr) bool) error) error {
	var failed error
	err := read(func(fd uintptr) bool {
		failed = w.drain(int(fd), time.Now().Add(drainLimit))
		return failed != nil
	})
	return errors.Join(err, failed)
}

// drain counts the frames that wait in the socket, but ends at a time even if more
// come than it can count.
func (w *watcher) drain(fd int, end time.Time) error {
	for time.Now().Before(end) {
		n, oobn, _, from, err := unix.Recvmsg(fd, w.buf, w.oob, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // set down: it may be set up again
			continue
		case err != nil:
			return err
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok {
			w.frame(w.buf[:n], ll.Pkttype == unix.PACKET_OUTGOING, parseAuxdata(w.oob[:oobn]))
		}
	}
	return nil
}

// frame counts one frame.
func (w *watcher) frame(b []byte, outgoing bool, aux auxdata) {
	d := &w.seen.In
	if outgoing {
		d = &w.seen.Out
	}
	d.Frames++
	d.Bytes += len(b)
	d.Largest = max(d.Largest, len(b))
	if len(b) > w.large {
		d.Large++
	}
	if tags, _, _ := tagsOf(b); tags > 0 || aux.stripped {
		d.Tagged++
	}
	if !w.verify {
		return
	}
	bad := false
	for _, s := range checksums(b) {
		switch {
		case s.state == sumGood:
			count(&d.Good, s.kind)
		case s.state == sumUnfinished && aux.unfinished:
			count(&d.Unfinished, s.kind)
		case s.state != sumNone:
			count(&d.Bad, s.kind)
			bad = true
		}
	}
	if bad && len(w.seen.Samples) < maxSamples {
		w.seen.Samples = append(w.seen.Samples, hex.EncodeToString(b[:min(len(b), sampleSize)]))
	}
}

func count(m *map[SumKind]int, k SumKind) {
	if *m == nil {
		*m = make(map[SumKind]int)
	}
	(*m)[k]++
}
