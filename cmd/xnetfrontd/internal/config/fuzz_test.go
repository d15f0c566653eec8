package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"
)

// wantSameAgain checks that a configuration, shown as a file and read again, is the
// same.
func wantSameAgain(t testing.TB, l *Loaded) {
	t.Helper()
	var b bytes.Buffer
	if err := l.WriteTOML(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "again.toml")
	write(t, path, b.String())
	again, err := Load(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if !reflect.DeepEqual(again.Config, l.Config) {
		t.Fatalf("it became another:\n got %+v\nwant %+v\n%s", again.Config, l.Config, b.String())
	}
	if err := again.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
}

// FuzzFilesAreReadOrRefusedOnOneLine reads a file and two drop-ins with any content. Either
// the configuration is right, and can be shown and read again, or each problem is one line
// that names a file.
func FuzzFilesAreReadOrRefusedOnOneLine(f *testing.F) {
	f.Add("[[vif]]\ndevid = 0\n", "", "")
	f.Add("control = '/run/c'\n[log]\nlevel = 'warn'\n[[vif]]\nmac = '00:16:3e:00:00:01'\n", "log = {format = 'json'}\n", "vif = [{devid = '*', tap = 'a%d'}]\n")
	f.Add("[[vif]]\ndevid = 0\nqueues = 0x4\nkeep = '1h1m'\n", "[[vif]]\ndevid = 0\ndisable = ['sg', \"csum\"]\n", "metrics.listen = ':80'\n")
	f.Add("[log", "[[vif]]\ndevid = 'a'\n", "\xff")
	f.Add("[vif]\n", "vif = 3\n", "[[log]]\n\"a\\nb\" = '''x\ny'''\n")
	f.Add("vif.mtu = 1\n", "log.level.x = [1, {a = 2}]\n", "[a.b]\nc = 1979-05-27\n")
	shipped, err := os.ReadFile("../../../../deploy/xnetfrontd.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(shipped), "", "[[vif]]\ndevid = 1\n")
	f.Fuzz(func(t *testing.T, main, first, second string) {
		path := files(t, []byte(main), map[string]string{"a.toml": first, "b.toml": second})
		l, err := Load(path)
		if err == nil {
			wantSameAgain(t, l)
			return
		}
		for line := range strings.SplitSeq(complaints(path, err), "\n") {
			if !strings.HasPrefix(line, "x.toml:") && !strings.HasPrefix(line, "x.toml.d/") && !strings.HasPrefix(line, "read configuration: x.toml") {
				t.Errorf("no place: %q", line)
			}
			if strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) && r != unicode.ReplacementChar }) {
				t.Errorf("not one plain line: %q", line)
			}
			if len(line) > 2000 {
				t.Errorf("%d bytes in a line", len(line))
			}
		}
	})
}
