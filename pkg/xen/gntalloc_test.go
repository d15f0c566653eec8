//go:build linux

package xen

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

func TestGntallocRequestsAreTheKernels(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"IOCTL_GNTALLOC_ALLOC_GREF", gntallocAlloc, 0x00184705},
		{"IOCTL_GNTALLOC_DEALLOC_GREF", gntallocDealloc, 0x00104706},
		{"IOCTL_GNTALLOC_SET_UNMAP_NOTIFY", gntallocUnmapNotify, 0x00104707},
		{"alloc: offset of flags", unsafe.Offsetof(allocGref{}.flags), 2},
		{"alloc: offset of count", unsafe.Offsetof(allocGref{}.count), 4},
		{"alloc: offset of index", unsafe.Offsetof(allocGref{}.index), 8},
		{"alloc: offset of gref_ids", unsafe.Offsetof(allocGref{}.refs), 16},
		{"dealloc: offset of count", unsafe.Offsetof(deallocGref{}.count), 8},
		{"notify: offset of action", unsafe.Offsetof(unmapNotify{}.action), 8},
		{"notify: offset of port", unsafe.Offsetof(unmapNotify{}.port), 12},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
}

// newFakeGntalloc is a gntalloc on /dev/null, which knows none of its requests, with
// the module's parameter in a file of its own.
func newFakeGntalloc(t *testing.T, limit string) *Gntalloc {
	t.Helper()
	path := filepath.Join(t.TempDir(), "limit")
	if err := os.WriteFile(path, []byte(limit), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := openGntalloc("/dev/null", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func TestLimitIsTheModulesParameter(t *testing.T) {
	g := newFakeGntalloc(t, "1024\n")
	if n, err := g.Limit(); n != 1024 || err != nil {
		t.Errorf("limit %d, %v", n, err)
	}
}

func TestLimitThatIsNoNumberIsAnError(t *testing.T) {
	if n, err := newFakeGntalloc(t, "plenty\n").Limit(); err == nil {
		t.Errorf("limit %d", n)
	}
}

func TestRaiseLimitNeverLowersIt(t *testing.T) {
	g := newFakeGntalloc(t, "4096\n")
	if err := g.RaiseLimit(2048); err != nil {
		t.Fatal(err)
	}
	if n, _ := g.Limit(); n != 4096 {
		t.Errorf("limit %d after raising 4096 to 2048", n)
	}
	if err := g.RaiseLimit(8192); err != nil {
		t.Fatal(err)
	}
	if n, _ := g.Limit(); n != 8192 {
		t.Errorf("limit %d after raising 4096 to 8192", n)
	}
}

func TestRaiseLimitWithoutTheModuleCreatesNoFile(t *testing.T) {
	g := newFakeGntalloc(t, "0")
	g.limitPath = filepath.Join(t.TempDir(), "limit")
	if err := g.RaiseLimit(1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(g.limitPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}

// A sandbox shows /sys read-only; a daemon that meets it must be told "not allowed".
func TestRaiseLimitOnReadOnlySysIsErrPermission(t *testing.T) {
	needs.Root(t)
	g := newFakeGntalloc(t, "1024\n")
	dir := t.TempDir()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its namespace end here
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("limit", dir, "tmpfs", 0, ""); err != nil {
				return err
			}
			g.limitPath = filepath.Join(dir, "limit")
			if err := os.WriteFile(g.limitPath, []byte("1024\n"), 0o644); err != nil {
				return err
			}
			if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
				return err
			}
			return g.RaiseLimit(2048)
		}()
	}()
	if err := <-result; !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

func TestGrantLimitErrorSaysTheLimit(t *testing.T) {
	g := newFakeGntalloc(t, "1024\n")
	err := g.limitError(2048)
	if !errors.Is(err, ErrGrantLimit) {
		t.Fatalf("%v is not ErrGrantLimit", err)
	}
	for _, want := range []string{"2048 pages", "1024", g.limitPath} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	g.limitPath += ".gone"
	if err := g.limitError(2048); !errors.Is(err, ErrGrantLimit) {
		t.Errorf("without a limit to read: %v", err)
	}
}

func TestAllocErrors(t *testing.T) {
	g := newFakeGntalloc(t, "1024\n")
	for _, n := range []int{0, -1, maxGrant + 1, math.MaxInt} {
		if _, err := g.Alloc(0, n, true); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%d pages: %v", n, err)
		}
	}
	if _, err := g.Alloc(3, 4, true); !errors.Is(err, unix.ENOTTY) || errors.Is(err, ErrGrantLimit) ||
		!strings.HasPrefix(err.Error(), "grant 4 pages to domain 3: ") {
		t.Errorf("a device that knows no grants: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Alloc(0, 1, true); !errors.Is(err, ErrClosed) {
		t.Errorf("alloc after close: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
