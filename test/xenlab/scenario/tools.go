package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/agent/traffic"
	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// place is where a command runs: a guest, or a network namespace in it.
type place struct {
	*lab.Guest
	space string
}

// in is the whole of a guest.
func in(g *lab.Guest) place { return place{Guest: g} }

func (p place) argv(argv ...string) []string {
	if p.space == "" {
		return argv
	}
	return append([]string{"ip", "netns", "exec", p.space}, argv...)
}

// tool is one of the agent's traffic tools at work.
type tool struct {
	*lab.Process
	t    *T
	name string
}

// launch starts a traffic tool.
func (p place) launch(t *T, args ...string) *tool {
	proc, err := p.Start(t.Context(), p.argv(append([]string{lab.AgentPath}, args...)...)...)
	t.NoError(err, "start "+args[0])
	return &tool{Process: proc, t: t, name: args[0]}
}

// listen starts a traffic tool that waits for somebody, and returns when it does.
func (p place) listen(t *T, args ...string) *tool {
	w := p.launch(t, args...)
	ended := make(chan error, 1)
	go func() {
		_, err := w.Wait(t.Context())
		ended <- err
	}()
	for !strings.Contains(w.Stdout(), "\n") {
		select {
		case err := <-ended:
			t.Fatalf("%s ended before it was ready: %v: %s", w.name, err, w.Stderr())
		case <-time.After(5 * time.Millisecond): // there is no event for a process's first line
		}
	}
	return w
}

// result waits for a tool's end and returns its last line.
func result[V any](w *tool) V {
	var v V
	r, err := w.Wait(w.t.Context())
	w.t.NoError(err, w.name)
	w.t.Require(r.Code == 0, "%s: exit code %d %s: %s", w.name, r.Code, r.Signal, strings.TrimSpace(r.Stderr))
	lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
	w.t.NoError(json.Unmarshal([]byte(lines[len(lines)-1]), &v), w.name)
	return v
}

// interrupt tells a tool to end with what it has, and returns that.
func interrupt[V any](w *tool) V {
	w.t.NoError(w.Signal(w.t.Context(), unix.SIGTERM), w.name)
	return result[V](w)
}

// patience ends no tool that gets on, on however slow a machine: the scenario's own time
// does.
const patience = "1h"

// transfer sends bytes over each of some TCP flows, compares the hashes of both ends,
// and returns what the sender says.
func transfer(t *T, from, to place, address string, bytes, flows int) traffic.Sent {
	sent, err := tryTransfer(t, from, to, address, bytes, flows)
	t.NoError(err, "TCP to "+address)
	return sent
}

func tryTransfer(t *T, from, to place, address string, bytes, flows int) (traffic.Sent, error) {
	n, f := strconv.Itoa(bytes), strconv.Itoa(flows)
	r := to.listen(t, "receive", port("", "5001"), "--flows="+f, "--timeout="+patience)
	s := from.launch(t, "send", port(address, "5001"), "--bytes="+n, "--flows="+f, "--timeout="+patience)
	var sent traffic.Sent
	res, err := s.Wait(t.Context())
	if err == nil && res.Code != 0 {
		err = errors.Join(errors.New(strings.TrimSpace(res.Stderr)), r.Signal(t.Context(), unix.SIGTERM))
	}
	if err == nil {
		err = json.Unmarshal([]byte(res.Stdout), &sent)
	}
	if _, werr := r.Wait(t.Context()); werr != nil || err != nil {
		return sent, errors.Join(err, werr)
	}
	t.Logf("TCP to %s: %d MiB in %d flows, %.0f Mbit/s", address, flows*bytes>>20, flows, sent.MbitPerS)
	return sent, nil
}

// stream sends numbered UDP packets and returns what came.
func stream(t *T, from, to place, address string, packets, rate int) traffic.Seen {
	// A stream that is whole ends at once; of another one, what is late is no loss.
	sink := to.listen(t, "stream-sink", port("", "5002"), "--quiet=60s", "--timeout="+patience)
	src := from.launch(t, "stream", port(address, "5002"), fmt.Sprintf("--packets=%d", packets), fmt.Sprintf("--rate=%d", rate))
	sent := result[traffic.Streamed](src)
	t.Require(sent.Sent == packets, "stream to %s: %d of %d packets sent, %d refused by the kernel", address, sent.Sent, packets, sent.Refused)
	seen := result[traffic.Seen](sink)
	t.Logf("UDP to %s: %d packets at %.0f/s: %+v", address, sent.Sent, sent.PerSecond, seen)
	return seen
}

// noneWrong wants every packet of a stream, once, in order and right.
func noneWrong(t *T, what string, seen traffic.Seen) {
	if seen.Total == 0 || seen.Lost+seen.Duplicated+seen.Reordered+seen.Corrupted != 0 {
		t.Errorf("%s: %d of %d packets came: %d lost (%d of them by the receiver's socket), %d duplicated, %d reordered, %d corrupted",
			what, seen.Received, seen.Total, seen.Lost, seen.Overflowed, seen.Duplicated, seen.Reordered, seen.Corrupted)
	}
}

// watch counts frames on an interface until stop is called.
func watch(t *T, p place, link string, args ...string) (stop func() traffic.Frames) {
	w := p.listen(t, append([]string{"watch-frames", link, "--for=" + patience}, args...)...)
	return func() traffic.Frames {
		f := interrupt[traffic.Frames](w)
		t.Logf("frames on %s: %+v", link, f)
		return f
	}
}

// pings is what ping says.
type pings struct {
	sent, received          int
	last                    int     // number of the last answer that it has printed, from 1; not with -q
	minMS, averageMS, maxMS float64 // 0 if none came back
}

var (
	pingCount = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)
	pingSeq   = regexp.MustCompile(`icmp_seq=(\d+) ttl=`)
	pingTimes = regexp.MustCompile(`rtt min/avg/max/mdev = ([\d.]+)/([\d.]+)/([\d.]+)/`)
)

// parsePings reads what iputils' ping prints.
func parsePings(out string) (pings, error) {
	var p pings
	m := pingCount.FindStringSubmatch(out)
	if m == nil {
		return p, fmt.Errorf("no ping statistics in %q", out)
	}
	p.sent, _ = strconv.Atoi(m[1])     // digits, as above
	p.received, _ = strconv.Atoi(m[2]) // as above
	if answers := pingSeq.FindAllStringSubmatch(out, -1); answers != nil {
		p.last, _ = strconv.Atoi(answers[len(answers)-1][1])
	}
	if m := pingTimes.FindStringSubmatch(out); m != nil {
		for i, dst := range []*float64{&p.minMS, &p.averageMS, &p.maxMS} {
			*dst, _ = strconv.ParseFloat(m[i+1], 64)
		}
	}
	return p, nil
}

// ping pings with ping's own options; the exit code does not matter.
func ping(ctx context.Context, p place, address string, args ...string) (pings, error) {
	out, err := p.Run(ctx, p.argv(append([]string{"ping", "-n", "-q", address}, args...)...)...)
	var exit *lab.ExitError
	if err != nil && !errors.As(err, &exit) {
		return pings{}, err
	}
	return parsePings(out)
}

// reaches wants answers to pings. The first may be lost to address resolution.
func reaches(t *T, p place, address string) {
	got, err := ping(t.Context(), p, address, "-c", "5", "-i", "0.2", "-W", "2")
	t.NoError(err, "ping "+address)
	t.Require(got.received >= 4, "ping %s: %d of %d answers", address, got.received, got.sent)
}
