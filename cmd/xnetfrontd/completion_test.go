package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/controlserver"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// completed is what the program offers a shell for a line.
func completed(t *testing.T, line string) []string {
	t.Helper()
	cmd := program()
	cmd.Env = append(cmd.Env, "COMP_LINE="+line)
	o := runProgram(t, cmd)
	if o.code != 0 || o.errOut != "" {
		t.Fatalf("%q: exit code %d, stderr: %s", line, o.code, o.errOut)
	}
	found := strings.Fields(o.out)
	slices.Sort(found)
	return found
}

func TestShellIsOfferedCommandsAndFlags(t *testing.T) {
	for line, want := range map[string][]string{
		"xnetfrontd stat":                {"status"},
		"xnetfrontd store-":              nil, // hidden
		"xnetfrontd release --v":         {"--vif"},
		"xnetfrontd run --q":             {"--queues"},
		"xnetfrontd run --x":             nil,
		"xnetfrontd run --queues 2 --mt": {"--mtu"},
	} {
		if got := completed(t, line); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	all := completed(t, "xnetfrontd ")
	for _, name := range []string{"run", "check", "status", "prepare", "release"} {
		if !slices.Contains(all, name) {
			t.Errorf("%q lack %s", all, name)
		}
	}
}

// servingDaemon is a daemon that answers status, and nothing else.
type servingDaemon struct {
	controlserver.Handler
	vifs []control.Vif
}

func (d servingDaemon) Status() control.Status { return control.Status{Vifs: d.vifs} }

func TestShellIsOfferedTheVifsOfTheDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.sock")
	if got := completed(t, "xnetfrontd status --control "+path+" "); len(got) != 0 {
		t.Errorf("without a daemon: %q", got)
	}
	server, err := controlserver.New(path, servingDaemon{vifs: []control.Vif{
		{Match: "0", DevID: 0, TAP: "xnf0"}, {Match: "1", DevID: 1, TAP: "wan"}, {Match: "00:16:3e:00:00:01", DevID: -1},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for typed, want := range map[string][]string{"": {"wan", "xnf0"}, "w": {"wan"}, "1": {"1"}, "00:": {"00:16:3e:00:00:01"}, "x9": nil} {
		for _, flag := range []string{"--control " + path, "--control=" + path} {
			if got := completed(t, "xnetfrontd status "+flag+" "+typed); !slices.Equal(got, want) {
				t.Errorf("%s, typed %q: %q, want %q", flag, typed, got, want)
			}
		}
	}
}
