package liar

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/testspace"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	guestDom  xen.DomID = 5
	driverDom xen.DomID = 3
)

func TestFrontendServesAVifAfterEveryLieOfItsBackend(t *testing.T) {
	testspace.Enter(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()

	server, err := xensim.New(xensim.Options{GrantLimit: 4096})
	check(t, err)
	defer server.Close()
	vif := xensim.VifConfig{Frontend: guestDom, Backend: driverDom, MAC: net.HardwareAddr{0, 0x16, 0x3e, 1, 2, 3}}
	check(t, xensim.AttachVif(ctx, server.Toolstack(), vif))
	guest, err := server.Connect(guestDom)
	check(t, err)
	defer guest.Close()
	dev, err := netfront.Open(ctx, guest.Guest(), netfront.Config{Queues: 1, Features: netfront.AllFeatures(), Logger: zap.NewNop()})
	check(t, err)
	defer func() { check(t, dev.Close()) }()
	link, err := netlink.LinkByName(dev.Name())
	check(t, err)
	address, err := netlink.ParseAddr("10.9.8.7/24")
	check(t, err)
	check(t, netlink.AddrAdd(link, address))
	check(t, netlink.LinkSetUp(link))
	running, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- dev.Run(running) }()

	back, err := server.Connect(driverDom)
	check(t, err)
	defer back.Close()
	violations := 0
	l := Liar{
		Domain: netback.Embedded(back), ID: netback.VifID{Frontend: guestDom},
		Guest: net.IPv4(10, 9, 8, 7), Self: net.IPv4(10, 9, 8, 1),
		Seen: func(told Told) {
			for end := time.Now().Add(30 * time.Second); told.Violation && dev.Status().Violations == 0; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("%s: nothing was held against the backend", told.Lie)
					return
				}
			}
			if s := dev.Status(); s.Violations > 0 {
				violations++
				if !told.Violation {
					t.Errorf("%s: it was held against the backend: %s", told.Lie, s.Reason)
				}
				dev.Retry() // which ends the back-off
			}
		},
	}
	told, err := l.Run(ctx)
	check(t, err)
	for _, s := range told {
		t.Logf("%6.2f s, ended %-5v %s", s.Seconds, s.Ended, s.Lie)
	}
	want := 0
	for _, lie := range script() {
		if lie.violation {
			want++
		}
	}
	if len(told) != len(script()) || violations != want {
		t.Errorf("%d lies of %d, %d violations of %d", len(told), len(script()), violations, want)
	}
	stop()
	check(t, <-ran)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
