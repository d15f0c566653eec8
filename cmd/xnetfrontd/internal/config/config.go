// Package config is what xnetfrontd is told to do: the configuration file, its
// defaults and its checks. Every error is one line which names the file and line,
// the key, the value and what is expected there.
package config

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// DefaultPath is where `run` and `check` look for a file when they are told nothing.
const DefaultPath = "/etc/xnetfrontd/xnetfrontd.toml"

// DefaultControl is the path of the control socket when nothing else is said.
const DefaultControl = "/run/xnetfrontd/control.sock"

// DefaultMetrics is the path of the metrics' socket when nothing else is said.
const DefaultMetrics = "/run/xnetfrontd/metrics.sock"

// Limits of the values. The upper ends are those of the interfaces below: xenstore's
// 16-bit handle, what `tap` takes as an MTU, and netback's queues.
const (
	MaxDevID      = 0xffff
	MaxQueues     = 64
	MinMTU        = 68
	MaxMTU        = tap.MaxMTU
	MaxTxQueueLen = 100000
	maxSocketPath = 107
)

// Config is a whole run.
type Config struct {
	Control string // path of the control socket
	Log     Log
	Metrics Metrics
	Vifs    []Vif // at least one, each selector and each TAP name once
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // auto (console on a terminal, journal where stderr is journald's, else json), console, json, journal
}

// Metrics says where the daemon's figures can be had over HTTP.
type Metrics struct {
	Socket string // path of a unix socket; empty: none
	Listen string // host and port of a TCP socket, as net.Listen takes them; empty: none
}

// Vif is one [[vif]] table: which vifs it is about, and how each of them is served.
type Vif struct {
	Match      Selector
	TAP        string        // name of the TAP; see TAPName
	Keep       time.Duration // how long a TAP outlives its vif; Forever
	Queues     int           // 0: one for each CPU, at most 8
	MTU        int           // bytes; 0: what the toolstack says, else 1500
	TxQueueLen int           // frames the TAP queues before it drops; 0: the default
	Disable    []string      // features that are not negotiated; names from [Features]
}

// Forever keeps a TAP as long as the daemon runs.
const Forever time.Duration = -1

// keepUnnamed is how long the TAP of a vif stays that nobody has named in the
// configuration: as long as a driver domain takes to start again, and not for ever,
// since the vif may never come back.
const keepUnnamed = 5 * time.Minute

// number stands for the vif's number in the name of a TAP.
const number = "%d"

// TAPName is the name of the TAP of vif devid.
func (v *Vif) TAPName(devid int) string {
	return strings.Replace(v.TAP, number, strconv.Itoa(devid), 1)
}

// SameAs tells whether a vif that is served by v can go on when it is served by o: its
// connection would be the same. The names of the TAPs are not looked at.
func (v *Vif) SameAs(o *Vif) bool {
	return v.Queues == o.Queues && v.MTU == o.MTU && v.TxQueueLen == o.TxQueueLen && slices.Equal(v.Disable, o.Disable)
}

// For returns the table by which a vif is served, if there is one: that which has its
// number, else that with its address, else that for all.
func (c *Config) For(devid int, mac net.HardwareAddr) (v Vif, ok bool) {
	for _, t := range c.Vifs {
		if t.Match.Matches(devid, mac) && (!ok || t.Match.by < v.Match.by) {
			v, ok = t, true
		}
	}
	return v, ok
}

// Names tells whether a table is about the vif with this number.
func (c *Config) Names(devid int) bool {
	return slices.ContainsFunc(c.Vifs, func(v Vif) bool { return v.Match == SelectDevID(devid) })
}

// Features returns the names that `disable` takes: frames in several slots, checksum
// offload for IPv4 and for IPv6, TCP segmentation offload over each, and an event
// channel for each direction. `status` calls them the same.
func Features() []string {
	return []string{"sg", "csum", "csum_ipv6", "gso_tcpv4", "gso_tcpv6", "split_channels"}
}

func logLevels() []string { return []string{"debug", "info", "warn", "error"} }

func logFormats() []string { return []string{"auto", "console", "json", "journal"} }

// socketPath tells whether a unix socket can have this path: unix(7) has room for 108
// bytes with the NUL.
func socketPath(path string) bool {
	return filepath.IsAbs(path) && len(path) <= maxSocketPath && !strings.ContainsRune(path, 0)
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
	v := Vif{Match: match, TAP: "xnf" + number, Keep: Forever}
	if match.All() {
		v.Keep = keepUnnamed
	}
	if devid, ok := match.DevID(); ok {
		v.TAP = v.TAPName(devid)
	}
	return v
}

