package figures

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSpreadOfEvenAndOddCounts(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want Spread
	}{
		{[]float64{3}, Spread{3, 3, 3}},
		{[]float64{5, 1, 3}, Spread{3, 1, 5}},
		{[]float64{4, 1, 3, 2}, Spread{2.5, 1, 4}},
	} {
		in := slices.Clone(c.in)
		if got := SpreadOf(in); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.in, got, c.want)
		}
		if !slices.Equal(in, c.in) {
			t.Errorf("%v was changed to %v", c.in, in)
		}
	}
	if s := SpreadOf(nil); !math.IsNaN(s.Median) {
		t.Errorf("nothing has the spread %+v", s)
	}
}

func TestABoundIsMissedByWhatIsNoNumber(t *testing.T) {
	for _, c := range []struct {
		ratio float64
		less  bool
		want  string
	}{
		{1.5, false, "≥ 1.50    met"},
		{1.49, false, "≥ 1.50 missed"},
		{1.5, true, "≤ 1.50    met"},
		{1.51, true, "≤ 1.50 missed"},
		{math.NaN(), false, "≥ 1.50 missed"},
		{math.NaN(), true, "≤ 1.50 missed"},
	} {
		if got := Verdict(c.ratio, 1.5, c.less); got != c.want {
			t.Errorf("%v, less %v: %q, want %q", c.ratio, c.less, got, c.want)
		}
	}
	if got := Verdict(1, 0, false); got != "" {
		t.Errorf("no bound is %q", got)
	}
}

func TestTheLegendNamesWhatIsDrawnAndNothingElse(t *testing.T) {
	c := Chart{Title: "a & b", Base: "base", Series: []Series{{Name: "one", Colour: ColourMeasured}},
		Panels: []Panel{{Title: "panel", Groups: []Group{{Title: "group", Bars: []Spread{{1, 0.5, 2}}, Goal: 1.5}}}, {Title: "empty"}}}
	b, err := c.SVG()
	if err != nil {
		t.Fatal(err)
	}
	svg := string(b)
	for text, want := range map[string]bool{"a &amp; b": true, ">goal<": true, ">floor<": false, "one, median": true, "empty": false, ">base<": true} {
		if strings.Contains(svg, text) != want {
			t.Errorf("%q in the chart: %v, want %v", text, !want, want)
		}
	}
}

func TestResultsAreSavedUnderTheirTime(t *testing.T) {
	type result struct{ Figure int }
	dir := filepath.Join(t.TempDir(), "new")
	when := time.Date(2026, 11, 23, 14, 5, 9, 0, time.UTC)
	paths, err := Save(dir, when, "-x", &result{7}, nil)
	if want := filepath.Join(dir, "2026-11-23-140509-x.json"); err != nil || len(paths) != 1 || paths[0] != want {
		t.Fatalf("%q, %v; want %s", paths, err, want)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	var got result
	if err := json.Unmarshal(b, &got); err != nil || got.Figure != 7 {
		t.Errorf("%+v, %v", got, err)
	}
	if paths, err := Save(dir, when, "-x", &result{}, []byte("<svg/>")); err != nil || len(paths) != 2 || !strings.HasSuffix(paths[1], "-x.svg") {
		t.Errorf("%q, %v", paths, err)
	}
}
