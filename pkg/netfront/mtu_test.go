package netfront

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// setMTU writes what the toolstack says of a vif's MTU, which the backend's domain owns.
func (w *world) setMTU(devid int, value string) {
	w.t.Helper()
	ctx, store := w.deadline(), w.server.Toolstack()
	w.check(store.Write(ctx, xensim.FrontendPath(guestDom, devid)+"/"+netif.KeyMTU, value))
	w.check(store.Write(ctx, xensim.BackendPath(driverDom, guestDom, devid)+"/"+netif.KeyMTU, value))
}

func TestVifWhoseMTUCannotBeUsedHasItsTAPAndIPv6(t *testing.T) {
	w := newWorld(t, worldConfig{})
	w.check(xensim.AttachVif(w.deadline(), w.server.Toolstack(), xensim.VifConfig{Frontend: guestDom, Backend: driverDom, DevID: 1,
		MAC: net.HardwareAddr{0, 0x16, 0x3e, 1, 2, 4}}))
	for _, c := range []struct {
		says    string
		config  int
		want    int
		refused string
	}{
		{says: "9000", want: 9000},
		{says: "1280", want: 1280},
		{says: "", want: 1500},
		{says: "1279", want: 1280, refused: `device/vif/1/mtu is "1279", want 1280 to 65517`},
		{says: "68", want: 1280, refused: `device/vif/1/mtu is "68", want 1280 to 65517`},
		{says: "67", want: 1500, refused: `device/vif/1/mtu is "67", want 1280 to 65517`},
		{says: "-1", want: 1500, refused: `device/vif/1/mtu is "-1", want 1280 to 65517`},
		{says: "65518", want: 1500, refused: `device/vif/1/mtu is "65518", want 1280 to 65517`},
		{says: "large", want: 1500, refused: `device/vif/1/mtu is "large", want 1280 to 65517`},
		{says: "\x1b[2J\n", want: 1500, refused: `device/vif/1/mtu is "\x1b[2J", want 1280 to 65517`},
		{says: strings.Repeat("9", 2000), want: 1500, refused: `device/vif/1/mtu is "` + strings.Repeat("9", 32) + `...", want 1280 to 65517`},
		{says: "68", config: 1300, want: 1300},
	} {
		t.Run(fmt.Sprintf("%.10q, configured %d", c.says, c.config), func(t *testing.T) {
			w.setMTU(1, c.says)
			log, logs := observed(zap.WarnLevel)
			cfg := Config{DevID: 1, MTU: c.config, Queues: 1, Features: AllFeatures(), Logger: log}
			report, err := Inspect(w.deadline(), w.front.Guest(), cfg)
			if report == nil {
				t.Fatal(err)
			}
			d, err := Open(w.deadline(), w.front.Guest(), cfg)
			if err != nil {
				t.Fatalf("there is no TAP: %v", err)
			}
			defer func() { w.check(d.Close()) }()
			link, err := netlink.LinkByName(d.Name())
			w.check(err)
			s := d.Status()
			if mtu := link.Attrs().MTU; mtu != c.want || s.MTU != c.want || report.MTU != c.want {
				t.Errorf("MTU %d, status %d, report %d, want %d", mtu, s.MTU, report.MTU, c.want)
			}
			if s.MTURefused != c.refused || report.MTURefused != c.refused {
				t.Errorf("status %q, report %q, want %q", s.MTURefused, report.MTURefused, c.refused)
			}
			if _, err := os.Stat("/proc/sys/net/ipv6/conf/lo"); err == nil {
				if _, err := os.Stat("/proc/sys/net/ipv6/conf/" + d.Name()); err != nil {
					t.Errorf("the TAP has no IPv6: %v", err)
				}
			}
			said := logs.FilterMessage("the vif's MTU cannot be used").All()
			if c.refused == "" && len(said) != 0 || c.refused != "" && (len(said) != 1 || said[0].ContextMap()["error"] != c.refused || said[0].ContextMap()["mtu"] != int64(c.want)) {
				t.Errorf("logged: %+v", said)
			}
		})
	}
}

func TestMTUThatCannotBeUsedAnyMoreLeavesTheTAPAsItIsAndIsSaidOnce(t *testing.T) {
	log, logs := observed(zap.WarnLevel)
	w := newWorld(t, worldConfig{vif: xensim.VifConfig{MTU: 4000}, front: Config{Logger: log}})
	w.connected(1)
	w.setMTU(0, "none")
	for n := range uint64(2) {
		w.check(w.vif.ShowState(w.deadline(), netif.StateClosing))
		w.connected(n + 2)
	}
	const refused = `device/vif/0/mtu is "none", want 1280 to 65517`
	if s := w.dev.Status(); s.MTU != 4000 || s.MTURefused != refused {
		t.Errorf("MTU %d, refused %q", s.MTU, s.MTURefused)
	}
	if said := logs.FilterMessage("the vif's MTU cannot be used").All(); len(said) != 1 || said[0].ContextMap()["error"] != refused || said[0].ContextMap()["mtu"] != int64(4000) {
		t.Errorf("logged: %+v", said)
	}
	w.setMTU(0, "5000")
	w.check(w.vif.ShowState(w.deadline(), netif.StateClosing))
	w.connected(4)
	if s := w.dev.Status(); s.MTU != 5000 || s.MTURefused != "" {
		t.Errorf("MTU %d, refused %q", s.MTU, s.MTURefused)
	}
}

func TestMTUThatIsTooLargeForABackendWithoutSGIsSaid(t *testing.T) {
	log, logs := observed(zap.WarnLevel)
	offered := netback.LinuxFeatures()
	offered.SG = false
	w := newWorld(t, worldConfig{front: Config{MTU: 9000, Logger: log}, back: netback.Options{Features: &offered}})
	w.connected(1)
	if mtu := w.link().Attrs().MTU; mtu != 1500 {
		t.Errorf("MTU %d", mtu)
	}
	lines := logs.FilterField(event(EventMTU)).All()
	if len(lines) != 1 || lines[0].ContextMap()["error"] != "it is 9000, and this backend takes no frame of more than one page (no sg)" {
		t.Errorf("%+v", lines)
	}
}
