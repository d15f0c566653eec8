package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/childlog"
)

const (
	readyTimeout = 15 * time.Second
	stopTimeout  = 15 * time.Second // longer than the daemon's own limit
)

// child is a process of this program. It tells by sd_notify(3) when it is ready.
type child struct {
	name   string
	cmd    *exec.Cmd
	log    childlog.Tail
	exited chan struct{} // closed once err is there
	err    error
}

// startChild starts the program in a side's namespace and waits until it is ready.
func startChild(ctx context.Context, s *side, name, program, dir string, verbose io.Writer, args ...string) (*child, error) {
	path := filepath.Join(dir, name+".notify")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("make notification socket: %w", err)
	}
	c := &child{name: name, cmd: exec.Command(program, args...), exited: make(chan struct{})}
	c.log.Also = verbose
	c.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	if err := s.Start(c.cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), ready.Close())
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.exited)
		ready.Close()
	}()
	if err := c.awaitReady(ctx, ready); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

func (c *child) awaitReady(ctx context.Context, ready *net.UnixConn) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	got := make(chan struct{})
	go watchReady(ready, got)
	select {
	case <-got:
		return nil
	case <-c.exited:
		return c.failure()
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("%s (pid %d) did not become ready within %s: %s", c.name, c.cmd.Process.Pid, readyTimeout, c.log.Last())
		}
		return ctx.Err()
	}
}

// watchReady closes got with the first READY=1. It reads on until the socket is closed, so
// that the process can write there at its end, too.
func watchReady(socket *net.UnixConn, got chan<- struct{}) {
	buf := make([]byte, 4096)
	for ready := false; ; {
		n, err := socket.Read(buf)
		if err != nil {
			return
		}
		if !ready && hasLine(string(buf[:n]), "READY=1") {
			ready = true
			close(got)
		}
	}
}

func hasLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == line {
			return true
		}
	}
	return false
}

// failure is the error for a process that ended by itself.
func (c *child) failure() error {
	why := "it exited with code 0"
	if c.err != nil {
		why = c.err.Error()
	}
	return fmt.Errorf("%s (pid %d) ended: %s: %s", c.name, c.cmd.Process.Pid, why, c.log.Last())
}

// stop ends the process, by SIGTERM and if need be by SIGKILL, and fails unless it
// ended with exit code 0.
func (c *child) stop() error {
	select {
	case <-c.exited:
		return nil // reported already by the wait for it
	default:
	}
	if err := c.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.name, err)
	}
	select {
	case <-c.exited:
		if c.err != nil {
			return fmt.Errorf("stop %s: %w: %s", c.name, c.err, c.log.Last())
		}
		return nil
	case <-time.After(stopTimeout):
		err := c.cmd.Process.Kill()
		<-c.exited
		return errors.Join(fmt.Errorf("stop %s: still there %s after SIGTERM, killed: %s", c.name, stopTimeout, c.log.Last()), err)
	}
}
