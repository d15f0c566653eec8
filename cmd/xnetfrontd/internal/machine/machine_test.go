package machine_test

import (
	"fmt"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/fakekernel"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
)

func TestMissingTUNDeviceIsNamedWithTheRemedy(t *testing.T) {
	s := fakekernel.NewSystem(t)
	path := s.Dev + "/net/tun"
	cmdtest.WantError(t, s.CheckTUN(), fmt.Sprintf("open %s: no such file or directory: load the TUN/TAP driver with `modprobe tun`; in a container, pass the device in (--device %s)", path, path))
	cmdtest.WriteFile(t, path, "")
	if err := s.CheckTUN(); err != nil {
		t.Error(err)
	}
}

func TestSystemdThatDoesNotKnowTheUnitIsNamed(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, ""}, // no systemd has started it
		{map[string]string{"INVOCATION_ID": "1"}, "systemd: older than 248, it does not know the whole sandbox of the unit"},
		{map[string]string{"INVOCATION_ID": "1", "SYSTEMD_EXEC_PID": "7"}, ""},
	} {
		if got := machine.OldSystemd(func(name string) string { return c.env[name] }); got != c.want {
			t.Errorf("%v: got %q, want %q", c.env, got, c.want)
		}
	}
}
