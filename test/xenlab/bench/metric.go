package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Metric is one figure that is measured with each frontend.
type Metric struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Unit  string `json:"unit"`
	// Less says that a smaller ratio to the kernel's is the better one.
	Less bool `json:"less_is_better,omitempty"`
	// Goal is a ratio to the kernel's, 0 for none.
	Goal float64 `json:"goal,omitempty"`
	// Limit is a bound of our own figure, in its unit, 0 for none.
	Limit float64 `json:"limit,omitempty"`
	// Plain says that tso, gso, sg and gro are off at both ends.
	Plain bool `json:"offloads_off,omitempty"`

	tool     tool
	toOur    bool // dom0 sends; else the guest does
	absolute bool // a ratio means nothing
}

// tool is what a sample is taken with.
type tool int

const (
	toolTCP tool = iota
	toolUDP
	toolPing
)

// Goals of the project's design.
const (
	tcpGoal  = 1.0
	pingGoal = 1.5
)

// Metrics are all of them, in the order in which they are measured and printed.
func Metrics() []Metric {
	return []Metric{
		{ID: "tcp-tx", Title: "TCP to dom0", Unit: "Mbit/s", Goal: tcpGoal, tool: toolTCP},
		{ID: "tcp-rx", Title: "TCP from dom0", Unit: "Mbit/s", Goal: tcpGoal, tool: toolTCP, toOur: true},
		{ID: "plain-tx", Title: "TCP to dom0, no offloads", Unit: "Mbit/s", Goal: tcpGoal, Plain: true, tool: toolTCP},
		{ID: "plain-rx", Title: "TCP from dom0, no offloads", Unit: "Mbit/s", Goal: tcpGoal, Plain: true, tool: toolTCP, toOur: true},
		{ID: "udp-tx", Title: "UDP to dom0", Unit: "kpackets/s", tool: toolUDP},
		{ID: "udp-rx", Title: "UDP from dom0", Unit: "kpackets/s", tool: toolUDP, toOur: true},
		{ID: "ping", Title: "ping, minimum", Unit: "ms", Less: true, Goal: pingGoal, tool: toolPing},
	}
}

// LatencyName is the name of all that [Latency] measures. It takes long, so it is
// measured only if it is asked for.
const LatencyName = "latency"

// Choose returns the metrics whose names, or the beginnings of whose names before the
// dash, are among these, and whether latency under load is; if there are no names, all
// metrics.
func Choose(names []string) (metrics []Metric, latency bool, err error) {
	all := Metrics()
	if len(names) == 0 {
		return all, false, nil
	}
	var chosen, known []string
	for _, m := range all {
		known = append(known, m.ID)
	}
	for _, name := range names {
		found := name == LatencyName
		latency = latency || found
		for _, id := range known {
			if kind, _, _ := strings.Cut(id, "-"); id == name || kind == name {
				found, chosen = true, append(chosen, id)
			}
		}
		if !found {
			return nil, false, fmt.Errorf("there is no metric %q: the names are tcp, plain, udp, %s, %s", name, strings.Join(known, ", "), LatencyName)
		}
	}
	return slices.DeleteFunc(all, func(m Metric) bool { return !slices.Contains(chosen, m.ID) }), latency, nil
}
