package busdma_test

import (
	"bytes"

	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// step does one operation, sensible or not, on a random map.
func (d *model) step() string {
	switch n := d.random.IntN(100); {
	case n < 7:
		d.take()
		return "Take"
	case n < 11:
		d.takeRun()
		return "TakeRun"
	case n < 26:
		d.put()
		return "Put"
	case n < 40:
		d.load()
		return "Load"
	case n < 50:
		d.loadRun()
		return "LoadRun"
	case n < 52:
		d.loadFunc()
		return "LoadFunc"
	case n < 63:
		d.sync()
		return "Sync"
	case n < 80:
		d.publish()
		return "Publish"
	case n < 95:
		d.unload()
		return "Unload"
	case n < 99:
		d.write()
		return "write"
	default:
		d.quarantine()
		return "Quarantine"
	}
}

func (d *model) lowest() (int, bool) {
	for i := range d.maps {
		if d.maps[i].state == busdma.Pooled {
			return i, true
		}
	}
	return 0, false
}

func (d *model) highestRun(n int) (int, bool) {
	for first := modelMaps - n; first >= 0 && n > 0; first-- {
		run := 0
		for run < n && d.maps[first+run].state == busdma.Pooled {
			run++
		}
		if run == n {
			return first, true
		}
	}
	return 0, false
}

// pick chooses a map, more often than not one in state.
func (d *model) pick(state busdma.State) int {
	i := d.random.IntN(modelMaps)
	for range d.random.IntN(2) * modelMaps {
		if d.maps[i].state == state {
			break
		}
		i = (i + 1) % modelMaps
	}
	return i
}

// expect compares an outcome and tells whether the operation is to be modelled.
func (d *model) expect(op string, err, want error) bool {
	d.t.Helper()
	if err != want { // on the data path they are returned as they are
		d.t.Fatalf("%s: %v, want %v", op, err, want)
	}
	if err != nil {
		d.counts[op+" refused"]++
		return false
	}
	d.counts[op]++
	return true
}

// buffer is a buffer for map i, with what a load of it as one segment must say.
func (d *model) buffer(i int) (buf []byte, bounce bool, want error) {
	page := i * xen.PageSize
	switch d.random.IntN(10) {
	case 0:
		return nil, true, busdma.ErrEmpty
	case 1:
		return make([]byte, xen.PageSize+1+d.random.IntN(100)), true, busdma.ErrTooLarge
	case 2:
		if i == 0 {
			return nil, true, busdma.ErrEmpty
		}
		return d.q.slab.Bytes()[page-1 : page+1], false, busdma.ErrBoundary
	case 3, 4, 5:
		return pattern(1+d.random.IntN(xen.PageSize), byte(d.random.Uint32())), true, nil
	default:
		from := d.random.IntN(xen.PageSize)
		n := 1 + d.random.IntN(xen.PageSize-from)
		return d.q.slab.Bytes()[page+from : page+from+n], false, nil
	}
}

func (d *model) load() {
	i := d.pick(busdma.Taken)
	m := &d.run[i]
	buf, bounce, want := d.buffer(i)
	if d.maps[i].state != busdma.Taken {
		want = busdma.ErrNotTaken
	}
	seg, err := d.q.tag.Load(m, buf)
	if !d.expect("Load", err, want) {
		return
	}
	if int(seg.Len) != len(buf) || seg.Ref != m.Ref() || !bounce && &m.Page()[seg.Offset] != &buf[0] {
		d.t.Fatalf("segment %+v for %d bytes", seg, len(buf))
	}
	d.maps[i] = modelMap{state: busdma.Loaded, buf: buf, bounce: bounce}
}

func (d *model) loadRun() {
	i := d.pick(busdma.Taken)
	n := 1 + d.random.IntN(min(5, modelMaps-i))
	run := d.run[i : i+n]
	bounce := d.random.IntN(2) == 0
	length, from := 1+d.random.IntN(n*xen.PageSize+500), 0
	var want error
	buf := pattern(length, byte(length))
	if !bounce {
		from = d.random.IntN(n * xen.PageSize)
		end := min(i*xen.PageSize+from+length, len(d.pages))
		buf = d.q.slab.Bytes()[i*xen.PageSize+from : end]
		if from+len(buf) > n*xen.PageSize {
			want = busdma.ErrBoundary
		}
	}
	skip, need := from/xen.PageSize, (from%xen.PageSize+len(buf)+xen.PageSize-1)/xen.PageSize
	if want == nil && (bounce && need > n || need > 4) {
		want = busdma.ErrTooLarge
	}
	for k := skip; want == nil && k < skip+need; k++ {
		if d.maps[i+k].state != busdma.Taken {
			want = busdma.ErrNotTaken
		}
	}
	segs, err := d.q.tag.LoadRun(run, buf, nil)
	if !d.expect("LoadRun", err, want) {
		return
	}
	if len(segs) != need {
		d.t.Fatalf("%d segments, want %d", len(segs), need)
	}
	for k, s := range segs {
		d.maps[i+skip+k] = modelMap{state: busdma.Loaded, buf: buf[:s.Len], bounce: bounce}
		buf = buf[s.Len:]
	}
	if len(buf) != 0 {
		d.t.Fatalf("%d bytes in no segment", len(buf))
	}
}

func (d *model) sync() {
	i := d.pick(busdma.Loaded)
	m := &d.run[i]
	op := busdma.SyncOp(1 + d.random.IntN(15))
	e := &d.maps[i]
	var want error
	if e.state != busdma.Loaded && e.state != busdma.InFlight || e.state == busdma.InFlight && op&busdma.PreWrite != 0 {
		want = busdma.ErrNotLoaded
	}
	inPage := d.pages[i*xen.PageSize : (i+1)*xen.PageSize]
	var after []byte
	if want == nil && e.bounce {
		if op&busdma.PreWrite != 0 {
			e.synced = true
			copy(inPage, e.buf)
		}
		after = bytes.Clone(e.buf)
		if op&busdma.PostRead != 0 && !d.readOnly {
			copy(after, inPage)
		}
	}
	if d.expect("Sync", d.q.tag.Sync(m, op), want) && after != nil && !bytes.Equal(after, e.buf) {
		d.t.Fatalf("map %d: buffer is wrong after sync %04b", i, op)
	}
}

func (d *model) publish() {
	i := d.pick(busdma.Loaded)
	m := &d.run[i]
	e := &d.maps[i]
	var want error
	switch {
	case e.state != busdma.Loaded:
		want = busdma.ErrNotLoaded
	case e.bounce && d.readOnly && !e.synced:
		want = busdma.ErrNotSynced
	}
	if d.expect("Publish", d.q.tag.Publish(m), want) {
		e.state = busdma.InFlight
	}
}

func (d *model) unload() {
	i := d.pick(busdma.InFlight)
	m := &d.run[i]
	var want error
	if s := d.maps[i].state; s != busdma.Loaded && s != busdma.InFlight {
		want = busdma.ErrNotLoaded
	}
	if d.expect("Unload", d.q.tag.Unload(m), want) {
		d.maps[i] = modelMap{state: busdma.Taken}
	}
}

func (d *model) quarantine() {
	i := d.random.IntN(modelMaps)
	m := &d.run[i]
	var want error
	if d.maps[i].state == busdma.Pooled {
		want = busdma.ErrNotTaken
	}
	if d.expect("Quarantine", d.q.tag.Quarantine(m), want) {
		d.maps[i] = modelMap{state: busdma.Quarantined}
	}
}

func (d *model) take() {
	m, ok := d.q.pool.Take()
	i, wantOK := d.lowest()
	if ok != wantOK || ok && m.Index() != i {
		d.t.Fatalf("Take: %t, want map %d %t", ok, i, wantOK)
	}
	if ok {
		d.maps[i].state = busdma.Taken
		d.counts["Take"]++
	}
}

func (d *model) takeRun() {
	n := d.random.IntN(12)
	run, ok := d.q.pool.TakeRun(n)
	i, wantOK := d.highestRun(n)
	if ok != wantOK || ok && (run[0].Index() != i || len(run) != n) {
		d.t.Fatalf("TakeRun of %d: %t, want map %d %t", n, ok, i, wantOK)
	}
	for k := range run {
		d.maps[i+k].state = busdma.Taken
		d.counts["TakeRun"]++
	}
}

func (d *model) put() {
	i, n := d.pick(busdma.Taken), 1
	if d.random.IntN(3) == 0 {
		n = 1 + d.random.IntN(min(4, modelMaps-i))
	}
	var want error
	for k := range n {
		if d.maps[i+k].state != busdma.Taken {
			want = busdma.ErrNotTaken
		}
	}
	var err error
	if n == 1 {
		err = d.q.pool.Put(&d.run[i])
	} else {
		err = d.q.pool.PutRun(d.run[i : i+n])
	}
	if d.expect("Put", err, want) {
		for k := range n {
			d.maps[i+k] = modelMap{}
		}
		d.complete()
	}
}

// complete gives the loads that wait their maps.
func (d *model) complete() {
	for ; len(d.waiting) != 0; d.waiting = d.waiting[1:] {
		i, ok := d.lowest()
		if !ok {
			return
		}
		d.due = append(d.due, delivery{d.waiting[0], i})
		d.maps[i] = modelMap{state: busdma.Loaded, buf: d.bufs[d.waiting[0]], bounce: true}
	}
}

// numbered is the buffer of a load by Pool.LoadFunc.
func numbered(load int) []byte { return pattern(1+load*97%2000, byte(load)) }

func (d *model) loadFunc() {
	number := d.loads
	buf := numbered(number)
	want := busdma.ErrInProgress
	switch _, free := d.lowest(); {
	case d.random.IntN(10) == 0:
		buf, want = make([]byte, xen.PageSize+1), busdma.ErrTooLarge
	case len(d.waiting) > 10:
		return
	case free:
		want = nil
	}
	d.loads++
	d.bufs[number] = buf
	called := false
	err := d.q.pool.LoadFunc(buf, func(m *busdma.Map, segs []busdma.Segment, err error) {
		if called {
			d.t.Fatalf("load %d: callback called twice", number)
		}
		called = true
		switch err {
		case nil:
			if len(segs) != 1 || segs[0] != (busdma.Segment{Ref: m.Ref(), Len: uint16(len(buf))}) {
				d.t.Fatalf("segments %+v for %d bytes", segs, len(buf))
			}
			d.got = append(d.got, delivery{number, m.Index()})
			d.counts["completed"]++
		case busdma.ErrCancelled:
			d.got = append(d.got, delivery{number, -1})
			d.counts["cancelled"]++
		case busdma.ErrTooLarge:
		default:
			d.t.Fatalf("load %d: %v", number, err)
		}
	})
	if waits := want == busdma.ErrInProgress; called == waits {
		d.t.Fatalf("load %d: callback called %t, waits %t", number, called, waits)
	}
	d.expect("LoadFunc", err, want)
	if want != busdma.ErrTooLarge {
		d.waiting = append(d.waiting, number)
		d.complete()
	}
}

// write is the owner writing a page it has taken, or the peer one in flight.
func (d *model) write() {
	i := d.pick(busdma.InFlight)
	m := &d.run[i]
	b := pattern(1+d.random.IntN(xen.PageSize), byte(d.random.Uint32()))
	switch state := d.maps[i].state; {
	case state == busdma.Taken:
		copy(m.Page(), b)
	case state == busdma.InFlight && !d.readOnly:
		page, err := d.g.MapForeign(peer, m.Ref(), true)
		ok(d.t, err)
		copy(page, b)
		ok(d.t, d.g.UnmapForeign(m.Ref()))
		d.counts["peer's write"]++
	default:
		return
	}
	copy(d.pages[i*xen.PageSize:(i+1)*xen.PageSize], b)
}
