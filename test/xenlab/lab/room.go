package lab

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// qemuMemMiB is what QEMU takes besides the memory of its guest: above all code that it
// has translated.
const qemuMemMiB = 1024

// Room returns how many labs with so much memory, see MemMiB, this machine has room for
// at a time, one at least and at most want, and how many CPUs each gets. If it is fewer
// labs it says why.
func Room(want, memMiB int) (labs, cpus int, why string) {
	labs, why = room(want, memMiB+qemuMemMiB, runtime.GOMAXPROCS(0), availableMiB())
	return labs, cpusEach(labs, runtime.GOMAXPROCS(0)), why
}

// cpusEach is for labs at a time on a machine with so many CPUs. Emulated CPUs that have
// to share a real one spin in Xen's locks until the one that holds the lock has its turn:
// that took up to 40 % of the time. What a second one gains a lab is less.
func cpusEach(labs, cpus int) int {
	return min(max(1, cpus/labs), defaultCPUs)
}

// room is Room for labs of eachMiB on a machine with so many CPUs and so much memory, 0 if
// that is not known.
func room(want, eachMiB, cpus, freeMiB int) (labs int, why string) {
	const fewer = "%d of %d boots at a time: "
	labs = want
	if n := max(1, cpus); labs > n {
		labs, why = n, fmt.Sprintf(fewer+"each keeps a CPU busy, and there are %d", n, want, cpus)
	}
	if n := max(1, freeMiB/eachMiB); freeMiB > 0 && labs > n {
		labs, why = n, fmt.Sprintf(fewer+"each takes %d MiB of memory, and %d are free", n, want, eachMiB, freeMiB)
	}
	return labs, why
}

// availableMiB is the memory that processes can have without swapping, see proc(5); 0
// if the kernel does not say.
func availableMiB() int {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kib := 0
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				return 0
			}
			return kib >> 10
		}
	}
	return 0
}
