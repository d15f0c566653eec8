package netback

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/netif"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

const guestID xen.DomID = 1

// rig is a Xen with a backend in domain 0 and a frontend, written by hand, in
// domain 1. Pages are on the heap, so that the race detector sees them.
type rig struct {
	t       *testing.T
	ctx     context.Context
	xen     *xensim.Server
	backend *Backend
	front   *xensim.Connection
	vif     *Vif
	port    *MemoryPort
	queues  []*frontQueue
	stop    func()
}

func newRig(t *testing.T, opts Options, change ...func(*xensim.VifConfig)) *rig {
	t.Helper()
	return newRigOn(t, xensim.Options{HeapPages: true, GrantLimit: 4096}, opts, change...)
}

func newRigOn(t *testing.T, kind xensim.Options, opts Options, change ...func(*xensim.VifConfig)) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	r := &rig{t: t, ctx: ctx}
	server, err := xensim.New(kind)
	r.check(err)
	r.xen = server
	t.Cleanup(func() { server.Close() })
	cfg := xensim.VifConfig{Frontend: guestID, MAC: net.HardwareAddr{0, 0x16, 0x3e, 1, 2, 3}}
	for _, f := range change {
		f(&cfg)
	}
	r.check(xensim.AttachVif(ctx, server.Toolstack(), cfg))
	back, err := server.Connect(0)
	r.check(err)
	r.front, err = server.Connect(guestID)
	r.check(err)
	r.backend = New(back, opts)
	serving, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.backend.Serve(serving) }()
	r.stop = func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		back.Close()
	}
	t.Cleanup(func() {
		if r.stop != nil {
			r.stop()
		}
		r.free()
		for _, g := range server.GrantsInUse(guestID) {
			t.Errorf("grant left: %+v", g)
		}
	})
	r.vif, err = r.backend.Vif(ctx, VifID{Frontend: guestID})
	r.check(err)
	r.port = r.vif.MemoryPort()
	return r
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) frontDir() string { return xensim.FrontendPath(guestID, 0) }
func (r *rig) backDir() string  { return xensim.BackendPath(0, guestID, 0) }

func (r *rig) write(key, value string) {
	r.t.Helper()
	r.check(r.front.Store().Write(r.ctx, r.frontDir()+"/"+key, value))
}

func (r *rig) setState(s netif.State) { r.t.Helper(); r.write(netif.KeyState, fmt.Sprint(int(s))) }

// await waits until a node has a value.
func (r *rig) await(path, value string) {
	r.t.Helper()
	w, err := r.xen.Toolstack().Watch(r.ctx, path)
	r.check(err)
	defer w.Close()
	for {
		got, err := r.xen.Toolstack().Read(r.ctx, path)
		if err == nil && got == value {
			return
		}
		select {
		case <-w.Events():
		case <-r.ctx.Done():
			r.t.Fatalf("%s is %q (%v), want %q", path, got, err, value)
		}
	}
}

func (r *rig) awaitState(s netif.State) {
	r.t.Helper()
	r.await(r.backDir()+"/"+netif.KeyState, fmt.Sprint(int(s)))
}

// states waits until the vif has shown these, all in all.
func (r *rig) states(want ...netif.State) {
	r.t.Helper()
	err := r.vif.wait(r.ctx, func() bool { return len(r.vif.states) >= len(want) })
	if got := r.vif.States(); err != nil || !slices.Equal(got, want) {
		r.t.Fatalf("states %v (%v), want %v", got, err, want)
	}
}

// eventually waits until cond is true, for what changes without a signal.
func (r *rig) eventually(cond func() bool) {
	r.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			r.t.Fatalf("did not come about; fatal: %v, %+v", r.vif.Fatal(), r.vif.Stats())
		}
	}
}

// features are what the frontend writes.
type features map[string]string

func allFeatures() features {
	return features{netif.KeyRequestRxCopy: "1", netif.KeyRxNotify: "1", netif.KeySG: "1",
		netif.KeyGSOTCPv4: "1", netif.KeyGSOTCPv6: "1", netif.KeyIPv6Csum: "1"}
}

func (f features) with(key, value string) features {
	f[key] = value
	return f
}

