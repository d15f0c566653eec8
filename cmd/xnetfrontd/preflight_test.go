package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// fakeSystem is a machine in a directory.
func fakeSystem(t *testing.T) system {
	t.Helper()
	root := t.TempDir()
	s := system{sysfs: root + "/sys", dev: root + "/dev", proc: root + "/proc", boot: root + "/boot", lib: root + "/lib", run: root + "/run"}
	for _, d := range []string{s.run, s.sysfs + "/hypervisor", s.sysfs + "/bus/xen/devices", s.sysfs + "/bus/xen/drivers/vif", s.dev + "/net"} {
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
