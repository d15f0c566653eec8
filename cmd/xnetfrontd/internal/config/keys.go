package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

// key is a key of a configuration file that sets something in a T: a [Config] or a
// [Vif].
type key[T any] struct {
	name string // vif.mtu
	want string // what is expected as its value; ends every complaint
	// set takes over a value, and reports whether it is of the right type.
	set func(t *T, v value) bool
	// wrong returns the value, as the user gets to see it, if it is out of range. Its want, if
	// not empty, replaces the key's own.
	wrong func(t *T) (shown, want string)
	// text is the value as TOML, on one line. It is valid JSON, too.
	text func(t *T) string
}

// topKeys are the keys outside of [[vif]] tables, in the order in which they are shown.
var topKeys = []key[Config]{
	stringKey("control", fmt.Sprintf("an absolute path of at most %d bytes, such as %q", maxSocketPath, DefaultControl),
		func(c *Config) *string { return &c.Control }, socketPath),
	stringKey("log.level", "one of "+strings.Join(logLevels(), ", "),
		func(c *Config) *string { return &c.Log.Level },
		func(s string) bool { return slices.Contains(logLevels(), s) }),
	stringKey("log.format", "one of "+strings.Join(logFormats(), ", "),
		func(c *Config) *string { return &c.Log.Format },
		func(s string) bool { return slices.Contains(logFormats(), s) }),
	stringKey("metrics.socket", fmt.Sprintf("an absolute path of at most %d bytes, such as %q, or \"\" for none", maxSocketPath, DefaultMetrics),
		func(c *Config) *string { return &c.Metrics.Socket },
		func(s string) bool { return s == "" || socketPath(s) }),
	stringKey("metrics.listen", "an address and a port such as \"127.0.0.1:9797\" or \":9797\", or \"\" for none",
		func(c *Config) *string { return &c.Metrics.Listen },
		func(s string) bool { return s == "" || listenAddress(s) }),
}

// The keys that select a table's vif, and what is expected as their values.
const (
	keyDevID = "vif.devid"
	keyMAC   = "vif.mac"

	wantMAC = "an Ethernet address such as \"00:16:3e:01:02:03\""
	wantVif = "one [[vif]] table for each interface to serve"
)

var wantDevID = fmt.Sprintf("a whole number from 0 to %d, or %q for every vif", MaxDevID, Everything)

// vifKeys are the keys of a [[vif]] table besides those that select the vif.
var vifKeys = []key[Vif]{
	{
		name:  "vif.tap",
		want:  "an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces, the vif's number (up to 5 digits) put in for a %d",
		set:   func(v *Vif, val value) bool { v.TAP = val.text; return val.isString() },
		wrong: wrongTAP,
		text:  func(v *Vif) string { return quote(v.TAP) },
	},
	{
		name: "vif.keep",
		want: "a time such as \"90s\" or \"5m\", or \"forever\"",
		set:  setKeep,
		text: func(v *Vif) string { return quote(keepText(v.Keep)) },
	},
	stringKey("vif.stop", fmt.Sprintf("%q, %q or %q", StopAuto, StopCloses, StopLeaves),
		func(v *Vif) *string { return &v.Stop },
		func(s string) bool { return s == StopAuto || s == StopCloses || s == StopLeaves }),
	stringKey("vif.report_addresses", fmt.Sprintf("%q, %q or %q", ReportAuto, ReportAlways, ReportNever),
		func(v *Vif) *string { return &v.Report },
		func(s string) bool { return s == ReportAuto || s == ReportAlways || s == ReportNever }),
	intKey("vif.queues", fmt.Sprintf("a whole number from 0 (one for each CPU) to %d", MaxQueues),
		func(v *Vif) *int { return &v.Queues },
		func(n int) bool { return n >= 0 && n <= MaxQueues }),
	intKey("vif.mtu", fmt.Sprintf("0 (what the toolstack says) or a whole number from %d to %d", MinMTU, MaxMTU),
		func(v *Vif) *int { return &v.MTU },
		func(n int) bool { return n == 0 || n >= MinMTU && n <= MaxMTU }),
	intKey("vif.txqueuelen", fmt.Sprintf("a whole number from 0 (the default) to %d", MaxTxQueueLen),
		func(v *Vif) *int { return &v.TxQueueLen },
		func(n int) bool { return n >= 0 && n <= MaxTxQueueLen }),
	stringKey("vif.shaping", fmt.Sprintf("%q or %q", ShapingAuto, ShapingOff),
		func(v *Vif) *string { return &v.Shaping },
		func(s string) bool { return s == ShapingAuto || s == ShapingOff }),
	intKey("vif.violations", fmt.Sprintf("a whole number from 0 (the vif is never off) to %d", MaxViolations),
		func(v *Vif) *int { return &v.Violations },
		func(n int) bool { return n >= 0 && n <= MaxViolations }),
	{
		name:  "vif.disable",
		want:  "a list of feature names out of " + strings.Join(Features(), ", "),
		set:   setDisable,
		wrong: wrongDisable,
		text:  func(v *Vif) string { return quoteList(v.Disable) },
	},
}

