package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/internal/needs"
	"github.com/xnetfrontd/xnetfrontd/internal/xensim"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

func prepareOn(k *fakeKernel) (*preparer, *bytes.Buffer) {
	var out bytes.Buffer
	return &preparer{sys: k.sys, bus: k.bus(), lockDir: k.t.TempDir(), out: &out}, &out
}

func wantPrinted(t *testing.T, out *bytes.Buffer, want string) {
	t.Helper()
	if out.String() != want {
		t.Errorf("printed:\n%swant:\n%s", out.String(), want)
	}
	out.Reset()
}

// storeOf is xenstore as a machine's guest sees it.
func storeOf(t *testing.T, m *machine) xen.Store {
	t.Helper()
	conn, err := m.server.Connect(guest)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.Guest().Store
}

func TestDriverThatUdevWouldLoadLaterTakesNoVifFromTheDaemon(t *testing.T) {
	store := storeOf(t, newMachine(t, xensim.Options{}, 0, 1))
	k := newFakeKernel(t, false, 0, 1)
	p, out := prepareOn(k)
	vifs := []wantedVif{{devid: 0, attached: true}}
	want := func(printed string, written ...string) {
		t.Helper()
		if err := p.forestall(t.Context(), store, vifs); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, out, printed)
		k.wantWritten(written...)
		k.wrote = nil
	}
	want("") // there is no udev
	p.sys.udev = t.TempDir()
	writeFile(t, p.sys.udev+"/control", "")
	k.lacks = true
	want("", "drivers_autoprobe=0", "modprobe=xen:vif", "drivers_autoprobe=1")
	k.lacks = false
	want("module xen-netfront: loaded, before it takes a vif\nvif 1: not configured, the kernel's xen-netfront has it\n",
		"drivers_autoprobe=0", "modprobe=xen:vif", "drivers_autoprobe=1", "bind=vif-1")
	if driver, err := k.bus().owner(0); driver != "" || err != nil {
		t.Errorf("vif 0 has driver %q, %v", driver, err)
	}
	want("") // it is loaded
}

func TestVifThatAnotherFrontendHasIsNotGivenToTheKernel(t *testing.T) {
	store := storeOf(t, newMachine(t, xensim.Options{}, 0, 1, 2))
	if err := store.Write(t.Context(), "device/vif/1/state", "4"); err != nil {
		t.Fatal(err)
	}
	others, err := untaken(t.Context(), store, []wantedVif{{devid: 0, attached: true}})
	if err != nil || fmt.Sprint(others) != "[2]" {
		t.Errorf("%v, %v, want [2]", others, err)
	}
}

func TestMissingModulesAreLoadedAndOthersLeftAlone(t *testing.T) {
	k := newFakeKernel(t, true)
	writeFile(t, k.sys.dev+"/net/tun", "")
	k.must(os.Mkdir(k.sys.dev+"/xen", 0o755))
	writeFile(t, k.sys.dev+"/xen/evtchn", "")
	writeFile(t, k.sys.sysfs+"/hypervisor/type", "xen\n")
	p, out := prepareOn(k)
	wantMessage(t, p.modules(t.Context()), "load xen-gntalloc: modprobe: FATAL: Module xen-gntalloc not found")
	wantPrinted(t, out, "")

	p.bus.modprobe = func(context.Context, string) error { return nil }
	wantMessage(t, p.modules(t.Context()), "stat "+k.sys.dev+"/xen/gntalloc: no such file or directory: xen-gntalloc was loaded, and its device is not there")

	p.bus.modprobe = func(_ context.Context, module string) error {
		writeFile(t, k.sys.dev+"/xen/gntalloc", "")
		return nil
	}
	if err := p.modules(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantPrinted(t, out, "module xen-gntalloc: loaded\nmodule xen-evtchn: there\nmodule tun: there\n")
}

func TestPrepareOutsideXenPointsToTheDemo(t *testing.T) {
	k := newFakeKernel(t, true)
	p, _ := prepareOn(k)
	wantMessage(t, p.modules(t.Context()), "this machine is not a Xen guest ("+k.sys.sysfs+"/hypervisor/type is not \"xen\"): to see it work without Xen, run `xnetfrontd demo`")
}

func TestGroupGetsTheDevicesAndUnknownGroupIsNamed(t *testing.T) {
	needs.Root(t)
	k := newFakeKernel(t, true)
	k.must(os.Mkdir(k.sys.dev+"/xen", 0o755))
	p, out := prepareOn(k)
	var given, there string
	for _, name := range []string{"xenbus", "gntalloc", "evtchn"} {
		path := writeFile(t, k.sys.dev+"/xen/"+name, "")
		given += "device " + path + ": given to group root\n"
		there += "device " + path + ": group root may use it\n"
	}
	for _, want := range []string{given, there} {
		if err := p.accessGroup("root"); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, out, want)
	}
	if info, err := os.Stat(k.sys.dev + "/xen/xenbus"); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	wantMessage(t, p.accessGroup("nobody-has-this"), "--group nobody-has-this: no such group: make it with `groupadd --system nobody-has-this`")
}

