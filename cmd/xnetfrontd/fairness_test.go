package main

import (
	"bytes"
	"context"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// floodPort has frames for the guest without an end, once the flood is let go.
type floodPort struct {
	open   atomic.Bool
	queues []floodQueue
}

type floodQueue struct {
	port *floodPort
	fd   int
}

func (p *floodPort) Attach(n int, _ netback.Takes) ([]netback.PortQueue, error) {
	var queues []netback.PortQueue
	for range n {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return nil, err
		}
		p.queues = append(p.queues, floodQueue{p, fd})
		queues = append(queues, p.queues[len(p.queues)-1])
	}
	return queues, nil
}

func (p *floodPort) Detach() error {
	for _, q := range p.queues {
		unix.Close(q.fd)
	}
	p.queues = nil
	return nil
}

func (p *floodPort) SetCarrier(bool) error { return nil }
func (p *floodPort) Close() error          { return p.Detach() }

// flood lets the frames go.
func (p *floodPort) flood() {
	p.open.Store(true)
	for _, q := range p.queues {
		unix.Write(q.fd, []byte{7: 1})
	}
}

func (q floodQueue) FD() int { return q.fd }

func (q floodQueue) Read(bufs [][]byte, sizes []int) (int, error) {
	if !q.port.open.Load() {
		return 0, nil
	}
	for i, b := range bufs {
		sizes[i] = copy(b, flooded)
	}
	return len(bufs), nil
}

func (q floodQueue) ReadFrame([][]byte) (int, error)   { return 0, nil }
func (q floodQueue) Write([]netback.Outgoing, []error) {}

// flooded is a frame that no host takes, with its virtio header.
var flooded = append(make([]byte, tap.VirtioHeaderSize), strange(60, 0)...)

// makeBusy gives the guest's kernel some 20 us of work with each frame of a link, as packet
// filters do: by sockets whose filters take long to refuse a frame.
func (m *testMachine) makeBusy(link netlink.Link) {
	m.t.Helper()
	filter := make([]unix.SockFilter, 4095, 4096)
	for i := range filter {
		filter[i] = unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_MUL | unix.BPF_K, K: 3}
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
	for range 5 {
		var fd int
		err := m.space.Do(func() (err error) {
			fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			return err
		})
		if err == nil {
			m.t.Cleanup(func() { unix.Close(fd) })
			err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL << 8, Ifindex: link.Attrs().Index})
		}
		if err != nil {
			m.t.Fatal(err)
		}
	}
}

// whoHas asks for the hardware address of an IP address of 10.9.0.0/24 in an Ethernet frame.
func whoHas(last byte) []byte {
	f := append(bytes.Repeat([]byte{0xff}, 6), 0x02, 0, 0, 0, 0, 0x99, 0x08, 0x06)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(f, 0x02, 0, 0, 0, 0, 0x99, 10, 9, 0, 99)
	return append(f, 0, 0, 0, 0, 0, 0, 10, 9, 0, last)
}

// answer waits for the answer to whoHas of a frame's sender.
func answer(ctx context.Context, p *netback.MemoryPort, from net.HardwareAddr) error {
	for {
		r, err := p.Receive(ctx)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(r.Frame[6:], from) && bytes.HasPrefix(r.Frame[12:], []byte{0x08, 0x06}) && r.Frame[21] == 2 {
			return nil
		}
	}
}

// The daemon has one of Go's processors, as in a guest with one CPU, and the flood keeps its
// workers busy. The test counts the frames that pass between a question over the other vif and
// its answer. That vif's worker has to wake twice for these. By itself, Go would let each of
// the flood's workers work for 10 ms before that.
func TestFloodOfOneVifDoesNotKeepAnotherWaiting(t *testing.T) {
	const queues, pings = 8, 21
	t.Setenv("GOMAXPROCS", "1")
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	features := netback.LinuxFeatures()
	features.MaxQueues = queues
	port := new(floodPort)
	m.startBackendLike(netback.Options{Features: &features, NewPort: func(v netback.VifInfo) (netback.Port, error) {
		if v.Device == 0 {
			return port, nil
		}
		return netback.NewMemoryPort(), nil
	}})
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\nqueues = 8\n[[vif]]\ndevid = 1\nqueues = 1\n"))
	d.await("READY=1")
	m.awaitVif("at the start", "0", connectedAs(0))
	m.awaitVif("at the start", "1", connectedAs(1))
	hostile, _ := m.port(0)
	vif, quiet := m.port(1)
	for _, v := range []*netback.Vif{hostile, vif} {
		if err := v.WaitConnected(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	m.makeBusy(m.link("xnf0"))
	link := m.link("xnf1")
	if err := m.space.Links.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{10, 9, 0, 1}, Mask: net.CIDRMask(24, 32)}}); err != nil {
		t.Fatal(err)
	}
	ping := func() (frames uint64, took time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		before, began := hostile.Stats().RxFrames, time.Now()
		if err := quiet.Send(0, tap.VirtioHeader{}, whoHas(1)); err != nil {
			t.Fatal(err)
		}
		if err := answer(ctx, quiet, link.Attrs().HardwareAddr); err != nil {
			t.Fatalf("no answer: %v", err)
		}
		return hostile.Stats().RxFrames - before, time.Since(began)
	}
	_, calm := ping()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4 * queues)) // so that the flood's side does not wait for itself
	port.flood()
	var frames []uint64
	var times []time.Duration
	for range pings {
		n, took := ping()
		frames, times = append(frames, n), append(times, took)
	}
	slices.Sort(frames)
	slices.Sort(times)
	t.Logf("an answer took %v, and beside the flood %v (median); %d frames passed meanwhile", calm, times[pings/2], frames[pings/2])
	// A batch of each of the flood's queues before each of the workers that have to wake.
	const expected = 2 * 32 * queues
	if n := frames[pings/2]; n == 0 || n > 10*expected {
		t.Errorf("%d frames passed before each answer, want 1 to %d, of all: %v", n, 10*expected, frames)
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0", "xnf1")
}
