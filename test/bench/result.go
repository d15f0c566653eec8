package main

import (
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
)

// result is a whole run, as it is saved.
type result struct {
	When     time.Time       `json:"when"`
	Machine  figures.Machine `json:"machine"`
	Pairs    int             `json:"pairs"`
	Seconds  float64         `json:"seconds"` // of one sample
	Metrics  []measured      `json:"metrics"`
	HotLoops []hotLoop       `json:"hot_loops"`
	// Loads are latencies under load, with samples of a length of their own.
	LoadPairs   int      `json:"load_pairs"`
	LoadSeconds float64  `json:"load_seconds"`
	Loads       []loaded `json:"loads"`
}

// measured is a metric with all its samples.
type measured struct {
	metric
	// Rounds hold the samples in the order in which they were taken. The first and
	// the last one of a round are veth's.
	Rounds [][]sample `json:"rounds"`
	// Ratios are computed from Rounds, for readers of the file.
	Ratios map[string]figures.Spread `json:"ratios_to_veth"`
}

// sample is one measurement on one link.
type sample struct {
	Link  string  `json:"link"`
	Value float64 `json:"value"`         // in the metric's unit
	P99   float64 `json:"p99,omitempty"` // of round trips
	// Packets went over the guest's end meanwhile, both ways; a super-frame is one.
	Packets uint64 `json:"packets"`
	// CPU is what the link's processes used meanwhile, by name, in milliseconds.
	CPU map[string]int64 `json:"cpu_ms,omitempty"`
	// Counters are by how much those of the daemon's queues grew.
	Counters map[string]uint64 `json:"counters,omitempty"`
}

// save writes r as JSON and, if there is something to compare, as a chart into dir,
// and returns the paths.
func (r *result) save(dir string) (paths []string, err error) {
	var svg []byte
	if len(r.Metrics) > 0 {
		if svg, err = r.chart(); err != nil {
			return nil, err
		}
	}
	return figures.Save(dir, r.When, "", r, svg)
}
