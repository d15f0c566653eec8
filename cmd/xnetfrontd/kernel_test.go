package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// wantMachine checks that err says that this machine cannot do it.
func wantMachine(t *testing.T, err error, want string) {
	t.Helper()
	wantMessage(t, err, want)
	var machine machineError
	if !errors.As(err, &machine) {
		t.Errorf("%v: its exit code is not %d", err, exitMachine)
	}
}

func TestKernelThatIsTooOldIsNamedWithTheOldestThatWillDo(t *testing.T) {
	for _, c := range []struct{ release, want string }{
		{"4.18.0-553.el8_10.x86_64", "the kernel is Linux 4.18.0-553.el8_10.x86_64: 5.2 or newer is needed"},
		{"5.1.21", "the kernel is Linux 5.1.21: 5.2 or newer is needed"},
		{"5.2.0-1-amd64", ""},
		{"5.15.0", ""},
		{"6.1", ""},
		{"10.0.0", ""},
		{"", ""},
		{"not a version", ""},
	} {
		s := fakeSystem(t)
		s.release = c.release
		err := s.checkKernel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%q: got %v, want %q", c.release, err, c.want)
		}
		if c.want != "" {
			wantMachine(t, s.check(), c.want)
		}
	}
}

func TestMachineThatIsNoXenGuestIsToldAboutTheDemo(t *testing.T) {
	s := fakeSystem(t)
	missing := &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: fs.ErrNotExist}
	noGuest := "this machine is not a Xen guest (" + s.sysfs + "/hypervisor/type is not \"xen\"): to see it work without Xen, run `xnetfrontd demo`"
	wantMachine(t, s.explainXen(missing), noGuest)
	writeFile(t, s.sysfs+"/hypervisor/type", "kvm\n")
	wantMachine(t, s.explainXen(missing), noGuest)
	writeFile(t, s.sysfs+"/hypervisor/type", "xen\n")
	if err := s.explainXen(missing); !errors.Is(err, missing) {
		t.Errorf("on Xen the device is the matter: %v", err)
	}
	denied := &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: fs.ErrPermission}
	if err := s.explainXen(denied); !errors.Is(err, denied) {
		t.Errorf("permission is the matter: %v", err)
	}
}

func TestKernelWithoutAModuleIsToldFromOneWhoseModuleIsNotInstalledOrNotLoaded(t *testing.T) {
	const (
		release  = "6.12.0-55.el10.x86_64"
		dep      = "kernel/drivers/xen/xen-evtchn.ko.xz:\n"
		gntalloc = "kernel/drivers/xen/xen-gntalloc.ko.xz:\n"
		config   = "CONFIG_SMP=y\nCONFIG_XEN=y\nCONFIG_XEN_DEV_EVTCHN=m\n"
		without  = "this kernel, Linux " + release + ", cannot do it: it was built without CONFIG_XEN_GRANT_DEV_ALLOC (module xen-gntalloc)," +
			" as those of RHEL 10 and its relatives are; boot one with it, as Debian's and Fedora's are"
		absent = "the module xen-gntalloc of this kernel, Linux " + release + ", is not installed:" +
			" install the package with the rest of its modules (Ubuntu: linux-modules-extra-" + release + ")"
		load = "open /dev/xen/gntalloc: file does not exist: modprobe"
	)
	missing := fmt.Errorf("%w: modprobe", &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: fs.ErrNotExist})
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"RHEL 10", map[string]string{"/boot/config-" + release: config + "# CONFIG_XEN_GRANT_DEV_ALLOC is not set\n"}, without},
		{"the list of modules alone", map[string]string{"/lib/modules/" + release + "/modules.dep": dep}, without},
		{"in the list", map[string]string{"/lib/modules/" + release + "/modules.dep": dep + gntalloc}, load},
		{"built in", map[string]string{"/lib/modules/" + release + "/modules.dep": dep, "/lib/modules/" + release + "/modules.builtin": "kernel/drivers/xen/xen-gntalloc.ko\n"}, load},
		{"a package of modules is missing", map[string]string{
			"/boot/config-" + release:                  config + "CONFIG_XEN_GRANT_DEV_ALLOC=m\n",
			"/lib/modules/" + release + "/modules.dep": dep}, absent},
		{"the list cannot be read", map[string]string{"/boot/config-" + release: config + "CONFIG_XEN_GRANT_DEV_ALLOC=y\n"}, load},
		{"configuration of something else", map[string]string{"/lib/modules/" + release + "/config": "CONFIG_BUSYBOX=y\n"}, load},
		{"compressed", map[string]string{"/proc/config.gz": config}, without},
		{"nothing is known", nil, load},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := fakeSystem(t)
			s.release = release
			writeFile(t, s.sysfs+"/hypervisor/type", "xen\n")
			for path, content := range c.files {
				path = filepath.Dir(s.dev) + path
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if filepath.Ext(path) == ".gz" {
					writeGzip(t, path, content)
				} else {
					writeFile(t, path, content)
				}
			}
			if c.want == load {
				wantMessage(t, s.explainXen(missing), load)
				return
			}
			wantMachine(t, s.explainXen(missing), c.want)
			wantMachine(t, s.explainLoad(xen.GntallocModule, errors.New("modprobe")), c.want)
			if err := s.explainLoad("tun", missing); err != missing {
				t.Errorf("tun: %v", err)
			}
		})
	}
}

