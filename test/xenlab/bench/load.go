package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/xnetfrontd/xnetfrontd/test/figures"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// load is what was measured while a vif had uploads. A ping, a request and a packet of a
// call are sent in the same seconds.
type load struct {
	upload upload
	ping   pings
	asked  traffic.Asked
	call   traffic.Seen
	drops  drops
}

// quiet is what was measured without uploads: pings with nothing else, and then UDP that
// nobody paces.
type quiet struct {
	ping  pings
	udp   unpaced
	drops drops // of the UDP
}

const (
	requestsPerSecond = 20
	callPerSecond     = 50
	callBytes         = 160 // 20 ms of a call without compression
	udpSeconds        = 5
	udpBytes          = 1400
	udpMost           = 1 << 24 // more than can be sent in that time
	quietPings        = 20
	// warm is how many frames of an upload come before anything is measured.
	warm = 200
	// around is how many seconds of an upload nothing is measured in, for it begins before
	// the rest and ends behind it.
	around = 2
)

// turn gives the vif to a frontend and measures everything.
func (b *bed) turn(ctx context.Context, frontend string, o Latency) (t turn, err error) {
	limit := sampleTime + longest*duration(len(o.Flows)*o.Upload+udpSeconds)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done in %s", limit))
	defer cancel()
	t.frontend = frontend
	if err := b.give(ctx, frontend); err != nil {
		return t, err
	}
	if t.quiet, err = b.quiet(ctx); err != nil {
		return t, err
	}
	for _, flows := range o.Flows {
		l, err := b.load(ctx, flows, o.Upload)
		if err != nil {
			return t, fmt.Errorf("%d uploads: %w", flows, err)
		}
		t.loads = append(t.loads, l)
	}
	return t, nil
}

func (b *bed) quiet(ctx context.Context) (q quiet, err error) {
	if q.ping, err = b.pings(ctx, quietPings); err != nil {
		return q, err
	}
	before, err := b.drops(ctx)
	if err != nil {
		return q, err
	}
	if q.udp, err = b.unpaced(ctx); err != nil {
		return q, err
	}
	after, err := b.drops(ctx)
	q.drops = after.since(before)
	return q, err
}

// load uploads, and measures meanwhile.
func (b *bed) load(ctx context.Context, flows, seconds int) (l load, err error) {
	before, err := b.drops(ctx)
	if err != nil {
		return l, err
	}
	// What TCP remembers of the sample before would be another one's start.
	if _, err := b.domU.Run(ctx, "ip", "tcp_metrics", "flush"); err != nil {
		return l, err
	}
	bulk, err := b.domU.Start(ctx, "iperf3", "--client", b.dom0(), "--json", "--interval", "0",
		"--time", strconv.Itoa(seconds), "--parallel", strconv.Itoa(flows))
	if err != nil {
		return l, err
	}
	if _, err := b.domU.Run(ctx, lab.AgentPath, "await-frames", b.link, strconv.Itoa(warm)); err != nil {
		return l, err
	}
	beside, ctxBeside := errgroup.WithContext(ctx)
	beside.Go(func() (err error) { l.ping, err = b.pings(ctxBeside, pingsPerSecond*(seconds-around)); return })
	beside.Go(func() (err error) { l.asked, err = b.ask(ctxBeside, seconds-around); return })
	beside.Go(func() (err error) { l.call, err = b.call(ctxBeside, seconds-around); return })
	if err := beside.Wait(); err != nil {
		return l, err
	}
	r, err := bulk.Wait(ctx)
	if err != nil {
		return l, err
	}
	if l.upload, err = parseUpload(r.Stdout); err != nil {
		return l, err
	}
	after, err := b.drops(ctx)
	l.drops = after.since(before)
	return l, err
}

// upload is what iperf3 says of all flows together.
type upload struct {
	mbit         float64 // received
	sent, resent float64 // segments
}

func (u *upload) resentPercent() float64 { return 100 * u.resent / u.sent }

