// Package config is what xnetfrontd is told to do: the configuration file, its
// defaults and its checks. Every error is one line which names the file and line,
// the key, the value and what is expected there.
package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// DefaultPath is where `run` and `check` look for a file when they are told nothing.
const DefaultPath = "/etc/xnetfrontd/xnetfrontd.toml"

// DefaultControl is the path of the control socket when nothing else is said.
const DefaultControl = "/run/xnetfrontd/control.sock"

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
	Vifs    []Vif // at least one, each devid and each TAP name once
}

// Log says what is logged and how.
type Log struct {
	Level  string // debug, info, warn, error
	Format string // auto (console on a terminal, else json), console, json
}

// Vif is one network interface to serve.
type Vif struct {
	DevID      int
	TAP        string   // name of the TAP
	Queues     int      // 0: one for each CPU, at most 8
	MTU        int      // bytes; 0: what the toolstack says, else 1500
	TxQueueLen int      // frames the TAP queues before it drops; 0: the default
	Disable    []string // features that are not negotiated; names from [Features]
}

// Features returns the names that `disable` takes: frames in several slots, checksum
// offload for IPv4 and for IPv6, TCP segmentation offload over each, and an event
// channel for each direction. `status` calls them the same.
func Features() []string {
	return []string{"sg", "csum", "csum_ipv6", "gso_tcpv4", "gso_tcpv6", "split_channels"}
}

// Default is the configuration that an empty file stands for, without a vif.
func Default() Config {
	return Config{Control: DefaultControl, Log: Log{Level: "info", Format: "auto"}}
}

// NewVif is a vif with every default.
func NewVif(devid int) Vif { return Vif{DevID: devid, TAP: fmt.Sprintf("xnf%d", devid)} }

// Expectations, by key as the file spells it. They end every complaint.
var expected = map[string]string{
	"control":        fmt.Sprintf("an absolute path of at most %d bytes, such as %q", maxSocketPath, DefaultControl),
	"log":            "a table with the keys level, format",
	"log.level":      "one of debug, info, warn, error",
	"log.format":     "one of auto, console, json",
	"vif":            "one [[vif]] table for each interface to serve",
	"vif.devid":      fmt.Sprintf("a whole number from 0 to %d", MaxDevID),
	"vif.tap":        "an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces",
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
	if !filepath.IsAbs(c.Control) || len(c.Control) > maxSocketPath {
		return wrong("control", fmt.Sprintf("%q", c.Control))
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		return wrong("log.level", fmt.Sprintf("%q", c.Log.Level))
	}
	if !slices.Contains([]string{"auto", "console", "json"}, c.Log.Format) {
		return wrong("log.format", fmt.Sprintf("%q", c.Log.Format))
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
		{"vif.devid", v.DevID, 0, MaxDevID},
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
	if tap.CheckName(v.TAP, false) != nil {
		return wrong("vif.tap", fmt.Sprintf("%q (%d bytes)", v.TAP, len(v.TAP)))
	}
	for _, f := range v.Disable {
		if !slices.Contains(Features(), f) {
			return wrong("vif.disable", fmt.Sprintf("%q", f))
		}
	}
	for _, before := range c.Vifs[:i] {
		if before.DevID == v.DevID {
			return &Problem{i, "vif.devid", fmt.Sprint(v.DevID), "each vif once, and this one is in an earlier [[vif]] table"}
		}
		if before.TAP == v.TAP {
			return &Problem{i, "vif.tap", fmt.Sprintf("%q", v.TAP), "each TAP name once, and this one is in an earlier [[vif]] table"}
		}
	}
	return nil
}
