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
		err := deviceError(evtchnPath, evtchnModule, errno)
		if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, errno) {
			t.Errorf("%v hides %v", err, errno)
		}
		if !strings.Contains(err.Error(), "udev rule") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q is not one line with a remedy", err)
		}
	}
}

func TestOtherOpenErrorsKeepTheirErrno(t *testing.T) {
	err := deviceError(evtchnPath, evtchnModule, unix.EMFILE)
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
