package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestADomUsConfigurationIsWhatXLReads(t *testing.T) {
	c := DomUConfig{Name: "u1", KernelArgs: "labmods=xen-netfront", Vifs: []VifConfig{
		{}, {MAC: "00:16:3e:11:22:33", Bridge: "br1", Backend: "driver", MTU: 9000, Rate: "10Mb/s@50ms"},
	}, Config: []string{`extra=1`}}
	if err := c.complete(5, TypePVH); err != nil {
		t.Fatal(err)
	}
	want := `name="u1"
type="pvh"
kernel="/boot/vmlinux"
ramdisk="/tmp/u1.cpio"
memory=256
vcpus=1
tsc_mode="native"
cmdline="` + kernelArgs + ` labmods=xen-netfront"
on_crash="preserve"
vif=['mac=00:16:3e:00:05:00,bridge=xenbr0,script=vif-lab', 'mac=00:16:3e:11:22:33,bridge=br1,script=vif-lab,backend=driver,rate=10Mb/s@50ms,mtu=9000']
cpus="1-7"
extra=1
`
	if got := c.xlConfig("/tmp/u1.cpio", 2); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestADebianHasItsDisk(t *testing.T) {
	c := DomUConfig{Name: "deb", Image: ImageDebian}
	if err := c.complete(0, TypePV); err != nil {
		t.Fatal(err)
	}
	c.disk = "/dev/vdb"
	if got := c.xlConfig("x", 1); c.MemMiB != defaultDebianMemMiB || !strings.Contains(got, "\ndisk=['phy:/dev/vdb,xvda,w,script=block-lab']\n") || !strings.Contains(got, "\nvif=[]\n") {
		t.Errorf("%d MiB, %s", c.MemMiB, got)
	} else if strings.Contains(got, "\ncpus=") {
		t.Errorf("it may not have the only CPU: %s", got)
	}
}

func TestEachDebianHasADiskThatNobodyHasWrittenOn(t *testing.T) {
	var l Lab
	var got []string
	for range debianDisks {
		var c DomUConfig
		if err := l.takeDisk(&c); err != nil {
			t.Fatal(err)
		}
		got = append(got, c.disk)
	}
	if want := []string{"/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"}; !slices.Equal(got, want) {
		t.Errorf("disks %q, want %q", got, want)
	}
	if err := l.takeDisk(&DomUConfig{}); err == nil {
		t.Error("there is one more disk than QEMU gets")
	}
}

func TestAWrongDomUIsRefusedBeforeAnythingIsDone(t *testing.T) {
	for want, c := range map[string]DomUConfig{
		"want a word":               {Name: "a b"},
		`type "hvm"`:                {Name: "a", Type: "hvm"},
		`image "suse"`:              {Name: "a", Image: "suse"},
		"the initramfs needs 224":   {Name: "a", MemMiB: 128},
		`name "": want a word`:      {},
		"a'b\": want a word":        {Name: "a'b"},
		"../x\": want a word":       {Name: "../x"},
		"100 MiB: the initramfs ne": {Name: "a", MemMiB: 100, Image: ImageDebian},
	} {
		if err := c.complete(0, TypePV); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want one with %q", c, err, want)
		}
	}
}

func TestNetworkAttachGetsTheSameVif(t *testing.T) {
	got := VifConfig{Rate: "1Mb/s", MTU: 1400}.Spec()
	if want := []string{"bridge=xenbr0", "script=vif-lab", "rate=1Mb/s", "mtu=1400"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestQEMUGetsPathsAndArgumentsWithCommasWhole(t *testing.T) {
	o := Options{Images: "/a,b", CPUs: 1, MemMiB: 2048, Dom0MemMiB: 768, Dom0Args: "x=1,2"}
	args := qemuArgs(o, "/run,1/initrd", "/run,1/share")
	for _, want := range []string{
		"/a,b/xen",
		"/a,,b/vmlinux " + strings.ReplaceAll(kernelArgs, ",", ",,") + " " + dom0Args + " x=1,,2,/run,,1/initrd",
		"local,id=share,security_model=none,path=/run,,1/share",
	} {
		if !slices.Contains(args, want) {
			t.Errorf("%q is not in %q", want, args)
		}
	}
	if i := slices.Index(args, "-smp"); args[i+1] != "1" {
		t.Errorf("QEMU emulates %s CPUs", args[i+1])
	}
	if i := slices.Index(args, "-append"); !strings.Contains(args[i+1], " dom0_mem=768M,max:768M") {
		t.Errorf("Xen's command line is %q", args[i+1])
	}
}

func TestACrashIsRecognisedInWhatAConsoleCarries(t *testing.T) {
	report := make(chan string, 1)
	c := &console{crash: func(r string) { report <- r }}
	for _, part := range []string{
		"\x16XL\xe7garbage\nall is well\n", "[ 12.3] Kernel pa", "nic - not syncing: Fatal exception\n[ 12.4] Call Trace:\n",
	} {
		if _, err := c.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := <-report, "Kernel panic - not syncing: Fatal exception\n[ 12.4] Call Trace:"; got != want {
		t.Errorf("report %q, want %q", got, want)
	}
}

func TestImagesAreBuiltAnewWhenTheirSourcesChangeAndNotForTheirReadme(t *testing.T) {
	t.Setenv("XNETFRONTD_CACHE", t.TempDir())
	source := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(source, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	parts := Parts{Dom0: "6.12", Guests: "6.12", Xen: "4.20"}
	dir := func() string {
		d, err := ImagesDir(source, parts)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	write("build.sh", "1")
	first := dir()
	if write("README.md", "text"); dir() != first {
		t.Error("a README changes the folder")
	}
	if write("build.sh", "2"); dir() == first {
		t.Error("another build.sh has the same folder")
	}
	if write("build.sh", "1"); dir() != first {
		t.Error("the same sources have another folder")
	}
	parts.Guests = "7.x"
	guests := dir()
	parts = Parts{Dom0: "7.x", Guests: "6.12", Xen: "4.20"}
	dom0 := dir()
	parts = Parts{Dom0: "6.12", Guests: "6.12", Xen: "4.17"}
	all := []string{first, guests, dom0, dir()}
	if slices.Sort(all); len(slices.Compact(all)) != 4 {
		t.Errorf("images of other parts share a folder: %q", all)
	}
}
