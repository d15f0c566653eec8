package handover

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long anything may take that takes a moment: with the race detector,
// on a busy machine.
const patience = 30 * time.Second

// What a daemon logs at its turning points.
const (
	logReady     = "ready"
	logConnected = "connected"
	logTakenOver = "taken over from the last process"
	logRefused   = "a new connection: what the last process left cannot be gone on with"
)

// process is a child whose log is followed.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}

	mu      sync.Mutex
	lines   []string
	changed chan struct{} // closed and replaced with each line
}

// run starts a program in s.
func run(t *testing.T, s *space, env []string, program string, args ...string) *process {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	p := &process{t: t, cmd: exec.Command(program, args...), log: r, ended: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stderr = w
	err = s.Start(p.cmd)
	w.Close()
	must(t, err)
	go p.follow()
	go func() {
		p.cmd.Wait() // its error is in ProcessState too
		close(p.ended)
	}()
	return p
}

func (p *process) follow() {
	for in := bufio.NewScanner(p.log); in.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, in.Text())
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
}

// text is what the process has logged until now.
func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// logged tells whether the process has logged a message.
func (p *process) logged(message string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if strings.Contains(l, `"msg":"`+message+`"`) {
			return true
		}
	}
	return false
}

// await waits until the process logs one of the messages, and returns which.
func (p *process) await(messages ...string) string {
	p.t.Helper()
	limit := time.After(patience)
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		for _, m := range messages {
			if p.logged(m) {
				return m
			}
		}
		select {
		case <-changed:
		case <-p.ended:
			if p.drained(messages) {
				continue
			}
			p.t.Fatalf("%v without logging %q", p.cmd.ProcessState, messages)
		case <-limit:
			p.t.Fatalf("not logged within %s: %q", patience, messages)
		}
	}
}

// drained waits a moment for the last lines of a process that has ended.
func (p *process) drained(messages []string) bool {
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, m := range messages {
			if p.logged(m) {
				return true
			}
		}
	}
	return false
}

// signal sends sig.
func (p *process) signal(sig unix.Signal) {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(sig))
}

// wait waits for the end of the process.
func (p *process) wait() {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Fatalf("process %d is still there after %s", p.cmd.Process.Pid, patience)
	}
}

// kill is SIGKILL, and the end.
func (p *process) kill() {
	p.t.Helper()
	p.signal(unix.SIGKILL)
	p.wait()
}

// end sends sig and wants exit code 0.
func (p *process) end(sig unix.Signal) {
	p.t.Helper()
	p.signal(sig)
	p.wait()
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		p.t.Fatalf("%v after %v, want exit code 0", p.cmd.ProcessState, sig)
	}
}

// killed tells whether SIGKILL has ended the process.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(unix.WaitStatus)
	if !ok {
		return strings.Contains(p.cmd.ProcessState.String(), "signal: killed")
	}
	return status.Signaled() && status.Signal() == unix.SIGKILL
}
