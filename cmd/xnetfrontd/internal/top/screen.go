package top

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Sequences for a terminal: ECMA-48, and the private modes of xterm.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the other screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// quitKeys end the display: q, Ctrl-C and Ctrl-D, which make no signals in raw mode.
const quitKeys = "qQ\x03\x04"

// screen draws on a terminal. It reads the keys if standard input is the terminal, too.
type screen struct {
	out  *os.File
	in   *os.File
	was  *term.State // of in; nil: it is no terminal
	wake int         // an eventfd that ends the reading of keys
	quit func()      // called for the quitKeys

	restore sync.Once
	done    sync.WaitGroup
}

// newScreen takes the terminal over. The caller must close it. Another goroutine calls quit
// when the user types one of quitKeys, or when the terminal is gone.
func newScreen(out, in *os.File, quit func()) (*screen, error) {
	s := &screen{out: out, in: in, wake: -1, quit: quit}
	if !term.IsTerminal(int(in.Fd())) {
		return s, s.write(enterScreen)
	}
	var err error
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	if s.was, err = term.MakeRaw(int(in.Fd())); err != nil {
		return nil, errors.Join(fmt.Errorf("terminal: %w", err), unix.Close(s.wake))
	}
	if err := s.write(enterScreen); err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.done.Go(s.readKeys)
	return s, nil
}

// close gives the terminal back as it was. A second close does nothing.
func (s *screen) close() (err error) {
	s.restore.Do(func() {
		err = s.write(leaveScreen)
		if s.was == nil {
			return
		}
		if _, werr := unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); werr != nil {
			err = errors.Join(err, fmt.Errorf("terminal: %w", werr))
		}
		s.done.Wait()
		err = errors.Join(err, term.Restore(int(s.in.Fd()), s.was), unix.Close(s.wake))
	})
	return err
}

// readKeys reads the keys. It polls, since another goroutine cannot end a read from a
// terminal.
func (s *screen) readKeys() {
	fds := []unix.PollFd{{Fd: int32(s.in.Fd()), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	buf := make([]byte, 16)
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || fds[1].Revents != 0:
			return
		}
		n, err := unix.Read(int(s.in.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 || bytes.ContainsAny(buf[:n], quitKeys) {
			s.quit()
			return
		}
	}
}

// size is the present size of the terminal.
func (s *screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24 // the terminal does not tell its size
	}
	return width, height
}

// draw shows as many lines as there is room for.
func (s *screen) draw(lines []string, width, height int) error {
	var b strings.Builder
	b.WriteString(home)
	for i, l := range fit(lines, width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(l)
		b.WriteString(eraseLine)
	}
	b.WriteString(eraseBelow)
	return s.write(b.String())
}

func (s *screen) write(text string) error {
	_, err := io.WriteString(s.out, text)
	return err
}
