package main

import "github.com/xnetfrontd/xnetfrontd/test/figures"

func valueOf(s sample) float64 { return s.Value }
func p99Of(s sample) float64   { return s.P99 }

// ratios are a link's figures, each divided by the mean of the two veth samples of
// its round.
func (m *measured) ratios(link string, figure func(sample) float64) figures.Spread {
	var ratios []float64
	for _, round := range m.Rounds {
		base := (figure(round[0]) + figure(round[len(round)-1])) / 2
		for _, s := range round[1 : len(round)-1] {
			if s.Link == link {
				ratios = append(ratios, figure(s)/base)
			}
		}
	}
	return figures.SpreadOf(ratios)
}

// absolute is the median of a link's figures.
func (m *measured) absolute(link string, figure func(sample) float64) float64 {
	var all []float64
	for _, round := range m.Rounds {
		for _, s := range round {
			if s.Link == link {
				all = append(all, figure(s))
			}
		}
	}
	return figures.SpreadOf(all).Median
}

// per is the median over xnetfrontd's samples of how many of one thing in the loaded
// direction came on one of what a counter counts; infinite where there was none.
func (m *measured) per(counter string, thing func(counters map[string]uint64, direction string) float64) float64 {
	var all []float64
	for _, round := range m.Rounds {
		for _, s := range round {
			if s.Link == linkXnetfrontd {
				all = append(all, thing(s.Counters, m.Loaded)/float64(s.Counters[m.Loaded+"."+counter]))
			}
		}
	}
	return figures.SpreadOf(all).Median
}

// frames are what the ring carries: a super-frame is one.
func frames(counters map[string]uint64, direction string) float64 {
	return float64(counters[direction+".packets"])
}

// packets are what a wire would carry: a super-frame counts as those that it would be
// cut into, as it does in a network card's statistics.
func packets(counters map[string]uint64, direction string) float64 {
	return max(frames(counters, direction), float64(counters[direction+".bytes"])/(mtu+etherHeader))
}

// etherHeader is the length of an Ethernet header in bytes.
const etherHeader = 14

// cpuPerFrame is what a process of a link used for each frame over the link, in µs,
// over all samples: the kernel counts CPU time in steps too coarse for one.
func (m *measured) cpuPerFrame(link, process string) float64 {
	var ms int64
	var carried uint64
	for _, round := range m.Rounds {
		for _, s := range round {
			if s.Link == link {
				ms += s.CPU[process]
				carried += s.Packets
			}
		}
	}
	return float64(ms) * 1e3 / float64(carried)
}

// missed lists what of the floor was not reached, one line for each. Allocations are
// not among it: see allocating.
func (r *result) missed() []string {
	var lines []string
	for _, m := range r.Metrics {
		if ratio := m.ratios(linkXnetfrontd, valueOf).Median; m.Floor != 0 && !figures.Meets(ratio, m.Floor, m.Less) {
			lines = append(lines, m.Title+": "+figures.Number(ratio)+" of veth, the floor is "+figures.Number(m.Floor))
		}
		if m.Loaded == "" {
			continue
		}
		if n := m.per("notify_sent", packets); n < notifyFloor {
			lines = append(lines, m.Title+": "+figures.Number(n)+" packets for each notification, the floor is "+figures.Number(notifyFloor))
		}
	}
	return lines
}