func stringKey[T any](name, want string, at func(*T) *string, ok func(string) bool) key[T] {
	return key[T]{
		name: name, want: want,
		set: func(t *T, v value) bool { *at(t) = v.text; return v.isString() },
		wrong: func(t *T) (shown, want string) {
			if ok(*at(t)) {
				return "", ""
			}
			return printable(*at(t)), ""
		},
		text: func(t *T) string { return quote(*at(t)) },
	}
}

func intKey[T any](name, want string, at func(*T) *int, ok func(int) bool) key[T] {
	return key[T]{
		name: name, want: want,
		set: func(t *T, v value) bool {
			n, isInt := v.int()
			*at(t) = n
			return isInt
		},
		wrong: func(t *T) (shown, want string) {
			if ok(*at(t)) {
				return "", ""
			}
			return strconv.Itoa(*at(t)), ""
		},
		text: func(t *T) string { return strconv.Itoa(*at(t)) },
	}
}

func wrongTAP(v *Vif) (shown, want string) {
	longest, named := v.Match.DevID()
	if !named {
		longest = MaxDevID
	}
	if tap.CheckName(v.TAPName(longest), false) != nil {
		return fmt.Sprintf("%s (%d bytes)", printable(v.TAP), len(v.TAP)), ""
	}
	if v.Match.All() && !strings.Contains(v.TAP, number) {
		return printable(v.TAP), "a name with %d for the vif's number, since the table is for every vif"
	}
	return "", ""
}

const foreverText = "forever"

func setKeep(v *Vif, val value) bool {
	if val.text == foreverText {
		v.Keep = Forever
		return val.isString()
	}
	var err error
	v.Keep, err = time.ParseDuration(val.text)
	return err == nil && v.Keep >= 0 && val.isString()
}

func keepText(d time.Duration) string {
	if d == Forever {
		return foreverText
	}
	return d.String()
}

func setDisable(v *Vif, val value) bool {
	v.Disable = nil
	for _, e := range val.list {
		if !e.isString() {
			return false
		}
		v.Disable = append(v.Disable, e.text)
	}
	return val.isList()
}

func wrongDisable(v *Vif) (shown, want string) {
	for _, name := range v.Disable {
		if !slices.Contains(Features(), name) {
			return printable(name), ""
		}
	}
	return "", ""
}

// checkAll calls bad with the problem of each key whose value in t is out of range.
func checkAll[T any](keys []key[T], t *T, bad func(Problem)) {
	for _, k := range keys {
		if p, is := k.problem(t); is {
			bad(p)
		}
	}
}

// problem is the problem with the value in t, or nil.
func (k key[T]) problem(t *T) (p Problem, is bool) {
	if k.wrong == nil {
		return p, false
	}
	shown, want := k.wrong(t)
	if shown == "" {
		return p, false
	}
	if want == "" {
		want = k.want
	}
	return Problem{Key: k.name, Value: shown, Want: want}, true
}

// find returns the key of that name.
func find[T any](keys []key[T], name string) (k key[T], ok bool) {
	i := slices.IndexFunc(keys, func(k key[T]) bool { return k.name == name })
	if i < 0 {
		return k, false
	}
	return keys[i], true
}

// int is a whole number, if it is one and fits.
func (v value) int() (n int, ok bool) {
	if !v.isInteger() {
		return 0, false
	}
	i, err := strconv.ParseInt(v.text, 0, 64) // TOML writes 0x, 0o, 0b and _ as Go does
	return int(i), err == nil && i >= math.MinInt && i <= math.MaxInt
}

// allKeys are the names of all keys, as a file spells them.
var allKeys = slices.Concat(namesOf(topKeys), []string{keyDevID, keyMAC}, namesOf(vifKeys))

func namesOf[T any](keys []key[T]) []string {
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	return names
}

// keysOf are the keys in a table, or those outside of all, tables included.
func keysOf(table string) []string {
	var keys []string
	for _, name := range allKeys {
		first, rest, nested := strings.Cut(name, ".")
		switch {
		case table == "" && !slices.Contains(keys, first):
			keys = append(keys, first)
		case nested && first == table:
			keys = append(keys, rest)
		}
	}
	return keys
}

// wantTable is what is expected of a table other than [[vif]], or "" if there is none
// of that name.
func wantTable(name string) string {
	keys := keysOf(name)
	if name == "" || name == "vif" || len(keys) == 0 {
		return ""
	}
	return "a table with the keys " + strings.Join(keys, ", ")
}
