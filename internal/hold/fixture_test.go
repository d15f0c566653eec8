package hold

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// role says what a process of this test binary is to be.
const role = "HOLD_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "program": // as the program is: only "hold" is there
		err = beHolder(os.Args[2:])
	case "dial": // tells how that went
		var c *Client
		if c, err = Dial(context.Background(), os.Args[1]); err == nil {
			_, err = c.List(context.Background())
		}
	case "crowd":
		err = crowd(os.Args[1])
	case "putter":
		err = putForEver(os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type uidList []int

func (u *uidList) String() string { return fmt.Sprint(*u) }
func (u *uidList) Set(s string) error {
	n, err := strconv.Atoi(s)
	*u = append(*u, n)
	return err
}

func beHolder(args []string) error {
	var o RunOptions
	f := flag.NewFlagSet("hold", flag.ContinueOnError)
	f.StringVar(&o.Socket, "socket", "", "")
	f.DurationVar(&o.Linger, "linger", 0, "")
	f.Var((*uidList)(&o.AllowUIDs), "allow-uid", "")
	detach := f.Bool("detach", false, "")
	detached := f.Bool("detached", false, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *detach {
		return Detach(append(slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool { return a == "--detach" }), "--detached"))
	}
	if err := Rename(); err != nil {
		return err
	}
	if *detached {
		o.Ready = os.Stdout
	}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(os.Stderr), zapcore.InfoLevel)
	o.Log = zap.New(core)
	return Run(o)
}

// crowd opens more connections than a holder has places, says nothing on any, and opens
// new ones for those that are ended, until it is killed or there is no holder.
func crowd(path string) error {
	dial := func() (*net.UnixConn, error) {
		return net.DialUnix(network, nil, &net.UnixAddr{Name: path, Net: network})
	}
	for range 4 * MaxClients {
		conn, err := dial()
		if err != nil {
			return err
		}
		defer conn.Close()
	}
	fmt.Println("crowded")
	var all sync.WaitGroup
	for range maxStrangers {
		all.Go(func() {
			for {
				conn, err := dial()
				if err != nil {
					return
				}
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
		})
	}
	all.Wait()
	return nil
}

// putForEver replaces one bundle again and again, until it is killed.
func putForEver(path string) error {
	c, err := Dial(context.Background(), path)
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		b, err := numbered(i)
		if err != nil {
			return err
		}
		if err := c.Put(context.Background(), *b); err != nil {
			return err
		}
		if err := b.Close(); err != nil {
			return err
		}
		if i == 1 {
			fmt.Println("putting")
		}
	}
}

