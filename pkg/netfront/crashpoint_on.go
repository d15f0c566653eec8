//go:build crashpoints

package netfront

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// crashAt is what the environment says: XNETFRONTD_CRASH=<step>:<passes before it>.
var crashAt = newCrash(os.Getenv("XNETFRONTD_CRASH"))

type crash struct {
	step crashStep
	left atomic.Int64
}

func newCrash(setting string) *crash {
	step, passes, _ := strings.Cut(setting, ":")
	n, _ := strconv.ParseInt(passes, 10, 64)
	c := &crash{step: crashStep(step)}
	c.left.Store(n)
	return c
}

// crashPoint ends the process as SIGKILL does, if this is the step and the pass that
// the environment names.
func crashPoint(step crashStep) {
	if step == crashAt.step && crashAt.left.Add(-1) < 0 {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
}