// Expectations, by key as the file spells it. They end every complaint.
var expected = map[string]string{
	"control":        fmt.Sprintf("an absolute path of at most %d bytes, such as %q", maxSocketPath, DefaultControl),
	"log":            "a table with the keys level, format",
	"log.level":      "one of " + strings.Join(logLevels(), ", "),
	"log.format":     "one of " + strings.Join(logFormats(), ", "),
	"metrics":        "a table with the keys socket, listen",
	"metrics.socket": fmt.Sprintf("an absolute path of at most %d bytes, such as %q, or \"\" for none", maxSocketPath, DefaultMetrics),
	"metrics.listen": "an address and a port such as \"127.0.0.1:9797\" or \":9797\", or \"\" for none",
	"vif":            "one [[vif]] table for each interface to serve",
	"vif.devid":      fmt.Sprintf("a whole number from 0 to %d, or %q for every vif", MaxDevID, Everything),
	"vif.mac":        "an Ethernet address such as \"00:16:3e:01:02:03\"",
	"vif.tap":        "an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces, the vif's number (up to 5 digits) put in for a %d",
	"vif.keep":       "a time such as \"90s\" or \"5m\", or \"forever\"",
	"vif.queues":     fmt.Sprintf("a whole number from 0 (one for each CPU) to %d", MaxQueues),
	"vif.mtu":        fmt.Sprintf("0 (what the toolstack says) or a whole number from %d to %d", MinMTU, MaxMTU),
	"vif.txqueuelen": fmt.Sprintf("a whole number from 0 (the default) to %d", MaxTxQueueLen),
	"vif.disable":    "a list of feature names out of " + strings.Join(Features(), ", "),
}

// Problem is a value that cannot be used.
type Problem struct {
	Vif   int    // index of the [[vif]] table, -1 when the key is in none
	Key   string // as the file spells it, vif.mtu
	Value string // as it was given, "" when it was not
	Want  string // what is expected instead
}

func (p *Problem) Error() string {
	if p.Value == "" {
		return fmt.Sprintf("%s is missing: expected %s", p.Key, p.Want)
	}
	return fmt.Sprintf("%s = %s: expected %s", p.Key, p.Value, p.Want)
}

// Validate checks every value and returns a *Problem for the first that is wrong.
func (c *Config) Validate() error {
	wrong := func(key, value string) error {
		return &Problem{Vif: -1, Key: key, Value: value, Want: expected[key]}
	}
	if !socketPath(c.Control) {
		return wrong("control", fmt.Sprintf("%q", c.Control))
	}
	if !slices.Contains(logLevels(), c.Log.Level) {
		return wrong("log.level", fmt.Sprintf("%q", c.Log.Level))
	}
	if !slices.Contains(logFormats(), c.Log.Format) {
		return wrong("log.format", fmt.Sprintf("%q", c.Log.Format))
	}
	if c.Metrics.Socket != "" && !socketPath(c.Metrics.Socket) {
		return wrong("metrics.socket", fmt.Sprintf("%q", c.Metrics.Socket))
	}
	if c.Metrics.Listen != "" && !listenAddress(c.Metrics.Listen) {
		return wrong("metrics.listen", fmt.Sprintf("%q", c.Metrics.Listen))
	}
	if len(c.Vifs) == 0 {
		return wrong("vif", "")
	}
	for i := range c.Vifs {
		if err := c.validateVif(i); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) validateVif(i int) error {
	v := &c.Vifs[i]
	wrong := func(key, value string) error {
		return &Problem{Vif: i, Key: key, Value: value, Want: expected[key]}
	}
	for _, n := range []struct {
		key           string
		val, min, max int
	}{
		{"vif.queues", v.Queues, 0, MaxQueues},
		{"vif.txqueuelen", v.TxQueueLen, 0, MaxTxQueueLen},
	} {
		if n.val < n.min || n.val > n.max {
			return wrong(n.key, fmt.Sprint(n.val))
		}
	}
	if v.MTU != 0 && (v.MTU < MinMTU || v.MTU > MaxMTU) {
		return wrong("vif.mtu", fmt.Sprint(v.MTU))
	}
	longest, named := v.Match.DevID()
	if !named {
		longest = MaxDevID
	}
	if tap.CheckName(v.TAPName(longest), false) != nil {
		return wrong("vif.tap", fmt.Sprintf("%q (%d bytes)", v.TAP, len(v.TAP)))
	}
	if v.Match.All() && !strings.Contains(v.TAP, number) {
		return &Problem{i, "vif.tap", fmt.Sprintf("%q", v.TAP), "a name with %d for the vif's number, since the table is for every vif"}
	}
	for _, f := range v.Disable {
		if !slices.Contains(Features(), f) {
			return wrong("vif.disable", fmt.Sprintf("%q", f))
		}
	}
	for _, before := range c.Vifs[:i] {
		if before.Match == v.Match {
			return &Problem{i, matchKey(v.Match), v.Match.String(), "each vif once, and this one is in an earlier [[vif]] table"}
		}
		if before.TAP == v.TAP && !strings.Contains(v.TAP, number) {
			return &Problem{i, "vif.tap", fmt.Sprintf("%q", v.TAP), "each TAP name once, and this one is in an earlier [[vif]] table"}
		}
	}
	return nil
}

// matchKey is the key by which a table selects its vif.
func matchKey(s Selector) string {
	if s.by == byMAC {
		return "vif.mac"
	}
	return "vif.devid"
}
