package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
)

func TestLimitThatMayNotBeRaisedIsAnError(t *testing.T) {
	m := newMachine(t, xensim.Options{GrantLimit: 600}, 0)
	o := m.run("prepare", "--vif", "0", "--queues", "2")
	if o.code != failure.ExitRuntime || o.out != "" || o.errOut != "xnetfrontd: raise limit of granted pages to 1542: operation not permitted\n" {
		t.Errorf("%+v", o)
	}
}

func TestOnlyAConfigurationWithoutVifsSkipsTheUnit(t *testing.T) {
	m := newMachine(t, xensim.Options{GrantLimit: 4096}, 0)
	dir := t.TempDir()
	none := "no vif is configured: nothing to serve\n"
	for _, c := range []struct {
		name, doc   string
		code        int
		out, errOut string // what they begin with
	}{
		{"a vif", "[[vif]]\ndevid = 0\n", 0, "limit of granted pages: 4096 is enough", ""},
		{"no vif", "[log]\nlevel = 'info'\n", failure.ExitRuntime, none, ""},
		{"broken, which run will say", "[[vif]]\ndevid = 'x'\n", 0, "", "xnetfrontd: "},
		{"what cannot be done, which run will do without", "[[vif]]\ndevid = 0\nqueues = 8\n[[vif]]\ndevid = 1\nqueues = 8\n", 0, "", "xnetfrontd: raise limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(dir, "x.toml"), c.doc)
			o := m.run("prepare", "--if-configured", "--config", file)
			if o.code != c.code || !strings.HasPrefix(o.out, c.out) || !strings.HasPrefix(o.errOut, c.errOut) || (o.errOut == "") != (c.errOut == "") {
				t.Errorf("%+v", o)
			}
		})
	}
	if o := m.run("prepare", "--if-configured", "--config", dir+"/none.toml"); o.code != failure.ExitRuntime || o.out != none {
		t.Errorf("no file: %+v", o)
	}
}

func TestShippedConfigurationServesNothing(t *testing.T) {
	const shipped = "../../deploy/xnetfrontd.toml"
	if o := runProgram(t, program("prepare", "--if-configured", "--config", shipped)); o.code != failure.ExitRuntime || o.out != "no vif is configured: nothing to serve\n" {
		t.Errorf("%+v", o)
	}
}

func TestWriteToSysfsComesFromAProcessOfItsOwnAndNamesWhatFailed(t *testing.T) {
	path := cmdtest.WriteFile(t, filepath.Join(t.TempDir(), "bind"), "")
	if o := runProgram(t, program("store-attribute", path, "vif-0")); o.code != 0 || o.out != "" || o.errOut != "" {
		t.Errorf("%+v", o)
	}
	if b, err := os.ReadFile(path); string(b) != "vif-0" || err != nil {
		t.Errorf("written %q, %v", b, err)
	}
	missing := filepath.Join(t.TempDir(), "none", "bind")
	wantError(t, runProgram(t, program("store-attribute", missing, "vif-0")), failure.ExitRuntime, "open "+missing+": no such file or directory")
}
