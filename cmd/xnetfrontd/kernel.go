package main

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

	"github.com/xnetfrontd/xnetfrontd/pkg/xen"
)

// machineError is an error that stays until the machine runs another kernel, or is
// another one: exit code 3. A start that is tried again fails again.
type machineError struct{ error }

func (e machineError) Unwrap() error { return e.error }

func machinef(format string, args ...any) error { return machineError{fmt.Errorf(format, args...)} }

// The oldest kernel with all that the daemon cannot do without: TUNGETDEVNETNS came
// with it, and TUNSETCARRIER with 5.0.
const oldestMajor, oldestMinor = 5, 2

// checkKernel says whether the kernel is too old. What is no version cannot be judged.
func (s system) checkKernel() error {
	var major, minor int
	if n, _ := fmt.Sscanf(s.release, "%d.%d", &major, &minor); n < 2 {
		return nil
	}
	if major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return nil
	}
	return machinef("the kernel is Linux %s: %d.%d or newer is needed", s.release, oldestMajor, oldestMinor)
}

// explainXen makes the best of an error of xen.Open: where there is no Xen, modules
// do not help, nor do they where the kernel has none.
func (s system) explainXen(err error) error {
	if errors.Is(err, errors.ErrUnsupported) { // the size of the kernel's pages
		return machineError{err}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if b, readErr := os.ReadFile(s.sysfs + "/hypervisor/type"); readErr != nil || strings.TrimSpace(string(b)) != "xen" {
		return machinef("this machine is not a Xen guest (%s/hypervisor/type is not \"xen\"): to see it work without Xen, run `xnetfrontd demo`", s.sysfs)
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

// explainModule says that the kernel lacks a module, or that it is not installed. What this
// process may not look at, prepare has perhaps. Where neither is so, or cannot be found out,
// it is err, which says to load it.
func (s system) explainModule(m xenModule, err error) error {
	built, known := s.kernelOption(m.option)
	switch {
	case known && built == "":
		return s.withoutOption(m)
	case s.hasModule(m.name) || built == "y":
		return err
	case built == "m":
		return machinef("the module %s of this kernel, Linux %s, is not installed: install the package with the rest of its modules (Ubuntu: linux-modules-extra-%s)",
			m.name, s.release, s.release)
	case s.listsModules():
		return s.withoutOption(m)
	}
	if said := s.noted(m.name); said != "" {
		return machinef("%s", said)
	}
	return err
}

// explainLoad makes the best of an error of modprobe.
func (s system) explainLoad(module string, err error) error {
	for _, m := range xenModules {
		if m.name == module {
			return s.explainModule(m, err)
		}
	}
	return err
}

func (s system) withoutOption(m xenModule) error {
	return machinef("this kernel, Linux %s, cannot do it: it was built without %s (module %s), as those of RHEL 10 and its relatives are; boot one with it, as Debian's and Fedora's are",
		s.release, m.option, m.name)
}

// notePath is what prepare, which is root and outside of the unit's sandbox, leaves for the
// daemon in it. Only root writes into that directory.
func (s system) notePath() string { return s.run + "/xnetfrontd-machine" }

// note notes that the running kernel cannot have a module, if that is what err says, for
// processes that may not find it out themselves.
func (s system) note(module string, err error) error {
	var machine machineError
	if !errors.As(err, &machine) {
		return nil
	}
	return os.WriteFile(s.notePath(), []byte(s.release+"\n"+module+"\n"+oneLine(err)+"\n"), 0o644)
}

// unnote takes the note of an earlier prepare back.
func (s system) unnote() error {
	if err := os.Remove(s.notePath()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// noted is why the running kernel cannot have a module; empty: nobody has noted that.
func (s system) noted(module string) string {
	note, err := os.ReadFile(s.notePath())
	if err != nil {
		return ""
	}
	said, ok := strings.CutPrefix(string(note), s.release+"\n"+module+"\n")
	if !ok {
		return "" // about another kernel: this one was booted without a new /run (kexec)
	}
	return strings.TrimSpace(said)
}

// kernelOption is how the running kernel was built: "y", "m" or "". It is known where the
// kernel tells it, or its package has installed what it was built with.
func (s system) kernelOption(name string) (value string, known bool) {
	for _, file := range []string{s.proc + "/config.gz", s.boot + "/config-" + s.release, s.modules() + "/config"} {
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

// readConfig reads a kernel's configuration, of which there are 300 KiB.
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
func (s system) modules() string { return s.lib + "/modules/" + s.release }

// listsModules tells whether the list of the running kernel's modules can be read, which
// the sandbox of the unit does not let the daemon do.
func (s system) listsModules() bool {
	list, err := os.ReadFile(s.modules() + "/modules.dep")
	return err == nil && len(list) > 0
}

// hasModule tells whether a module is installed for the running kernel, or is a part of it.
func (s system) hasModule(name string) bool {
	for _, list := range []string{"/modules.dep", "/modules.builtin"} {
		b, _ := os.ReadFile(s.modules() + list)
		if bytes.Contains(b, []byte("/"+name+".ko")) {
			return true
		}
	}
	return false
}
