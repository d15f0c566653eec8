package tap

import (
	"errors"
	"slices"
	"testing"
)

var errInjected = errors.New("injected")

func TestCreateLeavesNothingBehindWhenAStepFails(t *testing.T) {
	enterNamespace(t)
	cfg := Config{Name: "xnf0", MAC: []byte{2, 0, 0, 0, 0, 1}, MTU: 9000, TxQueueLen: 100}
	steps := new(Device).createSteps(cfg)
	for _, s := range steps {
		before, linksBefore := openDescriptors(t), links(t)
		ran := false
		_, err := create(cfg, func(name string) error {
			if name == s.name {
				ran = true
				return errInjected
			}
			return nil
		})
		if !ran || !errors.Is(err, errInjected) {
			t.Errorf("step %s: ran %t, error %v", s.name, ran, err)
		}
		if left := newDescriptors(t, before); len(left) > 0 {
			t.Errorf("step %s: descriptors left: %v", s.name, left)
		}
		if now := links(t); !slices.Equal(now, linksBefore) {
			t.Errorf("step %s: links %v, before %v", s.name, now, linksBefore)
		}
	}
}
