package failure_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
)

func TestExitCodeTellsWhatIsWrongWithTheMachineFromWhatCanPass(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("passes"), failure.ExitRuntime},
		{failure.Usagef("asked wrongly"), failure.ExitUsage},
		{fmt.Errorf("check: %w", failure.Machinef("another kernel")), failure.ExitMachine},
	} {
		if got := failure.Code(c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}
