package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
)

// files writes a configuration, x.toml, and its drop-ins into a new folder. A nil text makes
// no file.
func files(t testing.TB, main []byte, dropIns map[string]string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "x.toml")
	if main != nil {
		write(t, path, string(main))
	}
	if err := os.Mkdir(Folder(path), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range dropIns {
		write(t, filepath.Join(Folder(path), name), text)
	}
	return path
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// complaints are the lines of an error, without the folder of path.
func complaints(path string, err error) string {
	var lines []string
	var p Problems
	if !errors.As(err, &p) {
		return err.Error()
	}
	for _, e := range p {
		lines = append(lines, strings.ReplaceAll(e.Error(), filepath.Dir(path)+"/", ""))
	}
	return strings.Join(lines, "\n")
}

func TestLaterDropInOverridesSingleKeysAndAddsVifs(t *testing.T) {
	path := files(t, []byte("control = '/run/a'\n[log]\nlevel = 'warn'\n[[vif]]\ndevid = 0\nqueues = 1\nmtu = 1400\n[[vif]]\nmac = '00:16:3E:00:00:01'\n"), map[string]string{
		"20-late.toml":  "log.level = 'debug'\n[[vif]]\ndevid = 0\nqueues = 3\n",
		"10-early.toml": "[log]\nlevel = 'error'\nformat = 'json'\n[[vif]]\nqueues = 2\ndevid = 0\n[[vif]]\ndevid = '*'\n",
		"30-mac.toml":   "vif = [{mac = '00-16-3e-00-00-01', disable = ['sg']}, {devid = '*', keep = '1h'}]\n",
		".30-swap.toml": "nonsense",
		"40.toml.bak":   "nonsense",
	})
	l, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if l.Control != "/run/a" || l.Log != (Log{"debug", "json"}) || len(l.Vifs) != 3 {
		t.Errorf("%+v", l.Config)
	}
	if v := l.Vifs[0]; v.Queues != 3 || v.MTU != 1400 || v.TAP != "xnf0" {
		t.Errorf("vif 0: %+v", v)
	}
	if v := l.Vifs[1]; v.Match.String() != "00:16:3e:00:00:01" || len(v.Disable) != 1 {
		t.Errorf("the vif with an address: %+v", v)
	}
	if v := l.Vifs[2]; !v.Match.All() || v.Keep != time.Hour {
		t.Errorf("every vif: %+v", v)
	}
	var names []string
	for _, f := range l.Files {
		names = append(names, filepath.Base(f))
	}
	if got := strings.Join(names, " "); got != "x.toml 10-early.toml 20-late.toml 30-mac.toml" {
		t.Errorf("read %s", got)
	}
	in := func(name string, line int) Origin { return Origin{filepath.Join(Folder(path), name), line} }
	for key, want := range map[string]Origin{"log.level": in("20-late.toml", 1), "log.format": in("10-early.toml", 3), "control": {path, 1}, "metrics.socket": {}} {
		if got := l.origins[key]; got != want {
			t.Errorf("%s is from %v, want %v", key, got, want)
		}
	}
	for key, want := range map[string]Origin{"vif.queues": in("20-late.toml", 4), "vif.mtu": {path, 7}, "vif": {path, 4}, "vif.tap": {}} {
		if got := l.vifs[0][key]; got != want {
			t.Errorf("%s is from %v, want %v", key, got, want)
		}
	}
}

func TestProblemsOfSeveralFilesAreEachSaidWithTheirPlace(t *testing.T) {
	tapTaken := `each TAP name once, and this one is that of the [[vif]] table at `
	for _, c := range []struct {
		name, main string
		dropIns    map[string]string
		want       string
	}{
		{"one in each", "log.level = 1\n[[vif]]\ndevid = 0\n", map[string]string{"a.toml": "foo = 1\n", "b.toml": "[\n"},
			"x.toml:1: log.level = 1: expected one of debug, info, warn, error\n" +
				"x.toml.d/a.toml:1: unknown key foo: expected one of control, log, metrics, vif at the top level\n" +
				"x.toml.d/b.toml:1: not TOML: invalid character at start of key: U+000A"},
		{"overridden, and wrong all the same", "[[vif]]\ndevid = 0\nmtu = 1\n", map[string]string{"a.toml": "[[vif]]\ndevid = 0\nmtu = 1500\n"},
			"x.toml:3: vif.mtu = 1: expected 0 (what the toolstack says) or a whole number from 68 to 65517"},
		{"TAP of another file", "[[vif]]\ndevid = 0\n", map[string]string{"a.toml": "[[vif]]\ndevid = 1\ntap = 'xnf0'\n"},
			`x.toml.d/a.toml:3: vif.tap = "xnf0": expected ` + tapTaken + "x.toml:1"},
		{"TAP by default", "[[vif]]\ndevid = 0\ntap = 'xnf1'\n", map[string]string{"a.toml": "\n[[vif]]\ndevid = 1\n"},
			`x.toml.d/a.toml:2: vif.tap = "xnf1": expected ` + tapTaken + "x.toml:1"},
		{"TAP with a number", "[[vif]]\ndevid = 7\ntap = 'a%d'\n[[vif]]\nmac = '00:16:3e:00:00:01'\ntap = 'a7'\n", nil,
			`x.toml:6: vif.tap = "a7": expected ` + tapTaken + "x.toml:1"},
		{"no vif", "", map[string]string{"a.toml": "[log]\n"}, "x.toml:1: vif is missing: expected one [[vif]] table for each interface to serve"},
		{"vif twice in a drop-in", "[[vif]]\ndevid = 0\n", map[string]string{"a.toml": "[[vif]]\ndevid = 0\n[[vif]]\ndevid = 0\nqueues = -1\n"},
			"x.toml.d/a.toml:4: vif.devid = 0: expected each vif once, and this one is in an earlier [[vif]] table\n" +
				"x.toml.d/a.toml:5: vif.queues = -1: expected a whole number from 0 (one for each CPU) to 64"},
		{"not UTF-8", "[[vif]]\ndevid = 0\n", map[string]string{"a.toml": "# a\ncontrol = '\xff'\n"}, `x.toml.d/a.toml:2: not TOML: it is not UTF-8: "control = '\xff'"`},
		{"byte order mark", "\xef\xbb\xbf[[vif]]\ndevid = 0\n", nil, "x.toml:1: not TOML: it begins with a byte order mark: save it as UTF-8 without one"},
		{"too large", "[[vif]]\ndevid = 0\n", map[string]string{"a.toml": strings.Repeat("#\n", maxFile/2+1)}, "read configuration: x.toml.d/a.toml is larger than 256 KiB: expected a few lines of TOML"},
		{"keys over several lines", "[[vif]]\ndevid = 0\nmtu = \"\"\"\nx\n\"\"\"\n\"q\\nueues\" = 1\n", nil,
			"x.toml:3: vif.mtu = \"\\\"\\\"\\\"\\nx\\n\\\"\\\"\\\"\": expected 0 (what the toolstack says) or a whole number from 68 to 65517\n" +
				"x.toml:6: unknown key \"vif.q\\nueues\": expected one of devid, mac, tap, keep, stop, report_addresses, queues, mtu, txqueuelen, shaping, violations, disable in [vif]"},
		{"tables of the wrong kind", "log = 3\n[vif]\ndevid = 0\n[[metrics]]\nfoo = 1\n[prometheus]\nbar = 1\n", nil,
			"x.toml:1: log = 3: expected a table with the keys level, format\n" +
				"x.toml:2: vif = [vif]: expected one [[vif]] table for each interface to serve\n" +
				"x.toml:4: metrics = [[metrics]]: expected a table with the keys socket, listen\n" +
				"x.toml:6: unknown key prometheus: expected one of control, log, metrics, vif at the top level"},
		{"vif without brackets", "vif.mtu = 1500\n", nil, "x.toml:1: vif.mtu = 1500: expected it in a [[vif]] table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := files(t, []byte(c.main), c.dropIns)
			l, err := Load(path)
			if err == nil {
				t.Fatalf("%+v", l.Config)
			}
			if got := complaints(path, err); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestFileThatCannotBeReadIsOneLine(t *testing.T) {
	good := []byte("[[vif]]\ndevid = 0\n")
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string) error // puts the file there
		want string
	}{
		{"a folder", func(_ *testing.T, path string) error { return os.Mkdir(Folder(path)+"/a.toml", 0o700) },
			"read configuration: x.toml.d/a.toml is a folder: expected a file"},
		{"a folder in place of the file", func(_ *testing.T, path string) error { os.Remove(path); return os.Mkdir(path, 0o700) },
			"read configuration: x.toml is a folder: expected a file"},
		{"dangling link", func(_ *testing.T, path string) error { return os.Symlink("/nowhere/b", Folder(path)+"/a.toml") },
			"read configuration: x.toml.d/a.toml is a link to /nowhere/b, which is not there"},
		{"file is a dangling link", func(_ *testing.T, path string) error { os.Remove(path); return os.Symlink("/nowhere/b", path) },
			"read configuration: x.toml is a link to /nowhere/b, which is not there"},
		{"folder is a dangling link", func(_ *testing.T, path string) error {
			os.Remove(Folder(path))
			return os.Symlink("/nowhere/b", Folder(path))
		}, "read configuration: x.toml.d is a link to /nowhere/b, which is not there"},
		{"links in a circle", func(_ *testing.T, path string) error { return os.Symlink("a.toml", Folder(path)+"/a.toml") },
			"read configuration: open x.toml.d/a.toml: too many levels of symbolic links"},
		{"a pipe that nobody writes to", func(_ *testing.T, path string) error { return syscall.Mkfifo(Folder(path)+"/a.toml", 0o600) },
			"read configuration: x.toml.d/a.toml is a device or a pipe: expected a file"},
		{"a file in place of the folder", func(_ *testing.T, path string) error {
			os.Remove(Folder(path))
			return os.WriteFile(Folder(path), nil, 0o600)
		}, "read configuration: x.toml.d is no folder: expected one with drop-ins"},
		{"a name with a line feed", func(_ *testing.T, path string) error { return os.Symlink("/nowhere/b", Folder(path)+"/a\nb.toml") },
			`read configuration: "x.toml.d/a\nb.toml" is a link to /nowhere/b, which is not there`},
		{"no permission", func(t *testing.T, path string) error {
			if os.Geteuid() == 0 {
				needs.LeaveOut(t, "a user who may not read everything")
			}
			return os.WriteFile(Folder(path)+"/a.toml", nil, 0)
		}, "read configuration: open x.toml.d/a.toml: permission denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := files(t, good, nil)
			if err := c.make(t, path); err != nil {
				t.Fatal(err)
			}
			_, err := Load(path)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("error %v", err)
			}
			if got := complaints(path, err); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestFileThatVanishesWhileTheOthersAreReadIsNamed(t *testing.T) {
	path := files(t, []byte("[[vif]]\ndevid = 0\n"), map[string]string{"a.toml": "[log]\n"})
	dropIns, err := listDropIns(Folder(path))
	if err != nil || len(dropIns) != 1 {
		t.Fatal(dropIns, err)
	}
	if err := os.Remove(dropIns[0]); err != nil {
		t.Fatal(err)
	}
	r := reading{}
	r.dropIn(dropIns[0])
	if got, want := complaints(path, r.problems), "read configuration: x.toml.d/a.toml is gone since its folder was read: try again"; got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestDropInAloneIsEnough(t *testing.T) {
	path := files(t, nil, map[string]string{"a.toml": "[[vif]]\ndevid = 5\n"})
	l, err := Load(path)
	if err != nil || len(l.Vifs) != 1 || l.Vifs[0].TAP != "xnf5" {
		t.Errorf("%+v, %v", l, err)
	}
	empty := files(t, nil, nil)
	if _, err := Load(empty); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing at all: %v", err)
	}
}

func TestConfigurationCanComeFromAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("[[vif]]\ndevid = 5\n"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	l, err := Load(fmt.Sprintf("/proc/self/fd/%d", r.Fd()))
	if err != nil || len(l.Vifs) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestShownConfigurationIsTheSameAgain(t *testing.T) {
	path := files(t, []byte("control = '/run/\"ö\\\t'\n[metrics]\nsocket = ''\nlisten = '[::1]:80'\n[[vif]]\ndevid = '*'\ntap = 'x%d'\ndisable = ['sg', 'csum']\nmtu = 9_000\n[[vif]]\ndevid = 0x10\nkeep = '90s'\n"), nil)
	l, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	wantSameAgain(t, l)
	var b bytes.Buffer
	if err := l.WriteTOML(&b); err != nil || !strings.Contains(b.String(), "mtu = 9000 # "+path+":9\n") {
		t.Errorf("%v\n%s", err, b.String())
	}
}
