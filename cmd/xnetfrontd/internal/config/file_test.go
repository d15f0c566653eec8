package config

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func load(t *testing.T, doc string) (Config, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.toml")
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err == nil {
		return cfg, ""
	}
	msg := err.Error()
	if rel, ok := cutPrefix(msg, filepath.Dir(path)+"/"); ok {
		msg = rel
	}
	return cfg, msg
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return s, false
}

func TestBadFileGetsOneLineWithPlaceKeyValueAndExpectation(t *testing.T) {
	features := "sg, csum, csum_ipv6, gso_tcpv4, gso_tcpv6, split_channels"
	for _, c := range []struct{ name, doc, want string }{
		{"empty file", "", "x.toml:1: vif is missing: expected one [[vif]] table for each interface to serve"},
		{"not TOML", "[[vif]\n", "x.toml:1: not TOML: expected ']]' to close array table name"},
		{"no value", "[[vif]]\ndevid =\n", "x.toml:2: not TOML: unexpected character U+000A at start of value"},
		{"key twice", "[[vif]]\ndevid = 1\ndevid = 2\n", "x.toml:3: not TOML: key devid is already defined"},
		{"unknown key at top", "\nfoo = 1\n", "x.toml:2: unknown key foo: expected one of control, log, vif at the top level"},
		{"unknown table", "[metrics]\nport = 1\n", "x.toml:1: unknown key metrics: expected one of control, log, vif at the top level"},
		{"unknown key in log", "[log]\nlvl = 'info'\n", "x.toml:2: unknown key log.lvl: expected one of level, format in [log]"},
		{"unknown key in vif", "[[vif]]\ndevid = 0\n\ntpa = 'x'\n", "x.toml:4: unknown key vif.tpa: expected one of devid, tap, queues, mtu, txqueuelen, disable in [vif]"},
		{"no devid", "[[vif]]\ndevid = 0\n[[vif]]\ntap = 'a'\n", "x.toml:3: vif.devid is missing: expected a whole number from 0 to 65535"},
		{"devid a string", "[[vif]]\ndevid = 'a' # c\n", "x.toml:2: vif.devid = 'a': expected a whole number from 0 to 65535"},
		{"devid a float", "[[vif]]\ndevid = 1.5\n", "x.toml:2: vif.devid = 1.5: expected a whole number from 0 to 65535"},
		{"devid huge", "[[vif]]\ndevid = 99999999999999999999\n", "x.toml:2: vif.devid = 99999999999999999999: expected a whole number from 0 to 65535"},
		{"devid negative", "[[vif]]\ndevid = -1\n", "x.toml:2: vif.devid = -1: expected a whole number from 0 to 65535"},
		{"devid twice", "[[vif]]\ndevid = 1\n[[vif]]\ntap='b'\ndevid = 1\n", "x.toml:5: vif.devid = 1: expected each vif once, and this one is in an earlier [[vif]] table"},
		{"tap twice", "[[vif]]\ndevid = 1\ntap='b'\n[[vif]]\ndevid = 2\ntap = 'b'\n", "x.toml:6: vif.tap = \"b\": expected each TAP name once, and this one is in an earlier [[vif]] table"},
		{"tap too long", "[[vif]]\ndevid = 0\ntap = 'sixteen-bytes-16'\n", "x.toml:3: vif.tap = \"sixteen-bytes-16\" (16 bytes): expected an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces"},
		{"tap with slash", "[[vif]]\ndevid = 0\ntap = 'a/b'\n", "x.toml:3: vif.tap = \"a/b\" (3 bytes): expected an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces"},
		{"tap empty", "[[vif]]\ndevid = 0\ntap = ''\n", "x.toml:3: vif.tap = \"\" (0 bytes): expected an interface name: 1 to 15 printable bytes without '/', ':', '%' or spaces"},
		{"queues", "[[vif]]\ndevid = 0\nqueues = 65\n", "x.toml:3: vif.queues = 65: expected a whole number from 0 (one for each CPU) to 64"},
		{"queues a bool", "[[vif]]\ndevid = 0\nqueues = true\n", "x.toml:3: vif.queues = true: expected a whole number from 0 (one for each CPU) to 64"},
		{"mtu", "[[vif]]\ndevid = 0\nmtu = 67\n", "x.toml:3: vif.mtu = 67: expected 0 (what the toolstack says) or a whole number from 68 to 65517"},
		{"txqueuelen", "[[vif]]\ndevid = 0\ntxqueuelen = -5\n", "x.toml:3: vif.txqueuelen = -5: expected a whole number from 0 (the default) to 100000"},
		{"feature", "[[vif]]\ndevid = 0\ndisable = ['sg',\n 'tso']\n", "x.toml:3: vif.disable = \"tso\": expected a list of feature names out of " + features},
		{"feature list", "[[vif]]\ndevid = 0\ndisable = 'sg'\n", "x.toml:3: vif.disable = 'sg': expected a list of feature names out of " + features},
		{"log level", "[log]\n\nlevel = 'loud'\n[[vif]]\ndevid=0\n", "x.toml:3: log.level = \"loud\": expected one of debug, info, warn, error"},
		{"log format inline", "log = {format = 'xml'}\n[[vif]]\ndevid=0\n", "x.toml:1: log.format = \"xml\": expected one of auto, console, json"},
		{"control relative", "control = 'c.sock'\n[[vif]]\ndevid=0\n", "x.toml:1: control = \"c.sock\": expected an absolute path of at most 107 bytes, such as \"/run/xnetfrontd/control.sock\""},
		{"control a number", "control = 7\n", "x.toml:1: control = 7: expected an absolute path of at most 107 bytes, such as \"/run/xnetfrontd/control.sock\""},
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
	if v := cfg.Vifs[0]; v.DevID != 3 || v.TAP != "xnf3" || v.Queues != 0 || v.MTU != 0 || v.TxQueueLen != 0 {
		t.Errorf("defaults: %+v", v)
	}
	if v := cfg.Vifs[1]; v.DevID != 4 || v.TAP != "uplink" || v.Queues != 2 || v.MTU != 9000 || v.TxQueueLen != 50 || !slices.Equal(v.Disable, []string{"sg"}) {
		t.Errorf("values: %+v", v)
	}
}
