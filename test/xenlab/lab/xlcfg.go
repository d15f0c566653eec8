package lab

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// TypePV guests call Xen for each system call of a process of theirs, TypePVH ones use
	// the processor's virtualization, which QEMU emulates too.
	TypePV  = "pv"
	TypePVH = "pvh"

	// ImageDebian is a Debian with systemd, on a disk of its own, which is as it was built.
	ImageDebian = "debian"

	defaultDomUMemMiB   = 256
	defaultDebianMemMiB = 512
	leastDomUMemMiB     = 224
)

// complete fills in the defaults, guestType among them, and says what is wrong with the
// rest. n is the number of domUs that were created before.
func (c *DomUConfig) complete(n int, guestType string) error {
	if c.Type == "" {
		c.Type = guestType
	}
	switch {
	case c.Name == "" || strings.ContainsAny(c.Name, "/\"' \t\n"):
		return fmt.Errorf("name %q: want a word", c.Name)
	case c.Image != "" && c.Image != ImageDebian:
		return fmt.Errorf("image %q: want %q or none", c.Image, ImageDebian)
	case c.Type != TypePV && c.Type != TypePVH:
		return fmt.Errorf("type %q: want %q or %q", c.Type, TypePV, TypePVH)
	case c.MemMiB == 0 && c.Image == ImageDebian:
		c.MemMiB = defaultDebianMemMiB
	case c.MemMiB == 0:
		c.MemMiB = defaultDomUMemMiB
	case c.MemMiB < leastDomUMemMiB:
		return fmt.Errorf("%d MiB: the initramfs needs %d", c.MemMiB, leastDomUMemMiB)
	}
	if c.VCPUs == 0 {
		c.VCPUs = 1
	}
	c.Vifs = append([]VifConfig(nil), c.Vifs...) // the caller's stay as they are
	for i := range c.Vifs {
		v := &c.Vifs[i]
		if v.Bridge == "" {
			v.Bridge = Bridge
		}
		if v.MAC == "" {
			v.MAC = fmt.Sprintf("00:16:3e:00:%02x:%02x", byte(n), byte(i))
		}
	}
	return nil
}

// baseImage is the initramfs in dom0 that the domU's one begins with.
func (c *DomUConfig) baseImage() string {
	if c.Image == ImageDebian {
		return "/boot/debian.cpio"
	}
	return "/boot/domu.cpio"
}

// spec is the vif as xl has it, see xl-network-configuration(5).
func (v *VifConfig) spec() string {
	parts := []string{"mac=" + v.MAC, "bridge=" + v.Bridge, "script=vif-lab"}
	for _, p := range []struct{ key, value string }{{"backend", v.Backend}, {"rate", v.Rate}} {
		if p.value != "" {
			parts = append(parts, p.key+"="+p.value)
		}
	}
	if v.MTU != 0 {
		parts = append(parts, "mtu="+strconv.Itoa(v.MTU))
	}
	return strings.Join(parts, ",")
}

// xlConfig is the domU as xl.cfg(5) has it, for a Xen with so many CPUs. A crashed one
// is preserved, so that its rings can be looked at.
func (c *DomUConfig) xlConfig(ramdisk string, cpus int) string {
	var vifs []string
	for i := range c.Vifs {
		vifs = append(vifs, "'"+c.Vifs[i].spec()+"'")
	}
	lines := []string{
		`name="` + c.Name + `"`,
		`type="` + c.Type + `"`,
		`kernel="/boot/vmlinux"`,
		`ramdisk="` + ramdisk + `"`,
		`memory=` + strconv.Itoa(c.MemMiB),
		`vcpus=` + strconv.Itoa(c.VCPUs),
		// Xen does not trust the emulated TSC to be invariant, as a real machine's is, and
		// would trap each read of it.
		`tsc_mode="native"`,
		`cmdline="` + strings.TrimSpace(kernelArgs+" "+c.KernelArgs) + `"`,
		`on_crash="preserve"`,
		`vif=[` + strings.Join(vifs, ", ") + `]`,
	}
	if cpus > 1 {
		lines = append(lines, `cpus="1-7"`) // CPU 0 is dom0's
	}
	if c.Image == ImageDebian {
		lines = append(lines, `disk=['phy:`+c.disk+`,xvda,w,script=block-lab']`)
	}
	return strings.Join(append(lines, c.Config...), "\n") + "\n"
}
