package bench

import (
	"bytes"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/golden"
	"github.com/xnetfrontd/xnetfrontd/test/figures"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// fixture is a run that meets the goals.
func fixture() *Result {
	r := &Result{
		When:    time.Date(2026, 11, 23, 14, 5, 9, 0, time.UTC),
		Machine: figures.Machine{Kernel: "6.18.0", Processor: "some & <processor>", CPUs: 2, Arch: "amd64", Go: "go1.26.8", Revision: "1234567"},
		Xen:     "4.20.0", Dom0: "6.12.1", Guest: "6.12.1", Type: lab.TypePV, Pairs: 3, Seconds: 3, Frontends: []string{Kernel, Ours},
	}
	for _, m := range Metrics() {
		all := Measured{Metric: m}
		for i := range r.Pairs {
			noise := 1 + float64(i-1)/10
			kernel := Sample{Frontend: Kernel, Value: 100, Events: 1000, Spurious: 1}
			ours := Sample{Frontend: Ours, Value: 120 * noise, Events: 900, Spurious: uint64(i)}
			if m.tool == toolPing {
				kernel.Mean, ours.Mean = 300, 310*noise
			}
			pair := []Sample{kernel, ours}
			if i%2 == 1 {
				pair[0], pair[1] = ours, kernel
			}
			all.Samples = append(all.Samples, pair)
		}
		all.sum()
		r.Metrics = append(r.Metrics, all)
	}
	return r
}

func TestReportIsAsPeopleKnowIt(t *testing.T) {
	var b bytes.Buffer
	if err := fixture().Report(&b); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "report.txt", b.Bytes())
}

func TestChartIsAsPeopleKnowIt(t *testing.T) {
	svg, err := fixture().chart()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "chart.svg", svg)
}

func TestResultsLieBesideThoseOfTheOtherBenchmark(t *testing.T) {
	dir := t.TempDir()
	paths, err := fixture().Save(dir)
	if err != nil || len(paths) != 2 || paths[0] != filepath.Join(dir, "2026-11-23-140509-xen.json") || paths[1] != filepath.Join(dir, "2026-11-23-140509-xen.svg") {
		t.Errorf("paths %q, %v", paths, err)
	}
}

func TestRatioIsToTheKernelsSampleOfTheSamePairWhicheverCameFirst(t *testing.T) {
	m := Measured{Samples: [][]Sample{
		{{Frontend: Kernel, Value: 10}, {Frontend: Ours, Value: 20}},
		{{Frontend: Ours, Value: 3}, {Frontend: Kernel, Value: 2}},
	}}
	if got, want := figures.SpreadOf(m.ratios(valueOf)), (figures.Spread{Median: 1.75, Min: 1.5, Max: 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestMissedGoalNamesEachMetricThatHasOne(t *testing.T) {
	r := fixture()
	if lines := r.Missed(); len(lines) != 0 {
		t.Errorf("nothing is missed, yet: %q", lines)
	}
	for _, m := range r.Metrics {
		for _, pair := range m.Samples {
			for j := range pair {
				if pair[j].Frontend == Ours {
					pair[j].Value = 99
					if m.Less {
						pair[j].Value = 151
					}
				}
			}
		}
	}
	if lines := r.Missed(); len(lines) != 5 { // TCP in four ways, and ping
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}

func TestOnlyTakesKindsAndSingleMetrics(t *testing.T) {
	for only, want := range map[string]string{
		"":             "tcp-tx tcp-rx plain-tx plain-rx udp-tx udp-rx ping",
		"tcp":          "tcp-tx tcp-rx",
		"ping,udp-rx":  "udp-rx ping",
		"plain,plain":  "plain-tx plain-rx",
		"tcp-rx,plain": "tcp-rx plain-tx plain-rx",
		"latency":      "",
		"latency,ping": "ping",
	} {
		var names []string
		if only != "" {
			names = strings.Split(only, ",")
		}
		chosen, latency, err := Choose(names)
		var got []string
		for _, m := range chosen {
			got = append(got, m.ID)
		}
		if err != nil || strings.Join(got, " ") != want || latency != strings.Contains(only, "latency") {
			t.Errorf("%q: %q, latency %v, %v, want %q", only, got, latency, err, want)
		}
	}
	if _, _, err := Choose([]string{"tcp", "nothing"}); err == nil || !strings.Contains(err.Error(), `"nothing"`) || !strings.Contains(err.Error(), "udp-tx") {
		t.Errorf("error %v", err)
	}
}

func TestFiguresAreTheReceivers(t *testing.T) {
	got, err := parseIperf(`{"start":{},"end":{"sum_sent":{"bytes":9e9,"seconds":1},"sum_received":{"bytes":2000000,"seconds":1.6,"sender":true}}}`)
	if err != nil || got.Bytes != 2000000 || got.Seconds != 1.6 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, out := range []string{"", "iperf3: error", `{"end":{},"error":"the server is busy"}`, `{"end":{}}`} {
		if _, err := parseIperf(out); err == nil {
			t.Errorf("%q is no error", out)
		}
	}
}

func TestPingWithoutAnAnswerHasNoFigures(t *testing.T) {
	minimum, mean, err := parsePing("--- 10.77.0.1 ping statistics ---\n30 packets transmitted, 29 received, 3.3% packet loss, time 2991ms\nrtt min/avg/max/mdev = 1.802/3.113/9.500/1.000 ms\n")
	if err != nil || minimum != 1.802 || mean != 3.113 {
		t.Errorf("%v, %v, %v", minimum, mean, err)
	}
	if minimum, _, err := parsePing("30 packets transmitted, 0 received, 100% packet loss, time 2991ms\n"); err == nil || math.IsInf(minimum, 0) {
		t.Errorf("%v, no error", minimum)
	}
}

func TestAnOffloadThatStaysAsItWasIsNamed(t *testing.T) {
	all := "Features for eth0:\nrx-checksumming: on [fixed]\nscatter-gather: off\n\ttx-scatter-gather: off\ntcp-segmentation-offload: off\n" +
		"generic-segmentation-offload: off [requested on]\ngeneric-receive-offload: off\n"
	if wrong := otherwise(all, "off"); wrong != "" {
		t.Errorf("%s", wrong)
	}
	if wrong := otherwise(strings.Replace(all, "generic-receive-offload: off", "generic-receive-offload: on", 1), "off"); wrong != "gro" {
		t.Errorf("%q, want gro", wrong)
	}
}
