package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/childlog"
)

const (
	readyTimeout = 15 * time.Second
	stopTimeout  = 15 * time.Second
)

// process is a child that says READY=1 as sd_notify(3) does.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    childlog.Tail
	exited chan struct{} // closed once err is there
	err    error
}

// startProcess starts cmd in s and waits until it is ready. Its socket is made in
// dir.
func startProcess(ctx context.Context, s *space, name, dir string, cmd *exec.Cmd) (*process, error) {
	path := filepath.Join(dir, name+".notify")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("make notification socket: %w", err)
	}
	p := &process{name: name, cmd: cmd, exited: make(chan struct{})}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	if err := s.Start(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), ready.Close())
	}
	got := make(chan struct{})
	go watchReady(ready, got)
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
		ready.Close()
	}()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	select {
	case <-got:
		return p, nil
	case <-p.exited:
		return nil, p.ended()
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("%s is not ready: %w: %s", name, ctx.Err(), p.log.Last()), p.stop())
	}
}

// watchReady closes got with the first READY=1 and reads on until the socket is
// closed.
func watchReady(socket *net.UnixConn, got chan<- struct{}) {
	buf := make([]byte, 4096)
	for ready := false; ; {
		n, err := socket.Read(buf)
		if err != nil {
			return
		}
		if !ready && bytes.Contains(buf[:n], []byte("READY=1")) {
			ready = true
			close(got)
		}
	}
}

// ended is the error of a process that ended by itself.
func (p *process) ended() error {
	why := "exit status 0"
	if p.err != nil {
		why = p.err.Error()
	}
	return fmt.Errorf("%s ended: %s: %s", p.name, why, p.log.Last())
}

// alive is nil while the process runs.
func (p *process) alive() error {
	select {
	case <-p.exited:
		return p.ended()
	default:
		return nil
	}
}

// stop ends the process, by SIGTERM and if need be by SIGKILL.
func (p *process) stop() error {
	if p.alive() != nil {
		return nil // whoever needed it has reported it
	}
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.exited:
		if p.err != nil {
			return fmt.Errorf("stop %s: %w: %s", p.name, p.err, p.log.Last())
		}
		return nil
	case <-time.After(stopTimeout):
		p.cmd.Process.Kill() // fails only when it is gone
		<-p.exited
		return fmt.Errorf("stop %s: still there %s after SIGTERM, killed: %s", p.name, stopTimeout, p.log.Last())
	}
}

// clockTick is the unit of /proc/PID/stat, which is the same on every architecture
// that Linux has left (USER_HZ).
const clockTick = 10 * time.Millisecond

// cpu is the CPU time that the process has used, in user and kernel mode: fields 14
// and 15 of proc_pid_stat(5).
func (p *process) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time of %s: %w", p.name, err)
	}
	// The program's name, which can hold spaces, ends with the last parenthesis.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var ticks uint64
	for _, field := range []int{14, 15} {
		if len(f) <= field-3 {
			return 0, fmt.Errorf("CPU time of %s: /proc gives %q", p.name, b)
		}
		n, err := strconv.ParseUint(f[field-3], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time of %s: %w", p.name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}
