// Package netback is a network backend over the embedded Xen of package xensim, or over
// the Xen that a Linux domain is in (package backdev). It
// refuses what Linux xen-netback refuses, drops what it drops, and shows the states
// it shows, so that a frontend which passes its tests here has been tried against
// the rules and not against a friend. And it misbehaves on demand.
//
// # Shape
//
// A [Backend] is the driver of one domain. [Backend.Serve] finds the vifs below
// /local/domain/<domid>/backend/vif and follows each one's xenbus states in a
// goroutine of its own. A [Vif] has a [Port], where its frames go: a [TAPPort], for
// the demo and the benchmark, or a [MemoryPort], for tests. Each connected queue has
// two workers, one for each ring, which own the ring, the event channel, their
// mappings of the guest's pages and their side of the port's queue.
//
//	server, _ := xensim.New(xensim.Options{HeapPages: true})
//	xensim.AttachVif(ctx, server.Toolstack(), xensim.VifConfig{Frontend: 1, MAC: mac})
//	conn, _ := server.Connect(0)
//	back := netback.New(conn, netback.Options{})
//	go back.Serve(ctx)
//	vif, _ := back.Vif(ctx, netback.VifID{Frontend: 1})
//	... a frontend in domain 1 connects ...
//	vif.WaitConnected(ctx)
//	vif.MemoryPort().Send(0, tap.VirtioHeader{}, frame) // to the guest
//	got, _ := vif.MemoryPort().Receive(ctx)             // from it
//	vif.Fatal()                                         // the rule it broke, if any
//	vif.Stats().Drops[netback.DropCsumNotIP]            // what it never heard of
//	vif.Faults().Inject(netback.TxIDTwice, 1)           // and now the other way round
//
// # What is imitated
//
// Of the tx ring: the fatal checks (ErrImpossibleRequests and those after it), which
// disable the vif until it is created anew; the drops that are answered with an error
// and those that follow an OKAY ([DropReason]); the copy of the first 128 bytes and
// the reference to the rest until the frame is delivered; multicast messages; the
// rate node. Of the rx ring: the slots that a frame needs, the timeouts, the carrier,
// flags and extras, segmentation and checksums for a frontend that takes less than
// Linux sends. Of xenbus: the walks between states, the hotplug script's part in
// them, connects that fail behind a state of Connected, rebinding, removal. Every
// access to the guest's pages asks its grant table whether the grant stands.
//
// Not imitated: the control ring and its hashes, XDP headroom, and the delay of up
// to a second with which Linux answers a frontend that notifies for nothing; such
// events are counted (Stats.TxSpurious, Stats.RxSpurious).
//
// Sources: drivers/net/xen-netback (netback.c, rx.c, interface.c, xenbus.c) and
// drivers/xen/xenbus of Linux 6.12; the functions are named where they are followed.
package netback
