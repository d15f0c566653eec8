package guestvif_test

import (
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/guestvif"
	"github.com/xnetfrontd/xnetfrontd/pkg/netfront"
)

// The driver takes no features for all of them, unless it is told that none is meant.
func TestVifWithEveryFeatureDisabledNegotiatesNone(t *testing.T) {
	table := config.NewVif(config.SelectDevID(0))
	if c := guestvif.Config(table, 0); c.Features != netfront.AllFeatures() || c.NoFeatures {
		t.Errorf("nothing disabled: %+v, no features: %v", c.Features, c.NoFeatures)
	}
	table.Disable = config.Features()
	if c := guestvif.Config(table, 0); c.Features != (netfront.Features{}) || !c.NoFeatures {
		t.Errorf("all disabled: %+v, no features: %v", c.Features, c.NoFeatures)
	}
}
