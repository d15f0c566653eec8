package control_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// Which vifs does the daemon serve, and how are they?
func ExampleClient_Status() {
	var c control.Client // asks at control.DefaultPath
	st, err := c.Status(context.Background())
	switch {
	case errors.Is(err, control.ErrNoDaemon):
		fmt.Println("no daemon runs")
		return
	case err != nil:
		log.Fatal(err)
	}
	for _, v := range st.Vifs {
		if v.Device == nil {
			fmt.Println("vif", v.Name(), "is not served:", v.Problem, v.Waiting)
			continue
		}
		fmt.Println("vif", v.Name(), "on", v.TAP, "is", v.Device.State)
	}
}

// A file was changed: have the daemon go by it, and say what is wrong with it.
func ExampleClient_Reload() {
	var c control.Client
	var refused *control.RefusedError
	switch err := c.Reload(context.Background()); {
	case errors.As(err, &refused):
		fmt.Println("nothing was changed:", refused.Reason)
	case err != nil:
		log.Fatal(err)
	}
}

// What crosses a vif's rings goes to a file, until the daemon ends.
func ExampleClient_Capture() {
	var c control.Client
	s, err := c.Capture(context.Background(), control.CaptureRequest{Vif: "xnf0"})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	f, err := os.Create("vif.pcapng")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := f.ReadFrom(s); err != nil {
		log.Fatal(err)
	}
	if err := f.Close(); err != nil {
		log.Fatal(err)
	}
}
