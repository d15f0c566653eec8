package netfront

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	guestDom  = 5
	driverDom = 2
)

var guestMAC = net.HardwareAddr{0, 0x16, 0x3e, 1, 2, 3}

// world is an embedded Xen in this process, a backend with a port in memory, and a
// Device on a real TAP in a network namespace of the test.
type world struct {
	t      *testing.T
	server *xensim.Server
	front  *xensim.Connection
	back   *netback.Backend
	vif    *netback.Vif
	port   *netback.MemoryPort
	dev    *Device
	sock   int // packet socket on the TAP, with virtio headers
	stop   func(cause error)
	ran    chan error
	config worldConfig
	dom    xen.DomID // the guest's, if not guestDom
}

type worldConfig struct {
	xen     xensim.Options
	back    netback.Options
	vif     xensim.VifConfig
	front   Config
	prepare func(v *netback.Vif) // before the Device runs
	offline bool                 // no backend driver at all
	// often is how often the Device looks for addresses; 0: as in a real one
	often   time.Duration
	seconds chan time.Time // the Device's clock; nil: the machine's
}

func features(f func(*Features)) Features {
	all := AllFeatures()
	f(&all)
	return all
}

// newWorld builds a world and runs its Device. At the test's end it takes it down and
// checks that nothing is left: no grant, port, link, descriptor or goroutine.
func newWorld(t *testing.T, c worldConfig) *world {
	t.Helper()
	enterNamespace(t)
	w := &world{t: t, ran: make(chan error, 1)}
	c.xen.HeapPages = c.front.Holder == nil
	if c.front.Holder != nil {
		c.xen.Dir = t.TempDir() // descriptors are handed over between processes only
	}
	if c.xen.GrantLimit == 0 {
		c.xen.GrantLimit = 4096
	}
	var err error
	if w.server, err = xensim.New(c.xen); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.check(w.server.Close()) })
	if c.front.Holder != nil {
		w.check(w.server.Listen())
	}
	c.vif.Frontend, c.vif.Backend = guestDom, driverDom
	if c.vif.MAC == nil {
		c.vif.MAC = guestMAC
	}
	ctx := w.deadline()
	w.check(xensim.AttachVif(ctx, w.server.Toolstack(), c.vif))
	if !c.offline {
		w.backend(c)
	}
	t.Cleanup(func() { w.check(w.front.Close()) })
	if c.front.Features == (Features{}) {
		c.front.Features = AllFeatures()
	}
	if c.front.Queues == 0 {
		c.front.Queues = 1
	}
	if c.front.Logger == nil {
		c.front.Logger = zap.NewNop()
	}
	w.config = c
	w.begin()
	t.Cleanup(w.end)
	w.openSocket()
	return w
}

// begin opens the Device and runs it.
func (w *world) begin() {
	var err error
	if w.config.front.Holder == nil {
		w.front, err = w.server.Connect(guestDom)
	} else {
		w.front, err = xensim.Dial(w.config.xen.Dir, w.domain())
	}
	w.check(err)
	w.dev, err = Open(w.deadline(), w.front.Guest(), w.config.front)
	w.check(err)
	if c := w.config.seconds; c != nil {
		w.dev.everySecond = func() (<-chan time.Time, func()) { return c, func() {} }
	}
	if w.config.often != 0 {
		w.dev.reportEvery = w.config.often
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	dev := w.dev
	go func() { w.ran <- dev.Run(ctx) }()
	w.stop = cancel
}

// backend starts the driver and waits for its vif.
func (w *world) backend(c worldConfig) {
	conn, err := w.server.Connect(driverDom)
	w.check(err)
	b := netback.New(conn, c.back)
	w.back = b
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil && !errors.Is(err, context.Canceled) {
			w.t.Error(err)
		}
		w.check(conn.Close())
	})
	w.vif, err = b.Vif(w.deadline(), netback.VifID{Frontend: guestDom, Device: c.vif.DevID})
	w.check(err)
	w.port = w.vif.MemoryPort()
	if c.prepare != nil {
		c.prepare(w.vif)
	}
}

// end stops the Device and checks what it leaves.
func (w *world) end() {
	w.stop(nil)
	select {
	case err := <-w.ran:
		if err != nil {
			w.t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		w.t.Fatal("Run does not end")
	}
	w.check(w.dev.Close())
	unix.Close(w.sock)
	if _, err := netlink.LinkByName(w.dev.Name()); err == nil {
		w.t.Errorf("link %s is left", w.dev.Name())
	}
	w.eventually("every grant to end", func() bool { return len(w.server.GrantsInUse(w.domain())) == 0 })
	w.eventually("every port to close", func() bool { return len(w.server.PortsInUse(w.domain())) == 0 })
	if w.vif != nil && w.vif.Fatal() != nil {
		w.t.Errorf("netback disabled the vif: %v", w.vif.Fatal())
	}
}

func (w *world) domain() xen.DomID {
	if w.dom != 0 {
		return w.dom
	}
	return guestDom
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// deadline is a context for one step: ten times what it may take on a slow machine.
func (w *world) deadline() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	context.AfterFunc(ctx, cancel) // a test that goes on for long has many of them
	return ctx
}

// eventually waits until cond is true.
func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited 30 s for %s; status %+v", what, w.dev.Status())
		}
	}
}

