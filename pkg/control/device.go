package control

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// Device is a vif's TAP and its connection to the backend, at one moment.
type Device struct {
	DevID        int               `json:"devid"`
	TAP          string            `json:"tap"`                  // its present name: an administrator may have renamed it
	IfIndex      int               `json:"ifindex"`              // in its network namespace
	NetNS        string            `json:"netns,omitempty"`      // the TAP's network namespace, if it was moved: its name, or net:[inode]
	LinkUp       bool              `json:"link_up"`              // the TAP is up; an administrator may have set it down
	MAC          string            `json:"mac"`                  // the vif's
	LinkMAC      string            `json:"link_mac,omitempty"`   // the TAP's, if it has another
	MTU          int               `json:"mtu"`                  // the TAP's present one; 0: not known
	State        string            `json:"state"`                // the frontend's, as xenbus names it
	Since        time.Time         `json:"since"`                // of State
	Reason       string            `json:"reason"`               // why the last connection ended, or why there is none
	Off          string            `json:"off,omitempty"`        // why the daemon tries nothing with the backend any more, until [Client.Retry]; empty: it does
	Violations   int               `json:"violations"`           // of the protocol, by the backend's domain, as far as they count against it
	Awaits       string            `json:"awaits,omitempty"`     // what the backend lacks, if the daemon waits for that without an end
	Backend      string            `json:"backend"`              // path of its directory
	BackendDomID uint16            `json:"backend_domid"`        //
	BackendState string            `json:"backend_state"`        // as xenbus names it
	BackendSince time.Time         `json:"backend_since"`        // of BackendState, as far as the daemon saw it
	Disabled     bool              `json:"disabled"`             // the toolstack has disabled the vif: no carrier
	Connects     uint64            `json:"connects"`             // connections since the start, rebinds of the backend among them
	TakenOver    bool              `json:"taken_over"`           // an earlier process began the present connection
	Ended        map[string]uint64 `json:"ended,omitempty"`      // connections that ended, by cause
	Features     Features          `json:"features"`             // that were negotiated
	Missing      map[string]string `json:"missing,omitempty"`    // feature: why it is not there
	Queues       []Queue           `json:"queues"`               // of the present connection
	Totals       []Totals          `json:"totals"`               // of every queue that there has been
	Stations     []string          `json:"stations,omitempty"`   // what is behind the TAP: MAC addresses, with VLAN and IP addresses; the first 64
	Announcing   int               `json:"announcing,omitempty"` // announcements of these that are still to be repeated
	Grants       int               `json:"grants"`               // pages that this device has granted, those for its next connection among them
	GrantLimit   int               `json:"grant_limit"`          // pages that the whole guest may grant; 0: not known
	Link         *LinkCounters     `json:"link,omitempty"`       // what the kernel counts on the TAP
	Shaping      Shaping           `json:"shaping"`              // how the guest's frames are held back
	// MTURefused is why the toolstack's MTU cannot be used, if so.
	MTURefused string `json:"mtu_refused,omitempty"`
	// Reported are the addresses that the daemon has reported to the toolstack.
	Reported []string `json:"reported_addresses,omitempty"`
	// NoUring is why frames go to and from the TAP without io_uring; empty: with it.
	NoUring string `json:"no_io_uring,omitempty"`
}

// Features are what frontend and backend can agree on.
type Features struct {
	SG            bool `json:"sg"`             // frames of several slots, both ways
	Csum          bool `json:"csum"`           // IPv4 TCP and UDP frames with blank checksums, both ways
	CsumIPv6      bool `json:"csum_ipv6"`      // the same for IPv6
	GSOv4         bool `json:"gso_tcpv4"`      // TCP over IPv4 super-frames, both ways
	GSOv6         bool `json:"gso_tcpv6"`      // TCP over IPv6 super-frames, both ways
	SplitChannels bool `json:"split_channels"` // an event channel for each direction
}

// Names lists the features that are true, by the names that the configuration's `disable`
// has for them.
func (f Features) Names() []string {
	var names []string
	for _, x := range []struct {
		there bool
		name  string
	}{
		{f.SG, "sg"}, {f.Csum, "csum"}, {f.CsumIPv6, "csum_ipv6"},
		{f.GSOv4, "gso_tcpv4"}, {f.GSOv6, "gso_tcpv6"}, {f.SplitChannels, "split_channels"},
	} {
		if x.there {
			names = append(names, x.name)
		}
	}
	return names
}

