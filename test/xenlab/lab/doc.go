// Package lab boots a real Xen under QEMU, without hardware virtualization, and runs
// commands in its dom0 and in its domUs.
//
// Boot starts Xen with a dom0 that has Linux's xen-netback. CreateDomU adds a guest
// that has what xnetfrontd needs, and no xen-netfront. Both are Guests: Run, Shell
// and Start execute commands there, WriteFile and ReadFile move small files. Large
// ones belong into the initramfs, see Options.Payload and DomUConfig.Payload.
//
// The network: a bridge in dom0, named Bridge, with Dom0IPv4 and Dom0IPv6. Guests
// have no addresses until a scenario gives them some, by convention 10.77.0.2 and up,
// fd77::2 and up.
//
// Everything is emulated and the machine may be busy: a domU boots in 6 s or in 60.
// Only contexts limit how long something takes; there are no shorter timeouts inside.
package lab

const (
	// Bridge is dom0's bridge, where a vif is attached unless it says otherwise.
	Bridge = "xenbr0"
	// Dom0IPv4 and Dom0IPv6 are Bridge's own addresses, with prefixes of 24 and 64.
	Dom0IPv4 = "10.77.0.1"
	Dom0IPv6 = "fd77::1"
	// AgentPath and DaemonPath are where every guest has the agent, with its traffic
	// tools, and the daemon.
	AgentPath  = "/lab/agent"
	DaemonPath = "/lab/xnetfrontd"
	// SharePath is where dom0 sees the folder Options.RunDir/share. It is slow: write
	// results there, read nothing large from it.
	SharePath = "/share"
)
