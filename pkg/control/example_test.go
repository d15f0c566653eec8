package control_test

import (
	"context"
	"fmt"
	"log"

	"github.com/xnetfrontd/xnetfrontd/pkg/control"
)

// Which vifs does the daemon serve, and how are they?
func ExampleClient_Status() {
	var c control.Client // asks at control.DefaultPath
	st, err := c.Status(context.Background())
	if err != nil {
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
