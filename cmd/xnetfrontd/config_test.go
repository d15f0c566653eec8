package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

// configured writes a configuration file and its drop-ins, by their names.
func configured(t *testing.T, text string, dropIns map[string]string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "x.toml")
	if text != "" {
		writeFile(t, path, text)
	}
	if err := os.Mkdir(path+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range dropIns {
		writeFile(t, filepath.Join(path+".d", name), text)
	}
	return path
}

func TestConfigCheckSaysWhatItHasReadAndEveryProblemOnALineOfItsOwn(t *testing.T) {
	check := func(args ...string) outcome {
		return runProgram(t, program(append([]string{"config", "check"}, args...)...))
	}
	one := configured(t, "[[vif]]\ndevid = 0\n", nil)
	if o := check("--config", one); o != (outcome{0, one + ": ok, 1 vif table\n", ""}) {
		t.Errorf("one file: %+v", o)
	}
	several := configured(t, "[[vif]]\ndevid = 0\n", map[string]string{"20-b.toml": "[[vif]]\ndevid = 1\n", "10-a.toml": ""})
	want := several + ": ok, 2 vif tables; read " + several + ", " + several + ".d/10-a.toml, " + several + ".d/20-b.toml\n"
	if o := check("--config", several); o != (outcome{0, want, ""}) {
		t.Errorf("drop-ins: %+v", o)
	}
	only := configured(t, "", map[string]string{"a.toml": "[[vif]]\ndevid = '*'\n"})
	if o := check("--config", only); o != (outcome{0, only + ": ok, 1 vif table; read " + only + ".d/a.toml\n", ""}) {
		t.Errorf("only a drop-in: %+v", o)
	}
	if o := check("--vif", "3"); o != (outcome{0, "command line: ok, 1 vif table\n", ""}) {
		t.Errorf("no file: %+v", o)
	}
	broken := configured(t, "[log]\nlevel = 'loud'\n[[vif]]\nmtu = 1\n", map[string]string{"a.toml": "[[vif]\n", "b.toml": "foo = 1\n"})
	lines := []string{
		broken + `:2: log.level = "loud": expected one of debug, info, warn, error`,
		broken + `:3: vif.devid is missing: expected a whole number from 0 to 65535, or "*" for every vif; or mac with its address`,
		broken + `:4: vif.mtu = 1: expected 0 (what the toolstack says) or a whole number from 68 to 65517`,
		broken + `.d/a.toml:1: not TOML: expected ']]' to close array table name`,
		broken + `.d/b.toml:1: unknown key foo: expected one of control, log, metrics, vif at the top level`,
	}
	if o := check("--config", broken); o != (outcome{failure.ExitUsage, "", "xnetfrontd: " + strings.Join(lines, "\nxnetfrontd: ") + "\n"}) {
		t.Errorf("every problem:\n%s%+v", o.errOut, o)
	}
	o := runProgram(t, program("check", "--config", broken))
	wantError(t, o, failure.ExitUsage, lines[0]+" (and 4 more problems: see xnetfrontd config check)")
}

