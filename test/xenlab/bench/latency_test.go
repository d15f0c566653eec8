package bench

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/internal/golden"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
)

// loaded is a turn in which all takes so many times as long as the kernel's.
func loaded(frontend string, times float64) turn {
	l := load{
		upload: upload{mbit: 28, sent: 10000, resent: 4},
		ping:   pings{sent: 100, received: 100, average: 30 * times, p95: 50 * times, most: 80 * times},
		asked:  traffic.Asked{Sent: 100, Answered: 100, AverageMS: 30 * times, P95MS: 50 * times, MaxMS: 80 * times},
		call:   traffic.Seen{Total: 500, Received: 500, JitterMS: 5 * times},
	}
	q := quiet{
		ping: pings{sent: 20, received: 20, average: 2, p95: 3, most: 4},
		udp:  unpaced{sent: traffic.Streamed{Sent: 10000, PerSecond: 2000}, seen: traffic.Seen{Received: 9000, Overflowed: 1000}},
	}
	return turn{frontend: frontend, quiet: q, loads: []load{l, l}}
}

// busy is a run with latency alone; ours and a baseline take so many times as long as the
// kernel's.
func busy(ours, baseline float64) *Result {
	r := fixture()
	r.Metrics, r.Upload, r.Frontends = nil, 25, []string{Kernel, Ours, Baseline}
	for _, v := range []Vif{{1, 30}, {0, 0}} {
		var turns [][]turn
		for n := range r.Pairs {
			noise := 1 + float64(n-1)/100
			turns = append(turns, []turn{loaded(Baseline, baseline*noise), loaded(Kernel, 1), loaded(Ours, ours*noise)})
		}
		r.Latency = append(r.Latency, casesOf(v, []int{1, 8}, turns)...)
	}
	return r
}

func TestLatencyReportIsAsPeopleKnowIt(t *testing.T) {
	var b bytes.Buffer
	r := busy(0.9, 15)
	r.Latency = r.Latency[:2]
	if err := r.Report(&b); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "latency.txt", b.Bytes())
	svg, err := busy(0.9, 15).chart()
	if err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "latency.svg", svg)
}

func TestAReportOfOnePairHasNoSpreads(t *testing.T) {
	var b bytes.Buffer
	r := &Result{Pairs: 1, Frontends: []string{Kernel, Ours}, Latency: casesOf(Vif{1, 30}, []int{1, 8}, [][]turn{{loaded(Kernel, 1), loaded(Ours, 1)}})}
	if err := r.Report(&b); err != nil || strings.Contains(b.String(), "30 (30") {
		t.Errorf("%v: %s", err, b.String())
	}
}