// numbered is a bundle of memfds that all have its number in them.
func numbered(i int) (*Bundle, error) {
	b := &Bundle{Key: "numbered", Label: strconv.Itoa(i)}
	for j := range 1 + i%50 {
		fd, err := unix.MemfdCreate("numbered", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		b.Files = append(b.Files, File{fmt.Sprint("f", j), fd})
		if _, err := unix.Pwrite(fd, []byte(b.Label), 0); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// wantWhole checks a numbered bundle, and closes it.
func wantWhole(t *testing.T, b *Bundle) {
	t.Helper()
	i, err := strconv.Atoi(b.Label)
	if err != nil || len(b.Files) != 1+i%50 {
		t.Errorf("bundle %q has %d descriptors", b.Label, len(b.Files))
	}
	for _, f := range b.Files {
		if got := content(t, f.FD); got != b.Label {
			t.Errorf("%s of bundle %s has %q in it", f.Name, b.Label, got)
		}
	}
	must(t, b.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error %v, want one that is %q, with %q", err, want, text)
	}
}

// memfd is a file that lives as long as somebody has it open.
func memfd(t *testing.T, text string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	_, err = unix.Pwrite(fd, []byte(text), 0)
	must(t, err)
	return fd
}

func content(t *testing.T, fd int) string {
	t.Helper()
	buf := make([]byte, 1000)
	n, err := unix.Pread(fd, buf, 0)
	must(t, err)
	return string(buf[:n])
}

// wantSame checks that two descriptors of this process are of one open file.
func wantSame(t *testing.T, a, b int) {
	t.Helper()
	const kcmpFile = 0
	pid := uintptr(os.Getpid())
	r, _, no := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
	if no == unix.ENOSYS || no == unix.EPERM {
		var x, y unix.Stat_t
		must(t, errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)))
		if x.Ino != y.Ino || x.Dev != y.Dev {
			t.Errorf("descriptors %d and %d are of different files", a, b)
		}
		return
	}
	if no != 0 || r != 0 {
		t.Errorf("descriptors %d and %d are not of one open file (kcmp %d, %v)", a, b, r, no)
	}
}

// canary is a descriptor to put, and a way to see that nobody has it any more.
type canary struct {
	t    *testing.T
	fd   int
	read *os.File
}

func newCanary(t *testing.T) *canary {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	must(t, errors.Join(err, w.Close()))
	c := &canary{t, fd, r}
	t.Cleanup(func() {
		c.letGo()
		r.Close()
	})
	return c
}

// letGo closes the test's own descriptor.
func (c *canary) letGo() {
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}

func (c *canary) wantClosed() {
	c.t.Helper()
	c.letGo()
	must(c.t, c.read.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := c.read.Read(make([]byte, 1)); err != io.EOF {
		c.t.Errorf("the descriptor is still open somewhere: %v", err)
	}
}

func (c *canary) wantOpen() {
	c.t.Helper()
	must(c.t, c.read.SetReadDeadline(time.Unix(1, 0)))
	if _, err := c.read.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("the descriptor is open nowhere: %v", err)
	}
}

func (c *canary) bundle(key string) Bundle {
	return Bundle{Key: key, Files: []File{{"canary", c.fd}}}
}

// serve makes a holder in this process.
func serve(t *testing.T, o ServerOptions) (path string, s *Server) {
	t.Helper()
	if o.FileLimit == 0 {
		o.FileLimit = 10000
	}
	o.Log = zap.NewNop()
	s, err := NewServer(o)
	must(t, err)
	path = filepath.Join(t.TempDir(), "s")
	l, err := listen(path, false)
	must(t, err)
	served := make(chan error)
	go func() { served <- s.Serve(l.UnixListener) }()
	t.Cleanup(func() {
		s.store.forget(true)
		s.End()
		must(t, errors.Join(<-served, l.release()))
	})
	return path, s
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), path)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// rawDial connects to a holder, and greets it unless it is not to.
func rawDial(t *testing.T, path string, greet bool) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix(network, nil, &net.UnixAddr{Name: path, Net: network})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	if greet {
		must(t, send(conn, greeting{version: Version}.encode(), nil))
		_, _, err := receive(conn, make([]byte, greetingSpace))
		must(t, err)
	}
	return conn
}

// process is a holder of its own.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	path   string
	stderr *os.File
	log    []byte
	ended  chan struct{}
}

// command is this binary as a program.
func command(r string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), role+"="+r, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// startProcess starts a holder, and waits until it answers.
func startProcess(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := launch(t, path, command("program", append([]string{"hold", "--detached", "--socket", path}, args...)...))
	return p
}

// launch starts a holder that says "ready".
func launch(t *testing.T, path string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, path: path, ended: make(chan struct{})}
	r, w, err := os.Pipe()
	must(t, err)
	p.stderr = r
	if cmd.Stderr == nil {
		cmd.Stderr = w
	}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	must(t, w.Close())
	line, err := io.ReadAll(out) // it closes that when it is ready
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		r.Close()
	})
	if string(line) != "ready\n" {
		p.kill()
		t.Fatalf("the holder said %q, %v; it logged:\n%s", line, err, p.logged())
	}
	return p
}

func (p *process) signal(s unix.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(s))
}

// kill ends it whatever it does.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// wantEnd awaits a clean end.
func (p *process) wantEnd() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		p.t.Fatal("the holder does not end")
	}
	if !p.cmd.ProcessState.Success() {
		p.t.Errorf("the holder ended with %s; it logged:\n%s", p.cmd.ProcessState, p.logged())
	}
	if _, err := os.Lstat(p.path); err == nil {
		p.t.Error("its socket is left")
	}
}

// awaitLog reads the log until it has text.
func (p *process) awaitLog(text string) {
	p.t.Helper()
	must(p.t, p.stderr.SetReadDeadline(time.Now().Add(20*time.Second)))
	buf := make([]byte, 4096)
	for !strings.Contains(string(p.log), text) {
		n, err := p.stderr.Read(buf)
		p.log = append(p.log, buf[:n]...)
		if err != nil {
			p.t.Fatalf("no %q (%v) in the log:\n%s", text, err, p.log)
		}
	}
	p.log = nil
}

// logged is the rest of the log of one that has ended.
func (p *process) logged() string {
	rest, _ := io.ReadAll(p.stderr)
	return string(append(p.log, rest...))
}

// files counts the descriptors of a process.
func files(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	return len(entries)
}
