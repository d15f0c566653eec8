package netif

import (
	"errors"
	"testing"
)

func TestSlotsHaveTheBytesOfTheHeader(t *testing.T) {
	tx := TxRequest{Ref: 0x04030201, Offset: 0x0605, Flags: 0x0807, ID: 0x0a09, Size: 0x0c0b}
	if got, want := tx.Slot(), (TxSlot{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}); got != want {
		t.Errorf("tx request %v", got)
	}
	if got := ParseTxRequest(tx.Slot()); got != tx {
		t.Errorf("tx request parsed as %+v", got)
	}
	txr := TxResponse{ID: 0x0201, Status: -2}
	if got, want := txr.Slot(), (TxSlot{1, 2, 0xfe, 0xff}); got != want {
		t.Errorf("tx response %v", got)
	}
	if got := ParseTxResponse(txr.Slot()); got != txr {
		t.Errorf("tx response parsed as %+v", got)
	}
	rx := RxRequest{ID: 0x0201, Ref: 0x08070605}
	if got, want := rx.Slot(), (RxSlot{1, 2, 0, 0, 5, 6, 7, 8}); got != want {
		t.Errorf("rx request %v", got)
	}
	if got := ParseRxRequest(rx.Slot()); got != rx {
		t.Errorf("rx request parsed as %+v", got)
	}
	rxr := RxResponse{ID: 0x0201, Offset: 0x0403, Flags: 0x0605, Status: 0x0807}
	if got, want := rxr.Slot(), (RxSlot{1, 2, 3, 4, 5, 6, 7, 8}); got != want {
		t.Errorf("rx response %v", got)
	}
	if got := ParseRxResponse(rxr.Slot()); got != rxr {
		t.Errorf("rx response parsed as %+v", got)
	}
	gso := NewGSO(0x0201, GSOTCPv6)
	gso.Flags = ExtraMore
	if got, want := gso.Bytes(), [8]byte{1, 1, 1, 2, 2, 0, 0, 0}; got != want {
		t.Errorf("gso extra %v", got)
	}
	if size, typ := gso.GSO(); size != 0x0201 || typ != GSOTCPv6 {
		t.Errorf("gso %d %d", size, typ)
	}
}

func TestExtrasOfUnknownTypeOrBadGSOAreRefused(t *testing.T) {
	for typ := range 256 {
		_, err := ParseExtra([8]byte{byte(typ), 0, 1, 0, 1})
		if known := typ >= 1 && typ <= 5; known != (err == nil) {
			t.Errorf("type %d: error %v", typ, err)
		} else if !known && !errors.Is(err, ErrExtraType) {
			t.Errorf("type %d: error %v", typ, err)
		}
	}
	for _, b := range [][8]byte{{1, 0, 0, 0, 1}, {1, 0, 1, 0, 0}, {1, 0, 1, 0, 3}} {
		if _, err := ParseExtra(b); !errors.Is(err, ErrGSO) {
			t.Errorf("%v: error %v", b, err)
		}
	}
}

func TestStatesParseAndNothingElseDoes(t *testing.T) {
	for _, v := range []string{"", "9", "-1", "4.0", "four", "99999999999999999999"} {
		if s, err := ParseState(v); err == nil {
			t.Errorf("%q is state %v", v, s)
		}
	}
	if s, err := ParseState("4"); err != nil || s != StateConnected || s.String() != "Connected" {
		t.Errorf("4 is %v, %v", s, err)
	}
	if s := State(77).String(); s != "state 77" {
		t.Errorf("state 77 is called %q", s)
	}
}

func FuzzSlots(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Add([]byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 12 {
			return
		}
		tx, rx := TxSlot(b[:12]), RxSlot(b[:8])
		if got := ParseTxRequest(tx).Slot(); got != tx {
			t.Fatalf("tx request %v became %v", tx, got)
		}
		if got := ParseRxResponse(rx).Slot(); got != rx {
			t.Fatalf("rx response %v became %v", rx, got)
		}
		e, err := ParseExtra(rx)
		if err == nil && e.Bytes() != rx {
			t.Fatalf("extra %v became %v", rx, e.Bytes())
		}
		if size, typ := e.GSO(); err == nil && e.Type == ExtraGSO && (size == 0 || typ == GSONone || typ > GSOTCPv6) {
			t.Fatalf("gso %d %d accepted", size, typ)
		}
	})
}
