package machine_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/fakekernel"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// wantMachine checks that err says that this machine cannot do it.
func wantMachine(t *testing.T, err error, want string) {
	t.Helper()
	cmdtest.WantError(t, err, want)
	if failure.Code(err) != failure.ExitMachine {
		t.Errorf("%v: its exit code is not %d", err, failure.ExitMachine)
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
		s := fakekernel.NewSystem(t)
		s.Release = c.release
		err := s.CheckKernel()
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%q: got %v, want %q", c.release, err, c.want)
		}
		if c.want != "" {
			wantMachine(t, s.Check(), c.want)
		}
	}
}

func TestMachineThatIsNoXenGuestIsToldAboutTheDemo(t *testing.T) {
	s := fakekernel.NewSystem(t)
	missing := &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: fs.ErrNotExist}
	noGuest := "this machine is not a Xen guest (" + s.Sysfs + "/hypervisor/type is not \"xen\"): to see it work without Xen, run `xnetfrontd demo`"
	wantMachine(t, s.ExplainXen(missing), noGuest)
	cmdtest.WriteFile(t, s.Sysfs+"/hypervisor/type", "kvm\n")
	wantMachine(t, s.ExplainXen(missing), noGuest)
	cmdtest.WriteFile(t, s.Sysfs+"/hypervisor/type", "xen\n")
	if err := s.ExplainXen(missing); !errors.Is(err, missing) {
		t.Errorf("on Xen the device is the matter: %v", err)
	}
	denied := &fs.PathError{Op: "open", Path: "/dev/xen/gntalloc", Err: fs.ErrPermission}
	if err := s.ExplainXen(denied); !errors.Is(err, denied) {
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
			s := fakekernel.NewSystem(t)
			s.Release = release
			cmdtest.WriteFile(t, s.Sysfs+"/hypervisor/type", "xen\n")
			for path, content := range c.files {
				path = filepath.Dir(s.Dev) + path
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if filepath.Ext(path) == ".gz" {
					writeGzip(t, path, content)
				} else {
					cmdtest.WriteFile(t, path, content)
				}
			}
			if c.want == load {
				cmdtest.WantError(t, s.ExplainXen(missing), load)
				return
			}
			wantMachine(t, s.ExplainXen(missing), c.want)
			wantMachine(t, s.ExplainLoad(xen.GntallocModule, errors.New("modprobe")), c.want)
			if err := s.ExplainLoad("tun", missing); err != missing {
				t.Errorf("tun: %v", err)
			}
		})
	}
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
	wantMachine(t, fakekernel.NewSystem(t).ExplainXen(err), err.Error())
}
