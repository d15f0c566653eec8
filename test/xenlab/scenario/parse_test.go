package scenario

import (
	"slices"
	"testing"
)

func TestGrantsOfOneDomainAreFoundInXensDump(t *testing.T) {
	const dump = `(XEN) gnttab_usage_print_all [ key 'g' pressed
(XEN) no active grant table entries
(XEN)       -------- active --------       -------- shared --------
(XEN) [ref] localdom mfn      pin          localdom gmfn     flags
(XEN) grant-table for remote d1 (v1)
(XEN)   3 frames (64 max), 0 maptrack frames (1024 max)
(XEN) [0x000]      0 0x72002 0x00000002          0 0x072002 0x19
(XEN) [0x20e]      0 0x76418 0x00000001          0 0x076418 0x19
(XEN) grant-table for remote d12 (v1)
(XEN) [0x001]      0 0x72001 0x00000002          0 0x072001 0x19
(XEN) gnttab_usage_print_all ] done
`
	want := []string{
		"[0x000]      0 0x72002 0x00000002          0 0x072002 0x19",
		"[0x20e]      0 0x76418 0x00000001          0 0x076418 0x19",
	}
	if got := grantsOf(dump, 1); !slices.Equal(got, want) {
		t.Errorf("of domain 1: %q", got)
	}
	if got := grantsOf(dump, 2); got != nil {
		t.Errorf("of domain 2: %q", got)
	}
}

func TestNetbacksRingIndicesAreRead(t *testing.T) {
	const text = `Queue 0
TX: nr_ents 256
req prod 1017 (0) cons 1017 (0) event 1018 (1)
rsp prod 1016 (base) pvt 1016 (0) event 1018 (2)
pending prod 256 pending cons 0 nr_pending_reqs 0
dealloc prod 3 dealloc cons 3 dealloc_queue 0

RX: nr_ents 256
req prod 2210 (256) cons 1954 (0) event 1955 (1)
rsp prod 1954 (base) pvt 1954 (0) event 1955 (1)

NAPI state: 0 NAPI weight: 64 TX queue len 0
`
	if got, ok := parseSlots(text); !ok || got != (slots{tx: 1016, rx: 1954}) {
		t.Errorf("got %+v, %v", got, ok)
	}
	if _, ok := parseSlots("Queue 0\n"); ok {
		t.Error("indices in a text without any")
	}
}

func TestPingsLastLinesAreRead(t *testing.T) {
	got, err := parsePings(`PING 10.77.0.2 (10.77.0.2) 56(84) bytes of data.

--- 10.77.0.2 ping statistics ---
10 packets transmitted, 9 received, +1 errors, 10% packet loss, time 1816ms
rtt min/avg/max/mdev = 2.990/7.646/20.694/6.552 ms
`)
	if want := (pings{sent: 10, received: 9, minMS: 2.99, averageMS: 7.646, maxMS: 20.694}); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := parsePings("64 bytes from 10.77.0.2: icmp_seq=1 ttl=64 time=5.2 ms\n64 bytes from 10.77.0.2: icmp_seq=12 ttl=64 time=5.2 ms\n\n" +
		"13 packets transmitted, 2 received, 84% packet loss, time 2400ms\n"); err != nil || got != (pings{sent: 13, received: 2, last: 12}) {
		t.Errorf("with answers: %+v, %v", got, err)
	}
	if got, err := parsePings("1 packets transmitted, 0 received, 100% packet loss, time 0ms\n"); err != nil || got != (pings{sent: 1}) {
		t.Errorf("nothing received: %+v, %v", got, err)
	}
	if _, err := parsePings("ping: no route"); err == nil {
		t.Error("no statistics, and no error")
	}
}
