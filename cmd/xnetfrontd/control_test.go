package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// ask runs a command against the machine's daemon.
func (m *testMachine) ask(args ...string) outcome {
	m.t.Helper()
	return runProgram(m.t, program(append(args, "--control", m.socket())...))
}

func TestRingsOfAConnectedVifCanBeDumpedAndKicked(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	o := m.ask("dump", "0")
	for _, want := range []string{
		"vif 0 on xnf0: Connected, the backend Connected; ",
		"\nqueue 0 tx: 256 slots in the page granted as ",
		"\nqueue 0 rx: 256 slots in the page granted as ",
		"  slots     256 with the backend, 0 answered and not taken, 0 not published, 0 free\n",
		"  in flight REQUEST  SLOT   ID     GRANT\n            0-255    0-255  0-255  ",
	} {
		if !strings.Contains(o.out, want) || o.code != 0 || o.errOut != "" {
			t.Errorf("no %q in %+v", want, o)
		}
	}
	var dump control.Dump
	o = m.ask("dump", "--json", "xnf0")
	if err := json.Unmarshal([]byte(o.out), &dump); err != nil || o.code != 0 {
		t.Fatalf("%v: %+v", err, o)
	}
	if len(dump.Queues) != 1 || dump.Queues[0].Rx == nil || len(dump.Queues[0].Rx.InFlight) != 256 {
		t.Errorf("%+v", dump)
	}
	if o := m.ask("kick", "00:16:3E:00:00:00"); o != (outcome{}) {
		t.Errorf("kick: %+v", o)
	}
	if o := m.ask("retry", "xnf0"); o != (outcome{}) {
		t.Errorf("retry: %+v", o)
	}
}

func TestVifWithoutRingsOrUnknownIsSaidToBeSo(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\n[[vif]]\ndevid = 5\n")) // no backend
	d.await("READY=1")
	for _, op := range []string{"dump", "kick"} {
		wantError(t, m.ask(op, "0"), failure.ExitRuntime, "vif 0 has no rings: it is Initialising, the backend Initialising")
		wantError(t, m.ask(op, "5"), failure.ExitRuntime, "vif 5 has no rings: this domain has 0")
		wantError(t, m.ask(op, "7"), failure.ExitRuntime, `no vif "7": the daemon has vifs 0, 5`)
	}
	wantError(t, m.ask("retry", "7"), failure.ExitRuntime, `no vif "7": the daemon has vifs 0, 5`)
	wantError(t, m.ask("status", "7"), failure.ExitRuntime, `no vif "7": the daemon has vifs 0, 5`)
	wantError(t, m.ask("top", "7"), failure.ExitRuntime, `no vif "7": the daemon has vifs 0, 5`)
}

func TestReloadEndsWhenTheDaemonGoesByTheFileOrSaysWhyNot(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	d := m.start("--config", m.config("[[vif]]\ndevid = 0\n"))
	d.await("READY=1")
	m.awaitState(0, "Connected")
	file := m.config("[[vif]]\ndevid = 0\n[[vif]]\ndevid = 1\nqueues = 'four'\n")
	o := m.ask("reload")
	if !strings.HasPrefix(o.errOut, "xnetfrontd: "+file+":5: ") || strings.Count(o.errOut, "\n") != 1 || o.code != failure.ExitRuntime {
		t.Errorf("broken file: %+v", o)
	}
	if st := m.awaitState(0, "Connected"); len(st.Vifs) != 1 || st.Vifs[0].Device.Connects != 1 {
		t.Errorf("a broken file has changed something: %+v", st.Vifs)
	}
	m.config("[[vif]]\ndevid = 0\n[[vif]]\ndevid = 1\n")
	if o := m.ask("reload"); o != (outcome{}) {
		t.Errorf("good file: %+v", o)
	}
	// The configuration is in force already, so one status is enough.
	st, err := (&control.Client{Path: m.socket(), Timeout: patience}).Status(t.Context())
	if err != nil || len(st.Vifs) != 2 {
		t.Fatalf("after the reload: %+v, %v", st, err)
	}
	if st := m.awaitState(1, "Connected"); st.Vifs[0].Device.Connects != 1 {
		t.Errorf("the vif of which nothing changed has noticed: %+v", st.Vifs[0])
	}
}

