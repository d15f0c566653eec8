//go:build linux

package xen

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMissingDeviceNamesTheModuleToLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gntalloc")
	_, err := openGntalloc(path, gntallocLimit)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("error %v is not fs.ErrNotExist", err)
	}
	for _, want := range []string{path, "modprobe xen-gntalloc"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	err = eventDevice{path: path}.check()
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "modprobe xen-evtchn") {
		t.Errorf("check of a missing event device: %v", err)
	}
	if _, err := (eventDevice{path: path}).Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of a missing event device: %v", err)
	}
}

func TestForbiddenDeviceNamesTheRemedyInOneLine(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EACCES, unix.EPERM} {
		err := deviceError(evtchnPath, EvtchnModule, errno)
		if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, errno) {
			t.Errorf("%v hides %v", err, errno)
		}
		if !strings.Contains(err.Error(), "udev rule") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is not one line with a remedy", err)
		}
	}
}

func TestOtherOpenErrorsKeepTheirErrno(t *testing.T) {
	err := deviceError(evtchnPath, EvtchnModule, unix.EMFILE)
	if !errors.Is(err, unix.EMFILE) || strings.Contains(err.Error(), "modprobe") {
		t.Errorf("EMFILE became %v", err)
	}
}

func TestDeviceDescriptorIsNonBlockingAndNotInherited(t *testing.T) {
	f, err := eventDevice{path: "/dev/null"}.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if flags, err := unix.FcntlInt(uintptr(f.FD()), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("file flags %#x, %v: not O_NONBLOCK", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(f.FD()), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %#x, %v: not FD_CLOEXEC", flags, err)
	}
}

func TestHandleIsASecondDescriptorOfTheSameOpenFile(t *testing.T) {
	g := newFakeGntalloc(t, "1024\n")
	f, peer := newFakeEventFile(t)
	fd, err := g.Handle()
	if err != nil {
		t.Fatal(err)
	}
	adopted, err := AdoptGntalloc(fd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := adopted.Remap(0, []GrantRef{8}); err == nil {
		t.Error("/dev/null has granted pages")
	}
	if _, err := adopted.Remap(0, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("remap of no pages: %v", err)
	}
	if err := adopted.Close(); err != nil {
		t.Error(err)
	}
	if _, err := adopted.Remap(0, []GrantRef{8}); !errors.Is(err, ErrClosed) {
		t.Errorf("remap after close: %v", err)
	}
	if fd, err = f.Handle(); err != nil {
		t.Fatal(err)
	}
	second, err := AdoptEvtchn(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Handle(); !errors.Is(err, ErrClosed) {
		t.Errorf("handle after close: %v", err)
	}
	if _, err := unix.Write(peer, []byte{9, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	var ports [1]Port
	if n, err := second.Read(ports[:]); n != 1 || err != nil {
		t.Errorf("the adopted file is closed: %d, %v", n, err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func TestAdoptionOfNoDescriptorFails(t *testing.T) {
	if _, err := AdoptGntalloc(-1); !errors.Is(err, unix.EBADF) {
		t.Errorf("grants: %v", err)
	}
	if _, err := AdoptEvtchn(1 << 20); !errors.Is(err, unix.EBADF) {
		t.Errorf("event channels: %v", err)
	}
}

// A descriptor that another process has handed over is used with the ioctls of a device:
// it must be of that device, and of no other, nor of a file that has its number.
func TestOnlyDescriptorsOfTheSameDeviceAreAdopted(t *testing.T) {
	open := func(path string) int {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	zero := open("/dev/zero")
	file, err := unix.MemfdCreate("file", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(file) })
	events, grants := eventDevice{path: "/dev/null"}, newFakeGntalloc(t, "1024\n")
	for name, fd := range map[string]int{"another device": zero, "a file": file} {
		if f, err := events.Adopt(fd); err == nil {
			t.Errorf("event channels: %s is adopted: %v", name, f)
		}
		if g, err := grants.Adopt(fd); err == nil {
			t.Errorf("grants: %s is adopted: %v", name, g)
		}
	}
	if f, err := events.Adopt(open("/dev/null")); err != nil {
		t.Errorf("event channels of the same device: %v, %v", f, err)
	}
	if g, err := grants.Adopt(open("/dev/null")); err != nil {
		t.Errorf("grants of the same device: %v, %v", g, err)
	}
	if err := sameDevice(file, func(st *unix.Stat_t) error { return unix.Fstat(file, st) }); err == nil {
		t.Error("a file that is no device is of the same device as itself")
	}
}
