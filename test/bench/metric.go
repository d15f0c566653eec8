package main

import (
	"fmt"
	"slices"
	"strings"
)

// metric is one figure that is measured on each link and compared with veth.
type metric struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Unit  string `json:"unit"`
	// Op is what an agent is ordered to do, and FromGuest tells which one: the guest's
	// or the network's.
	Op        string `json:"-"`
	FromGuest bool   `json:"-"`
	// Loaded is the direction that carries the load, as the daemon's counters name
	// it; empty if there is none.
	Loaded string `json:"-"`
	// Less says that a smaller ratio to veth is the better one.
	Less bool `json:"less_is_better,omitempty"`
	// Floor and Goal are ratios to veth, 0 for none.
	Floor float64 `json:"floor,omitempty"`
	Goal  float64 `json:"goal,omitempty"`
}

// Floor and goal of the project's design, for all metrics of a kind.
const (
	tcpFloor, tcpGoal = 0.50, 0.65
	udpFloor, udpGoal = 0.60, 0.95
	rttFloor, rttGoal = 6, 4
	// notifyFloor is how many packets a notification of the backend must serve under
	// load, counted as on a wire.
	notifyFloor = 8
)

// metrics are all of them, in the order in which they are measured and printed.
func metrics() []metric {
	return []metric{
		{ID: "tcp-tx", Title: "TCP, guest to network", Unit: "Gbit/s", Op: "tcp", FromGuest: true, Loaded: "tx", Floor: tcpFloor, Goal: tcpGoal},
		{ID: "tcp-rx", Title: "TCP, network to guest", Unit: "Gbit/s", Op: "tcp", Loaded: "rx", Floor: tcpFloor, Goal: tcpGoal},
		{ID: "udp-tx", Title: "UDP, guest to network", Unit: "kpackets/s", Op: "udp", FromGuest: true, Loaded: "tx", Floor: udpFloor, Goal: udpGoal},
		{ID: "udp-rx", Title: "UDP, network to guest", Unit: "kpackets/s", Op: "udp", Loaded: "rx", Floor: udpFloor, Goal: udpGoal},
		{ID: "rtt", Title: "round trip, median", Unit: "µs", Op: "rtt", FromGuest: true, Less: true, Floor: rttFloor, Goal: rttGoal},
	}
}

// hotLoops is what -only calls the benchmarks of the packages.
const hotLoops = "hot-loops"

// choose returns the metrics and loads whose names, or the beginnings of whose names
// before a dash, are in only, which is separated by commas; all if it is empty. Hot
// tells whether the hot loops are among them.
func choose(only string) (chosen []metric, loads []loadCase, hot bool, err error) {
	all := metrics()
	if only == "" {
		return all, loadCases(), true, nil
	}
	for name := range strings.SplitSeq(only, ",") {
		if name == hotLoops {
			hot = true
			continue
		}
		named := chooseLoads(name)
		found := len(named) > 0
		for _, c := range named {
			if !slices.Contains(loads, c) {
				loads = append(loads, c)
			}
		}
		for _, m := range all {
			kind, _, _ := strings.Cut(m.ID, "-")
			if m.ID != name && kind != name {
				continue
			}
			found = true
			if !slices.ContainsFunc(chosen, func(c metric) bool { return c.ID == m.ID }) {
				chosen = append(chosen, m)
			}
		}
		if !found {
			return nil, nil, false, fmt.Errorf("-only %s: want names out of %s", name, metricNames())
		}
	}
	return chosen, loads, hot, nil
}

func metricNames() string {
	names := []string{"tcp", "udp"}
	for _, m := range metrics() {
		names = append(names, m.ID)
	}
	names = append(names, loadPrefix)
	for _, c := range loadCases() {
		if c.Flows == 1 { // the rate, and what is under it
			names = append(names, strings.TrimSuffix(c.ID, "-1"))
		}
		names = append(names, c.ID)
	}
	return strings.Join(append(names, hotLoops), ", ")
}
