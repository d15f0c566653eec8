package scenario

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/liar"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

const (
	// besideSize is what the other vif transfers each time, and besidePause what is between: the
	// liar has the same emulated CPU. So its rate is told, and not held against anybody.
	besideSize  = mib
	besidePause = 10 * time.Second
	// lies is how many of the lies are violations of the protocol: with the last one the vif is
	// off.
	lies = 7
	// readDisk reads 8 MiB of the guest's disk from its backend.
	readDisk = "dd if=/dev/xvdz of=/dev/null bs=1M count=8 iflag=direct 2>/dev/null && echo read"
)

func hostile() Scenario {
	return Scenario{
		Name: "hostile",
		Proves: "a driver domain's backend tells every lie that a backend can, on the rings, in pages, by event channels and in xenstore: the daemon survives, holds the violations against that backend and switches the vif off, " +
			"the guest's kernel has nothing to say, its disk and its other vif go on, and an honest backend is served by the same daemon",
		Takes:   3 * time.Minute,
		Timeout: 20 * time.Minute,
		Run: func(t *T) {
			u := t.DomU(lab.DomUConfig{
				Name: "victim", Vifs: []lab.VifConfig{{}}, KernelArgs: "labmods=xen-blkfront",
				// A Debian guest may have it too: it is only read.
				Config: []string{`disk=['phy:/dev/vdd,xvdz,r,script=block-lab']`},
			})
			evil := t.DomU(lab.DomUConfig{Name: "hostile", MemMiB: 224, KernelArgs: "labmods=xen-gntdev", Config: []string{"driver_domain=1"}})
			backend := in(evil.Guest).listen(t, "lie", strconv.Itoa(u.ID()), "1", second.ipv4(numberGuest), second.ipv4(numberOther))
			plug := func(backend string) {
				spec := lab.VifConfig{MAC: "00:16:3e:77:01:02", Backend: backend}.Spec()
				run(t, t.Dom0, append([]string{"xl", "network-attach", u.Name}, spec...)...)
			}
			plug(evil.Name)

			const config = "/run/xnetfrontd/hostile.toml"
			text := fmt.Sprintf("[[vif]]\ndevid = 0\n\n[[vif]]\ndevid = 1\nviolations = %d\n", lies)
			shell(t, u.Guest, "mkdir -p /run/xnetfrontd")
			t.NoError(u.WriteFile(t.Context(), config, []byte(text), 0o644), "write the configuration")
			before := len(warnings(t, u))
			s := startDaemon(t, u, 0, "run", "--config", config)
			victim := &served{Daemon: s.Daemon, t: t, u: u, devid: 1, tap: "xnf1"}
			bridged.address(t, u.Guest, s.tap, numberGuest)
			second.address(t, u.Guest, victim.tap, numberGuest)
			s.await()
			guest, dom0 := in(u.Guest), in(t.Dom0)
			reachesSoon(t, dom0, ipv4(numberGuest))

			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = backend.Wait(t.Context()) // result has the error
			}()
			var beside []float64
			for told := false; !told; {
				beside = append(beside, transfer(t, guest, dom0, ipv4(numberDom0), besideSize, 1).MbitPerS)
				reaches(t, dom0, ipv4(numberGuest))
				t.Require(strings.TrimSpace(shell(t, u.Guest, readDisk)) == "read", "the guest's disk")
				select {
				case <-ended:
					told = true
				case <-time.After(besidePause): // the liar has the same CPU
				}
			}
			reportLies(t, backend)
			alone := transfer(t, guest, dom0, ipv4(numberDom0), besideSize, 1).MbitPerS
			least := slices.Min(beside)
			t.Reportf("TCP of another vif: %.0f Mbit/s at least in %d transfers beside the hostile backend, %.0f afterwards; one emulated CPU has all of it", least, len(beside), alone)

			if st := victim.status(); st.Off == "" || st.Violations != lies {
				t.Errorf("the vif is off because %q, after %d violations of %d", st.Off, st.Violations, lies)
			}
			run(t, u.Guest, "xnetfrontd", "retry", "1")
			if st := victim.status(); st.Off != "" || st.Violations != 0 {
				t.Errorf("after a retry the vif is off because %q, with %d violations", st.Off, st.Violations)
			}
			t.NoError(evil.Destroy(t.Context()), "destroy the driver domain")
			run(t, t.Dom0, "xl", "network-detach", u.Name, "1")
			plug("0")
			second.address(t, t.Dom0, lab.Bridge, numberDom0)
			victim.await()
			reachesSoon(t, dom0, second.ipv4(numberGuest))
			noFatal(t)
			if now := warnings(t, u); len(now) > before {
				t.Errorf("the guest's kernel has warnings:\n%s", strings.Join(now[before:], "\n"))
			}
			s.stop()
			run(t, t.Dom0, "xl", "block-detach", u.Name, "xvdz") // its backend keeps pages mapped
			nothingMapped(t, u, "after a stop")
		},
	}
}

// reportLies wants all lies to be told, and those that are violations to have ended a
// connection.
func reportLies(t *T, backend *tool) {
	r, err := backend.Wait(t.Context())
	t.NoError(err, "the hostile backend")
	t.Require(r.Code == 0, "the hostile backend: exit code %d %s: %s", r.Code, r.Signal, strings.TrimSpace(r.Stderr))
	told, ended := 0, 0
	for line := range strings.Lines(r.Stdout) {
		var l liar.Told
		if json.Unmarshal([]byte(line), &l) != nil {
			continue // the first line
		}
		told++
		if l.Ended {
			ended++
		}
		t.Logf("%6.2f s, ended %-5v %s", l.Seconds, l.Ended, l.Lie)
		if l.Violation && !l.Ended {
			t.Errorf("%s: the frontend went on", l.Lie)
		}
	}
	t.Reportf("%d lies were told; %d ended a connection", told, ended)
}

// warning is a line of the kernel's log at the level of warnings or above.
var warning = regexp.MustCompile(`(?m)^<[0-4]>.*$`)

// slowCPU is what a kernel says of an emulated CPU.
var slowCPU = regexp.MustCompile(`clocksource|hrtimer: interrupt took`)

// warnings are those of a guest's kernel.
func warnings(t *T, u *lab.DomU) []string {
	return slices.DeleteFunc(warning.FindAllString(shell(t, u.Guest, "dmesg -r"), -1), slowCPU.MatchString)
}
