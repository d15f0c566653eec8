package netfront_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/netback"
	"github.com/xnetfrontd/xnetfrontd/internal/printed"
	"github.com/xnetfrontd/xnetfrontd/internal/testspace"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// fakeGuest stands for the guest that [xen.Open] gives. It is one of an embedded Xen, with a
// vif whose backend works.
var fakeGuest *xen.Guest

// A program serves vif 0 on a TAP until it is told to stop. In a guest it begins with
// [xen.Open], and runs as root. TestExampleServesAVif runs this.
func Example() {
	guest := fakeGuest
	device, err := netfront.Open(context.Background(), guest, netfront.Config{DevID: 0, TAPName: "xnf0"})
	if err != nil {
		fmt.Println("open:", err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- device.Run(ctx) }() // connects, carries frames, and connects again

	status := device.Status()
	for status.State != "Connected" || len(status.Queues) == 0 {
		time.Sleep(10 * time.Millisecond)
		status = device.Status()
	}
	fmt.Println(status.TAP, "with address", status.MAC, "is", status.State)
	fmt.Println("features:", status.Features.Names())

	stop()
	if err := <-ended; err != nil {
		fmt.Println("run:", err)
	}
	if err := device.Close(); err != nil { // removes the TAP
		fmt.Println("close:", err)
	}
}

// Does the vif have a frontend, and what would a connection be? Inspect changes nothing.
func ExampleInspect() {
	report, err := netfront.Inspect(context.Background(), fakeGuest, netfront.Config{Queues: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the frontend is", report.State, "and the backend", report.BackendState)
	fmt.Println(report.Budget.Needed, "pages for", report.Queues, "queue pair")
}

// The examples need a TAP, and so a network namespace and root, which go test does not give
// to an example with an output.
func TestExampleServesAVif(t *testing.T) {
	testspace.Enter(t)
	server, err := xensim.New(xensim.Options{HeapPages: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	front, err := server.Connect(1)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	back, err := server.Connect(0)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	vif := xensim.VifConfig{Frontend: 1, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, 1}}
	if err := xensim.AttachVif(t.Context(), server.Toolstack(), vif); err != nil {
		t.Fatal(err)
	}
	backend := netback.New(back, netback.Options{})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- backend.Serve(ctx) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	if _, err := backend.Vif(ctx, netback.VifID{Frontend: 1}); err != nil {
		t.Fatal(err)
	}
	fakeGuest = front.Guest()
	for _, c := range []struct {
		example func()
		want    string
	}{
		{ExampleInspect, "the frontend is Initialising and the backend InitWait\n514 pages for 1 queue pair\n"},
		{Example, "xnf0 with address 00:16:3e:00:00:01 is Connected\nfeatures: [sg csum csum_ipv6 gso_tcpv4 gso_tcpv6 split_channels]\n"},
	} {
		printed.Check(t, c.example, c.want)
	}
	report, err := netfront.Inspect(t.Context(), fakeGuest, netfront.Config{NoFeatures: true})
	if err != nil || len(report.Features.Names()) != 0 {
		t.Errorf("with NoFeatures it negotiates %v, %v", report.Features.Names(), err)
	}
	if n := len(server.GrantsInUse(1)); n != 0 {
		t.Errorf("%d grants are left", n)
	}
}
