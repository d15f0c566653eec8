package tap

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// restricted is the environment of a process that limits itself.
const restricted = "TAP_TEST_RESTRICTED"

// Code that runs in this process makes rings of its own: they must not do what the
// filter of system calls forbids. No process takes its limits back, so a child does it.
func TestRestrictedProcessHasNoRingsButThoseOfThisPackage(t *testing.T) {
	needs.Root(t)
	if os.Getenv(restricted) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), restricted+"=1")
		out, err := cmd.CombinedOutput()
		switch {
		case err != nil:
			t.Fatalf("%v\n%s", err, out)
		case strings.Contains(string(out), "--- SKIP"):
			t.Skip(string(out))
		}
		return
	}
	err := RestrictUring()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADF) {
		t.Skipf("%v: Linux 7.0 is needed, and a binary without cgo", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := RestrictUring(); !errors.Is(err, unix.EPERM) {
		t.Errorf("the limits can be set again: %v", err)
	}
	enterNamespace(t)
	_, queues := liveDevice(t, Config{}, 1) // it fails if the device uses no rings
	if r, w := newReader(t, queues[0], 8), newWriter(t, queues[0], 8); !r.Batched() || !w.Batched() {
		t.Error("the device's readers and writers have no rings")
	}
	u := ringWithoutLimits(t)
	buf := make([]byte, 64)
	try := func(change func(*sqe)) int32 {
		u.put(0, unsafe.Pointer(&buf[0]), 1)
		e := &u.sqes[u.tail&uint32(len(u.sqes)-1)]
		saved := *e
		change(e)
		done, err := u.submit(1)
		*e = saved
		if done != 1 || err != nil {
			t.Fatalf("submitted %d: %v", done, err)
		}
		return u.results[0]
	}
	const denied = -int32(unix.EACCES)
	for op := range uint8(64) {
		if op == opRead || op == opWritev {
			continue
		}
		if res := try(func(e *sqe) { e.opcode = op }); res != denied && res != -int32(unix.EINVAL) {
			t.Errorf("operation %d gave %d", op, res)
		}
	}
	if res := try(func(e *sqe) { e.flags, e.fd = 0, int32(queues[0].FD()) }); res != denied {
		t.Errorf("a file that is not registered gave %d", res)
	}
	for op := range uintptr(40) {
		switch op {
		case registerFiles, unregisterFiles, registerLimits, registerEnable:
			continue
		}
		if err := u.register(op, nil, 0); err != unix.EACCES && err != unix.EINVAL {
			t.Errorf("io_uring_register %d gave %v", op, err)
		}
	}
}

// ringWithoutLimits is what other code in this process would make.
func ringWithoutLimits(t *testing.T) *uring {
	t.Helper()
	params := uringParams{}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 2, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	u := &uring{fd: int(fd), opcode: opRead}
	if err := u.mapRings(&params); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(u.table); unix.Munmap(u.mapping); unix.Close(u.fd) })
	return u
}
