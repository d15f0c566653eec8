package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/pcapng"
	"github.com/xnetfrontd/xnetfrontd/internal/await"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// shark is a running `xnetfrontd capture`.
type shark struct {
	m    *testMachine
	cmd  *exec.Cmd
	file string

	mu     sync.Mutex
	errOut bytes.Buffer
	ended  chan struct{}
}

// Write takes the output.
func (s *shark) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errOut.Write(b)
}

func (s *shark) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.errOut.String()
}

// capture starts it with args, writing to a file, and waits until it captures.
func (m *testMachine) capture(args ...string) *shark {
	m.t.Helper()
	file := filepath.Join(m.t.TempDir(), "vif.pcapng")
	return m.captureTo(file, file, args...)
}

// captureTo is capture with a name for -w, and the name of the first file that it makes.
func (m *testMachine) captureTo(name, first string, args ...string) *shark {
	m.t.Helper()
	s := &shark{m: m, file: first, ended: make(chan struct{})}
	s.cmd = program(append([]string{"capture", "--control", m.socket(), "-w", name}, args...)...)
	s.cmd.Stderr = s
	if err := s.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		s.cmd.Wait() // ProcessState has its error, too
		close(s.ended)
	}()
	m.t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
	})
	await.That(m.t, "the capture to begin", func() bool { return strings.Contains(s.said(), "capturing vif") })
	// The stream has its head when the capture runs.
	await.That(m.t, "the head of the file", func() bool {
		fi, err := os.Stat(s.file)
		return err == nil && fi.Size() > 0
	})
	return s
}

// wait waits for its end.
func (s *shark) wait(code int) string {
	s.m.t.Helper()
	<-s.ended
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.m.t.Errorf("exit code %d, want %d: %s", got, code, s.said())
	}
	return s.said()
}

// await waits until a frame is in the file.
func (s *shark) await(frame []byte) {
	s.m.t.Helper()
	await.That(s.m.t, "a frame in the file", func() bool {
		b, err := os.ReadFile(s.file)
		return err == nil && bytes.Contains(b, frame)
	})
}

func (s *shark) interrupt() {
	s.m.t.Helper()
	if err := s.cmd.Process.Signal(unix.SIGINT); err != nil {
		s.m.t.Fatal(err)
	}
}

// seen is a frame of a file.
type seen struct {
	iface   string
	data    []byte
	length  int
	comment string
}

// frames reads the file.
func (s *shark) frames() (all []seen, interfaces []pcapgo.NgInterface) {
	s.m.t.Helper()
	f, err := os.Open(s.file)
	if err != nil {
		s.m.t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		s.m.t.Fatal(err)
	}
	for {
		data, ci, opts, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.m.t.Fatal(err)
		}
		i, err := r.Interface(ci.InterfaceIndex)
		if err != nil {
			s.m.t.Fatal(err)
		}
		all = append(all, seen{i.Name, data, ci.Length, strings.Join(opts.Comments, "\n")})
	}
	for n := range r.NInterfaces() {
		i, _ := r.Interface(n)
		interfaces = append(interfaces, i)
	}
	return all, interfaces
}

// port is the backend's side of the vif.
func (m *testMachine) port(devid int) (*netback.Vif, *netback.MemoryPort) {
	m.t.Helper()
	v, err := m.backend.Vif(m.t.Context(), netback.VifID{Frontend: guest, Device: devid})
	if err != nil {
		m.t.Fatal(err)
	}
	return v, v.MemoryPort()
}

// strange is a frame of n bytes that no kernel sends or answers.
func strange(n int, last byte) []byte {
	f := bytes.Repeat([]byte{0x5a}, n)
	copy(f, []byte{0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0x02, 1, 2, 3, 4, 5, 0x88, 0xb5})
	f[n-1] = last
	return f
}

