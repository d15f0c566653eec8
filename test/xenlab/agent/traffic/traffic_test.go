package traffic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/netspace"
)

// asTool makes the test binary the tools' command line.
const asTool = "XENLAB_TRAFFIC_TOOL"

func TestMain(m *testing.M) {
	if os.Getenv(asTool) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	var c Commands
	k := kong.Parse(&c, kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(os.Stdout, (*io.Writer)(nil)))
	k.FatalIfErrorf(k.Run())
}

// host is a network namespace with one end of a veth pair, "eth0".
type host struct {
	t     *testing.T
	space *netspace.Space
	ns    netns.NsHandle
}

// pair returns two hosts on one wire, 10.9.0.1 and 10.9.0.2 on it, and fd09::1 and
// fd09::2.
func pair(t *testing.T) (a, b *host) {
	t.Helper()
	needs.Root(t)
	a, b = newHost(t), newHost(t)
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: "eth0"})
	veth.PeerName, veth.PeerNamespace = "eth0", netlink.NsFd(b.ns)
	must(t, a.space.Links.LinkAdd(veth))
	for i, h := range []*host{a, b} {
		h.address(fmt.Sprintf("10.9.0.%d/24", i+1))
		h.address(fmt.Sprintf("fd09::%d/64", i+1))
	}
	return a, b
}

func newHost(t *testing.T) *host {
	t.Helper()
	space, err := netspace.New()
	must(t, err)
	t.Cleanup(space.Close)
	h := &host{t: t, space: space}
	must(t, space.Do(func() (err error) {
		h.ns, err = netns.Get()
		return err
	}))
	t.Cleanup(func() { h.ns.Close() })
	return h
}

// received is how many frames the host has got.
func (h *host) received() uint64 {
	h.t.Helper()
	link, err := h.space.Links.LinkByName("eth0")
	must(h.t, err)
	return link.Attrs().Statistics.RxPackets
}

func (h *host) address(cidr string) {
	h.t.Helper()
	link, err := h.space.Links.LinkByName("eth0")
	must(h.t, err)
	addr, err := netlink.ParseAddr(cidr)
	must(h.t, err)
	addr.Flags = unix.IFA_F_NODAD
	must(h.t, h.space.Links.AddrAdd(link, addr))
	must(h.t, h.space.Links.LinkSetUp(link))
}

// tool is a running command in a namespace.
type tool struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *bufio.Reader
	stderr bytes.Buffer
}

// start runs a command in the namespace.
func (h *host) start(args ...string) *tool {
	h.t.Helper()
	p := &tool{t: h.t, cmd: exec.Command(os.Args[0], args...)}
	p.cmd.Env = append(os.Environ(), asTool+"=1", "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	must(h.t, err)
	p.out = bufio.NewReader(out)
	must(h.t, h.space.Do(p.cmd.Start))
	h.t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	return p
}

// listen starts a command and waits until it is ready.
func (h *host) listen(args ...string) *tool {
	h.t.Helper()
	p := h.start(args...)
	if line := p.line(); !strings.Contains(line, `"ready"`) {
		h.t.Fatalf("%s: first line %q, want ready", args[0], line)
	}
	return p
}

func (p *tool) line() string {
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.cmd.Wait() // which also ends the copying to stderr
		p.t.Fatalf("%v ended early: %v: %s", p.cmd.Args[1:], err, p.stderr.String())
	}
	return line
}

// result reads the next line into v.
func (p *tool) result(v any) {
	p.t.Helper()
	if line := p.line(); json.Unmarshal([]byte(line), v) != nil {
		p.t.Fatalf("%v: not JSON: %q", p.cmd.Args[1:], line)
	}
}

// end waits for the command and wants it to succeed.
func (p *tool) end() {
	p.t.Helper()
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("%v: %v: %s", p.cmd.Args[1:], err, p.stderr.String())
	}
}

// stop tells the command to end with what it has.
func (p *tool) stop() { must(p.t, p.cmd.Process.Signal(unix.SIGTERM)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
