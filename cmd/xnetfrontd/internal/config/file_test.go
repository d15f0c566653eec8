package config

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, doc string) (Config, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.toml")
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Load(path)
	if err == nil {
		return l.Config, ""
	}
	return Config{}, strings.ReplaceAll(err.Error(), filepath.Dir(path)+"/", "")
}

func TestBadFileGetsOneLineWithPlaceKeyValueAndExpectation(t *testing.T) {
	features := "sg, csum, csum_ipv6, gso_tcpv4, gso_tcpv6, split_channels"
	for _, c := range []struct{ name, doc, want string }{
		{"empty file", "", "x.toml:1: vif is missing: expected one [[vif]] table for each interface to serve"},
		{"not TOML", "[[vif]\n", "x.toml:1: not TOML: expected ']]' to close array table name"},
		{"no value", "[[vif]]\ndevid =\n", "x.toml:2: not TOML: unexpected character U+000A at start of value"},
		{"key twice", "[[vif]]\ndevid = 1\ndevid = 2\n", "x.toml:3: not TOML: key devid is already defined"},
		{"unknown key at top", "\nfoo = 1\n", "x.toml:2: unknown key foo: expected one of control, log, metrics, vif at the top level"},
		{"unknown table", "[prometheus]\nport = 1\n", "x.toml:1: unknown key prometheus: expected one of control, log, metrics, vif at the top level"},
		{"key as a table", "[control]\nsocket = '/run/c.sock'\n", "x.toml:1: control = [control]: expected a value and not a table"},
		{"key in a table as a table", "[log.level]\nall = 'info'\n", "x.toml:1: log.level = [log.level]: expected a value and not a table"},
		{"unknown key in log", "[log]\nlvl = 'info'\n", "x.toml:2: unknown key log.lvl: expected one of level, format in [log]"},
		{"unknown key in vif", "[[vif]]\ndevid = 0\n\ntpa = 'x'\n", "x.toml:4: unknown key vif.tpa: expected one of devid, mac, tap, keep, stop, report_addresses, queues, mtu, txqueuelen, shaping, violations, disable in [vif]"},
		{"no devid", "[[vif]]\ndevid = 0\n[[vif]]\ntap = 'a'\n", "x.toml:3: vif.devid is missing: expected a whole number from 0 to 65535, or \"*\" for every vif; or mac with its address"},
		{"devid a string", "[[vif]]\ndevid = 'a' # c\n", "x.toml:2: vif.devid = a: expected a whole number from 0 to 65535, or \"*\" for every vif"},
		{"devid a float", "[[vif]]\ndevid = 1.5\n", "x.toml:2: vif.devid = 1.5: expected a whole number from 0 to 65535, or \"*\" for every vif"},
		{"devid huge", "[[vif]]\ndevid = 99999999999999999999\n", "x.toml:2: vif.devid = 99999999999999999999: expected a whole number from 0 to 65535, or \"*\" for every vif"},
		{"devid negative", "[[vif]]\ndevid = -1\n", "x.toml:2: vif.devid = -1: expected a whole number from 0 to 65535, or \"*\" for every vif"},
		{"devid another word", "[[vif]]\ndevid = 'all'\n", "x.toml:2: vif.devid = all: expected a whole number from 0 to 65535, or \"*\" for every vif"},
		{"devid an address", "[[vif]]\ndevid = '00:16:3e:00:00:01'\n", "x.toml:2: vif.devid = 00:16:3e:00:00:01: expected a whole number from 0 to 65535, or \"*\" for every vif"},
		{"devid and address", "[[vif]]\ndevid = 0\nmac = '00:16:3e:00:00:01'\n", "x.toml:3: vif.mac = \"00:16:3e:00:00:01\": expected either devid or mac in a [[vif]] table, not both"},
		{"address too short", "[[vif]]\nmac = '00:16:3e'\n", "x.toml:2: vif.mac = \"00:16:3e\": expected an Ethernet address such as \"00:16:3e:01:02:03\""},
		{"address of a group", "[[vif]]\nmac = '01:00:5e:00:00:01'\n", "x.toml:2: vif.mac = \"01:00:5e:00:00:01\": expected an Ethernet address such as \"00:16:3e:01:02:03\""},
		{"address a number", "[[vif]]\nmac = 16\n", "x.toml:2: vif.mac = 16: expected an Ethernet address such as \"00:16:3e:01:02:03\""},
		{"address twice, spelt otherwise", "[[vif]]\nmac = '00:16:3e:00:00:0a'\n[[vif]]\nmac = '00-16-3E-00-00-0A'\n", "x.toml:4: vif.mac = 00:16:3e:00:00:0a: expected each vif once, and this one is in an earlier [[vif]] table"},
		{"every vif twice", "[[vif]]\ndevid = '*'\n[[vif]]\ndevid = '*'\n", "x.toml:4: vif.devid = *: expected each vif once, and this one is in an earlier [[vif]] table"},
		{"one name for every vif", "[[vif]]\ndevid = '*'\ntap = 'wan'\n", "x.toml:3: vif.tap = \"wan\": expected a name with %d for the vif's number, since the table is for every vif"},
		{"name too long with the number", "[[vif]]\ndevid = '*'\ntap = 'eleven-byte%d'\n", "x.toml:3: vif.tap = \"eleven-byte%d\" (13 bytes): expected an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces, the vif's number (up to 5 digits) put in for a %d"},
		{"keep negative", "[[vif]]\ndevid = 0\nkeep = '-1s'\n", "x.toml:3: vif.keep = '-1s': expected a time such as \"90s\" or \"5m\", or \"forever\""},
		{"keep without unit", "[[vif]]\ndevid = 0\nkeep = '5'\n", "x.toml:3: vif.keep = '5': expected a time such as \"90s\" or \"5m\", or \"forever\""},
		{"keep a number", "[[vif]]\ndevid = 0\nkeep = 5\n", "x.toml:3: vif.keep = 5: expected a time such as \"90s\" or \"5m\", or \"forever\""},
		{"stop", "[[vif]]\ndevid = 0\nstop = 'hold'\n", "x.toml:3: vif.stop = \"hold\": expected \"auto\", \"close\" or \"leave\""},
		{"stop a number", "[[vif]]\ndevid = 0\nstop = 1\n", "x.toml:3: vif.stop = 1: expected \"auto\", \"close\" or \"leave\""},
		{"report", "[[vif]]\ndevid = 0\nreport_addresses = 'yes'\n", "x.toml:3: vif.report_addresses = \"yes\": expected \"auto\", \"always\" or \"never\""},
		{"devid twice", "[[vif]]\ndevid = 1\n[[vif]]\ntap='b'\ndevid = 1\n", "x.toml:5: vif.devid = 1: expected each vif once, and this one is in an earlier [[vif]] table"},
		{"tap twice", "[[vif]]\ndevid = 1\ntap='b'\n[[vif]]\ndevid = 2\ntap = 'b'\n", "x.toml:6: vif.tap = \"b\": expected each TAP name once, and this one is that of the [[vif]] table at x.toml:1"},
		{"tap too long", "[[vif]]\ndevid = 0\ntap = 'sixteen-bytes-16'\n", "x.toml:3: vif.tap = \"sixteen-bytes-16\" (16 bytes): expected an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces, the vif's number (up to 5 digits) put in for a %d"},
		{"tap with slash", "[[vif]]\ndevid = 0\ntap = 'a/b'\n", "x.toml:3: vif.tap = \"a/b\" (3 bytes): expected an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces, the vif's number (up to 5 digits) put in for a %d"},
		{"tap empty", "[[vif]]\ndevid = 0\ntap = ''\n", "x.toml:3: vif.tap = \"\" (0 bytes): expected an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces, the vif's number (up to 5 digits) put in for a %d"},
		{"queues", "[[vif]]\ndevid = 0\nqueues = 65\n", "x.toml:3: vif.queues = 65: expected a whole number from 0 (one for each CPU) to 64"},
		{"queues a bool", "[[vif]]\ndevid = 0\nqueues = true\n", "x.toml:3: vif.queues = true: expected a whole number from 0 (one for each CPU) to 64"},
		{"mtu", "[[vif]]\ndevid = 0\nmtu = 67\n", "x.toml:3: vif.mtu = 67: expected 0 (what the toolstack says) or a whole number from 68 to 65517"},
		{"txqueuelen", "[[vif]]\ndevid = 0\ntxqueuelen = -5\n", "x.toml:3: vif.txqueuelen = -5: expected a whole number from 0 (the default) to 100000"},
		{"feature", "[[vif]]\ndevid = 0\ndisable = ['sg',\n 'tso']\n", "x.toml:3: vif.disable = \"tso\": expected a list of feature names out of " + features},
		{"feature list", "[[vif]]\ndevid = 0\ndisable = 'sg'\n", "x.toml:3: vif.disable = 'sg': expected a list of feature names out of " + features},
		{"log level", "[log]\n\nlevel = 'loud'\n[[vif]]\ndevid=0\n", "x.toml:3: log.level = \"loud\": expected one of debug, info, warn, error"},
		{"log format inline", "log = {format = 'xml'}\n[[vif]]\ndevid=0\n", "x.toml:1: log.format = \"xml\": expected one of auto, console, json, journal"},
		{"control relative", "control = 'c.sock'\n[[vif]]\ndevid=0\n", "x.toml:1: control = \"c.sock\": expected an absolute path of at most 107 bytes, such as \"/run/xnetfrontd/control.sock\""},
		{"control a number", "control = 7\n", "x.toml:1: control = 7: expected an absolute path of at most 107 bytes, such as \"/run/xnetfrontd/control.sock\""},
		{"metrics relative", "[metrics]\nsocket = 'm.sock'\n", "x.toml:2: metrics.socket = \"m.sock\": expected an absolute path of at most 107 bytes, such as \"/run/xnetfrontd/metrics.sock\", or \"\" for none"},
		{"metrics without port", "[metrics]\nlisten = 'localhost'\n", "x.toml:2: metrics.listen = \"localhost\": expected an address and a port such as \"127.0.0.1:9797\" or \":9797\", or \"\" for none"},
		{"metrics port out of range", "[metrics]\nlisten = ':65536'\n", "x.toml:2: metrics.listen = \":65536\": expected an address and a port such as \"127.0.0.1:9797\" or \":9797\", or \"\" for none"},
		{"metrics unknown key", "[metrics]\nport = 1\n", "x.toml:2: unknown key metrics.port: expected one of socket, listen in [metrics]"},
		{"inline vif", "vif = [{devid = 0}, {devid = 0}]\n", "x.toml:1: vif.devid = 0: expected each vif once, and this one is in an earlier [[vif]] table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, got := load(t, c.doc); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestFileThatIsNotThereIsNamed(t *testing.T) {
	_, err := Load("/nowhere/x.toml")
	if want := "read configuration: open /nowhere/x.toml: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestGoodFileFillsDefaults(t *testing.T) {
	cfg, msg := load(t, "[[vif]]\ndevid = 3\n\n[[vif]]\ndevid = 4\ntap = 'uplink'\nqueues = 2\nmtu = 9000\ntxqueuelen = 50\ndisable = ['sg']\n")
	if msg != "" {
		t.Fatal(msg)
	}
	if cfg.Control != DefaultControl || cfg.Log != (Log{"info", "auto"}) || len(cfg.Vifs) != 2 {
		t.Errorf("%+v", cfg)
	}
	if v := cfg.Vifs[0]; v.Match != SelectDevID(3) || v.TAP != "xnf3" || v.Keep != Forever || v.Queues != 0 || v.MTU != 0 || v.TxQueueLen != 0 {
		t.Errorf("defaults: %+v", v)
	}
	if v := cfg.Vifs[1]; v.Match != SelectDevID(4) || v.TAP != "uplink" || v.Queues != 2 || v.MTU != 9000 || v.TxQueueLen != 50 || !slices.Equal(v.Disable, []string{"sg"}) {
		t.Errorf("values: %+v", v)
	}
}

func TestNumberGoesBeforeAddressAndAddressBeforeAll(t *testing.T) {
	cfg, msg := load(t, "[[vif]]\ndevid = '*'\n[[vif]]\nmac = '00:16:3e:00:00:01'\nkeep = '90s'\n[[vif]]\ndevid = 2\ntap = 'lan%d'\nkeep = 'forever'\n")
	if msg != "" {
		t.Fatal(msg)
	}
	mac := func(last byte) net.HardwareAddr { return net.HardwareAddr{0, 0x16, 0x3e, 0, 0, last} }
	for _, c := range []struct {
		devid int
		mac   net.HardwareAddr
		match string
		tap   string
		keep  time.Duration
	}{
		{0, mac(7), "*", "xnf0", keepUnnamed},
		{0, nil, "*", "xnf0", keepUnnamed},
		{5, mac(1), "00:16:3e:00:00:01", "xnf5", 90 * time.Second},
		{2, mac(1), "2", "lan2", Forever},
		{2, mac(9), "2", "lan2", Forever},
	} {
		v, ok := cfg.For(c.devid, c.mac)
		if !ok || v.Match.String() != c.match || v.TAPName(c.devid) != c.tap || v.Keep != c.keep {
			t.Errorf("vif %d with %v: %+v, %v; want %+v", c.devid, c.mac, v, ok, c)
		}
	}
	cfg.Vifs = cfg.Vifs[1:]
	if v, ok := cfg.For(0, mac(7)); ok {
		t.Errorf("a vif that nothing names is served by %+v", v)
	}
}

func TestSelectorReadsWhatItWrites(t *testing.T) {
	for _, s := range []Selector{SelectDevID(0), SelectDevID(MaxDevID), SelectMAC(net.HardwareAddr{2, 0, 0, 0, 0, 1}), SelectAll()} {
		if got, ok := ParseSelector(s.String()); !ok || got != s {
			t.Errorf("%v became %v, %v", s, got, ok)
		}
	}
	for _, bad := range []string{"", "-1", "65536", "eth0", "**", "00:00:00:00:00:00", "01:00:5e:00:00:01"} {
		if s, ok := ParseSelector(bad); ok {
			t.Errorf("%q became %v", bad, s)
		}
	}
}

func TestOrderOfFeaturesIsNoReasonToServeAVifAnew(t *testing.T) {
	a, b := NewVif(SelectAll()), NewVif(SelectAll())
	a.Disable, b.Disable = []string{"sg", "csum"}, []string{"csum", "sg", "csum"}
	if !a.SameAs(&b) || !b.SameAs(&a) {
		t.Error("the same features are another configuration")
	}
	b.Disable = []string{"sg"}
	if a.SameAs(&b) || b.SameAs(&a) {
		t.Error("other features are the same configuration")
	}
}
