package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/wire"
)

// openRaw opens a terminal and makes it a line of bytes, as cfmakeraw(3) does.
func openRaw(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	if err := makeRaw(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: set raw mode: %w", path, err), f.Close())
	}
	return f, nil
}

func makeRaw(f *os.File) error {
	return control(f, func(fd int) error {
		_, err := term.MakeRaw(fd)
		return err
	})
}

// openTerminal makes a pair of pseudo-terminals, see pts(4).
func openTerminal(size wire.Terminal) (host, guest *os.File, err error) {
	host, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	var number uint32
	err = control(host, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetUint32(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		err = resize(host, size)
	}
	if err == nil {
		guest, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a terminal: %w", err), host.Close())
	}
	return host, guest, nil
}

func resize(f *os.File, size wire.Terminal) error {
	return control(f, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
	})
}

// control calls f with a file's descriptor, and leaves it with the netpoller, which
// os.File.Fd would take it from.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