// parseUpload reads iperf3's JSON. Segments are counted as the network has them.
func parseUpload(out string) (upload, error) {
	r, err := parseIperf(out)
	if err != nil {
		return upload{}, err
	}
	var all struct {
		Start struct {
			MSS float64 `json:"tcp_mss_default"`
		} `json:"start"`
		End struct {
			Sent struct {
				Bytes  float64 `json:"bytes"`
				Resent float64 `json:"retransmits"`
			} `json:"sum_sent"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return upload{}, fmt.Errorf("iperf3: %w", err)
	}
	sent := all.End.Sent
	if !(all.Start.MSS > 0 && sent.Bytes > 0) {
		return upload{}, errors.New("iperf3 does not say what it has sent, and in what segments")
	}
	return upload{mbit: 8 * r.Bytes / r.Seconds / 1e6, sent: sent.Bytes/all.Start.MSS + sent.Resent, resent: sent.Resent}, nil
}

// pings are what ping saw, in ms.
type pings struct {
	sent, received     int
	average, p95, most float64 // of those answered, except that the percentile takes all
}

func (p *pings) lostPercent() float64 { return 100 * float64(p.sent-p.received) / float64(p.sent) }

// pingWait is how many seconds ping waits for the last answers.
const pingWait = 5

func (b *bed) pings(ctx context.Context, count int) (pings, error) {
	out, err := b.domU.Run(ctx, "ping", "-n", "-W", strconv.Itoa(pingWait), "-i", fmt.Sprint(1.0/pingsPerSecond), "-c", strconv.Itoa(count), b.dom0())
	var exit *lab.ExitError
	if err != nil && !errors.As(err, &exit) { // 1 if some are lost
		return pings{}, err
	}
	return parsePings(out)
}

var (
	pingTime = regexp.MustCompile(`icmp_seq=\d+ ttl=\d+ time=([\d.]+) ms\n`)
	pingSent = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)
)

// parsePings reads what iputils' ping prints without -q. For the percentile a ping that
// was lost took as long as ping waits.
func parsePings(out string) (p pings, err error) {
	m := pingSent.FindStringSubmatch(out)
	if m == nil {
		return p, fmt.Errorf("ping wrote %q", out)
	}
	p.sent, _ = strconv.Atoi(m[1])     // digits, as above
	p.received, _ = strconv.Atoi(m[2]) // as above
	var times []float64
	for _, m := range pingTime.FindAllStringSubmatch(out, -1) {
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return p, fmt.Errorf("ping: %w", err)
		}
		times = append(times, v)
	}
	if len(times) == 0 || len(times) != p.received {
		return p, fmt.Errorf("ping had %d answers and printed %d: %q", p.received, len(times), out)
	}
	for _, v := range times {
		p.average += v / float64(len(times))
		p.most = max(p.most, v)
	}
	for range p.sent - p.received {
		times = append(times, pingWait*1000)
	}
	slices.Sort(times)
	p.p95 = traffic.Percentile(times, 95)
	return p, nil
}

// ask sends small requests for some seconds.
func (b *bed) ask(ctx context.Context, seconds int) (a traffic.Asked, err error) {
	out, err := b.domU.Run(ctx, lab.AgentPath, "ask", b.dom0()+":5003",
		fmt.Sprintf("--rate=%d", requestsPerSecond), fmt.Sprintf("--requests=%d", requestsPerSecond*seconds))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		return a, fmt.Errorf("ask wrote %q: %w", out, err)
	}
	if a.Answered == 0 {
		return a, errors.New("not one of the small requests was answered")
	}
	return a, nil
}

// call sends a call's packets for some seconds.
func (b *bed) call(ctx context.Context, seconds int) (traffic.Seen, error) {
	_, seen, err := b.stream(ctx, fmt.Sprintf("--rate=%d", callPerSecond),
		fmt.Sprintf("--packets=%d", callPerSecond*seconds), fmt.Sprintf("--size=%d", callBytes))
	return seen, err
}

func (l *load) callLostPercent() float64 { return 100 * float64(l.call.Lost) / float64(l.call.Total) }

// unpaced is UDP as fast as the sender gets it out.
type unpaced struct {
	sent traffic.Streamed
	seen traffic.Seen
}

// deliveredPercent counts what came to the receiving host: whether its socket has room is
// no matter of the vif.
func (u *unpaced) deliveredPercent() float64 {
	return 100 * float64(u.seen.Received+u.seen.Overflowed) / float64(u.sent.Sent)
}

func (b *bed) unpaced(ctx context.Context) (u unpaced, err error) {
	u.sent, u.seen, err = b.stream(ctx, "--rate=0", fmt.Sprintf("--for=%ds", udpSeconds),
		fmt.Sprintf("--packets=%d", udpMost), fmt.Sprintf("--size=%d", udpBytes))
	return u, err
}

// stream sends numbered packets to dom0, and returns what both ends say.
func (b *bed) stream(ctx context.Context, args ...string) (sent traffic.Streamed, seen traffic.Seen, err error) {
	// What waits in the guest when the sender ends is no loss, if it comes at all.
	sink, err := b.lab.Dom0().Start(ctx, lab.AgentPath, "stream-sink", ":5002", "--quiet=3s", "--timeout=1m")
	if err != nil {
		return sent, seen, err
	}
	if err := sink.AwaitStdout(ctx, "ready"); err != nil {
		return sent, seen, fmt.Errorf("%w: %s", err, strings.TrimSpace(sink.Stderr()))
	}
	out, err := b.domU.Run(ctx, append([]string{lab.AgentPath, "stream", b.dom0() + ":5002"}, args...)...)
	if err != nil {
		return sent, seen, err
	}
	r, err := sink.Wait(ctx)
	if err != nil {
		return sent, seen, err
	}
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	if err := errors.Join(json.Unmarshal([]byte(out), &sent), json.Unmarshal([]byte(lines[len(lines)-1]), &seen)); err != nil {
		return sent, seen, fmt.Errorf("stream: %w: %s", err, strings.TrimSpace(r.Stderr))
	}
	if sent.Sent == 0 || seen.Total == 0 {
		return sent, seen, fmt.Errorf("stream: %d packets sent, %d came", sent.Sent, seen.Received)
	}
	return sent, seen, nil
}

// drops are what the guest's interface has dropped, and what its queueing discipline has
// dropped and marked, since the interface is there.
type drops struct{ link, qdisc, marked float64 }

func (d drops) since(before drops) drops {
	return drops{d.link - before.link, d.qdisc - before.qdisc, d.marked - before.marked}
}

func (b *bed) drops(ctx context.Context) (d drops, err error) {
	out, err := b.domU.Shell(ctx, fmt.Sprintf("cat /sys/class/net/%[1]s/statistics/tx_dropped; tc -s -j qdisc show dev %[1]s", b.link))
	if err != nil {
		return d, err
	}
	return parseDrops(out)
}

// parseDrops reads a number of frames, and behind it tc's JSON. The root has the drops of
// all below it, and only leaves have marks.
func parseDrops(out string) (d drops, err error) {
	number, list, _ := strings.Cut(out, "\n")
	if d.link, err = strconv.ParseFloat(number, 64); err != nil {
		return d, fmt.Errorf("dropped frames: %w", err)
	}
	var all []struct {
		Root   bool    `json:"root"`
		Drops  float64 `json:"drops"`
		Marked float64 `json:"ecn_mark"`
	}
	if err := json.Unmarshal([]byte(list), &all); err != nil {
		return d, fmt.Errorf("tc wrote %q: %w", list, err)
	}
	for _, q := range all {
		if q.Root {
			d.qdisc += q.Drops
		}
		d.marked += q.Marked
	}
	return d, nil
}

// line is a turn in one line.
func (t *turn) line(flows []int) string {
	n := figures.Number
	parts := []string{fmt.Sprintf("%s: idle ping %s ms, UDP %s %% of %s/s", t.frontend, n(t.quiet.ping.average), n(t.quiet.udp.deliveredPercent()), n(t.quiet.udp.sent.PerSecond))}
	for i := range t.loads {
		l := &t.loads[i]
		parts = append(parts, fmt.Sprintf("%d uploads: ping %s, 95 %% %s, most %s ms, requests %s ms, jitter %s ms, %s Mbit/s, %s %% sent again", flows[i],
			n(l.ping.average), n(l.ping.p95), n(l.ping.most), n(l.asked.AverageMS), n(l.call.JitterMS), n(l.upload.mbit), n(l.upload.resentPercent())))
	}
	return strings.Join(parts, "; ")
}
