package busdma_test

import (
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/internal/heapgrants"
	"github.com/xnetfrontd/xnetfrontd/pkg/busdma"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// grants stands for the Grants of a xen.Guest, which xen.Open gives.
func grants() busdma.Allocator { return heapgrants.NewUnchecked() }

// A transmit queue grants its pages read-only. A frame from elsewhere is bounced: the
// page has it after Sync.
func Example_transmit() {
	tag, err := busdma.NewTag(grants(), busdma.TagConfig{Peer: 0, ReadOnly: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	slab, err := tag.AllocSlab(8)
	if err != nil {
		fmt.Println(err)
		return
	}
	pool, err := busdma.NewPool(tag, slab, nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	m, ok := pool.Take()
	if !ok {
		fmt.Println("all maps in flight: ask for an event with the next response")
		return
	}
	seg, err := tag.Load(m, []byte("an Ethernet frame"))
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := tag.Sync(m, busdma.PreWrite); err != nil {
		fmt.Println(err)
		return
	}
	if err := tag.Publish(m); err != nil {
		fmt.Println(err)
		return
	}
	// Here seg goes into a slot of the ring, with m.Index() as the id.
	fmt.Printf("%d bytes at offset %d, map %d %v\n", seg.Len, seg.Offset, m.Index(), m.State())

	// The response has come, with the id.
	m, ok = pool.At(0)
	if !ok || m.State() != busdma.InFlight {
		fmt.Println("the backend answers what it was not asked")
		return
	}
	if err := tag.Unload(m); err != nil {
		fmt.Println(err)
		return
	}
	if err := pool.Put(m); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", pool.Counts())
	// Output:
	// 17 bytes at offset 0, map 0 in flight
	// {Free:8 Loaded:0 InFlight:0 Quarantined:0 Created:8}
}

// A super-frame is read behind its virtio header straight into a run of maps, and
// goes out from there without a copy.
func ExampleTag_LoadRun() {
	tag, err := busdma.NewTag(grants(), busdma.TagConfig{ReadOnly: true, MaxSegments: 18})
	if err != nil {
		fmt.Println(err)
		return
	}
	slab, err := tag.AllocSlab(32)
	if err != nil {
		fmt.Println(err)
		return
	}
	pool, err := busdma.NewPool(tag, slab, nil)
	if err != nil {
		fmt.Println(err)
		return
	}

	run, ok := pool.TakeRun(17)
	if !ok {
		fmt.Println("no such run: read into scattered maps, or wait")
		return
	}
	room := slab.Bytes()[run[0].Index()*xen.PageSize:][:len(run)*xen.PageSize]
	const header, frame = 12, 9014 // as read into room
	segs, err := tag.LoadRun(run, room[header:header+frame], nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i, s := range segs {
		fmt.Printf("map %d: %d bytes at offset %d\n", run[i].Index(), s.Len, s.Offset)
	}
	if err := pool.PutRun(run[len(segs):]); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%+v\n", pool.Counts())
	// Output:
	// map 15: 4084 bytes at offset 12
	// map 16: 4096 bytes at offset 0
	// map 17: 834 bytes at offset 0
	// {Free:29 Loaded:3 InFlight:0 Quarantined:0 Created:32}
}

// A load that finds no map waits for one.
func ExamplePool_LoadFunc() {
	tag, err := busdma.NewTag(grants(), busdma.TagConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	slab, err := tag.AllocSlab(1)
	if err != nil {
		fmt.Println(err)
		return
	}
	pool, err := busdma.NewPool(tag, slab, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	m, _ := pool.Take()
	err = pool.LoadFunc(make([]byte, 100), func(m *busdma.Map, segs []busdma.Segment, err error) {
		if err != nil {
			fmt.Println("cancelled:", err)
			return
		}
		fmt.Println("loaded:", len(segs), "segment of", segs[0].Len, "bytes")
	})
	fmt.Println(err)
	if err := pool.Put(m); err != nil {
		fmt.Println(err)
	}
	// Output:
	// busdma: load in progress
	// loaded: 1 segment of 100 bytes
}
