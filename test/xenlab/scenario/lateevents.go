package scenario

import (
	"fmt"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

func lateEvents() Scenario {
	return Scenario{
		Name: "late",
		Proves: "while another driver of the guest's kernel waits for its backend, where it keeps every program's xenstore events back, status says so; " +
			"a vif is detached and libxl need not force it, and is served again when it is attached; afterwards events come again",
		Takes: 40 * time.Second,
		Run: func(t *T) {
			u := t.DomU(lab.DomUConfig{Name: "late", Vifs: []lab.VifConfig{{}}})
			s := serve(t, u, 0, numberGuest)
			reaches(t, in(t.Dom0), ipv4(numberGuest))
			probing := func(on string) {
				shell(t, u.Guest, "echo "+on+" >/sys/bus/xen/drivers_autoprobe")
			}
			// The daemon's vif stays the daemon's.
			probing("0")
			run(t, u.Guest, "modprobe", "xen-netfront")
			probing("1")
			g := ghost{t, u}
			g.attach()
			awaitStatus(t, u, "grep -q ^LATE:")
			probing("0") // or the driver had the vif that comes next when it is free again

			began := time.Now()
			unplug(t, u, 0)
			took := time.Since(began)
			if took > detachLimit {
				t.Errorf("detaching took %s: libxl gave up waiting for the frontend", took.Round(time.Millisecond))
			}
			began = time.Now()
			plug(t, u, 0, lab.VifConfig{})
			s.await()
			t.Reportf("detached in %.1f s, served again %.1f s after being attached, without an event", took.Seconds(), time.Since(began).Seconds())
			reaches(t, in(t.Dom0), ipv4(numberGuest))
			awaitStatus(t, u, "grep -q ^LATE:")

			g.free()
			awaitStatus(t, u, "(! grep ^LATE:)")
			g.detach()
			transfer(t, in(u.Guest), in(t.Dom0), ipv4(numberDom0), 4*mib, 1)
			noFatal(t)
			s.stop()
		},
	}
}

// awaitStatus waits until a command is content with what status prints.
func awaitStatus(t *T, u *lab.DomU, content string) {
	shell(t, u.Guest, "until xnetfrontd status | "+content+"; do usleep 200000; done")
}

// ghost is a vif that is in xenstore and nowhere else. Its backend is Closed, so that
// xen-netfront, which is probed in the kernel's one thread for xenstore's events, waits
// there (xennet_create_dev).
type ghost struct {
	t *T
	u *lab.DomU
}

// script runs in dom0 with the two directories in $front and $back.
func (g ghost) script(text string) {
	const devid = 7
	shell(g.t, g.t.Dom0, fmt.Sprintf("front=/local/domain/%d/device/vif/%d back=%s; set -e\n%s", g.u.ID(), devid, g.u.BackendPath(devid), text))
}

func (g ghost) attach() {
	g.script(fmt.Sprintf(`xenstore-write $back/state 6 $back/frontend $front
		xenstore-chmod -r $back n0 r%[1]d
		xenstore-write $front/backend $back $front/backend-id 0 $front/handle 7 $front/mac 00:16:3e:77:01:77 $front/state 1
		xenstore-chmod -r $front n%[1]d r0`, g.u.ID()))
}

// free lets the driver go on: it looks for itself, every 5 s.
func (g ghost) free() { g.script("xenstore-write $back/state 1") }

// detach takes the vif away.
func (g ghost) detach() { g.script("xenstore-rm $back; xenstore-rm $front") }
