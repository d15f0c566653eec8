// Package machine tells what the machine below a daemon is, and what it lacks: the
// hypervisor, the kernel's version and modules, the device of TAPs, a capability. An error
// that only another kernel or machine mends is a [failure.Machine].
package machine
