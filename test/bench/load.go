package main

import (
	"fmt"
	"slices"
	"strings"
)

// loadCase is a load under which the latency of a link is looked at: uploads by TCP
// from the guest, or one sender of datagrams that does not pace itself.
//
// The links are a vif of the embedded Xen, whose netback honours the rate node, and a
// veth pair behind a queue that is what a kernel's driver would have there: see
// [bucket]. Both have one queue: a rate is for each queue of a vif.
type loadCase struct {
	ID    string `json:"id"`
	Mbit  int    `json:"mbit"`  // the vif's rate, in Mb/s as xl understands them; 0 is none
	Flows int    `json:"flows"` // TCP uploads; 0 for the datagrams
}

// loadPrefix begins the names of all loads.
const loadPrefix = "latency"

// loadCases are all of them, in the order in which they are measured and printed.
func loadCases() []loadCase {
	var all []loadCase
	for _, mbit := range []int{10, 30, 100, 0} {
		rate := fmt.Sprint(mbit)
		if mbit == 0 {
			rate = "norate"
		}
		for _, flows := range []int{1, 8, 0} {
			kind := fmt.Sprint(flows)
			if flows == 0 {
				kind = "udp"
			}
			all = append(all, loadCase{ID: strings.Join([]string{loadPrefix, rate, kind}, "-"), Mbit: mbit, Flows: flows})
		}
	}
	return all
}

func (c loadCase) title() string {
	rate := fmt.Sprintf("%d Mb/s", c.Mbit)
	if c.Mbit == 0 {
		rate = "no rate"
	}
	switch c.Flows {
	case 0:
		return rate + ", datagrams as fast as the socket takes them"
	case 1:
		return rate + ", one TCP upload"
	}
	return fmt.Sprintf("%s, %d TCP uploads", rate, c.Flows)
}

// figures are what is measured under the load. Without a rate nothing but the machine
// holds the links back, and veth is no measure for a frontend: there are no goals.
func (c loadCase) figures() []loadFigure {
	all := c.figuresAndGoals()
	for i := range all {
		if c.Mbit == 0 {
			all[i].Goal = 0
		}
	}
	return all
}

func (c loadCase) figuresAndGoals() []loadFigure {
	if c.Flows == 0 {
		return []loadFigure{{ID: figureDelivered, Title: "datagrams delivered", Unit: "%", Goal: 0.95}}
	}
	return []loadFigure{
		{ID: figurePing, Title: "ping, average", Unit: "ms", Less: true, Goal: 1},
		{ID: figurePing95, Title: "ping, 95th percentile", Unit: "ms", Less: true, Goal: 1.2},
		{ID: figureLost, Title: "pings lost", Unit: "%", Less: true, Plain: true},
		{ID: figureJitter, Title: "jitter of the pings, 95th percentile", Unit: "ms", Less: true},
		{ID: figureSparse, Title: "sparse TCP flow, round trip, average", Unit: "ms", Less: true},
		{ID: figureSparse95, Title: "sparse TCP flow, 95th percentile", Unit: "ms", Less: true},
		{ID: figureThroughput, Title: "throughput of the uploads", Unit: "Mbit/s", Goal: 0.97},
		{ID: figureResent, Title: "their segments sent again", Unit: "%", Less: true, Plain: true, Goal: 1},
	}
}

// loadFigure is one figure of a sample under load.
type loadFigure struct {
	ID    string
	Title string
	Unit  string
	// Less says that a smaller one is better, and Plain that it stands for itself: a
	// ratio to what is mostly 0 says nothing.
	Less, Plain bool
	// Goal is a ratio to veth, or the figure itself if that is plain; 0 for none.
	Goal float64
}

// Names of the figures, as agents and the saved results have them.
const (
	figurePing       = "ping_ms"
	figurePing95     = "ping_p95_ms"
	figureLost       = "pings_lost_percent"
	figureJitter     = "jitter_p95_ms"
	figureSparse     = "sparse_ms"
	figureSparse95   = "sparse_p95_ms"
	figureThroughput = "throughput_mbit"
	figureResent     = "resent_percent"
	figureDelivered  = "delivered_percent"
)

// chooseLoads returns the loads that a name stands for: all, those of a rate, or one.
func chooseLoads(name string) []loadCase {
	return slices.DeleteFunc(loadCases(), func(c loadCase) bool {
		return c.ID != name && !strings.HasPrefix(c.ID, name+"-")
	})
}