// connect makes the frontend's rings and waits until the backend uses them.
func (r *rig) connect(queues int, split bool, f features) {
	r.t.Helper()
	r.prepare(queues, split, f)
	r.setState(netif.StateConnected)
	r.check(r.vif.WaitConnected(r.ctx))
	if got := r.vif.Queues(); got != queues {
		r.t.Fatalf("%d queues connected, want %d", got, queues)
	}
}

// prepare writes all nodes but the state.
func (r *rig) prepare(queues int, split bool, f features) {
	r.t.Helper()
	for i := range queues {
		r.queues = append(r.queues, r.newQueue(i, split))
	}
	err := r.front.Store().Update(r.ctx, func(tx xenstore.Operations) error {
		for k, v := range f {
			if err := tx.Write(r.ctx, r.frontDir()+"/"+k, v); err != nil {
				return err
			}
		}
		if err := tx.Write(r.ctx, r.frontDir()+"/"+netif.KeyNumQueues, fmt.Sprint(queues)); err != nil {
			return err
		}
		for i, q := range r.queues {
			dir := r.frontDir()
			if queues > 1 {
				dir += "/" + netif.QueueDir(i)
			}
			for k, v := range q.nodes(split) {
				if err := tx.Write(r.ctx, dir+"/"+k, v); err != nil {
					return err
				}
			}
		}
		return nil
	})
	r.check(err)
}

// close walks the frontend to Closed, as a driver does, and frees its rings.
func (r *rig) close() {
	r.t.Helper()
	r.setState(netif.StateClosing)
	r.awaitState(netif.StateClosing)
	r.setState(netif.StateClosed)
	r.awaitState(netif.StateClosed)
	r.free()
}

func (r *rig) free() {
	for _, q := range r.queues {
		q.txPages.Free()
		q.rxPages.Free()
		q.events.Close()
	}
	r.queues = nil
}

// frontQueue is one queue of the frontend: page i of a slab belongs to id i, page
// 256 is the ring.
type frontQueue struct {
	r                *rig
	index            int
	txPages, rxPages xen.Pages
	tx               *ring.Front[netif.TxSlot]
	rx               *ring.Front[netif.RxSlot]
	events           xen.EventFile
	txPort, rxPort   xen.Port
	nextID           uint16
}

const ringPage = 256

func page(p xen.Pages, i int) []byte { return p.Bytes()[i*xen.PageSize:][:xen.PageSize] }

func (r *rig) newQueue(index int, split bool) *frontQueue {
	r.t.Helper()
	q := &frontQueue{r: r, index: index}
	g := r.front.Guest()
	var err error
	// The rings must be writable, so these tests' tx pages are too.
	q.txPages, err = g.Grants.Alloc(0, ringPage+1, true)
	r.check(err)
	q.rxPages, err = g.Grants.Alloc(0, ringPage+1, true)
	r.check(err)
	q.tx, err = ring.NewFront[netif.TxSlot](page(q.txPages, ringPage), nil)
	r.check(err)
	q.rx, err = ring.NewFront[netif.RxSlot](page(q.rxPages, ringPage), nil)
	r.check(err)
	q.events, err = g.Events.Open()
	r.check(err)
	q.txPort, err = q.events.Bind(0)
	r.check(err)
	q.rxPort = q.txPort
	if split {
		q.rxPort, err = q.events.Bind(0)
		r.check(err)
	}
	return q
}

func (q *frontQueue) nodes(split bool) map[string]string {
	n := map[string]string{
		netif.KeyTxRingRef: fmt.Sprint(q.txPages.Refs()[ringPage]),
		netif.KeyRxRingRef: fmt.Sprint(q.rxPages.Refs()[ringPage]),
	}
	if split {
		n[netif.KeyEventChannelTx] = fmt.Sprint(q.txPort)
		n[netif.KeyEventChannelRx] = fmt.Sprint(q.rxPort)
	} else {
		n[netif.KeyEventChannel] = fmt.Sprint(q.txPort)
	}
	return n
}