// connected waits for connection number n with its carrier, on both sides.
func (w *world) connected(n uint64) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("connection %d", n), func() bool {
		s := w.dev.Status()
		return s.Connects >= n && s.State == "Connected" && s.BackendState == "Connected" && len(s.Queues) > 0
	})
	// The kernel drops what is sent before, without an error.
	w.eventually("the TAP's carrier", func() bool {
		link, err := netlink.LinkByName(w.dev.Name())
		w.check(err)
		return link.Attrs().RawFlags&unix.IFF_RUNNING != 0
	})
	w.check(w.vif.WaitConnected(w.deadline()))
	w.port = w.vif.MemoryPort() // a rebind makes a new one
	w.check(w.port.WaitCarrier(w.deadline(), true))
}

// openSocket opens a packet socket on the TAP: what the guest's kernel sends and
// receives, with its virtio headers.
func (w *world) openSocket() {
	const packetVnetHdr = 15 // PACKET_VNET_HDR of linux/if_packet.h
	proto := int(htons(unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	w.check(err)
	w.sock = fd
	w.check(unix.SetsockoptInt(fd, unix.SOL_PACKET, packetVnetHdr, 1))
	w.check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	w.check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20))
	w.check(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(proto), Ifindex: w.dev.Status().IfIndex}))
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// packetHeader is the virtio header of a packet socket: the first ten bytes.
const packetHeader = 10

// send lets the guest's kernel send a frame on the TAP.
func (w *world) send(v tap.VirtioHeader, frame []byte) {
	w.t.Helper()
	b := make([]byte, tap.VirtioHeaderSize)
	v.Put(b)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		err := unix.Send(w.sock, append(b[:packetHeader:packetHeader], frame...), 0)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.ENOBUFS) || time.Now().After(end) {
			w.t.Fatalf("send %d bytes: %v", len(frame), err)
		}
	}
}

// receive returns the next frame that came out of the TAP and begins with prefix.
func (w *world) receive(prefix []byte) (tap.VirtioHeader, []byte) {
	w.t.Helper()
	buf := make([]byte, 1<<17)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(w.sock), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 1000); err != nil || fds[0].Revents == 0 {
			continue
		}
		n, from, err := unix.Recvfrom(w.sock, buf, 0)
		w.check(err)
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		frame := buf[packetHeader:n]
		if bytes.HasPrefix(frame, prefix) {
			v, err := tap.ParseVirtioHeader(append(bytes.Clone(buf[:packetHeader]), 0, 0))
			w.check(err)
			return v, bytes.Clone(frame)
		}
	}
	w.t.Fatal("no frame came out of the TAP")
	return tap.VirtioHeader{}, nil
}

// fromGuest returns the next frame that the backend got and that begins with prefix;
// the kernel sends frames of its own, too.
func (w *world) fromGuest(prefix []byte) netback.Received {
	w.t.Helper()
	ctx := w.deadline()
	for {
		r, err := w.port.Receive(ctx)
		if err != nil {
			w.t.Fatalf("no frame from the guest: %v; status %+v; netback %+v", err, w.dev.Status(), w.vif.Stats())
		}
		if bytes.HasPrefix(r.Frame, prefix) {
			return r
		}
	}
}

// mark is a frame of n bytes that no kernel makes or answers, different for each i.
func mark(n, i int) []byte {
	f := patterned(n, uint64(i))
	copy(f, markPrefix)
	return f
}

// markPrefix begins all frames of mark: a unicast address of nobody.
var markPrefix = []byte{0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee}

// inside are the tests that are in a namespace of their own.
var inside sync.Map

// enterNamespace puts the test into a network namespace of its own, and checks at
// the end that no descriptor and no goroutine is left. A test does so once: what the first
// of two worlds opens later would count as left by the second.
func enterNamespace(t *testing.T) {
	t.Helper()
	needs.Root(t)
	if _, twice := inside.LoadOrStore(t.Name(), true); twice {
		t.Fatal("the test is in a namespace already: put each world into a t.Run of its own")
	}
	t.Cleanup(func() { inside.Delete(t.Name()) })
	runtime.LockOSThread()
	old, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	// The first file that can be polled makes the runtime open its own epoll.
	if r, w, err := os.Pipe(); err == nil {
		r.Close()
		w.Close()
	}
	fds, goroutines := descriptors(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		settle := func(what string, left func() string) {
			var l string
			for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if l = left(); l == "" {
					return
				}
			}
			t.Errorf("%s left: %s", what, l)
		}
		settle("descriptors", func() string {
			var more []string
			for fd, to := range descriptors(t) {
				if fds[fd] != to {
					more = append(more, fd+" "+to)
				}
			}
			return strings.Join(more, ", ")
		})
		settle("goroutines", func() string {
			if runtime.NumGoroutine() <= goroutines {
				return ""
			}
			buf := make([]byte, 1<<16)
			return string(buf[:runtime.Stack(buf, true)])
		})
		if err := netns.Set(old); err != nil {
			t.Fatal(err)
		}
		ns.Close()
		old.Close()
		runtime.UnlockOSThread()
	})
}

// descriptors are this process's open files, except those that Go's runtime opens by
// itself.
func descriptors(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name()))
		if err == nil && !strings.HasSuffix(to, "/fd") {
			m[e.Name()] = to
		}
	}
	return m
}

// backendStore is xenstore as the backend's domain has it.
func (w *world) backendStore() xen.Store {
	w.t.Helper()
	conn, err := w.server.Connect(driverDom)
	w.check(err)
	w.t.Cleanup(func() { w.check(conn.Close()) })
	return conn.Store()
}
