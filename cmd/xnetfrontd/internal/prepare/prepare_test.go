package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/cmdtest"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/config"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/fakekernel"
	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

const (
	guestID  = xen.DomID(1)
	patience = 20 * time.Second // with the race detector on a busy machine
)

func prepareOn(t *testing.T, k *fakekernel.Kernel) (*preparer, *bytes.Buffer) {
	var out bytes.Buffer
	return &preparer{sys: k.System, kernel: k.Owner(), lockDir: t.TempDir(), out: &out}, &out
}

func wantPrinted(t *testing.T, out *bytes.Buffer, want string) {
	t.Helper()
	if out.String() != want {
		t.Errorf("printed:\n%swant:\n%s", out.String(), want)
	}
	out.Reset()
}

// guestOf is a guest of an embedded Xen with these vifs, and domain 0.
func guestOf(t *testing.T, opts xensim.Options, vifs ...int) (guest *xen.Guest, domain0 xen.Store) {
	t.Helper()
	opts.Dir = t.TempDir()
	server, err := xensim.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	var conns [2]*xensim.Connection
	for id := range conns {
		if conns[id], err = server.Connect(xen.DomID(id)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conns[id].Close() })
	}
	for _, id := range vifs {
		cfg := xensim.VifConfig{Frontend: guestID, DevID: id, MAC: net.HardwareAddr{0, 0x16, 0x3e, 0, 0, byte(id)}}
		if err := xensim.AttachVif(t.Context(), conns[0].Store(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	return conns[guestID].Guest(), conns[0].Store()
}

func storeOf(t *testing.T, vifs ...int) xen.Store {
	guest, _ := guestOf(t, xensim.Options{}, vifs...)
	return guest.Store
}

func TestDriverThatUdevWouldLoadLaterTakesNoVifFromTheDaemon(t *testing.T) {
	store := storeOf(t, 0, 1)
	k := fakekernel.New(t, false, 0, 1)
	p, out := prepareOn(t, k)
	vifs := []wantedVif{{devid: 0, attached: true}}
	want := func(printed string, written ...string) {
		t.Helper()
		if err := p.preload(t.Context(), store, vifs); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, out, printed)
		k.WantWritten(written...)
		k.Wrote = nil
	}
	want("") // there is no udev
	p.sys.Udev = t.TempDir()
	cmdtest.WriteFile(t, p.sys.Udev+"/control", "")
	k.Lacks = true
	want("", "drivers_autoprobe=0", "modprobe=xen:vif", "drivers_autoprobe=1")
	k.Lacks = false
	want("module xen-netfront: loaded, before it takes a vif\nvif 1: not configured, the kernel's xen-netfront has it\n",
		"drivers_autoprobe=0", "modprobe=xen:vif", "drivers_autoprobe=1", "bind=vif-1")
	if driver, err := k.Owner().Driver(0); driver != "" || err != nil {
		t.Errorf("vif 0 has driver %q, %v", driver, err)
	}
	want("") // it is loaded
}

func TestVifThatAnotherFrontendHasIsNotGivenToTheKernel(t *testing.T) {
	store := storeOf(t, 0, 1, 2)
	if err := store.Write(t.Context(), "device/vif/1/state", "4"); err != nil {
		t.Fatal(err)
	}
	others, err := untaken(t.Context(), store, []wantedVif{{devid: 0, attached: true}})
	if err != nil || fmt.Sprint(others) != "[2]" {
		t.Errorf("%v, %v, want [2]", others, err)
	}
}

func TestMissingModulesAreLoadedAndOthersLeftAlone(t *testing.T) {
	k := fakekernel.New(t, true)
	cmdtest.WriteFile(t, k.System.Dev+"/net/tun", "")
	k.Must(os.Mkdir(k.System.Dev+"/xen", 0o755))
	cmdtest.WriteFile(t, k.System.Dev+"/xen/evtchn", "")
	cmdtest.WriteFile(t, k.System.Sysfs+"/hypervisor/type", "xen\n")
	p, out := prepareOn(t, k)
	cmdtest.WantError(t, p.modules(t.Context()), "load xen-gntalloc: modprobe: FATAL: Module xen-gntalloc not found")
	wantPrinted(t, out, "")

	p.kernel.Modprobe = func(context.Context, string) error { return nil }
	cmdtest.WantError(t, p.modules(t.Context()), "stat "+k.System.Dev+"/xen/gntalloc: no such file or directory: xen-gntalloc was loaded, and its device is not there")

	p.kernel.Modprobe = func(_ context.Context, module string) error {
		cmdtest.WriteFile(t, k.System.Dev+"/xen/gntalloc", "")
		return nil
	}
	if err := p.modules(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, "module xen-gntalloc: loaded\nmodule xen-evtchn: there\nmodule tun: there\n")
}

func TestPrepareOutsideXenPointsToTheDemo(t *testing.T) {
	k := fakekernel.New(t, true)
	p, _ := prepareOn(t, k)
	cmdtest.WantError(t, p.modules(t.Context()), "this machine is not a Xen guest ("+k.System.Sysfs+"/hypervisor/type is not \"xen\"): to see it work without Xen, run `xnetfrontd demo`")
}

func TestGroupGetsTheDevicesAndUnknownGroupIsNamed(t *testing.T) {
	needs.Root(t)
	k := fakekernel.New(t, true)
	k.Must(os.Mkdir(k.System.Dev+"/xen", 0o755))
	p, out := prepareOn(t, k)
	var given, there string
	for _, name := range []string{"xenbus", "gntalloc", "evtchn"} {
		path := cmdtest.WriteFile(t, k.System.Dev+"/xen/"+name, "")
		given += "device " + path + ": given to group root\n"
		there += "device " + path + ": group root may use it\n"
	}
	for _, want := range []string{given, there} {
		if err := p.accessGroup("root"); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, out, want)
	}
	if info, err := os.Stat(k.System.Dev + "/xen/xenbus"); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	cmdtest.WantError(t, p.accessGroup("nobody-has-this"), "--group nobody-has-this: no such group: make it with `groupadd --system nobody-has-this`")
}

