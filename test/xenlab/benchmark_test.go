package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/bench"
)

// benchOptions is what a command line of bench comes down to.
func benchOptions(t *testing.T, args ...string) (*benchCmd, bench.Options, error) {
	t.Helper()
	var c struct {
		Bench benchCmd `cmd:""`
	}
	parser, err := kong.New(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"bench"}, args...)); err != nil {
		return nil, bench.Options{}, err
	}
	o, err := c.Bench.options(&env{err: io.Discard})
	return &c.Bench, o, err
}

func TestLatencyHasAVifForEachRate(t *testing.T) {
	c, o, err := benchOptions(t, "--only", "latency", "--rates", "30,none,100", "--flows", "1,4", "--upload", "10s")
	if err != nil {
		t.Fatal(err)
	}
	want := []bench.Vif{{DevID: 1, Mbit: 30}, {}, {DevID: 2, Mbit: 100}}
	if !slices.Equal(o.Latency.Vifs, want) || !slices.Equal(o.Latency.Flows, []int{1, 4}) || o.Latency.Upload != 10 || len(o.Metrics) != 0 {
		t.Errorf("%+v, metrics %v", o.Latency, o.Metrics)
	}
	var rates []string
	for _, v := range c.domU(o.Latency.Vifs).Vifs {
		rates = append(rates, v.Rate)
	}
	if !slices.Equal(rates, []string{"", "30Mb/s", "100Mb/s"}) {
		t.Errorf("the guest's vifs have the rates %q", rates)
	}
}

func TestLatencyIsMeasuredIfItIsNamed(t *testing.T) {
	_, o, err := benchOptions(t)
	if err != nil || len(o.Latency.Vifs) != 0 || len(o.Metrics) == 0 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestBaselineIsAnotherBinaryOrOtherFlags(t *testing.T) {
	_, o, err := benchOptions(t, "--baseline-args=--txqueuelen 32")
	if err != nil || o.Baseline == nil || o.Baseline.Path != "" || !slices.Equal(o.Baseline.Args, []string{"--txqueuelen", "32"}) {
		t.Errorf("baseline %+v, %v", o.Baseline, err)
	}
	c, o, err := benchOptions(t, "--baseline", "benchmark_test.go")
	if err != nil || o.Baseline == nil || o.Baseline.Path != baselinePath || c.domU(nil).Payload[baselinePath] == "" {
		t.Errorf("baseline %+v, payload %v, %v", o.Baseline, c.domU(nil).Payload, err)
	}
}

func TestWrongOptionsOfBenchSayWhatIsWantedInstead(t *testing.T) {
	for args, want := range map[string]string{
		"--only=latency --rates=fast":    "--rates fast: want 1 to 10000, in Mb/s, or none",
		"--only=latency --rates=0":       "--rates 0: want 1 to 10000, in Mb/s, or none",
		"--only=latency --flows=0":       "--flows 0: want 1 to 100",
		"--only=latency --upload=1s":     "--upload 1s: want whole seconds, 4s to 10m",
		"--only=latency --upload=4500ms": "--upload 4.5s: want whole seconds, 4s to 10m",
		"--only=late":                    `there is no metric "late"`,
		"--pairs=0":                      "--pairs 0: want at least 1",
	} {
		if _, _, err := benchOptions(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

func TestQuickUploadsAreTheShortest(t *testing.T) {
	_, o, err := benchOptions(t, "--quick", "--only", "latency")
	if err != nil || time.Duration(o.Latency.Upload)*time.Second != shortestUpload || o.Pairs != 1 {
		t.Errorf("%+v, %v", o.Latency, err)
	}
}
