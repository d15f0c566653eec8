package daemon

import (
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// The driver's status and dump as the control socket's types, which do not need the driver.
// The compiler compares the fields of flat structs, and TestWireTypesCarryAllOfTheDrivers
// those of the others.

// wireDevice is a driver's status on the control socket.
func wireDevice(s *netfront.Status) *control.Device {
	d := &control.Device{
		DevID: s.DevID, TAP: s.TAP, IfIndex: s.IfIndex, NetNS: s.NetNS, LinkUp: s.LinkUp, MAC: s.MAC, LinkMAC: s.LinkMAC, MTU: s.MTU,
		State: s.State, Since: s.Since, Reason: s.Reason, Off: s.Off, Violations: s.Violations, Awaits: s.Awaits,
		Backend: s.Backend, BackendDomID: s.BackendDomID, BackendState: s.BackendState, BackendSince: s.BackendSince, Disabled: s.Disabled,
		Connects: s.Connects, TakenOver: s.TakenOver, Ended: s.Ended, Features: control.Features(s.Features), Missing: s.Missing,
		Queues: wireList(s.Queues, wireQueue), Totals: wireList(s.Totals, func(t *netfront.QueueTotals) control.Totals { return control.Totals(*t) }),
		Stations: s.Stations, Announcing: s.Announcing, Grants: s.Grants, GrantLimit: s.GrantLimit, Link: (*control.LinkCounters)(s.Link),
		Shaping: control.Shaping{
			Mode: control.ShapingMode(s.Shaping.Mode), Reason: s.Shaping.Reason, Limit: s.Shaping.Limit, Rates: s.Shaping.Rates, Pushes: s.Shaping.Pushes,
		},
		MTURefused: s.MTURefused, Reported: s.Reported, NoUring: s.NoUring,
	}
	return d
}

func wireQueue(q *netfront.QueueStatus) control.Queue {
	w := &q.Wait
	return control.Queue{
		Number: q.Number, Tx: wireDirection(&q.Tx), Rx: wireDirection(&q.Rx),
		Wait: control.Wait{Qdisc: wireQdisc(w.Qdisc), QdiscSeconds: w.QdiscSeconds, RingBytes: w.RingBytes, RingSeconds: w.RingSeconds, Carried: w.Carried},
	}
}

func wireDirection(d *netfront.DirectionStatus) control.Direction {
	return control.Direction{Counters: d.Counters, Maps: control.MapCounts(d.Maps), Ring: d.Ring, OldestInFlight: d.OldestInFlight}
}

func wireQdisc(s *tap.Shaper) *control.Qdisc {
	if s == nil {
		return nil
	}
	return &control.Qdisc{Kind: s.Kind, Frames: s.Frames, Bytes: s.Bytes, Dropped: s.Dropped, Marked: s.Marked}
}

// wireDump is a driver's dump on the control socket.
func wireDump(d *netfront.Dump) *control.Dump {
	if d == nil {
		return nil
	}
	return &control.Dump{
		DevID: d.DevID, TAP: d.TAP, State: d.State, BackendState: d.BackendState, Taken: d.Taken,
		Queues: wireList(d.Queues, func(q *netfront.QueueDump) control.QueueDump {
			return control.QueueDump{Number: q.Number, Tx: wireRing(q.Tx), Rx: wireRing(q.Rx), Problem: q.Problem}
		}),
	}
}

func wireRing(r *netfront.RingDump) *control.RingDump {
	if r == nil {
		return nil
	}
	return &control.RingDump{
		Ref: r.Ref, Port: r.Port, Masked: r.Masked, Size: r.Size, Shared: r.Shared, ReqProd: r.ReqProd, Published: r.Published, RspCons: r.RspCons,
		Maps: control.MapCounts(r.Maps), Waiting: r.Waiting, Partial: r.Partial, Responses: r.Responses,
		InFlight: wireList(r.InFlight, func(f *netfront.InFlight) control.InFlight { return control.InFlight(*f) }),
	}
}

// wireList converts a list. It keeps nil, which is null in JSON.
func wireList[From, To any](list []From, convert func(*From) To) []To {
	if list == nil {
		return nil
	}
	converted := make([]To, len(list))
	for i := range list {
		converted[i] = convert(&list[i])
	}
	return converted
}
