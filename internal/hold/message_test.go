package hold

import (
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// The bytes on the wire: another release of the program is at the other end.
func TestLayoutOfMessagesStays(t *testing.T) {
	for _, c := range []struct {
		m    message
		want string
	}{
		{message{op: opPut, key: "vif/0/tap", text: "{}", names: []string{"q0", "keeper"}},
			"01" + "00" + "097669662f302f746170" + "00027b7d" + "02" + "027130" + "066b6565706572"},
		{message{op: opPark, key: "k", parked: "ID"}, "04" + "024944" + "016b" + "0000" + "00"},
		{message{op: opRefused, text: "why"}, "0a" + "00" + "00" + "0003776879" + "00"},
	} {
		if got := hex.EncodeToString(c.m.encode()); got != c.want {
			t.Errorf("%+v is\n%s, want\n%s", c.m, got, c.want)
		}
	}
	if got := string(greeting{version: 1, reason: "no"}.encode()); got != "xnf-hold\x00\x00\x00\x01no" {
		t.Errorf("greeting %q", got)
	}
}

func TestLongestMessageFits(t *testing.T) {
	m := message{opPut, strings.Repeat("p", MaxKey), strings.Repeat("k", MaxKey), strings.Repeat("t", MaxLabel), nil}
	for range MaxFiles {
		m.names = append(m.names, strings.Repeat("n", MaxName))
	}
	b := m.encode()
	if len(b) != maxMessage {
		t.Errorf("%d bytes, want %d", len(b), maxMessage)
	}
	if got, err := decode(b); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("it came back with %v as %+v", err, got)
	}
}

func FuzzDecodedMessageIsWithinLimitsAndEncodesToTheSameBytes(f *testing.F) {
	f.Add(message{op: opPut, key: "vif/0/tap", text: "{}", names: []string{"q0", "keeper"}}.encode())
	f.Add(message{op: opGet, parked: "ID"}.encode())
	f.Add(message{op: opList}.encode())
	f.Add([]byte{})
	f.Add([]byte{1, 0xff})
	f.Add([]byte("\x01\x00\x01k\x00\x00\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, err := decodeGreeting(b); err == nil && string(g.encode()) != string(b) {
			t.Errorf("greeting %+v is not %q", g, b)
		}
		m, err := decode(b)
		if err != nil {
			return
		}
		if len(m.key) > MaxKey || len(m.parked) > MaxKey || len(m.text) > MaxLabel || len(m.names) > MaxFiles {
			t.Errorf("over the limits: %+v", m)
		}
		if got := m.encode(); string(got) != string(b) {
			t.Errorf("%q became %q", b, got)
		}
	})
}