func TestUserGetsWhatRootsDaemonLeftAndNothingElse(t *testing.T) {
	needs.Root(t)
	const uid = 65534
	k := fakekernel.New(t, true)
	k.Must(os.Mkdir(k.System.Dev+"/xen", 0o755))
	for _, name := range []string{"xenbus", "gntalloc", "evtchn"} {
		cmdtest.WriteFile(t, k.System.Dev+"/xen/"+name, "")
	}
	dir := t.TempDir()
	secret := cmdtest.WriteFile(t, filepath.Join(t.TempDir(), "secret"), "")
	lock := cmdtest.WriteFile(t, dir+"/vif-0.lock", "")
	linked := cmdtest.WriteFile(t, dir+"/linked", "")
	k.Must(errors.Join(os.Symlink(secret, dir+"/symbolic"), os.Link(linked, dir+"/hard"), os.Mkdir(dir+"/folder", 0o755)))
	socket, err := net.Listen("unix", dir+"/control.sock")
	k.Must(err)
	defer socket.Close()
	p, out := prepareOn(t, k)
	k.Must(p.accessUser("nobody", dir, dir+"/missing"))
	given := "file " + dir + "/control.sock: given to user nobody\nfile " + lock + ": given to user nobody\n"
	if !strings.HasSuffix(out.String(), given) || strings.Count(out.String(), "file ") != 2 {
		t.Errorf("printed %q, want %q at its end", out, given)
	}
	for path, want := range map[string]uint32{lock: uid, dir + "/control.sock": uid, secret: 0, linked: 0, dir + "/symbolic": 0, dir + "/folder": 0, k.System.Dev + "/xen/xenbus": 0} {
		var st unix.Stat_t
		k.Must(unix.Lstat(path, &st))
		if st.Uid != want {
			t.Errorf("%s belongs to user %d, want %d", path, st.Uid, want)
		}
	}
	cmdtest.WantError(t, p.accessUser("nobody-has-this", dir), "--user nobody-has-this: no such user: make it with `useradd --system nobody-has-this`")
}

