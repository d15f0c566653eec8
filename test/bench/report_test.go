package main

import (
	"bytes"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/golden"
	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

// fixture is a run that meets the floor.
func fixture() *result {
	r := &result{
		When:    time.Date(2026, 11, 23, 14, 5, 9, 0, time.UTC),
		Machine: figures.Machine{Kernel: "6.18.0", Processor: "some & <processor>", CPUs: 2, Arch: "amd64", Go: "go1.26.8", Revision: "1234567"},
		Pairs:   3, Seconds: 1,
		HotLoops: []hotLoop{
			{Package: "pkg/netfront", Name: "TxService/60", Figures: map[string][]float64{
				"ns/op": {1100, 1000, 1200}, "ns/slot": {137, 125, 150}, "ns/packet": {137, 125, 150}, "allocs/op": {0, 0, 0}}},
			{Package: "pkg/tap", Name: "Read/64/single", Figures: map[string][]float64{"ns/op": {800, 700}, "allocs/op": {0, 0}}},
		},
	}
	for _, m := range metrics() {
		veth, forwarder, daemon := 10.0, 7.0, 6.2
		if m.Less {
			forwarder, daemon = 25, 43
		}
		all := measured{metric: m}
		for i := range r.Pairs {
			noise := 1 + float64(i-1)/10
			s := func(link string, v float64) sample {
				return sample{Link: link, Value: v, P99: 3 * v, Packets: 100000}
			}
			f := s(linkForwarder, forwarder*noise)
			f.CPU = map[string]int64{forwarderRole: 300}
			d := s(linkXnetfrontd, daemon*noise)
			d.CPU = map[string]int64{daemonProcess: 250, backendProcess: 240}
			d.Counters = map[string]uint64{"tx.packets": 100000, "tx.bytes": 6000000, "tx.notify_sent": 5000, "tx.events": 2000, "tx.batches": 40000,
				"rx.packets": 100000, "rx.bytes": 6000000, "rx.events": 10000, "rx.batches": 50000}
			all.Rounds = append(all.Rounds, []sample{s(linkVeth, veth-1), f, d, s(linkVeth, veth+1)})
		}
		r.Metrics = append(r.Metrics, all)
	}
	r.LoadPairs, r.LoadSeconds = 3, 5
	for _, c := range []loadCase{{"latency-30-1", 30, 1}, {"latency-norate-8", 0, 8}, {"latency-30-udp", 30, 0}} {
		r.Loads = append(r.Loads, loadedFixture(c))
	}
	return r
}

// loadedFixture has no lost pings on veth, and none at all in one sample of xnetfrontd.
func loadedFixture(c loadCase) loaded {
	l := loaded{loadCase: c}
	for i := range 3 {
		p := loadPair{Veth: make(map[string]float64), Xnetfrontd: make(map[string]float64)}
		for n, f := range c.figures() {
			p.Veth[f.ID] = float64(10*n + 30 + i)
			p.Xnetfrontd[f.ID] = p.Veth[f.ID] * 1.1
			if f.Plain {
				p.Veth[f.ID], p.Xnetfrontd[f.ID] = 0, float64(i)/2
			}
			if i == 2 && (f.ID == figurePing || f.ID == figurePing95) {
				delete(p.Xnetfrontd, f.ID)
			}
		}
		l.Pairs = append(l.Pairs, p)
	}
	return l
}

func TestReportIsAsPeopleKnowIt(t *testing.T) {
	var b bytes.Buffer
	if err := fixture().report(&b); err != nil {
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

func TestChartIsXMLForAnyChoiceOfMetrics(t *testing.T) {
	all := fixture()
	for i := range all.Metrics {
		r := *all
		r.Metrics = all.Metrics[i : i+1]
		svg, err := r.chart()
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(bytes.NewReader(svg))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", r.Metrics[0].ID, err)
			}
		}
	}
}

func TestResultsAreSavedUnderTheirTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	paths, err := fixture().save(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) != 2 || paths[0] != filepath.Join(dir, "2026-11-23-140509.json") || paths[1] != filepath.Join(dir, "2026-11-23-140509.svg") {
		t.Errorf("paths %q", paths)
	}
	for _, p := range paths {
		if st, err := os.Stat(p); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", p, err)
		}
	}
}
