package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

const (
	daemonTAP  = "xnf0"
	backendTAP = "vif1.0"

	// Names of the processes, in the results too.
	daemonProcess  = "xnetfrontd"
	backendProcess = "netback"

	connectTimeout = 15 * time.Second
	statusInterval = 20 * time.Millisecond
)

// build builds xnetfrontd from this module's sources into dir, as `make build` does.
func build(ctx context.Context, dir string) (program string, err error) {
	program = filepath.Join(dir, "xnetfrontd")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, "github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build xnetfrontd: %w: %s", err, bytes.TrimSpace(out))
	}
	return program, nil
}

// xenOptions are what the embedded Xen and the daemon are told, beside paths.
type xenOptions struct {
	tap, backendTAP string
	queues          int    // 0: as many as it offers by itself
	rate            string // of the vif, as in its rate node
}

// openXnetfrontd starts the embedded Xen with its netback in the network's namespace
// and the daemon in the guest's.
func (s spaces) openXnetfrontd(ctx context.Context, dir, program string, o xenOptions, third [3]byte) (l *link, err error) {
	l = newLink(linkXnetfrontd, o.tap, third)
	defer func() {
		if err != nil {
			err = errors.Join(err, l.stop())
		}
	}()
	control := filepath.Join(dir, "control.sock")
	xen := []string{"embedded-xen", "--tap", o.backendTAP, dir}
	if o.queues != 0 {
		xen = append(xen, "--queues", strconv.Itoa(o.queues))
	}
	if o.rate != "" {
		xen = append(xen, "--rate", o.rate)
	}
	backend, err := startProcess(ctx, s.network, backendProcess, dir, exec.Command(program, xen...))
	if err != nil {
		return l, err
	}
	l.processes = append(l.processes, backend)
	d, err := startProcess(ctx, s.guest, daemonProcess, dir,
		exec.Command(program, "run", "--xen", dir, "--vif", "0", "--tap", o.tap, "--control", control))
	if err != nil {
		return l, err
	}
	l.processes = append(l.processes, d)
	if err := s.address(l, o.backendTAP); err != nil {
		return l, err
	}
	query := func(ctx context.Context) (vif, error) { return queryStatus(ctx, program, control) }
	if err := awaitConnected(ctx, l, query); err != nil {
		return l, err
	}
	l.counters = func(ctx context.Context) (map[string]uint64, error) {
		v, err := query(ctx)
		return v.total(), err
	}
	return l, nil
}

// vif is what the bench needs to know of the one in `xnetfrontd status --json`.
type vif struct {
	State        string `json:"state"`
	BackendState string `json:"backend_state"`
	Reason       string `json:"reason"`
	Queues       []struct {
		Tx direction `json:"tx"`
		Rx direction `json:"rx"`
	} `json:"queues"`
}

type direction struct {
	Counters map[string]uint64 `json:"counters"`
}

// total adds up the counters of all queues.
func (v vif) total() map[string]uint64 {
	sum := make(map[string]uint64)
	for _, q := range v.Queues {
		for name, n := range q.Tx.Counters {
			sum["tx."+name] += n
		}
		for name, n := range q.Rx.Counters {
			sum["rx."+name] += n
		}
	}
	return sum
}

func queryStatus(ctx context.Context, program, control string) (vif, error) {
	cmd := exec.CommandContext(ctx, program, "status", "--json", "--control", control)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return vif{}, fmt.Errorf("xnetfrontd status: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	var st struct {
		Vifs []struct {
			Device *vif `json:"device"`
		} `json:"vifs"`
	}
	if err := json.Unmarshal(out, &st); err != nil {
		return vif{}, fmt.Errorf("xnetfrontd status: %w", err)
	}
	if len(st.Vifs) != 1 || st.Vifs[0].Device == nil {
		return vif{}, fmt.Errorf("xnetfrontd status: no vif is served: %s", bytes.TrimSpace(out))
	}
	return *st.Vifs[0].Device, nil
}

// awaitConnected waits until both ends say that they are connected.
func awaitConnected(ctx context.Context, l *link, query func(context.Context) (vif, error)) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for {
		v, err := query(ctx)
		if err != nil {
			return errors.Join(err, l.alive())
		}
		if v.State == "Connected" && v.BackendState == "Connected" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("xnetfrontd does not connect: it is %s, the backend %s: %w: %s", v.State, v.BackendState, ctx.Err(), v.Reason)
		case <-time.After(statusInterval):
		}
	}
}
