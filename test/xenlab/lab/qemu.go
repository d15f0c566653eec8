package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// xenArgs: the serial port is Xen's and dom0's console. One vCPU in each domain, as
	// code that patches itself under two emulated ones has crashed. No mitigations and no
	// scrubbing: they only cost time here. With them goes Xen's eager switching of vector
	// registers, which is asked for again: QEMU does not trap every instruction that a
	// lazy switch relies on, and guests that share a CPU get each other's.
	xenArgs = "console=com1 com1=115200,8n1 dom0_max_vcpus=1 dom0_vcpus_pin noreboot loglvl=warning guest_loglvl=warning spec-ctrl=no,eager-fpu xpti=no pv-l1tf=no watchdog=0 bootscrub=0"
	// kernelArgs are every kernel's. Its console is silent except for emergencies, as
	// printing is slow and a domU's console carries the agent's session; an oops is an
	// emergency. What is blacklisted are self-tests, which take seconds under emulation.
	// The kernel's stack is not randomized, which reads the TSC at each system call.
	kernelArgs = "console=hvc0 rdinit=/init quiet loglevel=1 oops=panic nowatchdog mitigations=off randomize_kstack_offset=off nokaslr rodata=off cryptomgr.notests initcall_blacklist=crypto_kdf108_init,jent_mod_init,init_encrypted"
	// dom0Args are dom0's too. Netback keeps what a guest does not take for longer than its
	// 10 s: a daemon's start takes that long on a machine that is busy.
	dom0Args = "xen_netback.rx_drain_timeout_msecs=50000"
	// cpu: -smap and -smep as older QEMUs let dom0 crash with them, -rdtscp as Xen loops
	// on that instruction in a PVH guest. -erms and -fsrm have kernels copy by words:
	// QEMU takes a string instruction byte by byte.
	cpu = "max,-smap,-smep,-rdtscp,-erms,-fsrm"
)

// comma doubles commas: QEMU splits at single ones.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// qemuArgs is QEMU's command line. The agent's port is descriptor 3, the serial port
// standard output.
func qemuArgs(o Options, initrd, share string) []string {
	in := func(name string) string { return filepath.Join(o.Images, name) }
	xen := fmt.Sprintf("%s dom0_mem=%dM,max:%[2]dM %s", xenArgs, o.Dom0MemMiB, o.XenArgs)
	args := []string{
		"-accel", "tcg,thread=multi,tb-size=512", "-cpu", cpu, "-smp", strconv.Itoa(o.CPUs), "-m", strconv.Itoa(o.MemMiB), "-machine", "q35",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
		"-kernel", in("xen"), "-append", strings.TrimSpace(xen),
		"-initrd", comma(in("vmlinux")) + " " + comma(strings.TrimSpace(kernelArgs+" "+dom0Args+" "+o.Dom0Args)) + "," + comma(initrd),
		"-fsdev", "local,id=share,security_model=none,path=" + comma(share),
		"-device", "virtio-9p-pci,fsdev=share,mount_tag=share,disable-legacy=on",
		"-chardev", "socket,id=agent,fd=3",
		"-device", "virtio-serial-pci,disable-legacy=on", "-device", "virtserialport,chardev=agent,name=xenlab",
	}
	if disk := in("debian.img"); fileExists(disk) {
		// What guests write is lost with QEMU, and need not get to a disk of the host.
		for i := range debianDisks {
			args = append(args, "-drive", fmt.Sprintf("if=none,id=debian%d,format=raw,snapshot=on,cache=unsafe,file=%s", i, comma(disk)),
				"-device", fmt.Sprintf("virtio-blk-pci,drive=debian%d,disable-legacy=on", i))
		}
	}
	return args
}

// debianDisks is how many Debian domUs a lab can create: each has a disk on which nobody
// has written.
const debianDisks = 4

// debianDisk is the i-th one, as dom0 has it.
func debianDisk(i int) string { return "/dev/vd" + string(rune('a'+i)) }

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// qemu is the emulator as a process.
type qemu struct {
	cmd  *exec.Cmd
	port net.Conn      // the agent's
	done chan struct{} // closed when it has ended
	err  error
}

// startQEMU starts it in a process group of its own, which a Ctrl-C on the terminal
// does not reach. It ends with this process, however that ends.
func startQEMU(path string, args []string, serial *console, log *os.File) (*qemu, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make QEMU's port: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "port"), os.NewFile(uintptr(pair[1]), "port")
	defer theirs.Close()
	q := &qemu{cmd: exec.Command(path, args...), done: make(chan struct{})}
	q.port, err = net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, fmt.Errorf("make QEMU's port: %w", err)
	}
	q.cmd.Stdout, q.cmd.Stderr, q.cmd.ExtraFiles = serial, log, []*os.File{theirs}
	q.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig is about the thread that starts the child, see prctl(2).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := q.cmd.Start()
		started <- err
		if err == nil {
			q.err = q.cmd.Wait()
			close(q.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("start QEMU: %w", err), q.port.Close())
	}
	return q, nil
}

// kill ends it and waits for that.
func (q *qemu) kill() {
	select {
	case <-q.done:
		return
	default:
	}
	_ = q.cmd.Process.Kill() // fails only when it has ended
	<-q.done
}