// topLines starts top on the machine and returns what it writes.
func (m *testMachine) topLines(args ...string) (next func(what string, want func(line string) bool) string) {
	m.t.Helper()
	cmd := program(append([]string{"top", "--interval", "100ms", "--control", m.socket()}, args...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	var errOut strings.Builder
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	lines := make(chan string, 1<<10)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	m.t.Cleanup(func() {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			m.t.Error(err)
		}
		for range lines {
		}
		if err := cmd.Wait(); err != nil || errOut.String() != "" {
			m.t.Errorf("top ended with %v, %s", err, errOut.String())
		}
	})
	return func(what string, want func(string) bool) string {
		m.t.Helper()
		limit := time.After(patience)
		for {
			select {
			case l, ok := <-lines:
				if !ok {
					m.t.Fatalf("%s: top has ended", what)
				}
				if want(l) {
					return l
				}
			case <-limit:
				m.t.Fatalf("%s: no such line from top", what)
			}
		}
	}
}

func TestTopInAPipeGoesOnOverARestartOfTheDaemon(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	next := m.topLines()
	header := strings.Fields(next("header", func(string) bool { return true }))[1:]
	begins := func(pid int) func(string) bool {
		return func(l string) bool { return strings.HasSuffix(l, fmt.Sprintf(", pid %d", pid)) && l[0] == '#' }
	}
	next("first answer", begins(d.cmd.Process.Pid))
	row := func(l string) bool { return l[0] != '#' && strings.Contains(l, " 0 tx ") }
	if cells := strings.Fields(next("row", row)); len(cells) != len(header) || cells[2] != "xnf0" || cells[3] != "Connected" {
		t.Errorf("row %q for the header %q", cells, header)
	}
	d.stop(unix.SIGTERM)
	next("the daemon is gone", func(l string) bool {
		return l[0] == '#' && strings.Contains(l, "control socket "+m.socket()+": not there")
	})
	d = m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	next("the daemon is back", begins(d.cmd.Process.Pid))
	next("row of the new daemon", row)
}

// terminalPair is a pseudo-terminal: the user's end, and the program's (pty(7)).
func terminalPair(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

func setSize(t *testing.T, terminal *os.File, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// awaitScreen reads what the program writes until all of want has come, in this order.
func awaitScreen(t *testing.T, screen *bufio.Reader, want ...string) {
	t.Helper()
	var seen strings.Builder
	for _, w := range want {
		seen.Reset()
		for !strings.Contains(seen.String(), w) {
			b, err := screen.ReadByte()
			if err != nil {
				t.Fatalf("no %q on the terminal, but %q: %v", w, seen.String(), err)
			}
			seen.WriteByte(b)
		}
	}
}

func TestTopGivesTheTerminalBackHoweverItEnds(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0)
	m.startBackend()
	d := m.start("--vif", "0", "--queues", "1")
	d.await("READY=1")
	m.awaitState(0, "Connected")
	for name, end := range map[string]func(user io.Writer, p *os.Process) error{
		"q":       func(user io.Writer, _ *os.Process) error { _, err := io.WriteString(user, "q"); return err },
		"Ctrl-C":  func(user io.Writer, _ *os.Process) error { _, err := io.WriteString(user, "\x03"); return err },
		"SIGTERM": func(_ io.Writer, p *os.Process) error { return p.Signal(unix.SIGTERM) },
		"SIGHUP":  func(_ io.Writer, p *os.Process) error { return p.Signal(unix.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			user, slave := terminalPair(t)
			setSize(t, slave, 80, 24)
			before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Fatal(err)
			}
			cmd := program("top", "--interval", "100ms", "--control", m.socket())
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			cmd.Env = append(cmd.Env, "TERM=xterm")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// A read from the user's end fails when no process has the other end open.
			hang := time.AfterFunc(patience, func() { cmd.Process.Kill(); slave.Close() })
			defer hang.Stop()
			screen := bufio.NewReader(user)
			awaitScreen(t, screen, "\x1b[?1049h", "vif 0 on xnf0: Connected", "    0 tx ", "\x1b[H")
			setSize(t, slave, 40, 4)
			if err := cmd.Process.Signal(unix.SIGWINCH); err != nil { // it is no controlling terminal
				t.Fatal(err)
			}
			awaitScreen(t, screen, "4 more lines: name a vif, or make the wi\x1b[K\x1b[J")
			if err := end(user, cmd.Process); err != nil {
				t.Fatal(err)
			}
			awaitScreen(t, screen, "\x1b[?25h\x1b[?1049l", "xnetfrontd ", "vif 0 on xnf0: Connected")
			if err := cmd.Wait(); err != nil {
				t.Errorf("top ended with %v", err)
			}
			after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil || *after != *before {
				t.Errorf("terminal is %+v, was %+v; %v", after, before, err)
			}
		})
	}
}
