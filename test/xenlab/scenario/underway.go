package scenario

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// inHand is what a process that is killed may have in its hands, each way: a batch, of
// the only queue that a guest with one CPU has.
const inHand = 32

// openFlow opens a TCP flow of seeded bytes, some in a second or as many as there can
// be (0), which goes on until finish. Its receiver is detached: it does not end with
// the lab's connection to its guest, as across a restore.
func openFlow(t *T, from, to place, address, number string, pace int) *tool {
	r, err := to.StartCommand(t.Context(), lab.Command{
		Argv:     to.argv(lab.AgentPath, "receive", port("", number), "--timeout="+patience),
		Detached: "/run/lab-receive-" + number,
	})
	t.NoError(err, "start receive")
	t.Cleanup(func(ctx context.Context) error {
		// It has ended with its flow, or with its guest, unless the scenario failed.
		_, _ = to.Shell(ctx, fmt.Sprintf("kill -9 %d 2>/dev/null || true", r.Pid))
		return nil
	})
	return from.listen(t, "send", port(address, number), "--bytes=0", "--timeout="+patience, fmt.Sprintf("--pace=%d", pace))
}

// finish ends a flow and compares the hashes of both ends.
func finish(f *tool) traffic.Sent {
	sent := interrupt[traffic.Sent](f)
	f.t.Require(sent.Bytes > 0, "%s: no byte was sent", f.name)
	return sent
}

// oneWay is a numbered stream as both ends saw it.
type oneWay struct {
	sent traffic.Streamed
	seen traffic.Seen
}

// lost is how many of the packets that were sent never came.
func (w oneWay) lost() int { return w.sent.Sent - w.seen.Received }

// streams are numbered streams between a guest and dom0, one each way.
type streams struct {
	t            *T
	sinks, sends [2]*tool // to dom0, to the guest
}

// streamSize makes frames of 66 bytes: netback itself queues 512 KiB of them while
// nobody takes them, and drops one each time when that is full.
const streamSize = 24

// startStreams starts streams of so many packets, so many in a second, each way. Their
// sinks wait for so long after a packet for the next one.
func startStreams(t *T, u *lab.DomU, packets, rate int, quiet time.Duration) *streams {
	s := &streams{t: t}
	for i, way := range s.ways(u) {
		s.sinks[i] = way.to.listen(t, "stream-sink", port("", "5002"), "--quiet="+quiet.String(), "--timeout="+patience)
	}
	for i, way := range s.ways(u) {
		s.sends[i] = way.from.launch(t, "stream", port(way.address, "5002"),
			fmt.Sprintf("--packets=%d", packets), fmt.Sprintf("--rate=%d", rate), fmt.Sprintf("--size=%d", streamSize))
	}
	return s
}

// way is a direction.
type way struct {
	from, to place
	address  string // of to
}

func (s *streams) ways(u *lab.DomU) [2]way {
	guest, dom0 := in(u.Guest), in(s.t.Dom0)
	return [2]way{{guest, dom0, ipv4(numberDom0)}, {dom0, guest, ipv4(numberGuest)}}
}

// stop ends both streams now, and waits until what was sent is through.
func (s *streams) stop() (up, down oneWay) {
	var ways [2]oneWay
	for i, send := range s.sends {
		ways[i].sent = interrupt[traffic.Streamed](send)
	}
	reachesSoon(s.t, in(s.t.Dom0), ipv4(numberGuest)) // behind it, in the same queues
	for i, sink := range s.sinks {
		ways[i].seen = interrupt[traffic.Seen](sink)
		s.t.Logf("stream %d: %+v", i, ways[i])
	}
	return ways[0], ways[1]
}

// wait waits for the end of both streams.
func (s *streams) wait() (up, down oneWay) {
	var ways [2]oneWay
	for i := range ways {
		ways[i] = oneWay{result[traffic.Streamed](s.sends[i]), result[traffic.Seen](s.sinks[i])}
		s.t.Logf("stream %d: %+v", i, ways[i])
	}
	return ways[0], ways[1]
}

// drainTimeout is for how long netback keeps a frame that nobody takes.
func drainTimeout(t *T) time.Duration {
	return time.Duration(number(t, t.Dom0, "/sys/module/xen_netback/parameters/rx_drain_timeout_msecs")) * time.Millisecond
}

// within reports what took how long against its goal. It fails at ten times the goal:
// the machine may be slow.
func within(t *T, what string, took, goal time.Duration) {
	t.Reportf("%s: %.2f s, goal %.2f s", what, took.Seconds(), goal.Seconds())
	if took > 10*goal {
		t.Errorf("%s took %s, more than ten times the goal of %s", what, took.Round(time.Millisecond), goal)
	}
}

// milliseconds is a time as the tools have it.
func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// reachesSoon wants an answer to a ping. What is sent until the daemon has seen that the
// backend is there is lost.
func reachesSoon(t *T, p place, address string) {
	for {
		// It ends at the first answer, and at the first error that the network tells it, as
		// that a neighbour of before is not there yet.
		got, err := ping(t.Context(), p, address, "-c", "1", "-w", "120")
		t.NoError(err, "ping "+address)
		if got.received > 0 {
			return
		}
		t.Logf("no answer from %s yet", address)
	}
}

// nothingMapped wants Xen to have no grants of the guest but those of its console and
// of xenstore.
func nothingMapped(t *T, u *lab.DomU, when string) {
	if now := mappedGrants(t, u); len(now) != 2 {
		t.Errorf("%s: grants of the guest mapped by others, besides the console's and xenstore's:\n%s", when, strings.Join(now, "\n"))
	}
}

var droppedByQueue = regexp.MustCompile(`dropped (\d+)`)

// dropped counts frames dropped by the devices and by their queues.
type dropped struct {
	tap int // from the guest
	vif int // to the guest, on dom0's side
}

// drops reads the counts.
func drops(t *T, u *lab.DomU) dropped {
	of := func(g *lab.Guest, link string) int {
		out := shell(t, g, fmt.Sprintf("cat /sys/class/net/%[1]s/statistics/[rt]x_dropped; tc -s qdisc show dev %[1]s", link))
		counts := strings.Fields(out)[:2]
		if m := droppedByQueue.FindStringSubmatch(out); m != nil { // of all queues, then of each
			counts = append(counts, m[1])
		}
		sum := 0
		for _, c := range counts {
			n, err := strconv.Atoi(c)
			t.NoError(err, "counts of drops")
			sum += n
		}
		return sum
	}
	return dropped{of(u.Guest, "xnf0"), of(t.Dom0, u.Vif(0))}
}
