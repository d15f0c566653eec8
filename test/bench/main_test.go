package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// TestMain lets the test binary be the children that the bench starts of itself.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && (os.Args[1] == agentRole || os.Args[1] == forwarderRole) {
		os.Exit(mainCode(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func TestWrongCommandLineIsOneLineAndCode2(t *testing.T) {
	for _, args := range [][]string{
		{"-pairs", "0"},
		{"-pairs", "many"},
		{"-seconds", "0"},
		{"-load-pairs", "0"},
		{"-load-seconds", "601"},
		{"-only", "latency-3"},
		{"-seconds", "NaN"},
		{"-only", "tcp,nothing"},
		{"-unknown"},
		{"tcp"},
	} {
		var out, errs bytes.Buffer
		if code := mainCode(args, &out, &errs); code != exitUsage {
			t.Errorf("%q: code %d", args, code)
		}
		if out.Len() != 0 || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%q: printed %q and %q", args, out.String(), errs.String())
		}
	}
}

func TestHelpNamesEveryMetric(t *testing.T) {
	var out, errs bytes.Buffer
	if code := mainCode([]string{"-help"}, &out, &errs); code != 0 || errs.Len() != 0 {
		t.Errorf("code %d, %q", code, errs.String())
	}
	for _, m := range metrics() {
		if !strings.Contains(out.String(), m.ID) {
			t.Errorf("nothing about %s in %q", m.ID, out.String())
		}
	}
	for _, c := range loadCases() {
		if !strings.Contains(out.String(), c.ID) {
			t.Errorf("nothing about %s in %q", c.ID, out.String())
		}
	}
}

func everyLoad() string {
	var names []string
	for _, c := range loadCases() {
		names = append(names, c.ID)
	}
	return strings.Join(names, " ")
}

func TestOnlyTakesKindsAndSingleMetrics(t *testing.T) {
	for only, want := range map[string]string{
		"":              "tcp-tx tcp-rx udp-tx udp-rx rtt " + everyLoad() + " hot",
		"tcp":           "tcp-tx tcp-rx",
		"rtt,udp-rx":    "rtt udp-rx",
		"udp-rx,udp":    "udp-rx udp-tx",
		"hot-loops":     "hot",
		"rtt,hot-loops": "rtt hot",
		"tcp-tx,tcp-tx": "tcp-tx",

		"rtt,latency-30":          "rtt latency-30-1 latency-30-8 latency-30-udp",
		"latency-norate-udp":      "latency-norate-udp",
		"latency-10,latency-10-8": "latency-10-1 latency-10-8 latency-10-udp",
	} {
		chosen, loads, hot, err := choose(only)
		if err != nil {
			t.Errorf("%q: %v", only, err)
		}
		var got []string
		for _, m := range chosen {
			got = append(got, m.ID)
		}
		for _, c := range loads {
			got = append(got, c.ID)
		}
		if hot {
			got = append(got, "hot")
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", only, got, want)
		}
	}
}
