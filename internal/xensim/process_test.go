package xensim

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// The environment of a test binary that is to be a process of the embedded Xen.
const (
	envRole = "XENSIM_TEST_ROLE"
	envDir  = "XENSIM_TEST_DIR"
)

func TestMain(m *testing.M) {
	role := os.Getenv(envRole)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := play(role, os.Getenv(envDir)); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

// play is what a child process does. It prints one line when it is ready, and stays
// until it is killed or its standard input ends.
func play(role, dir string) error {
	switch role {
	case "server":
		s, err := New(Options{Dir: dir})
		if err != nil {
			return err
		}
		if err := s.Listen(); err != nil {
			return err
		}
		fmt.Println("ready")
	case "guest": // grants a page to domain 0, and sets a notification on it
		c, err := Dial(dir, 1)
		if err != nil {
			return err
		}
		p, err := c.Grants().Alloc(0, 3, true)
		if err != nil {
			return err
		}
		e, err := c.OpenEvents()
		if err != nil {
			return err
		}
		port, err := e.Bind(0)
		if err != nil {
			return err
		}
		copy(p.Bytes(), "alive")
		if err := p.NotifyUnmap(0, true, port); err != nil {
			return err
		}
		fmt.Println(p.Refs()[0], port)
	case "reader": // adopts event channels, reads what is pending, and does nothing about it
		e, err := AdoptEventFile(3)
		if err != nil {
			return err
		}
		var ports [4]xen.Port
		n, err := e.Read(ports[:])
		if err != nil {
			return err
		}
		fmt.Println(len(e.Ports()), n, ports[0])
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// child is a process of the embedded Xen.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	line  string // what it printed
}

func startChild(t *testing.T, role, dir string, files ...*os.File) *child {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envRole+"="+role, envDir+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd, stdin: stdin}
	t.Cleanup(c.kill)
	c.line, err = bufio.NewReader(stdout).ReadString('\n')
	if err != nil || strings.HasPrefix(c.line, "error:") {
		t.Fatalf("child %s: %q, %v", role, c.line, err)
	}
	return c
}

// kill is SIGKILL; it returns when the process is gone.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		c.cmd.Process.Kill()
		c.cmd.Wait()
		c.stdin.Close()
	}
}

// numbers are those that the child printed.
func (c *child) numbers(t *testing.T) []int {
	t.Helper()
	var list []int
	for _, f := range strings.Fields(c.line) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, n)
	}
	return list
}

