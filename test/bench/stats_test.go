package main

import (
	"testing"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

func TestRatioIsToTheMeanOfTheVethSamplesOfTheSameRound(t *testing.T) {
	m := measured{Rounds: [][]sample{
		{{Link: linkVeth, Value: 10}, {Link: linkForwarder, Value: 10}, {Link: linkXnetfrontd, Value: 5}, {Link: linkVeth, Value: 30}},
		{{Link: linkVeth, Value: 2}, {Link: linkXnetfrontd, Value: 1}, {Link: linkForwarder, Value: 2}, {Link: linkVeth, Value: 2}},
	}}
	if got, want := m.ratios(linkXnetfrontd, valueOf), (figures.Spread{Median: 0.375, Min: 0.25, Max: 0.5}); got != want {
		t.Errorf("xnetfrontd %+v, want %+v", got, want)
	}
	if got, want := m.ratios(linkForwarder, valueOf), (figures.Spread{Median: 0.75, Min: 0.5, Max: 1}); got != want {
		t.Errorf("forwarder %+v, want %+v", got, want)
	}
	if got := m.absolute(linkVeth, valueOf); got != 6 {
		t.Errorf("median of veth %v, want 6", got)
	}
}

func TestSuperFramesCountAsThePacketsOnTheWire(t *testing.T) {
	m := measured{metric: metric{Loaded: "tx"}, Rounds: [][]sample{{
		{Link: linkVeth},
		{Link: linkXnetfrontd, Counters: map[string]uint64{"tx.packets": 100, "tx.bytes": 1514 * 4000, "tx.notify_sent": 20}},
		{Link: linkVeth},
	}}}
	if p, f := m.per("notify_sent", packets), m.per("notify_sent", frames); p != 200 || f != 5 {
		t.Errorf("%v packets and %v frames for each notification, want 200 and 5", p, f)
	}
	m.Rounds[0][1].Counters["tx.bytes"] = 60 * 100
	if p := m.per("notify_sent", packets); p != 5 {
		t.Errorf("%v small packets for each notification, want 5", p)
	}
}

func TestMissedFloorNamesEachMetric(t *testing.T) {
	r := fixture()
	if lines := r.missed(); len(lines) != 0 {
		t.Errorf("nothing is missed, yet: %q", lines)
	}
	for i := range r.Metrics {
		for _, round := range r.Metrics[i].Rounds {
			for j := range round {
				if s := &round[j]; s.Link == linkXnetfrontd {
					s.Value = 0.1
					if r.Metrics[i].Less {
						s.Value = 1e6
					}
					s.Counters["tx.notify_sent"] = s.Counters["tx.packets"]
					s.Counters["rx.notify_sent"] = s.Counters["rx.packets"]
				}
			}
		}
	}
	if lines := r.missed(); len(lines) != 5+4 { // each ratio, and notifications of all but the round trips
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}

func TestHotLoopThatAllocatesIsFound(t *testing.T) {
	r := fixture()
	if lines := r.allocating(); len(lines) != 0 {
		t.Errorf("nothing allocates, yet: %q", lines)
	}
	r.HotLoops[0].Figures["allocs/op"] = []float64{0, 1, 0}
	delete(r.HotLoops[1].Figures, "allocs/op") // unknown is not none
	if lines := r.allocating(); len(lines) != 2 {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}