func TestLimitIsRaisedForAllVifsTogetherAndOnce(t *testing.T) {
	guest, _ := guestOf(t, xensim.Options{GrantLimit: 600, AllowRaise: true}, 0, 1)
	l, err := config.Load(cmdtest.WriteFile(t, filepath.Join(t.TempDir(), "x.toml"), "[[vif]]\ndevid = 0\nqueues = 1\n[[vif]]\nmac = '00:16:3e:00:00:01'\nqueues = 1\n[[vif]]\ndevid = 5\nqueues = 2\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
	vifs, err := wanted(t.Context(), guest, l.Config)
	want := []wantedVif{{devid: 0, attached: true, queues: 1}, {devid: 1, attached: true, queues: 1}, {devid: 5, queues: 2}}
	if err != nil || fmt.Sprint(vifs) != fmt.Sprint(want) {
		t.Fatalf("vifs: %+v, %v, want %+v", vifs, err, want)
	}
	p, out := prepareOn(t, fakekernel.New(t, true))
	for _, line := range []string{
		"limit of granted pages: raised from 600 to 2570, 2056 are needed\n",
		"limit of granted pages: 2570 is enough for the 2056 that are needed\n",
	} {
		if err := p.limit(t.Context(), guest, vifs); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, out, line)
	}
}

// wantMachine checks that err says that this machine cannot do it.
func wantMachine(t *testing.T, err error, want string) {
	t.Helper()
	cmdtest.WantError(t, err, want)
	if failure.Code(err) != failure.ExitMachine {
		t.Errorf("%v: its exit code is not %d", err, failure.ExitMachine)
	}
}

// The daemon cannot read the list of modules in the sandbox of its unit, nor /boot on a
// hardened machine. prepare has read them a moment before.
func TestKernelWithoutAModuleIsOneThatCannotForADaemonThatMayNotLookItself(t *testing.T) {
	const release = "6.12.0-55.el10.x86_64"
	k := fakekernel.New(t, true)
	k.Lacks = true
	k.System.Release = release
	cmdtest.WriteFile(t, k.System.Sysfs+"/hypervisor/type", "xen\n")
	list := k.System.Lib + "/modules/" + release + "/modules.dep"
	if err := os.MkdirAll(filepath.Dir(list), 0o755); err != nil {
		t.Fatal(err)
	}
	cmdtest.WriteFile(t, list, "kernel/drivers/xen/xen-evtchn.ko.xz:\n")
	const want = "this kernel, Linux " + release + ", cannot do it: it was built without CONFIG_XEN_GRANT_DEV_ALLOC (module xen-gntalloc)," +
		" as those of RHEL 10 and its relatives are; boot one with it, as Debian's and Fedora's are"
	p := &preparer{sys: k.System, kernel: k.Owner(), out: io.Discard}
	wantMachine(t, p.modules(t.Context()), want)

	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	missing := func(device string) error {
		return fmt.Errorf("%w: modprobe", &fs.PathError{Op: "open", Path: "/dev/xen/" + device, Err: fs.ErrNotExist})
	}
	wantMachine(t, k.System.ExplainXen(missing("gntalloc")), want)
	cmdtest.WantError(t, k.System.ExplainXen(missing("evtchn")), "open /dev/xen/evtchn: file does not exist: modprobe")
	other := k.System
	other.Release = "6.12.0-1-amd64"
	cmdtest.WantError(t, other.ExplainXen(missing("gntalloc")), "open /dev/xen/gntalloc: file does not exist: modprobe")

	// A prepare that can load the module removes the note.
	k.Lacks = false
	_ = p.modules(t.Context())
	cmdtest.WantError(t, k.System.ExplainXen(missing("gntalloc")), "open /dev/xen/gntalloc: file does not exist: modprobe")
}