func TestConfigShowSaysWhereEachValueComesFromAndCanBeReadAgain(t *testing.T) {
	path := configured(t, "[log]\nlevel = 'warn'\n[[vif]]\ndevid = 0\nqueues = 2\n", map[string]string{"a.toml": "\n[[vif]]\ndevid = 0\nqueues = 4\n"})
	o := runProgram(t, program("config", "show", "--config", path, "--log-format", "console"))
	want := `# In the order in which they count:
# PATH
# PATH.d/a.toml

control = "/run/xnetfrontd/control.sock" # default

[log]
level = "warn" # PATH:2
format = "console" # command line

[metrics]
socket = "/run/xnetfrontd/metrics.sock" # default
listen = "" # default

[[vif]] # PATH:3
devid = 0 # PATH.d/a.toml:3
tap = "xnf0" # default
keep = "forever" # default
stop = "auto" # default
report_addresses = "auto" # default
queues = 4 # PATH.d/a.toml:4
mtu = 0 # default
txqueuelen = 0 # default
shaping = "auto" # default
violations = 16 # default
disable = [] # default
`
	if o != (outcome{0, strings.ReplaceAll(want, "PATH", path), ""}) {
		t.Errorf("got\n%s%swant\n%s", o.out, o.errOut, want)
	}
	again := runProgram(t, program("config", "check", "--config", writeFile(t, filepath.Join(t.TempDir(), "again.toml"), o.out)))
	if again.code != 0 {
		t.Errorf("its own output: %+v", again)
	}
	o = runProgram(t, program("config", "show", "--json", "--vif", "*", "--mtu", "9000"))
	var shown struct {
		Files []string
		Keys  map[string]struct {
			Value string
			From  string
		}
		Vif []struct {
			DevID, TAP struct{ Value, From string }
			MTU        struct {
				Value int
				From  string
			}
		}
	}
	if err := json.Unmarshal([]byte(o.out), &shown); err != nil || o.code != 0 || len(shown.Vif) != 1 || shown.Files == nil {
		t.Fatalf("%v: %+v", err, o)
	}
	v := shown.Vif[0]
	if v.MTU.Value != 9000 || v.MTU.From != "command line" || v.DevID.Value != "*" || v.TAP.Value != "xnf%d" || v.TAP.From != "default" || shown.Keys["log.level"].Value != "info" {
		t.Errorf("%+v", shown)
	}
	wantError(t, runProgram(t, program("config", "show", "--config", path+".gone")), failure.ExitUsage, "read configuration: open "+path+".gone: no such file or directory")
}

func TestReloadWithABrokenDropInChangesNothingAndOneWithAGoodOneDoes(t *testing.T) {
	m := newMachine(t, xensim.Options{AllowRaise: true}, 0, 1)
	m.startBackend()
	const text = "[[vif]]\ndevid = 0\nqueues = 1\n"
	file := m.config(text)
	if err := os.Mkdir(file+".d", 0o700); err != nil {
		t.Fatal(err)
	}
	dropIn := filepath.Join(file+".d", "10-more.toml")
	d := m.start("--config", file)
	d.await("READY=1")
	m.awaitVif("at the start", "0", connectedAs(0))
	index := m.link("xnf0").Attrs().Index

	writeFile(t, dropIn, "[[vif]]\ndevid = 0\nqueues = 2\n[[vif]]\ndevid = 1\nmtu = 'large'\n")
	m.reload(d, text)
	if v := m.awaitVif("a broken drop-in", "0", connectedAs(0)); m.link("xnf0").Attrs().Index != index || m.hasLink("xnf1") {
		t.Errorf("a broken drop-in changed something: %+v", v)
	}
	writeFile(t, dropIn, "[[vif]]\ndevid = 0\nkeep = '1h'\n[[vif]]\ndevid = 1\ntap = 'more'\n")
	m.reload(d, text)
	m.awaitVif("a good drop-in", "1", connectedAs(1))
	if !m.hasLink("more") || m.link("xnf0").Attrs().Index != index {
		t.Error("the drop-in's vif has another TAP, or vif 0 was made anew without need")
	}
	if code, _ := d.stop(unix.SIGTERM); code != 0 || !strings.Contains(d.stderr(), dropIn+":6: vif.mtu = 'large': expected 0 (what the toolstack says) or a whole number from 68 to 65517") {
		t.Errorf("exit code %d; it logged:\n%s", code, d.stderr())
	}
	m.wantNothingLeft("xnf0", "more")
}

func TestDropInsAreReadOfAFileThatIsNotThereButADanglingLinkIsNoEmptyConfiguration(t *testing.T) {
	path := configured(t, "", map[string]string{"a.toml": "[log]\n"})
	if o := runProgram(t, program("prepare", "--if-configured", "--config", path)); o.code != failure.ExitRuntime || o.out != "no vif is configured: nothing to serve\n" {
		t.Errorf("no vif: %+v", o)
	}
	if err := os.Symlink("/nowhere/b.toml", path+".d/b.toml"); err != nil {
		t.Fatal(err)
	}
	want := "read configuration: " + path + ".d/b.toml is a link to /nowhere/b.toml, which is not there"
	wantError(t, runProgram(t, program("config", "check", "--config", path)), failure.ExitUsage, want)
	// run must report it, so that the unit fails.
	wantError(t, runProgram(t, program("prepare", "--if-configured", "--config", path)), 0, want)
}
