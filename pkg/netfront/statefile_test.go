package netfront

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write testdata/state-v<version>.txt anew: only together with a new stateVersion")

// A process takes over what one of another version has left only if both lay it out
// alike. A change of the layout is found out at run time by its checksum and costs a
// reconnect at the upgrade; this test is so that it does not come by accident.
func TestLayoutOfTheStateStays(t *testing.T) {
	name := filepath.Join("testdata", "state-v1.txt")
	if *update {
		if err := os.WriteFile(name, []byte(describeState()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got := describeState(); got != string(want) {
		t.Errorf("the layout of the state file is\n%s\nand was\n%s", got, want)
	}
	if stateVersion != 1 {
		t.Errorf("version %d has no golden file", stateVersion)
	}
}

// sealed is a state file as a process hands it over.
func sealed(t *testing.T, queues int) int {
	t.Helper()
	f, err := newStateFile(queues)
	if err != nil {
		t.Fatal(err)
	}
	f.seal()
	fd, err := unix.FcntlInt(uintptr(f.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestEveryByteOfTheFixedPartIsChecked(t *testing.T) {
	fd := sealed(t, 2)
	if err := CheckState(fd); err != nil {
		t.Fatal(err)
	}
	f := &stateFile{fd: fd}
	if err := f.mapIt(stateFileSize(2)); err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(f.mem)
	phase := 32
	if &f.mem[phase] != (*byte)(unsafe.Pointer(&f.head.Phase)) {
		t.Fatal("the phase is not where this test thinks")
	}
	for _, at := range []int{0, stateHeaderSize + queueStride} {
		for i := range 600 {
			if at == 0 && i >= phase && i < phase+8 {
				continue // changes with the connection's life
			}
			f.mem[at+i] ^= 0x40
			if err := CheckState(fd); !errors.Is(err, ErrHandover) {
				t.Fatalf("byte %d was changed: %v", at+i, err)
			}
			f.mem[at+i] ^= 0x40
		}
	}
}

func TestStateFileThatIsNoneIsNotMapped(t *testing.T) {
	open := func(size int64, seals int) int {
		fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Ftruncate(fd, size); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	const sealed = unix.F_SEAL_SHRINK
	for name, fd := range map[string]int{
		"closed":         1 << 20,
		"a device":       0,
		"not sealed":     open(int64(stateFileSize(1)), 0),
		"empty":          open(0, sealed),
		"truncated":      open(100, sealed),
		"all zero":       open(int64(stateFileSize(1)), sealed),
		"larger than is": open(int64(stateFileSize(maxQueues)+1), sealed),
	} {
		if err := CheckState(fd); !errors.Is(err, ErrHandover) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
