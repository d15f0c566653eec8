package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// udpPayload makes the smallest Ethernet frame, with the headers.
const udpPayload = 18

// received is what the receiving side of an iperf3 test counted.
type received struct {
	Bytes   float64 `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

const (
	// tcpLeast is what a TCP sample must carry, in bytes: iperf3 counts blocks of 128 KiB.
	tcpLeast = 8 * 128 << 10
	// udpLeast is the same for UDP: 1000 datagrams.
	udpLeast = 1000 * udpPayload
	// longest is how many times its length a sample is given to carry that much.
	longest = 8
)

// iperf sends for some seconds and returns the receiver's figure in the metric's unit.
// The seconds that are omitted come before. On a machine that is busy with other things
// a sample can be too short to count anything: it is taken again, twice as long.
func (b *bed) iperf(ctx context.Context, m *Metric, seconds, omit int) (float64, error) {
	least := float64(tcpLeast)
	if m.tool == toolUDP {
		least = udpLeast
	}
	for length := 1; ; length *= 2 {
		r, err := b.iperfOnce(ctx, m, length*seconds, omit)
		switch {
		case err != nil:
			return 0, err
		case r.Bytes < least && length < longest:
			continue
		case r.Bytes < least:
			return 0, fmt.Errorf("only %.0f bytes arrived in %.1f s", r.Bytes, r.Seconds)
		case m.tool == toolUDP:
			return r.Bytes / udpPayload / r.Seconds / 1e3, nil
		}
		return 8 * r.Bytes / r.Seconds / 1e6, nil
	}
}

func (b *bed) iperfOnce(ctx context.Context, m *Metric, seconds, omit int) (received, error) {
	argv := []string{"iperf3", "--client", b.dom0(), "--json", "--interval", "0", "--time", strconv.Itoa(seconds), "--omit", strconv.Itoa(omit)}
	if m.toOur {
		argv = append(argv, "--reverse")
	}
	if m.tool == toolUDP {
		argv = append(argv, "--udp", "--bitrate", "0", "--length", strconv.Itoa(udpPayload))
	}
	out, err := b.domU.Run(ctx, argv...)
	if out == "" && err != nil {
		return received{}, err
	}
	r, perr := parseIperf(out)
	return r, errors.Join(perr, err)
}

// parseIperf reads iperf3's JSON. It may hold an error while the exit code is 0.
func parseIperf(out string) (received, error) {
	var all struct {
		Error string `json:"error"`
		End   struct {
			Received received `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return received{}, fmt.Errorf("iperf3 wrote %q: %w", out[:min(len(out), 200)], err)
	}
	r := all.End.Received
	switch {
	case all.Error != "":
		return r, fmt.Errorf("iperf3: %s", all.Error)
	case !(r.Seconds > 0):
		return r, fmt.Errorf("iperf3 has no figures of the receiver: %s", strings.TrimSpace(out))
	}
	return r, nil
}

const (
	pingsPerSecond = 10
	leastPings     = 5
)

// ping returns the minimum and the mean in ms. Some answers may be lost.
func (b *bed) ping(ctx context.Context, seconds int) (minimum, mean float64, err error) {
	out, err := b.domU.Run(ctx, "ping", "-n", "-q", "-W", "5", "-i", fmt.Sprint(1.0/pingsPerSecond),
		"-c", strconv.Itoa(max(leastPings, pingsPerSecond*seconds)), b.dom0())
	var exit *lab.ExitError
	if err != nil && !errors.As(err, &exit) { // 1 if some are lost
		return 0, 0, err
	}
	return parsePing(out)
}

// parsePing reads the last line of iputils' ping.
func parsePing(out string) (minimum, mean float64, err error) {
	m := regexp.MustCompile(`rtt min/avg/max/mdev = ([\d.]+)/([\d.]+)/`).FindStringSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("ping had no answer: %q", out)
	}
	minimum, err1 := strconv.ParseFloat(m[1], 64)
	mean, err2 := strconv.ParseFloat(m[2], 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("ping: %w", err)
	}
	return minimum, mean, nil
}
