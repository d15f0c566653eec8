package machine

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/failure"
	"github.com/xnetfrontd/xnetfrontd/internal/printable"
	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// The oldest kernel with all that the daemon cannot do without: TUNGETDEVNETNS came
// with it, and TUNSETCARRIER with 5.0.
const oldestMajor, oldestMinor = 5, 2

// CheckKernel fails if the kernel is too old. It accepts a text that is no version.
func (s System) CheckKernel() error {
	var major, minor int
	if n, _ := fmt.Sscanf(s.Release, "%d.%d", &major, &minor); n < 2 {
		return nil
	}
	if major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return nil
	}
	return failure.Machinef("the kernel is Linux %s: %d.%d or newer is needed", s.Release, oldestMajor, oldestMinor)
}

// ExplainXen adds to an error of [xen.Open] what the user can do about it. Outside of Xen a
// module does not help, and some kernels have no such module.
func (s System) ExplainXen(err error) error {
	if errors.Is(err, errors.ErrUnsupported) { // the size of the kernel's pages
		return failure.Machine(err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if b, readErr := os.ReadFile(s.Sysfs + "/hypervisor/type"); readErr != nil || strings.TrimSpace(string(b)) != "xen" {
		return failure.Machinef("this machine is not a Xen guest (%s/hypervisor/type is not \"xen\"): to see it work without Xen, run `xnetfrontd demo`", s.Sysfs)
	}
	var where *fs.PathError
	if errors.As(err, &where) {
		for _, m := range xenModules {
			if m.device == path.Base(where.Path) {
				return s.explainModule(m, err)
			}
		}
	}
	return err
}

// xenModule is a part of the kernel without which there is no frontend in a process.
type xenModule struct {
	name   string // of the module
	option string // of the kernel's configuration
	device string // in /dev/xen
}

var xenModules = []xenModule{
	{xen.GntallocModule, "CONFIG_XEN_GRANT_DEV_ALLOC", "gntalloc"},
	{xen.EvtchnModule, "CONFIG_XEN_DEV_EVTCHN", "evtchn"},
}

// explainModule returns an error that says that the kernel lacks a module, or that the
// module is not installed. Where this process may not look, prepare may have left a note.
// If nothing is known, explainModule returns err, which tells the user to load the module.
func (s System) explainModule(m xenModule, err error) error {
	built, known := s.kernelOption(m.option)
	switch {
	case known && built == "":
		return s.withoutOption(m)
	case s.hasModule(m.name) || built == "y":
		return err
	case built == "m":
		return failure.Machinef("the module %s of this kernel, Linux %s, is not installed: install the package with the rest of its modules (Ubuntu: linux-modules-extra-%s)",
			m.name, s.Release, s.Release)
	case s.listsModules():
		return s.withoutOption(m)
	}
	if said := s.noted(m.name); said != "" {
		return failure.Machinef("%s", said)
	}
	return err
}

// ExplainLoad is [System.ExplainXen] for an error of modprobe.
func (s System) ExplainLoad(module string, err error) error {
	for _, m := range xenModules {
		if m.name == module {
			return s.explainModule(m, err)
		}
	}
	return err
}

func (s System) withoutOption(m xenModule) error {
	return failure.Machinef("this kernel, Linux %s, cannot do it: it was built without %s (module %s), as those of RHEL 10 and its relatives are; boot one with it, as Debian's and Fedora's are",
		s.Release, m.option, m.name)
}

// notePath is the note that prepare leaves for the daemon: prepare is root and outside of
// the unit's sandbox, and sees more. Only root writes into that directory.
func (s System) notePath() string { return s.Run + "/xnetfrontd-machine" }

// Note writes a note for the daemon that the running kernel cannot have a module, if err
// says so.
func (s System) Note(module string, err error) error {
	if !failure.OfMachine(err) {
		return nil
	}
	return os.WriteFile(s.notePath(), []byte(s.Release+"\n"+module+"\n"+printable.Error(err)+"\n"), 0o644)
}

// Unnote removes the note of an earlier prepare.
func (s System) Unnote() error {
	if err := os.Remove(s.notePath()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// noted is why the running kernel cannot have a module, by the note. It is empty without
// one.
func (s System) noted(module string) string {
	note, err := os.ReadFile(s.notePath())
	if err != nil {
		return ""
	}
	said, ok := strings.CutPrefix(string(note), s.Release+"\n"+module+"\n")
	if !ok {
		return "" // about another kernel: this one was booted without a new /run (kexec)
	}
	return strings.TrimSpace(said)
}

// kernelOption is the value of an option with which the running kernel was built: "y", "m"
// or "". It is known where the kernel tells its configuration, or where the kernel's package
// has installed that.
func (s System) kernelOption(name string) (value string, known bool) {
	for _, file := range []string{s.Proc + "/config.gz", s.Boot + "/config-" + s.Release, s.modules() + "/config"} {
		config, err := readConfig(file)
		if err != nil || !bytes.Contains(config, []byte("\nCONFIG_XEN=y\n")) {
			continue // not there, not to be read by this user, or of something else
		}
		_, value, _ := strings.Cut(string(config), "\n"+name+"=")
		value, _, _ = strings.Cut(value, "\n")
		return value, true
	}
	return "", false
}

// readConfig reads a kernel's configuration, which has about 300 KiB.
func readConfig(file string) ([]byte, error) {
	const most = 4 << 20
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(r, most))
}

// modules is where the running kernel's modules are.
func (s System) modules() string { return s.Lib + "/modules/" + s.Release }

// listsModules tells whether the list of the running kernel's modules can be read. The
// daemon cannot read it in the sandbox of its unit.
func (s System) listsModules() bool {
	list, err := os.ReadFile(s.modules() + "/modules.dep")
	return err == nil && len(list) > 0
}

// hasModule tells whether a module is installed for the running kernel, or is a part of it.
func (s System) hasModule(name string) bool {
	for _, list := range []string{"/modules.dep", "/modules.builtin"} {
		b, _ := os.ReadFile(s.modules() + list)
		if bytes.Contains(b, []byte("/"+name+".ko")) {
			return true
		}
	}
	return false
}
