package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// evidenceTime is how long each piece of evidence may take: a guest that is the
// evidence may not answer.
const evidenceTime = 30 * time.Second

// dom0Evidence is what dom0 has to say about any failure.
func dom0Evidence() map[string]string {
	return map[string]string{
		"dom0-dmesg.txt":    "dmesg",
		"dom0-network.txt":  "ip -d -s addr; ip route; ip -6 route; bridge -d link; tc -s qdisc",
		"dom0-procs.txt":    "ps; xl list; ls -l /tmp; cat /var/log/xen/*",
		"xenstore.txt":      "xenstore-ls -fp",
		"xen-dumps.txt":     "xl debug-keys ge; xl dmesg | tail -n 400",
		"netback-rings.txt": "for f in /sys/kernel/debug/xen-netback/*/*; do echo \"== $f\"; cat $f; done; grep -s . /sys/bus/xen-backend/devices/vif-*/xenbus/*",
	}
}

// domUEvidence is what a domU has to say.
func domUEvidence() map[string]string {
	return map[string]string{
		"dmesg.txt":   "dmesg",
		"network.txt": "ip -d -s addr; ip route; ip -6 route; tc -s qdisc",
		"procs.txt":   "ps; grep -s . /sys/module/xen_gntalloc/parameters/*; ls -l /dev/xen; free",
		"status.txt":  "xnetfrontd status",
		"daemon.txt":  "cat " + DaemonLog,
		"journal.txt": "if command -v journalctl >/dev/null; then journalctl -b --no-pager -o short-monotonic; fi",
	}
}

// SaveEvidence writes what a failure is looked into with to a folder: dom0's and every
// domU's dmesg, the daemons' logs, xenstore, Xen's own dumps of grants and event
// channels, netback's view of its rings. It writes what it can get and returns the
// rest as errors.
func (l *Lab) SaveEvidence(ctx context.Context, dir string) error {
	var errs []error
	for name, script := range dom0Evidence() {
		errs = append(errs, l.dom0.save(ctx, filepath.Join(dir, name), script))
	}
	for _, d := range l.DomUs() {
		for name, script := range domUEvidence() {
			errs = append(errs, d.save(ctx, filepath.Join(dir, d.Name+"-"+name), script))
		}
	}
	return errors.Join(errs...)
}

// save writes a script's output, of both kinds, to a file of the host. That the script
// fails is a part of the evidence.
func (g *Guest) save(ctx context.Context, path, script string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, evidenceTime, fmt.Errorf("no answer in %s", evidenceTime))
	defer cancel()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := g.Run(ctx, "/bin/sh", "-c", "exec 2>&1; "+script)
	var exit *ExitError
	if err != nil && !errors.As(err, &exit) {
		out += fmt.Sprintf("\n(%v)\n", err)
	} else {
		err = nil
	}
	if out == "" {
		return err // such as the journal of a guest that has none
	}
	return errors.Join(err, os.WriteFile(path, []byte(out), 0o644))
}
