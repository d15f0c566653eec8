package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTransferIsHashedAtBothEnds(t *testing.T) {
	a, b := pair(t)
	for _, to := range []string{"10.9.0.2:5001", "[fd09::2]:5001"} {
		// The sender comes first: it waits for somebody to listen.
		s := a.start("send", to, "--bytes=3000001", "--flows=3", "--timeout=20s")
		r := b.listen("receive", "--flows=3", "--timeout=20s")
		var sent Sent
		s.result(&sent)
		s.end()
		if sent.Bytes != 3*3000001 || sent.Flows != 3 || sent.MbitPerS <= 0 {
			t.Errorf("to %s: %+v", to, sent)
		}
		hashes := map[string]bool{}
		for range 3 {
			var got Transfer
			r.result(&got)
			hashes[got.SHA256] = true
			if got.Bytes != 3000001 {
				t.Errorf("to %s: received %+v", to, got)
			}
		}
		r.end()
		if len(hashes) != 3 {
			t.Errorf("to %s: %d different hashes of 3 seeds", to, len(hashes))
		}
	}
}

func TestSenderFailsIfTheReceiverGotOtherBytes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		n, _ := io.Copy(io.Discard, conn)
		json.NewEncoder(conn).Encode(Transfer{Bytes: uint64(n), SHA256: strings.Repeat("0", 64)})
	}()
	var out bytes.Buffer
	c := Send{To: l.Addr().String(), Bytes: 1000, Seed: 1, Flows: 1, Timeout: 10 * time.Second}
	err = c.Run(context.Background(), &out)
	if err == nil || !strings.Contains(err.Error(), "SHA-256") || out.Len() != 0 {
		t.Errorf("error %v, output %q", err, out.String())
	}
}

func TestSenderToldToEndHasItsBytesChecked(t *testing.T) {
	a, b := pair(t)
	r := b.listen("receive", "--timeout=20s")
	s := a.listen("send", "10.9.0.2:5001", "--bytes=0", "--pace=1000000", "--timeout=20s")
	s.stop()
	var sent Sent
	s.result(&sent)
	s.end()
	var got Transfer
	r.result(&got)
	r.end()
	if sent.Bytes == 0 || got.Bytes != sent.Bytes || got.SHA256 == "" || sent.GapMS != got.GapMS {
		t.Errorf("sent %+v, received %+v", sent, got)
	}
}

func TestReceiverToldToStopSaysHowManyFlowsCame(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := Receive{On: "127.0.0.1:0", Flows: 2, Timeout: 10 * time.Second}
	if err := c.Run(ctx, io.Discard); err == nil {
		t.Error("no error though no flow came")
	}
}

func TestWrongBytesAreToldWithThePlaceWhereTheyBelong(t *testing.T) {
	const size = chunk + 1001
	right := make([]byte, size)
	stream := newBytes(5)
	for b := right; len(b) > 0; b = b[min(len(b), 997):] {
		stream.fill(b[:min(len(b), 997)]) // in pieces, as a paced sender makes them
	}
	wrong := slices.Clone(right)
	copy(wrong[4096:4096+800], right[131072:])
	clear(wrong[chunk : chunk+64])
	wrong[size-1] ^= 1
	check := newChecker(5)
	check.add(wrong[:chunk])
	check.add(wrong[chunk:])
	want := []Piece{{At: 4096, Bytes: 800, From: 131072}, {At: chunk, Bytes: 64, From: -1}, {At: size - 1, Bytes: 1, From: -1}}
	if !slices.Equal(check.wrong, want) {
		t.Errorf("got  %+v\nwant %+v", check.wrong, want)
	}
}
