package capturefile

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
)

var put = time.Unix(1_700_000_000, 0)

func TestCommentSaysWhatTheRingSays(t *testing.T) {
	gso := netfront.CapturedSlot{Index: 0x1235, IsExtra: true, Extra: netif.NewGSO(1448, netif.GSOTCPv4)}
	for _, c := range []struct {
		name string
		f    netfront.CapturedFrame
		want string
	}{
		{"answered", netfront.CapturedFrame{Direction: netfront.Tx, Queue: 3, Time: put, Answered: put.Add(45 * time.Microsecond), Slots: []netfront.CapturedSlot{
			{Index: 0x1234, ID: 7, Offset: 12, Size: 9000, Flags: netif.TxCsumBlank | netif.TxDataValidated | netif.TxMoreData | netif.TxExtraInfo, Answered: true},
			gso, {Index: 0x1236, ID: 8, Size: 16, Answered: true},
		}}, "tx queue 3 request 4660-4662; response OKAY after 45µs; checksum left to the receiver, a wrong one is no error; " +
			"slot 52: id 7 offset 12 size 9000 flags csum_blank,data_validated,more_data,extra_info; slot 53: extra gso tcpv4 size 1448; slot 54: id 8 offset 0 size 16"},
		{"refused", netfront.CapturedFrame{Direction: netfront.Tx, Time: put, Answered: put.Add(-time.Second), Missed: 2, Slots: []netfront.CapturedSlot{
			{Index: 1, ID: 1, Size: 60, Flags: netif.TxDataValidated, Answered: true, Status: netif.StatusDropped},
		}}, "tx queue 0 request 1; response DROPPED after 0s; 2 frames before it are missing in this capture; checksum vouched for, a wrong one does no harm; slot 1: id 1 offset 0 size 60 flags data_validated status DROPPED"},
		{"half answered", netfront.CapturedFrame{Direction: netfront.Tx, Slots: []netfront.CapturedSlot{
			{Index: 1, ID: 1, Size: 5000, Flags: netif.TxMoreData, Answered: true, Status: 9}, {Index: 2, ID: 2, Size: 904},
		}}, "tx queue 0 request 1-2; 1 of 2 responses yet, 9; slot 1: id 1 offset 0 size 5000 flags more_data status 9; slot 2: id 2 offset 0 size 904"},
		{"unanswered", netfront.CapturedFrame{Direction: netfront.Tx, Slots: []netfront.CapturedSlot{{Index: 1}}}, "tx queue 0 request 1; no response yet; slot 1: id 0 offset 0 size 0"},
		{"lost", netfront.CapturedFrame{Direction: netfront.Tx, Lost: "drop_too_big"}, "tx queue 0; LOST here: drop_too_big"},
		{"rx", netfront.CapturedFrame{Direction: netfront.Rx, Queue: 1, Slots: []netfront.CapturedSlot{
			{Index: 300, ID: 44, Offset: 2, Size: 1514, Flags: netif.RxCsumBlank | netif.RxDataValidated | 1<<9},
		}}, "rx queue 1 response 300; checksum left to the receiver, a wrong one is no error; slot 44: id 44 offset 2 size 1514 flags data_validated,csum_blank,0x200"},
		{"rx error", netfront.CapturedFrame{Direction: netfront.Rx, Lost: "drop_backend_error", Slots: []netfront.CapturedSlot{{Index: 1, Size: netif.StatusError}}},
			"rx queue 0 response 1; LOST here: drop_backend_error; slot 1: id 0 offset 0 status ERROR"},
		{"rx validated", netfront.CapturedFrame{Direction: netfront.Rx, Slots: []netfront.CapturedSlot{
			{Size: 60, Flags: netif.RxDataValidated | netif.RxExtraInfo | netif.RxGSOPrefix}, {Index: 1, IsExtra: true, Extra: netif.Extra{Type: 9}},
		}}, "rx queue 0 response 0-1; checksum vouched for, a wrong one does no harm; slot 0: id 0 offset 0 size 60 flags data_validated,extra_info,gso_prefix; slot 1: extra of unknown type 9, 000000000000"},
	} {
		c.f.RingSize = 256
		if got := comment(&c.f); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestSinkDescribesRingsTellsOfConnectionsAndCounts(t *testing.T) {
	var b bytes.Buffer
	s := New(&b, Config{Program: "p", Vif: 5, TAP: "lan5", Queues: 1, Count: 3})
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if b.Len() != 0 {
		t.Error("it writes before the capture has begun")
	}
	check(s.Connection(netfront.CaptureConnection{Number: 1, Queues: 1}))
	check(s.Idle())
	if b.Len() == 0 {
		t.Error("the head waits for a frame")
	}
	frame := func(q int, d netfront.Direction) *netfront.CapturedFrame {
		return &netfront.CapturedFrame{Time: put, Queue: q, Direction: d, Length: 60, Data: make([]byte, 60), RingSize: 256}
	}
	check(s.Frame(frame(0, netfront.Tx)))
	check(s.Connection(netfront.CaptureConnection{Number: 2, Queues: 2, Joined: put.UTC(), Backend: "/local/domain/0/backend/vif/5/5", Before: "the backend closed the vif"}))
	check(s.Frame(frame(1, netfront.Rx)))
	if err := s.Frame(frame(0, netfront.Tx)); !errors.Is(err, ErrCount) {
		t.Errorf("third of three frames: %v", err)
	}
	if err := s.Frame(frame(2, netfront.Tx)); err == nil {
		t.Error("a frame of a ring that there is not")
	}
	check(s.End(netfront.CaptureResult{Ended: "it is over", Figures: []netfront.CaptureFigures{
		{Queue: 0, Direction: netfront.Tx, Frames: 5, Dropped: 2, Matched: 3}, {Queue: 1, Direction: netfront.Rx, Frames: 1, Matched: 1},
	}}))
	r, err := pcapgo.NewNgReader(&b, pcapgo.DefaultNgReaderOptions)
	check(err)
	var got []string
	for {
		_, ci, opts, err := r.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			break
		}
		check(err)
		i, err := r.Interface(ci.InterfaceIndex)
		check(err)
		got = append(got, i.Name+": "+strings.Join(opts.Comments, ""))
	}
	const news = "; first frame of connection 2, which began at 2023-11-14T22:13:20Z with /local/domain/0/backend/vif/5/5; before it: the backend closed the vif"
	want := []string{"lan5-tx0: tx queue 0; no response yet", "lan5-rx1: rx queue 1" + news, "lan5-tx0: tx queue 0; no response yet" + news}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	i, err := r.Interface(0)
	check(err)
	if r.NInterfaces() != 4 || i.Statistics.PacketsReceived != 5 || i.Statistics.PacketsDropped != 2 || i.Statistics.Comment != "it is over" {
		t.Errorf("%d interfaces, %+v", r.NInterfaces(), i.Statistics)
	}
}

func TestSinkOfAVifThatWasNeverConnectedIsAWholeFile(t *testing.T) {
	var b bytes.Buffer
	s := New(&b, Config{TAP: "x", Queues: 1, What: netfront.CaptureConfig{Directions: []netfront.Direction{netfront.Rx}}})
	if err := s.End(netfront.CaptureResult{}); err != nil {
		t.Fatal(err)
	}
	r, err := pcapgo.NewNgReader(&b, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) || r.NInterfaces() != 1 {
		t.Errorf("%v, %d interfaces", err, r.NInterfaces())
	}
}
