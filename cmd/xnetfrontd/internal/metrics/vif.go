package metrics

import (
	"strconv"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

// causes are the known causes of the end of a connection. They are shown with 0 from the
// start, since a series that begins with 1 shows no increase. Another cause is shown when it
// happens.
func causes() []string {
	return []string{"backend-closed", "backend-restarted", "detached", "error", "grants", "no-progress", "panic", "restored", "stalled", "violation"}
}

// states are those of xenbus.
func states() (all []string) {
	for s := netif.StateUnknown; s <= netif.StateReconfigured; s++ {
		all = append(all, s.String())
	}
	return all
}

// vif sends the values of a vif with that name.
func (e emitter) vif(name string, v *control.Vif) {
	e.value(e.vifPresent, flag(v.Waiting == ""), name)
	e.value(e.vifServed, flag(v.Device != nil && v.Problem == "" && v.Waiting == ""), name)
	d := v.Device
	connected := netif.StateConnected.String()
	e.value(e.vifUp, flag(d != nil && d.State == connected && d.BackendState == connected), name)
	if d == nil {
		e.value(e.vifInfo, 1, name, label(v.TAP), label(v.MAC), "", "")
		return
	}
	e.value(e.vifInfo, 1, name, label(d.TAP), label(d.MAC), label(d.Backend), strconv.Itoa(int(d.BackendDomID)))
	e.device(name, d)
	for _, q := range d.Queues {
		e.queueNow(name, strconv.Itoa(q.Number), q)
	}
	for _, t := range d.Totals {
		number := strconv.Itoa(t.Number)
		e.totals(name, number, "tx", t.Tx)
		e.totals(name, number, "rx", t.Rx)
	}
}

// device sends the values of a vif with a TAP, without those of its queues.
func (e emitter) device(name string, d *control.Device) {
	for _, s := range states() {
		e.value(e.vifState, flag(d.State == s), name, "frontend", s)
		e.value(e.vifState, flag(d.BackendState == s), name, "backend", s)
	}
	e.value(e.vifStateSince, seconds(d.Since), name)
	e.value(e.vifOff, flag(d.Off != ""), name)
	e.value(e.vifDisabled, flag(d.Disabled), name)
	e.value(e.vifTakenOver, flag(d.TakenOver), name)
	e.count(e.vifConnects, d.Connects, name)
	e.byKey(e.vifDisconnects, d.Ended, causes(), name)
	f := d.Features
	for feature, on := range map[string]bool{
		"sg": f.SG, "csum": f.Csum, "csum_ipv6": f.CsumIPv6,
		"gso_tcpv4": f.GSOv4, "gso_tcpv6": f.GSOv6, "split_channels": f.SplitChannels,
	} {
		e.value(e.vifFeature, flag(on), name, feature)
	}
	e.value(e.vifQueues, float64(len(d.Queues)), name)
	if d.MTU != 0 {
		e.value(e.vifMTU, float64(d.MTU), name)
	}
	e.shaping(name, d)
	e.value(e.vifUring, flag(d.NoUring == ""), name)
	e.value(e.vifGrants, float64(d.Grants), name)
	if l := d.Link; l != nil {
		for _, s := range []struct {
			f      family
			tx, rx uint64
		}{
			{e.tapPackets, l.TxPackets, l.RxPackets},
			{e.tapBytes, l.TxBytes, l.RxBytes},
			{e.tapErrors, l.TxErrors, l.RxErrors},
			{e.tapDrops, l.TxDropped, l.RxDropped},
		} {
			e.count(s.f, s.tx, name, "tx")
			e.count(s.f, s.rx, name, "rx")
		}
	}
}

// shaping sends how the guest's frames are held back.
func (e emitter) shaping(name string, d *control.Device) {
	for _, m := range []control.ShapingMode{control.ShapingOff, control.ShapingOpen, control.ShapingRate, control.ShapingMeasured, control.ShapingRefused} {
		e.value(e.vifShaping, flag(d.Shaping.Mode == m), name, string(m))
	}
	e.value(e.vifRateLimit, float64(d.Shaping.Limit), name)
	for i, q := range d.Queues {
		rate := uint64(0)
		if i < len(d.Shaping.Rates) && d.Shaping.Rates[i] < tap.MaxShapeRate {
			rate = d.Shaping.Rates[i]
		}
		e.value(e.queueRate, float64(rate), name, strconv.Itoa(q.Number), "tx")
	}
}

// byKey sends one series for each key: the known ones, and any other that is there.
func (e emitter) byKey(f family, values map[string]uint64, known []string, labels ...string) {
	series := make(map[string]uint64, len(known))
	for _, k := range known {
		series[k] = 0
	}
	for k, v := range values {
		series[k] = v
	}
	for k, v := range series {
		e.count(f, v, append(append([]string(nil), labels...), label(k))...)
	}
}