func TestCapturedFileHasWhatCrossedTheRings(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	s := m.capture("0", "--count", "4", "--direction", "rx", "--ether", "02:aa:bb:cc:dd:ee")
	if fi, err := os.Stat(s.file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	_, port := m.port(0)
	for i := range 4 {
		if err := port.Send(0, tap.VirtioHeader{}, strange(60+1000*i, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	if said := s.wait(0); !strings.HasSuffix(said, "\n4 frames captured, 0 dropped\n") {
		t.Errorf("it said %q", said)
	}
	frames, interfaces := s.frames()
	if len(frames) != 4 || len(interfaces) != 1 {
		t.Fatalf("%+v of %+v", frames, interfaces)
	}
	for i, f := range frames {
		if !bytes.Equal(f.data, strange(60+1000*i, byte(i))) || f.iface != "xnf0-rx0" || f.length != len(f.data) {
			t.Errorf("%d: %d bytes of %d on %s", i, len(f.data), f.length, f.iface)
		}
		if !strings.HasPrefix(f.comment, "rx queue 0 response ") || !strings.Contains(f.comment, "; slot ") || !strings.Contains(f.comment, " offset ") {
			t.Errorf("comment %q", f.comment)
		}
	}
	if st := interfaces[0].Statistics; st.PacketsReceived < 4 || st.PacketsDropped != 0 || st.EndTime.IsZero() {
		t.Errorf("%+v", st)
	}
}

func TestCaptureEndsWithCtrlCAndHasItsFigures(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	s := m.capture("xnf0")
	vif, port := m.port(0)
	vif.Faults().Inject(netback.TxStatusDropped, netback.Always)
	if err := port.Send(0, tap.VirtioHeader{}, strange(80, 1)); err != nil {
		t.Fatal(err)
	}
	m.askForNeighbours("xnf0", 10) // the daemon takes a response when it sends the next frame
	s.interrupt()
	said := s.wait(0)
	frames, interfaces := s.frames()
	if !strings.Contains(said, " frames captured, 0 dropped\n") || len(interfaces) != 2 {
		t.Errorf("%q, %d interfaces", said, len(interfaces))
	}
	asked := false
	for _, f := range frames {
		if f.iface == "xnf0-tx0" && f.data[12] == 8 && f.data[13] == 6 {
			asked = asked || strings.Contains(f.comment, "; response DROPPED after ")
		}
	}
	if !asked {
		t.Errorf("no ARP request with its response: %+v", frames)
	}
}

func TestCaptureEndsCleanlyWhenTheDaemonDoesAndSaysWhy(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	socket := m.startHolder()
	for _, c := range []struct {
		sig unix.Signal
		why string
	}{
		{unix.SIGUSR2, "it has ended because the vif is left to the next process\n"},
		{unix.SIGTERM, "it has ended because the vif is not served any more\n"},
	} {
		d := m.start("--vif", "0", "--holder", socket)
		d.await("READY=1")
		m.awaitState(0, "Connected")
		s := m.capture("0")
		_, port := m.port(0)
		if err := port.Send(0, tap.VirtioHeader{}, strange(80, 1)); err != nil {
			t.Fatal(err)
		}
		s.await(strange(80, 1))
		if code, _ := d.stop(c.sig); code != 0 {
			t.Errorf("%v: exit code %d", c.sig, code)
		}
		if said := s.wait(0); !strings.HasSuffix(said, c.why) {
			t.Errorf("%v: it said %q", c.sig, said)
		}
		if frames, _ := s.frames(); len(frames) == 0 {
			t.Errorf("%v: no frame", c.sig)
		}
	}
	d := m.start("--vif", "0", "--holder", socket)
	d.await("READY=1")
	m.awaitState(0, "Connected")
	s := m.capture("0")
	d.stop(unix.SIGKILL)
	if said := s.wait(failure.ExitRuntime); !strings.Contains(said, "xnetfrontd: the capture is not complete: the daemon went away") {
		t.Errorf("it said %q", said)
	}
	s.frames()
	if o := m.run("release", "--vif", "0", "--holder", socket); o.code != 0 {
		t.Errorf("%+v", o)
	}
}

func TestCaptureGoesOnOverABackendThatComesBack(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	s := m.capture("0")
	vif, port := m.port(0)
	if err := port.Send(0, tap.VirtioHeader{}, strange(80, 1)); err != nil {
		t.Fatal(err)
	}
	s.await(strange(80, 1))
	vif.Faults().Inject(netback.RxOverflow, 1)
	if err := port.Send(0, tap.VirtioHeader{}, strange(80, 2)); err != nil {
		t.Fatal(err)
	}
	await.That(m.t, "the second connection", func() bool {
		st := m.awaitState(0, "Connected")
		return st.Vifs[0].Device.Connects == 2
	})
	_, port = m.port(0)
	if err := port.WaitCarrier(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := port.Send(0, tap.VirtioHeader{}, strange(80, 3)); err != nil {
		t.Fatal(err)
	}
	s.await(strange(80, 3))
	s.interrupt()
	s.wait(0)
	frames, _ := s.frames()
	news := false
	for _, f := range frames {
		news = news || strings.Contains(f.comment, "; first frame of connection 2, which began at ") && strings.Contains(f.comment, "before it: ")
	}
	if !news {
		t.Errorf("no frame says that the connection is another: %+v", frames)
	}
}

func TestCapturesOfOtherVifsAndOfOneTwice(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	d := m.start("--vif", "*", "--queues", "1")
	d.await("READY=1")
	for devid := range 2 {
		m.awaitState(devid, "Connected")
	}
	s := m.capture("0")
	other := m.capture("1")
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, line string }{
		{"0", "vif 0: it is being captured already: end that capture first"},
		{"7", `no vif "7": the daemon has vifs 0, 1`},
		{"1 --queue 5", "vif 1 has no queue 5: it has 0 to 0"},
	} {
		wantError(t, m.ask(append([]string{"capture", "-w", file}, strings.Fields(c.args)...)...), failure.ExitRuntime, c.line)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "mine" {
		t.Errorf("a capture that was refused has written: %q, %v", b, err)
	}
	for _, c := range []*shark{s, other} {
		c.interrupt()
		c.wait(0)
	}
	s = m.capture("0", "--duration", "10ms")
	s.wait(0)
}

func TestCaptureOfAVifWithoutABackendWaitsForIt(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	s := m.capture("0", "--count", "1", "--direction", "tx")
	m.startBackend()
	m.awaitState(0, "Connected")
	m.askForNeighbours("xnf0", 1)
	s.wait(0)
	if frames, _ := s.frames(); len(frames) != 1 || frames[0].iface != "xnf0-tx0" {
		t.Errorf("%+v", frames)
	}
}

func TestCaptureIsNotWrittenToATerminal(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		needs.LeaveOut(t, "/dev/ptmx")
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	cmd := program("capture", "0", "-w", "-", "--control", "/none")
	var errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = terminal, &errOut
	err = cmd.Run()
	const want = "xnetfrontd: -w -: the standard output is a terminal: pipe it into wireshark or tcpdump, or give a file\n"
	if cmd.ProcessState.ExitCode() != failure.ExitUsage || errOut.String() != want {
		t.Errorf("%v, %q", err, errOut.String())
	}
}

func TestReaderThatEndsEndsTheCaptureWithItsFigures(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	_, port := m.port(0)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := program("capture", "0", "-w", "-", "--control", m.socket())
	var errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = write, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	if _, err := io.ReadFull(read, make([]byte, 64)); err != nil {
		t.Error(err)
	}
	read.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	await.That(m.t, "its end", func() bool {
		if err := port.Send(0, tap.VirtioHeader{}, strange(80, 1)); err != nil {
			t.Fatal(err)
		}
		return len(ended) > 0
	})
	if err := <-ended; err != nil || !strings.Contains(errOut.String(), " frames captured, ") {
		t.Errorf("%v, %q", err, errOut.String())
	}
}

func TestClientThatDoesNotReadDisturbsNobodyAndIsToldWhatItMissed(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	_, port := m.port(0)
	client := control.Client{Path: m.socket(), Timeout: patience}
	stream, err := client.Capture(t.Context(), control.CaptureRequest{Vif: "0", Direction: "rx", Buffer: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	const n = 2000 // of 1514 bytes: more than buffer and socket take
	for i := range n {
		if err := port.Send(0, tap.VirtioHeader{}, strange(1514, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	await.That(m.t, "every frame to be carried", func() bool {
		st, err := client.Status(t.Context())
		return err == nil && st.Vifs[0].Device.Queues[0].Rx.Counters["packets"] >= n
	})
	if err := stream.Stop(); err != nil {
		t.Fatal(err)
	}
	var count pcapng.Counter
	if _, err := io.Copy(&count, stream); err != nil {
		t.Fatal(err)
	}
	if count.Packets == 0 || count.Dropped() == 0 || count.Packets+count.Dropped() < n || !count.Ended {
		t.Errorf("%+v, %d dropped", count, count.Dropped())
	}
}

func TestToolsReadACapture(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "2")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	s := m.capture("0", "--count", "3", "--direction", "rx", "-s", "40")
	_, port := m.port(0)
	for i := range 3 {
		if err := port.Send(i%2, tap.VirtioHeader{}, strange(60+1000*i, byte(i))); err != nil {
			t.Fatal(err)
		}
	}
	s.wait(0)
	for _, tool := range []struct{ args, want string }{
		{"tcpdump -n -e -r", "02:01:02:03:04:05 > 02:aa:bb:cc:dd:ee, ethertype Unknown (0x88b5), length 2060:"},
		{"tshark -n -T fields -e frame.interface_name -e frame.len -e frame.comment -r", "xnf0-rx0\t2060\trx queue 0 response "},
		{"capinfos -r", "xnf0-rx1"},
	} {
		args := strings.Fields(tool.args)
		t.Run(args[0], func(t *testing.T) {
			needs.Program(t, args[0])
			out, err := exec.Command(args[0], append(args[1:], s.file)...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), tool.want) {
				t.Errorf("%v, no %q in\n%s", err, tool.want, out)
			}
		})
	}
}