// post gives the backend n rx pages.
func (q *frontQueue) post(n int) {
	q.r.t.Helper()
	for range n {
		id := uint16(q.rx.Produced()) & 255
		s := netif.RxRequest{ID: id, Ref: uint32(q.rxPages.Refs()[id])}.Slot()
		q.rx.Put(&s)
	}
	if q.rx.Push() {
		q.r.check(q.events.Notify(q.rxPort))
	}
}

// id is the next tx request's.
func (q *frontQueue) id() uint16 {
	q.nextID = (q.nextID + 1) & 255
	return q.nextID
}

// put puts requests of data over as many slots as it takes, size bytes in each, and
// returns their ids. Flags are the first slot's; extras follow it.
func (q *frontQueue) put(data []byte, size int, flags uint16, extras ...netif.Extra) (ids []uint16) {
	q.r.t.Helper()
	if len(extras) > 0 {
		flags |= netif.TxExtraInfo
	}
	for left := data; len(left) > 0; {
		id := q.id()
		n := copy(page(q.txPages, int(id))[:size], left)
		left = left[n:]
		s := netif.TxRequest{Ref: uint32(q.txPages.Refs()[id]), ID: id, Size: uint16(n)}
		if len(ids) == 0 {
			s.Size, s.Flags = uint16(len(data)), flags
		}
		if len(left) > 0 {
			s.Flags |= netif.TxMoreData
		}
		q.putSlot(s.Slot())
		if len(ids) == 0 {
			for i, e := range extras {
				if i < len(extras)-1 {
					e.Flags |= netif.ExtraMore
				}
				q.putSlot(e.TxSlot())
			}
		}
		ids = append(ids, id)
	}
	return ids
}

func (q *frontQueue) putSlot(s netif.TxSlot) { q.tx.Put(&s) }

// push publishes the tx requests.
func (q *frontQueue) push() {
	q.r.t.Helper()
	if q.tx.Push() {
		q.r.check(q.events.Notify(q.txPort))
	}
}

// send is put and push.
func (q *frontQueue) send(data []byte, size int, flags uint16, extras ...netif.Extra) []uint16 {
	q.r.t.Helper()
	ids := q.put(data, size, flags, extras...)
	q.push()
	return ids
}

// wait parks until something comes, for 10 ms at most.
func (q *frontQueue) wait() {
	var ports [4]xen.Port
	ctx, cancel := context.WithTimeout(q.r.ctx, 10*time.Millisecond)
	defer cancel()
	<-waitReadable(ctx, q.events.FD())
	n, err := q.events.Read(ports[:])
	q.r.check(err)
	for _, p := range ports[:n] {
		q.r.check(q.events.Unmask(p))
	}
}

// txResponses waits for n responses.
func (q *frontQueue) txResponses(n int) (list []netif.TxResponse) {
	q.r.t.Helper()
	for len(list) < n {
		got, err := q.tx.Responses()
		q.r.check(err)
		got = min(got, uint32(n-len(list)))
		for i := range got {
			list = append(list, netif.ParseTxResponse(q.tx.Response(i)))
		}
		q.tx.Consume(got)
		if len(list) >= n || q.tx.NotifyAfter(1) {
			continue
		}
		if q.r.ctx.Err() != nil {
			ring, _ := q.r.vif.IORing(q.index)
			q.r.t.Fatalf("%d tx responses, want %d; fatal: %v\n%s%+v", len(list), n, q.r.vif.Fatal(), ring, q.r.vif.Stats())
		}
		q.wait()
	}
	return list
}

// expect waits for the responses of ids, in any order, and of extras extras.
func (q *frontQueue) expect(status int16, extras int, ids ...uint16) {
	q.r.t.Helper()
	var got []uint16
	for _, r := range q.txResponses(len(ids) + extras) {
		if r.Status == netif.StatusNull {
			extras--
			continue
		}
		if r.Status != status {
			q.r.t.Errorf("id %d: status %d, want %d", r.ID, r.Status, status)
		}
		got = append(got, r.ID)
	}
	slices.Sort(got)
	want := slices.Sorted(slices.Values(ids))
	if extras != 0 || !slices.Equal(got, want) {
		q.r.t.Errorf("responses for %v (%d extras missing), want %v", got, extras, want)
	}
}

