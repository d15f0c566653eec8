// Package config is the configuration of xnetfrontd: the file and its drop-ins, the defaults,
// the checks, and where each value comes from. Every error is one line. It names the file and
// line, the key, the value, and what is expected.
package config

import (
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// DefaultPath is the file of `run` and `check` without --config.
const DefaultPath = "/etc/xnetfrontd/xnetfrontd.toml"

// DefaultControl is the path of the control socket if the configuration names no other.
const DefaultControl = "/run/xnetfrontd/control.sock"

// DefaultMetrics is the path of the metrics' socket if the configuration names no other.
const DefaultMetrics = "/run/xnetfrontd/metrics.sock"

// Limits of the values. The maxima come from the interfaces below: xenstore's 16-bit handle,
// the MTUs that package tap takes, and netback's queues.
const (
	MaxDevID      = 0xffff
	MaxQueues     = 64
	MinMTU        = 68
	MaxMTU        = tap.MaxMTU
	MaxTxQueueLen = 100000
	MaxViolations = 1000000
	maxSocketPath = 107
)

// Config is the configuration of one daemon.
type Config struct {
	Control string // path of the control socket
	Log     Log
	Metrics Metrics
	Vifs    []Vif // at least one, each selector and each TAP name once
}

// Log says which lines the log has, and in which format.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // console, json, journal, or auto: console on a terminal, journal where stderr is journald's, else json
}

// Metrics says where the daemon serves its metrics over HTTP.
type Metrics struct {
	Socket string // path of a unix socket; empty: none
	Listen string // host and port of a TCP socket, as net.Listen takes them; empty: none
}

// Vif is one [[vif]] table: which vifs it selects, and how the daemon serves each of them.
type Vif struct {
	Match      Selector
	TAP        string        // name of the TAP; see TAPName
	Keep       time.Duration // how long a TAP outlives its vif; Forever
	Stop       string        // what a stop of the daemon does with the vif: StopAuto, ...
	Report     string        // whether the toolstack is told the TAP's addresses: ReportAuto, ...
	Queues     int           // 0: one for each CPU, at most 8
	MTU        int           // bytes; 0: what the toolstack says, else 1500
	TxQueueLen int           // frames the TAP queues before it drops; 0: the default
	Shaping    string        // whether frames wait in the qdisc for a slow backend: auto, off
	Violations int           // of the protocol by the backend, after which the vif is off; 0: never
	Disable    []string      // features that are not negotiated; names from [Features]
}

// Forever keeps a TAP as long as the daemon runs.
const Forever time.Duration = -1

// What a stop of the daemon does with a vif. It closes the vif, or leaves it with the holder,
// as a restart does. Some backends remove a vif when its frontend closes: auto leaves a vif
// whose backend is known to do so.
const (
	StopAuto   = "auto"
	StopCloses = "close"
	StopLeaves = "leave"
)

// Whether the daemon reports the TAP's addresses to the toolstack. Auto does so where the
// toolstack is XAPI.
const (
	ReportAuto   = "auto"
	ReportAlways = "always"
	ReportNever  = "never"
)

// keepUnnamed is how long a TAP outlives its vif if the configuration does not name the vif. A
// driver domain starts again in that time. The TAP does not stay for ever, since the vif may
// never come back.
const keepUnnamed = 5 * time.Minute

// number stands for the vif's number in the name of a TAP.
const number = "%d"

// TAPName is the name of the TAP of vif devid.
func (v *Vif) TAPName(devid int) string {
	return strings.Replace(v.TAP, number, strconv.Itoa(devid), 1)
}

// fixedTAP is the name of the TAP, if a vif of any number has the same; else it has a %d.
func (v *Vif) fixedTAP() string {
	if devid, ok := v.Match.DevID(); ok {
		return v.TAPName(devid)
	}
	return v.TAP
}

// SameAs tells whether a vif can go on when its table changes from v to o, since its
// connection would be the same. It does not compare the names of the TAPs.
func (v *Vif) SameAs(o *Vif) bool {
	return v.Queues == o.Queues && v.MTU == o.MTU && v.TxQueueLen == o.TxQueueLen && v.Shaping == o.Shaping && sameSet(v.Disable, o.Disable)
}

func sameSet(a, b []string) bool {
	notIn := func(set []string) func(string) bool {
		return func(s string) bool { return !slices.Contains(set, s) }
	}
	return !slices.ContainsFunc(a, notIn(b)) && !slices.ContainsFunc(b, notIn(a))
}

// For returns the table for a vif, if there is one: the table with its number, else the one
// with its address, else the one for all.
func (c *Config) For(devid int, mac net.HardwareAddr) (v Vif, ok bool) {
	for _, t := range c.Vifs {
		if t.Match.Matches(devid, mac) && (!ok || t.Match.by < v.Match.by) {
			v, ok = t, true
		}
	}
	return v, ok
}

// Names tells whether a table names the vif with this number.
func (c *Config) Names(devid int) bool {
	return slices.ContainsFunc(c.Vifs, func(v Vif) bool { return v.Match == SelectDevID(devid) })
}

// Features returns the names that `disable` takes: frames in several slots, checksum
// offload for IPv4 and for IPv6, TCP segmentation offload over each, and an event
// channel for each direction. `status` calls them the same.
func Features() []string {
	return []string{"sg", "csum", "csum_ipv6", "gso_tcpv4", "gso_tcpv6", "split_channels"}
}

// The values of `shaping`.
const (
	ShapingAuto = "auto"
	ShapingOff  = "off"
)

func logLevels() []string { return []string{"debug", "info", "warn", "error"} }

func logFormats() []string { return []string{"auto", "console", "json", "journal"} }

// socketPath tells whether a unix socket can have this path: unix(7) has room for 108
// bytes with the NUL.
func socketPath(path string) bool {
	return filepath.IsAbs(path) && len(path) <= maxSocketPath && !strings.ContainsRune(path, 0) && utf8.ValidString(path)
}

// listenAddress tells whether text is a host, which may be empty, and a port's number.
func listenAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil || strings.ContainsAny(host, "/ \t\r\n\x00") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// Default is the configuration that an empty file stands for, without a vif.
func Default() Config {
	return Config{
		Control: DefaultControl,
		Log:     Log{Level: "info", Format: "auto"},
		Metrics: Metrics{Socket: DefaultMetrics},
	}
}

// NewVif is a table with every default.
func NewVif(match Selector) Vif {
	v := Vif{Match: match, TAP: "xnf" + number, Keep: Forever, Shaping: ShapingAuto, Violations: netfront.DefaultMaxViolations, Stop: StopAuto, Report: ReportAuto}
	if match.All() {
		v.Keep = keepUnnamed
	}
	if devid, ok := match.DevID(); ok {
		v.TAP = v.TAPName(devid)
	}
	return v
}

// matchKey is the key by which a table selects its vif.
func matchKey(s Selector) string {
	if s.by == byMAC {
		return keyMAC
	}
	return keyDevID
}
