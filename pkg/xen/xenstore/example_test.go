package xenstore_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen/xenstore"
)

// In a guest, xenstore.Open is what makes the client.
func Example() {
	client := xenstore.New(newServer().connect())
	defer client.Close()
	ctx := context.Background()

	if err := client.Write(ctx, "device/vif/0/state", "1"); err != nil {
		log.Fatal(err)
	}
	state, err := client.Read(ctx, "device/vif/0/state")
	fmt.Println(state, err)

	_, err = client.Read(ctx, "device/vif/0/mac")
	fmt.Println(err, errors.Is(err, xenstore.ErrNotFound))
	// Output:
	// 1 <nil>
	// xenstore: read device/vif/0/mac: no such node (ENOENT) true
}

// All keys of a connection are published at once, so that the other end never sees
// half of them.
func ExampleClient_Update() {
	client := xenstore.New(newServer().connect())
	defer client.Close()
	ctx := context.Background()

	err := client.Update(ctx, func(tx xenstore.Operations) error {
		for _, key := range []struct{ name, value string }{
			{"tx-ring-ref", "8"}, {"rx-ring-ref", "9"}, {"event-channel", "15"}, {"state", "3"},
		} {
			if err := tx.Write(ctx, "device/vif/0/"+key.name, key.value); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	names, err := client.Directory(ctx, "device/vif/0")
	fmt.Println(names, err)
	// Output:
	// [event-channel rx-ring-ref state tx-ring-ref] <nil>
}

// An event says that there is something to look at; the first comes at once.
func ExampleClient_Watch() {
	server := newServer()
	client, backend := xenstore.New(server.connect()), xenstore.New(server.connect())
	defer client.Close()
	defer backend.Close()
	ctx := context.Background()

	const state = "/local/domain/0/backend/vif/1/0/state"
	watch, err := client.Watch(ctx, state)
	if err != nil {
		log.Fatal(err)
	}
	defer watch.Close()
	for path := range watch.Events() {
		value, err := client.Read(ctx, path)
		switch {
		case errors.Is(err, xenstore.ErrNotFound):
			fmt.Println("no backend")
			if err := backend.Write(ctx, state, "2"); err != nil {
				log.Fatal(err)
			}
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println("backend state", value)
			return
		}
	}
	log.Fatal(watch.Err())
	// Output:
	// no backend
	// backend state 2
}