func listening(t *testing.T) (*Server, string) {
	t.Helper()
	dir := t.TempDir()
	s := newServer(t, Options{Dir: dir})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func dial(t *testing.T, dir string, dom xen.DomID) *Connection {
	t.Helper()
	c, err := Dial(dir, dom)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestKilledGuestLosesAllButWhatIsMapped(t *testing.T) {
	s, dir := listening(t)
	guest := startChild(t, "guest", dir)
	n := guest.numbers(t)
	ref, port := xen.GrantRef(n[0]), xen.Port(n[1])
	back := dial(t, dir, 0)
	m := mapGrant(t, back, 1, ref, false)
	if string(m.Bytes()[:5]) != "alive" {
		t.Fatalf("page has %q", m.Bytes()[:5])
	}
	e := openEvents(t, back)
	local, err := e.BindInterdomain(1, port)
	if err != nil {
		t.Fatal(err)
	}
	wantEvents(t, e, local)
	unmask(t, e, local)

	guest.kill()
	if !readable(t, e.FD(), true) {
		t.Fatal("no event from the unmap notification")
	}
	wantEvents(t, e, local)
	if string(m.Bytes()[:5]) != "\x00live" {
		t.Fatalf("after the guest's death the page has %q", m.Bytes()[:5])
	}
	await.That(t, "the ports of a dead guest are closed", func() bool {
		return len(s.PortsInUse(1)) == 0
	})
	want := []GrantEntry{{Ref: ref, Mapped: 1, Deferred: true}}
	if in := s.GrantsInUse(1); !slices.Equal(in, want) {
		t.Fatalf("in use %+v, want %+v", in, want)
	}
	notify(t, e, local) // harmless
	if err := m.Unmap(); err != nil {
		t.Fatal(err)
	}
	if in := s.GrantsInUse(1); len(in) != 0 {
		t.Fatalf("in use after unmap: %+v", in)
	}
}

func TestEventReadBeforeAKillStaysMaskedForTheNextProcess(t *testing.T) {
	s, dir := listening(t)
	first, back := openEvents(t, dial(t, dir, 1)), openEvents(t, dial(t, dir, 0))
	f, b := join(t, first, back)
	_, b2 := join(t, first, back)
	notify(t, back, b)
	handle, err := first.Handle()
	if err != nil {
		t.Fatal(err)
	}
	held := os.NewFile(uintptr(handle), "held")
	defer held.Close()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	reader := startChild(t, "reader", dir, held)
	if n := reader.numbers(t); !slices.Equal(n, []int{2, 1, int(f)}) {
		t.Fatalf("child: ports, events, port = %v", n)
	}
	reader.kill()
	if in := s.PortsInUse(1); len(in) != 2 || !in[0].Masked || in[0].Pending || in[1].Masked {
		t.Fatalf("ports after the kill: %+v", in)
	}
	notify(t, back, b)
	notify(t, back, b2)

	e, err := AdoptEventFile(duplicate(t, held))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	ports := e.Ports()
	wantEvents(t, e, ports[1])
	unmask(t, e, ports[0])
	wantEvents(t, e, ports[0])
	notify(t, e, ports[0])
	wantEvents(t, back, b)
}

func TestReplyToAKilledProcessIsNotTakenForTheNextOnes(t *testing.T) {
	_, dir := listening(t)
	first := openEvents(t, dial(t, dir, 1))
	bind(t, first, 0)
	// What a process leaves that is killed right after it has sent its requests: here
	// with answers that are longer, shorter, and errors.
	conn := first.caller.(*socketCaller).conn
	for _, q := range []request{
		{Op: opPeer, Number: uint32(first.Ports()[0]), Tag: 1}, {Op: opEvents, Tag: 2}, {Op: opEvents, Tag: 3}, {Op: opUnbind, Number: 99, Tag: 4},
	} {
		if _, err := conn.Write(q.append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	handle, err := first.Handle()
	if err != nil {
		t.Fatal(err)
	}
	ports := first.Ports()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := AdoptEventFile(handle)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if !slices.Equal(e.Ports(), ports) {
		t.Fatalf("ports %v, want %v", e.Ports(), ports)
	}
	if port := bind(t, e, 0); port == ports[0] {
		t.Errorf("bound port %d again", port)
	}
}

func duplicate(t *testing.T, f *os.File) int {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if ctlErr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	return fd
}

func TestGrantsOutliveTheProcessThatPassedThemOn(t *testing.T) {
	s, dir := listening(t)
	front := dial(t, dir, 1)
	p := alloc(t, front, 0, 2, true)
	p.Bytes()[xen.PageSize] = 42
	handle, err := front.Grants().Handle()
	if err != nil {
		t.Fatal(err)
	}
	if err := front.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := AdoptGrants(handle)
	if err != nil {
		t.Fatal(err)
	}
	q, err := g.Remap(p.Index(), p.Refs())
	if err != nil {
		t.Fatal(err)
	}
	if q.Bytes()[xen.PageSize] != 42 || !slices.Equal(q.Refs(), p.Refs()) {
		t.Fatal("other pages than before")
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	await.That(t, "grants end with their last handle", func() bool { return len(s.GrantsInUse(1)) == 0 })
}

func TestLargestAllocationFitsOneMessage(t *testing.T) {
	dir := t.TempDir()
	s := newServer(t, Options{Dir: dir, GrantLimit: maxGrants})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	c := dial(t, dir, 1)
	if _, err := c.Grants().Alloc(0, maxAlloc+1, true); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("alloc too much: %v", err)
	}
	p := alloc(t, c, 0, maxAlloc, true)
	if n := len(s.GrantsInUse(1)); n != maxAlloc || len(p.Refs()) != maxAlloc {
		t.Fatalf("%d grants, %d refs", n, len(p.Refs()))
	}
	// The table has fewer entries than the limit allows.
	for range maxGrants/maxAlloc - 1 {
		p, err := c.Grants().Alloc(0, maxAlloc, true)
		if errors.Is(err, xen.ErrGrantLimit) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer p.Free()
	}
	t.Fatal("more references than the table has entries")
}

func TestReadOnlyGrantCannotBeMappedForWriting(t *testing.T) {
	_, dir := listening(t)
	front, back := dial(t, dir, 1), dial(t, dir, 0)
	p := alloc(t, front, 0, 1, false)
	r, err := back.maps.call(request{Op: opMap, Domain: 1, Number: uint32(p.Refs()[0])})
	if err != nil {
		t.Fatal(err)
	}
	r.Objects[0].writable = true
	if _, err := r.Objects[0].open(); err == nil {
		t.Fatal("the descriptor of a read-only grant can be mapped for writing")
	}
}

func TestDeadServerIsAnErrorAndNotAHang(t *testing.T) {
	dir := t.TempDir()
	server := startChild(t, "server", dir)
	c := dial(t, dir, 1)
	e := openEvents(t, c)
	bind(t, e, 0)
	p := alloc(t, c, 0, 1, true)
	server.kill()
	if _, err := c.Grants().Alloc(0, 1, true); err == nil {
		t.Error("alloc succeeded")
	}
	if _, err := e.Bind(0); err == nil {
		t.Error("bind succeeded")
	}
	if _, err := c.Store().Read(t.Context(), "domid"); err == nil {
		t.Error("read succeeded")
	}
	p.Bytes()[0] = 1 // still mapped
	if _, err := Dial(dir, 1); err == nil {
		t.Error("dial succeeded")
	}
	if err := p.Free(); err == nil {
		t.Error("free succeeded")
	}
}

func TestHandleOfALocalConnectionCannotBePassed(t *testing.T) {
	s := newServer(t, Options{})
	if _, err := openEvents(t, connect(t, s, 1)).Handle(); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
}