// LinkCounters are what the kernel counts on a TAP. Rx is from the daemon to the kernel, and
// Tx from the kernel to the daemon.
type LinkCounters struct {
	RxPackets uint64 `json:"rx_packets"`
	RxBytes   uint64 `json:"rx_bytes"`
	RxErrors  uint64 `json:"rx_errors"`
	RxDropped uint64 `json:"rx_dropped"`
	TxPackets uint64 `json:"tx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxErrors  uint64 `json:"tx_errors"`
	// TxDropped counts frames for which a queue had no room, or that met no queue.
	TxDropped uint64 `json:"tx_dropped"`
}

// ShapingMode says whether the guest's frames are held back in its queueing discipline.
type ShapingMode string

// The modes of shaping.
const (
	ShapingOff      ShapingMode = "off"      // the configuration has switched it off
	ShapingOpen     ShapingMode = "open"     // nothing is held back: there is no limit, and the backend is fast
	ShapingRate     ShapingMode = "rate"     // to the backend's own limit
	ShapingMeasured ShapingMode = "measured" // to the rate of a slow backend
	ShapingRefused  ShapingMode = "refused"  // it cannot be done; Reason says why
)

// Shaping is how a vif's frames are held back.
type Shaping struct {
	Mode   ShapingMode `json:"mode"`
	Reason string      `json:"reason,omitempty"`       // of ShapingRefused
	Limit  uint64      `json:"limit_bytes_per_second"` // of the backend, for each queue; 0: none
	Rates  []uint64    `json:"rates_bytes_per_second"` // of each queue; empty: nothing is held back
	Pushes bool        `json:"tap_stops_when_full"`    // a full TAP stops the queueing discipline, instead of dropping
}

// Queue is one queue pair.
type Queue struct {
	Number int       `json:"number"`
	Tx     Direction `json:"tx"`   // from the TAP to the ring
	Rx     Direction `json:"rx"`   // from the ring to the TAP
	Wait   Wait      `json:"wait"` // of frames from the guest
}

// Direction is a queue pair's one direction.
type Direction struct {
	Counters map[string]uint64 `json:"counters"` // those that are not zero
	Maps     MapCounts         `json:"maps"`
	Ring     ring.Header       `json:"ring"` // the shared words at this moment
	// OldestInFlight is for how many seconds the backend has had the oldest request without
	// an answer, to a second. It is of tx only: rx buffers wait for frames.
	OldestInFlight uint32 `json:"oldest_in_flight_seconds,omitempty"`
}

// MapCounts are the numbers of a pool's maps by their state. Each map is in exactly one: the
// first four add up to Created.
type MapCounts struct {
	Free        uint32 `json:"free"`
	Loaded      uint32 `json:"loaded"`
	InFlight    uint32 `json:"in_flight"`
	Quarantined uint32 `json:"quarantined"`
	Created     uint32 `json:"created"`
}

// Wait is where frames on their way from the guest wait, and about how long, by the rate that
// the queue has had lately. The times are 0 while it carries nothing.
type Wait struct {
	// Qdisc is the guest's queueing discipline; nil: the queue has none of its own.
	Qdisc        *Qdisc  `json:"qdisc,omitempty"`
	QdiscSeconds float64 `json:"qdisc_seconds"`
	RingBytes    uint32  `json:"ring_bytes"` // with the backend
	RingSeconds  float64 `json:"ring_seconds"`
	Carried      uint64  `json:"carried_bytes_per_second"`
}

// Qdisc is the kernel's queueing discipline of one queue.
type Qdisc struct {
	Kind    string // the discipline in which frames wait
	Frames  uint32 `json:"frames"`  // that wait; a super-frame is one
	Bytes   uint32 `json:"bytes"`   // that wait, as the kernel counts them: with the headers of each segment
	Dropped uint32 `json:"dropped"` // frames
	Marked  uint32 `json:"marked"`  // frames with Congestion Experienced set, of fq_codel
}

// Totals are a queue pair's counters over all connections since the TAP was made: they never
// go back. Counters that are zero are left out.
type Totals struct {
	Number int               `json:"number"`
	Tx     map[string]uint64 `json:"tx"`
	Rx     map[string]uint64 `json:"rx"`
}
