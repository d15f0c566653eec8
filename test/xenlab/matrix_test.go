package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/scenario"
)

func TestAnUnknownGroundIsRefusedWithTheKnownOnes(t *testing.T) {
	t.Setenv("XNETFRONTD_CACHE", t.TempDir())
	var out, errs bytes.Buffer
	code := execute([]string{"matrix", "--ground", "default,sparc", "--source", "../.."}, &out, &errs)
	const want = "xenlab: --ground sparc: there is no such ground in the lab; known are default, "
	if code != exitUsage || !strings.HasPrefix(errs.String(), want) || strings.Count(errs.String(), "\n") != 1 || out.Len() > 0 {
		t.Errorf("exit %d, output %q, %q; want %d, %q", code, &out, &errs, exitUsage, want)
	}
}

// twoGrounds is a grid of one on which everything passed, and one more.
func twoGrounds(outcomes []scenario.Outcome, err error) *grid {
	g := newGrid([]scenario.Scenario{{Name: "connect"}, {Name: "bulk"}})
	g.add(lab.Ground{Name: "a"}, "Xen 1", []scenario.Outcome{{Scenario: "bulk"}, {Scenario: "connect"}}, nil)
	stands := "Xen 2"
	if len(outcomes) == 0 {
		stands = ""
	}
	g.add(lab.Ground{Name: "longer"}, stands, outcomes, err)
	return g
}

func TestTheGridSaysHowEachScenarioEndedOnEachGround(t *testing.T) {
	for _, c := range []struct {
		name     string
		outcomes []scenario.Outcome
		err      error
		text     string
		passed   bool
	}{
		{"all passed", []scenario.Outcome{{Scenario: "connect"}, {Scenario: "bulk"}}, nil,
			"ground  connect  bulk\na       ok       ok\nlonger  ok       ok\n", true},
		{"one failed", []scenario.Outcome{{Scenario: "connect"}, {Scenario: "bulk", Failure: "no carrier"}}, errFailed,
			"ground  connect  bulk\na       ok       ok\nlonger  ok       FAIL\nlonger, bulk: no carrier\n", false},
		{"a ground that cannot be had", nil, errors.New("build the images: exit status 1: kernel 9 cannot be had\nmore"),
			"ground  connect  bulk\na       ok       ok\nlonger  not run  not run\nlonger, not run: build the images: exit status 1: kernel 9 cannot be had\n", false},
		{"a lab that died", []scenario.Outcome{{Scenario: "connect"}}, errors.New("boot Xen: QEMU ended"),
			"ground  connect  bulk\na       ok       ok\nlonger  ok       not run\nlonger, not run: boot Xen: QEMU ended\n", false},
	} {
		g := twoGrounds(c.outcomes, c.err)
		if got := g.text(); got != c.text || g.passed() != c.passed {
			t.Errorf("%s: passed %v\n%s\nwant %v\n%s", c.name, g.passed(), got, c.passed, c.text)
		}
	}
}

func TestThePageHasTheGridWithVersionsAndDateBetweenItsMarks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	grid := twoGrounds(nil, errors.New("kernel 9 cannot be had")).page(time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC))
	write("# Title\n\n" + gridBegins + "old\n" + gridEnds + "\nText.\n")
	if err := writeGrid(path, grid); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const want = `# Title

<!-- grid -->

Run on 1 December 2026.

| ground | ` + "`connect` | `bulk`" + ` |
|---|---|---|
| a | ok | ok |
| longer | not run | not run |

| ground | was | what did not pass |
|---|---|---|
| a | Xen 1 |  |
| longer | could not be had | not run: kernel 9 cannot be had |

<!-- /grid -->

Text.
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	write("# Title\n")
	if err := writeGrid(path, grid); err == nil || !strings.Contains(err.Error(), "has no marks <!-- grid -->") {
		t.Errorf("a page without marks: %v", err)
	}
}