func TestUserGetsWhatRootsDaemonLeftAndNothingElse(t *testing.T) {
	needs.Root(t)
	const uid = 65534
	k := newFakeKernel(t, true)
	k.must(os.Mkdir(k.sys.dev+"/xen", 0o755))
	for _, name := range []string{"xenbus", "gntalloc", "evtchn"} {
		writeFile(t, k.sys.dev+"/xen/"+name, "")
	}
	dir := t.TempDir()
	secret := writeFile(t, filepath.Join(t.TempDir(), "secret"), "")
	lock := writeFile(t, dir+"/vif-0.lock", "")
	linked := writeFile(t, dir+"/linked", "")
	k.must(errors.Join(os.Symlink(secret, dir+"/symbolic"), os.Link(linked, dir+"/hard"), os.Mkdir(dir+"/folder", 0o755)))
	socket, err := net.Listen("unix", dir+"/control.sock")
	k.must(err)
	defer socket.Close()
	p, out := prepareOn(k)
	k.must(p.accessUser("nobody", dir, dir+"/missing"))
	given := "file " + dir + "/control.sock: given to user nobody\nfile " + lock + ": given to user nobody\n"
	if !strings.HasSuffix(out.String(), given) || strings.Count(out.String(), "file ") != 2 {
		t.Errorf("printed %q, want %q at its end", out, given)
	}
	for path, want := range map[string]uint32{lock: uid, dir + "/control.sock": uid, secret: 0, linked: 0, dir + "/symbolic": 0, dir + "/folder": 0, k.sys.dev + "/xen/xenbus": 0} {
		var st unix.Stat_t
		k.must(unix.Lstat(path, &st))
		if st.Uid != want {
			t.Errorf("%s belongs to user %d, want %d", path, st.Uid, want)
		}
	}
	wantMessage(t, p.accessUser("nobody-has-this", dir), "--user nobody-has-this: no such user: make it with `useradd --system nobody-has-this`")
}

func TestLimitIsRaisedForAllVifsTogetherAndOnce(t *testing.T) {
	m := newMachine(t, xensim.Options{GrantLimit: 600, AllowRaise: true}, 0, 1)
	file := writeFile(t, filepath.Join(m.dir, "x.toml"), "[[vif]]\ndevid = 0\nqueues = 1\n[[vif]]\nmac = '00:16:3e:00:00:01'\nqueues = 1\n[[vif]]\ndevid = 5\nqueues = 2\n")
	conn, err := m.server.Connect(guest)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	flags := configFlags{Config: file}
	cfg, err := flags.load()
	if err != nil {
		t.Fatal(err)
	}
	vifs, err := wanted(t.Context(), conn.Guest(), cfg)
	want := []wantedVif{{devid: 0, attached: true, queues: 1}, {devid: 1, attached: true, queues: 1}, {devid: 5, queues: 2}}
	if err != nil || fmt.Sprint(vifs) != fmt.Sprint(want) {
		t.Fatalf("vifs: %+v, %v, want %+v", vifs, err, want)
	}
	p, out := prepareOn(newFakeKernel(t, true))
	for _, line := range []string{
		"limit of granted pages: raised from 600 to 2570, 2056 are needed\n",
		"limit of granted pages: 2570 is enough for the 2056 that are needed\n",
	} {
		if err := p.limit(t.Context(), conn.Guest(), vifs); err != nil {
			t.Fatal(err)
		}
		wantPrinted(t, out, line)
	}
}

func TestLimitThatMayNotBeRaisedIsAnError(t *testing.T) {
	m := newMachine(t, xensim.Options{GrantLimit: 600}, 0)
	o := m.run("prepare", "--vif", "0", "--queues", "2")
	if o.code != exitRuntime || o.out != "" || o.errOut != "xnetfrontd: raise limit of granted pages to 1542: operation not permitted\n" {
		t.Errorf("%+v", o)
	}
}

func TestOnlyAConfigurationWithoutVifsSkipsTheUnit(t *testing.T) {
	m := newMachine(t, xensim.Options{GrantLimit: 4096}, 0)
	dir := t.TempDir()
	none := "no vif is configured: nothing to serve\n"
	for _, c := range []struct {
		name, doc   string
		code        int
		out, errOut string // what they begin with
	}{
		{"a vif", "[[vif]]\ndevid = 0\n", 0, "limit of granted pages: 4096 is enough", ""},
		{"no vif", "[log]\nlevel = 'info'\n", exitRuntime, none, ""},
		{"broken, which run will say", "[[vif]]\ndevid = 'x'\n", 0, "", "xnetfrontd: "},
		{"what cannot be done, which run will do without", "[[vif]]\ndevid = 0\nqueues = 8\n[[vif]]\ndevid = 1\nqueues = 8\n", 0, "", "xnetfrontd: raise limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(dir, "x.toml"), c.doc)
			o := m.run("prepare", "--if-configured", "--config", file)
			if o.code != c.code || !strings.HasPrefix(o.out, c.out) || !strings.HasPrefix(o.errOut, c.errOut) || (o.errOut == "") != (c.errOut == "") {
				t.Errorf("%+v", o)
			}
		})
	}
	if o := m.run("prepare", "--if-configured", "--config", dir+"/none.toml"); o.code != exitRuntime || o.out != none {
		t.Errorf("no file: %+v", o)
	}
}

func TestShippedConfigurationServesNothing(t *testing.T) {
	const shipped = "../../deploy/xnetfrontd.toml"
	if o := runProgram(t, program("prepare", "--if-configured", "--config", shipped)); o.code != exitRuntime || o.out != "no vif is configured: nothing to serve\n" {
		t.Errorf("%+v", o)
	}
}
