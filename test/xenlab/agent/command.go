package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// lateOutput is how long output is waited for that a daemon might write which a
// command has left behind in another session, with its output still open.
const lateOutput = 2 * time.Second

// command is one that was started.
type command struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	output  sync.WaitGroup // what reads the command's output
	readers []*os.File
	notify  *notifySocket
	told    chan struct{} // closed once the client knows of the start: output comes behind that
	ended   chan struct{} // closed once exited is there
	exited  wire.Exited
}

// exec starts a command and serves its stream.
func (s *server) exec(e *wire.Exec, m *wire.Messages) error {
	if len(e.Argv) == 0 {
		return errors.New("a command with no name")
	}
	c := &command{cmd: exec.Command(e.Argv[0], e.Argv[1:]...), told: make(chan struct{}), ended: make(chan struct{})}
	c.cmd.Env, c.cmd.Dir = append(os.Environ(), e.Env...), e.Dir
	c.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := c.start(e, m); err != nil {
		close(c.told)
		c.release()
		return err
	}
	if e.Detached != "" {
		s.mu.Lock()
		s.detached[c.cmd.Process.Pid] = c
		s.mu.Unlock()
	}
	err := wire.SendJSON(m, wire.KindStarted, wire.Started{Pid: c.cmd.Process.Pid})
	close(c.told)
	if err != nil {
		c.abandon(e)
		return err
	}
	go c.listen(e, m)
	if c.notify != nil {
		select {
		case <-c.notify.ready:
			if err := m.Send(wire.KindReady, nil); err != nil {
				return err
			}
		case <-c.ended:
		}
	}
	<-c.ended
	return wire.SendJSON(m, wire.KindExited, c.exited)
}

// start starts the command and what copies its output.
func (c *command) start(e *wire.Exec, m *wire.Messages) (err error) {
	var ours []*os.File // what the command has of us, and we need no more
	defer func() {
		for _, f := range ours {
			err = errors.Join(err, f.Close())
		}
	}()
	pipe := func(k wire.Kind) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		ours = append(ours, w)
		c.copyOutput(r, k, m)
		return w, nil
	}
	if e.Notify {
		if c.notify, err = newNotifySocket(); err != nil {
			return err
		}
		c.cmd.Env = append(c.cmd.Env, "NOTIFY_SOCKET="+c.notify.path)
	}
	switch {
	case e.Terminal != nil:
		host, guest, err := openTerminal(*e.Terminal)
		if err != nil {
			return err
		}
		ours = append(ours, guest)
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr, c.stdin = guest, guest, guest, host
		c.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		c.copyOutput(host, wire.KindStdout, m)
	case e.Detached != "":
		if err := os.MkdirAll(filepath.Dir(e.Detached), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(e.Detached, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		ours = append(ours, f)
		c.cmd.Stdout, c.cmd.Stderr = f, f
		c.cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	default:
		stdout, err := pipe(wire.KindStdout)
		if err != nil {
			return err
		}
		stderr, err := pipe(wire.KindStderr)
		if err != nil {
			return err
		}
		c.cmd.Stdout, c.cmd.Stderr = stdout, stderr
		if c.stdin, err = c.cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	go c.wait(e)
	return nil
}

// copyOutput sends what comes out of r, as messages of kind k.
func (c *command) copyOutput(r *os.File, k wire.Kind, m *wire.Messages) {
	c.readers = append(c.readers, r)
	c.output.Go(func() {
		<-c.told
		buf := make([]byte, piece)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				if m.Send(k, buf[:n]) != nil {
					return // the client has gone, and listen ends the command
				}
			}
			if err != nil {
				return // the end; of a terminal it is EIO
			}
		}
	})
}

// wait waits for the command's end, and ends what it has left behind.
func (c *command) wait(e *wire.Exec) {
	err := c.cmd.Wait()
	if e.Detached == "" {
		// Nothing else can be the group's number as long as somebody is in it; if nobody
		// is, this fails.
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL)
	}
	<-c.told
	for _, r := range c.readers {
		_ = r.SetReadDeadline(time.Now().Add(lateOutput)) // pipes and terminals have deadlines
	}
	c.release()
	c.exited = exitedOf(c.cmd.ProcessState, err)
	close(c.ended)
}

// release closes what this side had for a command that runs no more.
func (c *command) release() {
	c.output.Wait()
	for _, r := range c.readers {
		_ = r.Close() // it was only read
	}
	if c.notify != nil {
		c.notify.close()
	}
}

// exitedOf says how a process ended. err is of a wait that failed, which it does only
// if there is no state.
func exitedOf(state *os.ProcessState, err error) wire.Exited {
	if state == nil {
		return wire.Exited{Code: -1, Signal: fmt.Sprintf("unknown end: %v", err)}
	}
	x := wire.Exited{Code: state.ExitCode()}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		x.Signal = unix.SignalName(status.Signal())
	}
	return x
}

// listen does what the client says until the stream ends, and with it the command.
func (c *command) listen(e *wire.Exec, m *wire.Messages) {
	for {
		k, b, err := m.Receive()
		if err != nil {
			c.abandon(e)
			return
		}
		switch k {
		case wire.KindStdin:
			// A command that reads no input any more has closed it.
			if c.stdin != nil {
				_, _ = c.stdin.Write(b)
			}
		case wire.KindStdinEnd:
			if c.stdin != nil && e.Terminal == nil {
				_ = c.stdin.Close()
			}
		case wire.KindSignal:
			if s, err := wire.Decode[wire.Signal](b); err == nil {
				_ = unix.Kill(-c.cmd.Process.Pid, unix.Signal(s.Number)) // it may have ended
			}
		case wire.KindResize:
			if t, err := wire.Decode[wire.Terminal](b); err == nil && e.Terminal != nil {
				if f, ok := c.stdin.(*os.File); ok {
					_ = resize(f, t)
				}
			}
		}
	}
}

// abandon ends the command because nobody wants it any more.
func (c *command) abandon(e *wire.Exec) {
	if e.Detached != "" {
		return
	}
	select {
	case <-c.ended:
	default:
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) // it may have ended
	}
}
