package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeSystem is a machine in a directory.
func fakeSystem(t *testing.T) system {
	t.Helper()
	root := t.TempDir()
	s := system{sysfs: root + "/sys", dev: root + "/dev"}
	for _, d := range []string{s.sysfs + "/hypervisor", s.sysfs + "/bus/xen/devices", s.sysfs + "/bus/xen/drivers/vif", s.dev + "/net"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func wantMessage(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestVifOfTheKernelsDriverIsRefusedWithTheRemedy(t *testing.T) {
	s := fakeSystem(t)
	dir := s.sysfs + "/bus/xen/devices/vif-3"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.checkOwner(3); err != nil {
		t.Errorf("no driver has it: %v", err)
	}
	if err := s.checkOwner(4); err != nil {
		t.Errorf("not there: %v", err)
	}
	if err := os.Symlink("../../drivers/vif", filepath.Join(dir, "driver")); err != nil {
		t.Fatal(err)
	}
	wantMessage(t, s.checkOwner(3), `the kernel's driver "vif" (xen-netfront) has it: take it away with`+
		" `xnetfrontd prepare --vif 3`, and keep it away with `blacklist xen-netfront` in /etc/modprobe.d")
}

func TestMissingTUNDeviceIsNamedWithTheRemedy(t *testing.T) {
	s := fakeSystem(t)
	path := s.dev + "/net/tun"
	wantMessage(t, s.checkTUN(), fmt.Sprintf("open %s: no such file or directory: load the TUN/TAP driver with `modprobe tun`; in a container, pass the device in (--device %s)", path, path))
	writeFile(t, path, "")
	if err := s.checkTUN(); err != nil {
		t.Error(err)
	}
}

func TestKernelThatIsTooOldIsNamedWithTheOldestThatWillDo(t *testing.T) {
	for _, c := range []struct{ release, want string }{
		{"4.18.0-553.el8_10.x86_64", "the kernel is Linux 4.18.0-553.el8_10.x86_64: 5.2 or newer is needed"},
		{"5.1.21", "the kernel is Linux 5.1.21: 5.2 or newer is needed"},
		{"5.2.0-1-amd64", ""},
		{"5.15.0", ""},
		{"6.1", ""},
		{"10.0.0", ""},
		{"", ""},
		{"not a version", ""},
	} {
		s := fakeSystem(t)
		s.release = c.release
		err := s.checkKernel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%q: got %v, want %q", c.release, err, c.want)
		}
		if c.want != "" {
			wantMessage(t, s.check(), c.want)
		}
	}
}

func TestSystemdThatDoesNotKnowTheUnitIsNamed(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, ""}, // none has started it
		{map[string]string{"INVOCATION_ID": "1"}, "systemd: older than 248, it does not know the whole sandbox of the unit"},
		{map[string]string{"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": "7"}, ""},
	} {
		if got := oldSystemd(func(name string) string { return c.env[name] }); got != c.want {
			t.Errorf("%v: got %q, want %q", c.env, got, c.want)
		}
	}
}

func TestMachineThatIsNoXenGuestIsToldAboutTheDemo(t *testing.T) {
	s := fakeSystem(t)
	missing := &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: fs.ErrNotExist}
	noGuest := "this machine is not a Xen guest (" + s.sysfs + "/hypervisor/type is not \"xen\"): to see it work without Xen, run `xnetfrontd demo`"
	wantMessage(t, s.explainXen(missing), noGuest)
	writeFile(t, s.sysfs+"/hypervisor/type", "kvm\n")
	wantMessage(t, s.explainXen(missing), noGuest)
	writeFile(t, s.sysfs+"/hypervisor/type", "xen\n")
	if err := s.explainXen(missing); !errors.Is(err, missing) {
		t.Errorf("on Xen the device is the matter: %v", err)
	}
	denied := &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: fs.ErrPermission}
	if err := s.explainXen(denied); !errors.Is(err, denied) {
		t.Errorf("permission is the matter: %v", err)
	}
}

func TestWhatNoRestartMendsHasAnExitCodeThatTheUnitKnows(t *testing.T) {
	s := fakeSystem(t)
	writeFile(t, s.sysfs+"/hypervisor/type", "xen\n")
	old := s
	old.release = "4.18.0"
	noXen := fakeSystem(t)
	device := func(err error) error { return &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: err} }
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"no Xen":              {noXen.explainXen(device(fs.ErrNotExist)), exitMachine},
		"no device":           {s.explainXen(fmt.Errorf("%w: load it", device(unix.ENOENT))), exitMachine},
		"a device, no driver": {s.explainXen(device(unix.ENODEV)), exitMachine},
		"pages of 16 KiB":     {s.explainXen(fmt.Errorf("open: %w", errors.ErrUnsupported)), exitMachine},
		"an old kernel":       {old.checkKernel(), exitMachine},
		"no permission":       {s.explainXen(device(fs.ErrPermission)), exitRuntime},
		"something else":      {s.explainXen(device(unix.EMFILE)), exitRuntime},
		"wrong usage":         {usagef("--vif x"), exitUsage},
	} {
		if got := report(io.Discard, c.err); got != c.want {
			t.Errorf("%s: exit code %d, want %d: %v", name, got, c.want, c.err)
		}
	}
	unit, err := os.ReadFile("../../systemd/xnetfrontd.service")
	if want := fmt.Sprintf("\nRestartPreventExitStatus=%d %d\n", exitUsage, exitMachine); err != nil || !strings.Contains(string(unit), want) {
		t.Errorf("the unit does not have%s%v", want, err)
	}
}