// rxSlot is a response with its page's data, or an extra.
type rxSlot struct {
	netif.RxResponse
	raw  netif.RxSlot
	page []byte
}

// rxSlots waits for n rx responses.
func (q *frontQueue) rxSlots(n int) (list []rxSlot) {
	q.r.t.Helper()
	for len(list) < n {
		got, err := q.rx.Responses()
		q.r.check(err)
		got = min(got, uint32(n-len(list)))
		for i := range got {
			raw := q.rx.Response(i)
			id := int(q.rx.Consumed()+i) & 255
			list = append(list, rxSlot{netif.ParseRxResponse(raw), raw, slices.Clone(page(q.rxPages, id))})
		}
		q.rx.Consume(got)
		if len(list) >= n || q.rx.NotifyAfter(1) {
			continue
		}
		if q.r.ctx.Err() != nil {
			ring, _ := q.r.vif.IORing(q.index)
			q.r.t.Fatalf("%d rx responses, want %d; fatal: %v\n%s%+v", len(list), n, q.r.vif.Fatal(), ring, q.r.vif.Stats())
		}
		q.wait()
	}
	return list
}

// receive waits for one frame and returns it with its first slot's flags and its GSO
// extra.
func (q *frontQueue) receive() (data []byte, flags uint16, gso netif.Extra) {
	q.r.t.Helper()
	for first := true; ; first = false {
		s := q.rxSlots(1)[0]
		if s.Status < 0 {
			q.r.t.Fatalf("rx status %d", s.Status)
		}
		data = append(data, s.page[s.Offset:][:s.Status]...)
		if first {
			flags = s.Flags
			if flags&netif.RxExtraInfo != 0 {
				var err error
				gso, err = netif.ParseExtra(q.rxSlots(1)[0].raw)
				q.r.check(err)
			}
		}
		if s.Flags&netif.RxMoreData == 0 {
			return data, flags, gso
		}
	}
}

// frameOf is an Ethernet frame of size bytes whose payload depends on seed.
func frameOf(size int, seed byte) []byte {
	b := make([]byte, size)
	copy(b, []byte{0, 0x16, 0x3e, 1, 2, 3, 0, 0x16, 0x3e, 9, 9, 9, 0x88, 0xb5})
	for i := 14; i < size; i++ {
		b[i] = seed + byte(i*7)
	}
	return b
}

// packet is an Ethernet frame of TCP or UDP with size bytes of payload and a blank
// checksum. Tags come before the Ethernet type.
func packet(family int, proto uint8, size int, tags ...uint16) []byte {
	b := slices.Clone(frameOf(12, 0))
	for i, tag := range tags {
		b = binary.BigEndian.AppendUint16(b, tag)
		b = binary.BigEndian.AppendUint16(b, uint16(100+i))
	}
	l4 := 20
	if proto == protoUDP {
		l4 = 8
	}
	if family == 4 {
		b = binary.BigEndian.AppendUint16(b, etherIPv4)
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+l4+size))
		copy(ip[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
		binary.BigEndian.PutUint16(ip[10:], ^tap.Checksum(ip, 0))
		b = append(b, ip...)
	} else {
		b = binary.BigEndian.AppendUint16(b, etherIPv6)
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, proto, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(l4+size))
		ip[8], ip[23], ip[24], ip[39] = 0xfd, 1, 0xfd, 2
		b = append(b, ip...)
	}
	start := len(b)
	b = append(b, make([]byte, l4+size)...)
	binary.BigEndian.PutUint16(b[start:], 1234)
	binary.BigEndian.PutUint16(b[start+2:], 80)
	field := 6
	if proto == protoTCP {
		b[start+12], b[start+13], field = 5<<4, 0x18, 16
	} else {
		binary.BigEndian.PutUint16(b[start+4:], uint16(l4+size))
	}
	for i := start + l4; i < len(b); i++ {
		b[i] = byte(i * 3)
	}
	l := layout{ipv6: family == 6, proto: proto, network: start - 20, start: start}
	if l.ipv6 {
		l.network = start - 40
	}
	binary.BigEndian.PutUint16(b[start+field:], l.pseudoHeaderSum(b, len(b)))
	return b
}
