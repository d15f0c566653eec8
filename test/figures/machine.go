package figures

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is where a run took place, and with what.
type Machine struct {
	Kernel    string `json:"kernel"`
	Processor string `json:"processor"`
	CPUs      int    `json:"cpus"`
	Arch      string `json:"arch"`
	Go        string `json:"go"`
	Revision  string `json:"revision"` // of the sources, as `git describe` has it
}

// DescribeMachine finds out what it can; what it cannot is "unknown".
func DescribeMachine(ctx context.Context) Machine {
	m := Machine{Kernel: "unknown", Processor: "unknown", CPUs: runtime.NumCPU(), Arch: runtime.GOARCH, Go: runtime.Version(), Revision: "unknown"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(value)
				break
			}
		}
	}
	if b, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output(); err == nil {
		m.Revision = string(bytes.TrimSpace(b))
	}
	return m
}
