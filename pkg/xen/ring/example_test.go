package ring_test

import (
	"bytes"
	"fmt"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/ring"
)

// slot is a ring's entry: here a request is text, and so is its response.
type slot [12]byte

func text(s string) *slot {
	var b slot
	copy(b[:], s)
	return &b
}

// A frontend sends two requests, and the backend answers them. The page is one that both
// domains have; here both ends are in one goroutine.
func Example() {
	page := make([]byte, ring.PageSize)
	front, err := ring.NewFront[slot](page, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	back, err := ring.AttachBack[slot](page)
	if err != nil {
		fmt.Println(err)
		return
	}

	front.Put(text("first"))
	front.Put(text("second"))
	if front.Push() {
		fmt.Println("the backend asked for an event: notify it")
	}

	n, err := back.Requests() // checks the index, which the frontend can write
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range n {
		request := back.Request(i) // a copy: the frontend may change the slot
		fmt.Println("request", string(bytes.TrimRight(request[:], "\x00")))
	}
	back.Consume(n)
	back.Put(text("done"))
	fmt.Println("to be notified:", back.Push())

	answers, err := front.Responses()
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range answers {
		response := front.Response(i)
		fmt.Println("response", string(bytes.TrimRight(response[:], "\x00")))
	}
	front.Consume(answers)
	if !front.NotifyAfter(1) {
		fmt.Println("nothing more: wait for the event")
	}
	// Output:
	// the backend asked for an event: notify it
	// request first
	// request second
	// to be notified: true
	// response done
	// nothing more: wait for the event
}
