package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// offloads are what ethtool sets, and how it shows them.
func offloads() map[string]string {
	return map[string]string{
		"tso": "tcp-segmentation-offload",
		"gso": "generic-segmentation-offload",
		"sg":  "scatter-gather",
		"gro": "generic-receive-offload",
	}
}

// setOffloads sets those of the guest's interface and of dom0's, and makes sure that it
// has: a frontend that keeps one has an advantage, or a disadvantage.
func (b *bed) setOffloads(ctx context.Context, on bool) error {
	if err := setOffloads(ctx, b.domU.Guest, b.link, on); err != nil {
		return err
	}
	return setOffloads(ctx, b.lab.Dom0(), b.domU.Vif(b.devid), on)
}

func setOffloads(ctx context.Context, g *lab.Guest, link string, on bool) error {
	state := "off"
	if on {
		state = "on"
	}
	argv := []string{"ethtool", "-K", link}
	for name := range offloads() {
		argv = append(argv, name, state)
	}
	if _, err := g.Run(ctx, argv...); err != nil {
		return err
	}
	out, err := g.Run(ctx, "ethtool", "-k", link)
	if err != nil {
		return err
	}
	if wrong := otherwise(out, state); wrong != "" {
		return fmt.Errorf("%s: %s of %s cannot be switched %s: %s", g.Name(), wrong, link, state, strings.TrimSpace(out))
	}
	return nil
}

// otherwise is the name of an offload that is not in a state, by the output of
// ethtool -k, or empty.
func otherwise(out, state string) string {
	for name, shown := range offloads() {
		if !strings.Contains("\n"+out, "\n"+shown+": "+state) {
			return name
		}
	}
	return ""
}
