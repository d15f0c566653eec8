package top

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/xnetfrontd/xnetfrontd/internal/golden"
	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// frames are some intervals of a daemon with all sorts of vifs.
func frames() []frame {
	vifs := func(st *control.Status) *control.Status {
		st.Vifs = append(st.Vifs,
			control.Vif{Match: "1", DevID: 1, TAP: "wan", Since: noon.Add(-time.Minute), Problem: "TAP \"wan\": name is taken"},
			control.Vif{Match: "9", DevID: 9, Since: noon.Add(-time.Hour), Waiting: "this domain has 0, 1"},
			control.Vif{Match: "2", DevID: 2, TAP: "xnf2", Since: noon, Device: &control.Device{
				State: "Closed", BackendState: "Unknown", Since: noon.Add(-time.Second), Reason: "the backend is gone \x1b[2J",
				Totals: []control.Totals{{Number: 0, Tx: map[string]uint64{"packets": 5}}},
			}})
		return st
	}
	tx := map[string]uint64{"packets": 1000, "bytes": 1 << 20, "slots": 1200, "batches": 300, "notify_sent": 250, "backend_error": 1}
	later := map[string]uint64{"packets": 124456, "bytes": 155 << 20, "slots": 247_200, "batches": 10_300, "notify_sent": 12_500, "backend_error": 4, "drop_too_big": 2}
	rx := map[string]uint64{"packets": 9, "bytes": 900, "drop_tap_error": 2}
	var m meter
	return []frame{
		m.next(vifs(answer(4711, tx, rx)), nil, noon),
		m.next(vifs(answer(4711, later, rx)), nil, noon.Add(time.Second)),
		m.next(nil, errors.New("control socket /run/x.sock: not there"), noon.Add(2*time.Second)),
		m.next(&control.Status{PID: 4712, Program: "1.1", Started: noon.Add(2 * time.Second)}, nil, noon.Add(3*time.Second)),
	}
}

func TestTableIsAsInTheGoldenFileAndFitsEightyColumns(t *testing.T) {
	var b strings.Builder
	for _, f := range frames() {
		for _, l := range fit(table(f, time.Second, 80), 80, 24) {
			if n := utf8.RuneCountInString(l); n > 79 {
				t.Errorf("line of %d columns: %s", n, l)
			}
			b.WriteString(l + "\n")
		}
		b.WriteString("----\n")
	}
	golden.Check(t, "table.golden", b.String())
}

func TestPlainLinesAreAsInTheGoldenFileWithAFieldForEachColumn(t *testing.T) {
	var b strings.Builder
	if err := plainHeader(&b); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames() {
		if err := plain(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	golden.Check(t, "plain.golden", b.String())
	for l := range strings.Lines(b.String()) {
		if n := len(strings.Fields(l)); l[0] != '#' && n != len(plainColumns) {
			t.Errorf("%d fields, want %d: %s", n, len(plainColumns), l)
		}
	}
}

func TestLinesBeyondTheWindowAreCountedAndLongOnesCut(t *testing.T) {
	lines := []string{"one", "two\nhalves", "a\x1bb", "four"}
	for _, c := range []struct {
		width, height int
		want          string
	}{
		{80, 24, "one|two; halves|a?b|four"},
		{80, 4, "one|two; halves|a?b|four"},
		{80, 3, "one|two; halves|2 more lines: name a vif, or make the window higher"},
		{6, 2, "one|3 more"},
		{6, 1, "4 more"},
		{0, 0, "one|two; halves|a?b|four"}, // a size that is none
	} {
		if got := strings.Join(fit(lines, c.width, c.height), "|"); got != c.want {
			t.Errorf("%dx%d: %q, want %q", c.width, c.height, got, c.want)
		}
	}
}

func TestLongTextIsBrokenBetweenWords(t *testing.T) {
	for _, c := range []struct {
		text  string
		width int
		want  string
	}{
		{"short", 20, "short"},
		{"exactly twenty chars", 20, "exactly twenty chars"},
		{"the backend did not answer in time", 20, "the backend did not|    answer in time"},
		{strings.Repeat("x", 30), 20, strings.Repeat("x", 20) + "|    " + strings.Repeat("x", 10)},
		{"no room at all", 3, "no room at all"},
	} {
		if got := strings.Join(wrap(c.text, c.width), "|"); got != c.want {
			t.Errorf("%q in %d columns: %q, want %q", c.text, c.width, got, c.want)
		}
	}
}

func TestNumbersHaveAtMostSixCharacters(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.4: "0", 9.4: "9", 999: "999", 999.4: "999", 999.6: "1.00k", 1000: "1.00k", 9994: "9.99k", 9996: "10.0k", 99_940: "99.9k",
		99_960: "100k", 999_499: "999k", 999_501: "1.00M", 1.5e9: "1.50G", 40e9: "40.0G", 7e12: "7.00T", 5e15: "5P", 1e18: "1000P",
	} {
		if got := short(figure{v, true}); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	if got := short(figure{}); got != "-" {
		t.Errorf("unknown: %s", got)
	}
}

func TestCountIsInIntervalsAndTheFirstErrorIsTheEnd(t *testing.T) {
	asked := 0
	o := Options{Interval: time.Millisecond, Count: 3, Ask: func(context.Context) (*control.Status, error) {
		asked++
		if asked == 3 {
			return nil, errors.New("away for once")
		}
		return answer(1, nil, nil), nil
	}}
	var b strings.Builder
	if err := Plain(t.Context(), o, &b); err != nil {
		t.Fatal(err)
	}
	// The lines: the header, the daemon, an interval, no answer, another daemon.
	if got := strings.Count(b.String(), "\n"); asked != 4 || got != 1+1+2+1+1 {
		t.Errorf("asked %d times, %d lines:\n%s", asked, got, b.String())
	}
	gone := errors.New("no daemon")
	o.Ask = func(context.Context) (*control.Status, error) { return nil, gone }
	b.Reset()
	if err := Plain(t.Context(), o, &b); err != gone || b.Len() != 0 {
		t.Errorf("%v, %q", err, b.String())
	}
}

func TestWriterThatFailsEndsIt(t *testing.T) {
	o := Options{Interval: time.Millisecond, Ask: func(context.Context) (*control.Status, error) { return answer(1, nil, nil), nil }}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if err := Plain(t.Context(), o, full); err == nil {
		t.Error("no error")
	}
}
