package tap

import (
	"errors"
	"testing"
)

func TestNamesThatLinuxRefusesOrCutsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name           string
		plain, pattern bool
	}{
		{"xnf0", true, true},
		{"x", true, true},
		{"fifteen-bytes-n", true, true},
		{"vif1.0-emu", true, true},
		{"xnf%d", false, true},
		{"vif%d.0", false, true},
		{"", false, false},
		{"sixteen-bytes-na", false, false},
		{".", false, false},
		{"..", false, false},
		{"all", false, false},
		{"default", false, false},
		{"a/b", false, false},
		{"a:1", false, false},
		{"a b", false, false},
		{"a\tb", false, false},
		{"a\x00b", false, false},
		{"caf\u00e9", false, false},
		{"a\xa0b", false, false},
		{"%", false, false},
		{"xnf%s", false, false},
		{"xnf%d%d", false, false},
		{"xnf%%d", false, false},
	} {
		for pattern, want := range map[bool]bool{false: c.plain, true: c.pattern} {
			err := CheckName(c.name, pattern)
			if (err == nil) != want || err != nil && !errors.Is(err, ErrName) {
				t.Errorf("%q, pattern %t: %v", c.name, pattern, err)
			}
		}
	}
}