// In the sandbox of the unit the list of modules cannot be read, and on a hardened machine
// /boot cannot either. prepare has looked, a moment before.
func TestKernelWithoutAModuleIsOneThatCannotForADaemonThatMayNotLookItself(t *testing.T) {
	const release = "6.12.0-55.el10.x86_64"
	k := newFakeKernel(t, true)
	k.lacks = true
	k.sys.release = release
	writeFile(t, k.sys.sysfs+"/hypervisor/type", "xen\n")
	list := k.sys.modules() + "/modules.dep"
	if err := os.MkdirAll(filepath.Dir(list), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, list, "kernel/drivers/xen/xen-evtchn.ko.xz:\n")
	const want = "this kernel, Linux " + release + ", cannot do it: it was built without CONFIG_XEN_GRANT_DEV_ALLOC (module xen-gntalloc)," +
		" as those of RHEL 10 and its relatives are; boot one with it, as Debian's and Fedora's are"
	p := &preparer{sys: k.sys, bus: k.bus(), out: io.Discard}
	wantMachine(t, p.modules(t.Context()), want)

	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	missing := func(device string) error {
		return fmt.Errorf("%w: modprobe", &fs.PathError{Op: "open", Path: "/dev/xen/" + device, Err: fs.ErrNotExist})
	}
	wantMachine(t, k.sys.explainXen(missing("gntalloc")), want)
	wantMessage(t, k.sys.explainXen(missing("evtchn")), "open /dev/xen/evtchn: file does not exist: modprobe")
	other := k.sys
	other.release = "6.12.0-1-amd64"
	wantMessage(t, other.explainXen(missing("gntalloc")), "open /dev/xen/gntalloc: file does not exist: modprobe")

	// A prepare that can load it takes that back.
	k.lacks = false
	_ = p.modules(t.Context())
	wantMessage(t, k.sys.explainXen(missing("gntalloc")), "open /dev/xen/gntalloc: file does not exist: modprobe")
}

func writeGzip(t *testing.T, path, content string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	_, err = z.Write([]byte(content))
	if err := errors.Join(err, z.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestKernelWithLargerPagesIsOneThatCannot(t *testing.T) {
	err := fmt.Errorf("pages of 16384 bytes: %w", errors.ErrUnsupported)
	wantMachine(t, fakeSystem(t).explainXen(err), err.Error())
}

func TestExitCodeTellsWhatIsWrongWithTheMachineFromWhatCanPass(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("passes"), exitRuntime},
		{usagef("asked wrongly"), exitUsage},
		{fmt.Errorf("check: %w", machinef("another kernel")), exitMachine},
	} {
		if got := report(io.Discard, c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}