func TestMissedLatencyNamesTheVifTheUploadsAndTheFigure(t *testing.T) {
	if lines := busy(1, 15).Missed(); len(lines) != 0 {
		t.Errorf("nothing is missed, yet: %q", lines)
	}
	lines := busy(1.1, 1).Missed() // the average alone: the percentile may be 1.2
	if len(lines) != 4 || !strings.HasPrefix(lines[1], "rate=30Mb/s, 8 uploads: ping, average: 1.10 of the kernel's") || !strings.HasPrefix(lines[2], "no rate, 1 upload: ") {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	if lines := busy(9.9, 1).MissedBy(10); len(lines) != 0 {
		t.Errorf("missed by less than ten times, yet: %q", lines)
	}
	if lines := busy(12.1, 1).MissedBy(10); len(lines) != 8 {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
}

func TestSegmentsSentAgainAreLimitedForASingleUpload(t *testing.T) {
	many, few := loaded(Ours, 1), loaded(Ours, 1)
	for i := range many.loads {
		many.loads[i].upload = upload{mbit: 28, sent: 1000, resent: 11}
	}
	kernel := loaded(Kernel, 1)
	for name, c := range map[string]struct {
		of   turn
		want int
	}{"1.1 % sent again": {many, 1}, "0.04 % sent again": {few, 0}} {
		r := &Result{Frontends: []string{Kernel, Ours}, Latency: casesOf(Vif{1, 30}, []int{1, 8}, [][]turn{{kernel, c.of}})}
		if lines := r.Missed(); len(lines) != c.want {
			t.Errorf("%s: %q", name, lines)
		}
	}
}

func TestRatioToAKernelsNothingIsNone(t *testing.T) {
	kernel, ours := loaded(Kernel, 0), loaded(Ours, 1)
	r := fixture()
	r.Latency = casesOf(Vif{1, 30}, []int{1, 8}, [][]turn{{kernel, ours}})
	if _, err := json.Marshal(r); err != nil { // which knows no infinity
		t.Error(err)
	}
	for _, m := range r.Latency[1].Figures {
		if m.ID == "ping" && m.Ratio != nil {
			t.Errorf("%s: %+v", m.Title, m.Ratio)
		}
	}
}

func TestAPingThatIsLostIsAmongTheSlowest(t *testing.T) {
	answer := func(n string, ms string) string {
		return "64 bytes from 10.78.0.1: icmp_seq=" + n + " ttl=64 time=" + ms + " ms\n"
	}
	end := func(counts string) string {
		return "\n--- 10.78.0.1 ping statistics ---\n" + counts + ", time 300ms\nrtt min/avg/max/mdev = 1/2/3/0 ms\n"
	}
	p, err := parsePings("PING 10.78.0.1 (10.78.0.1) 56(84) bytes of data.\n" + answer("1", "1.5") + answer("3", "1234") + end("3 packets transmitted, 2 received, 33% packet loss"))
	if err != nil || p != (pings{sent: 3, received: 2, average: 617.75, p95: 5000, most: 1234}) {
		t.Errorf("%+v, %v", p, err)
	}
	if got := p.lostPercent(); math.Abs(got-100.0/3) > 1e-9 {
		t.Errorf("%v %% lost", got)
	}
	for _, out := range []string{"", end("3 packets transmitted, 0 received, 100% packet loss"), answer("1", "1") + end("3 packets transmitted, 2 received")} {
		if p, err := parsePings(out); err == nil {
			t.Errorf("%q is %+v", out, p)
		}
	}
}

func TestUploadIsCountedInSegments(t *testing.T) {
	u, err := parseUpload(`{"start":{"tcp_mss_default":1000},"end":{"sum_sent":{"bytes":99000,"retransmits":1},"sum_received":{"bytes":80000,"seconds":0.5}}}`)
	if err != nil || u != (upload{mbit: 1.28, sent: 100, resent: 1}) || u.resentPercent() != 1 {
		t.Errorf("%+v, %v", u, err)
	}
	for _, out := range []string{"", `{"error":"refused"}`, `{"end":{"sum_received":{"bytes":1,"seconds":1}}}`} {
		if _, err := parseUpload(out); err == nil {
			t.Errorf("%q is no error", out)
		}
	}
}

func TestDropsBelowARootAreCountedOnce(t *testing.T) {
	d, err := parseDrops("7\n" + `[{"kind":"mq","root":true,"drops":5},{"kind":"fq_codel","parent":":1","drops":5,"ecn_mark":3},{"kind":"fq_codel","parent":":2","drops":0,"ecn_mark":1}]`)
	if err != nil || d != (drops{7, 5, 4}) {
		t.Errorf("%+v, %v", d, err)
	}
	if got := (drops{9, 5, 4}).since(d); got != (drops{2, 0, 0}) {
		t.Errorf("since: %+v", got)
	}
	if _, err := parseDrops("0\n"); err == nil {
		t.Error("no list is no error")
	}
}

func TestWhatTheReceiversSocketDropsWasDelivered(t *testing.T) {
	u := unpaced{sent: traffic.Streamed{Sent: 200}, seen: traffic.Seen{Received: 120, Overflowed: 30}}
	if got := u.deliveredPercent(); got != 75 {
		t.Errorf("%v %%", got)
	}
}
