package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xnetfrontd/xnetfrontd/test/xenlab/lab"
)

// runsKept is how many runs' logs are kept.
const runsKept = 10

// partFlags are the flags of commands that need images.
type partFlags struct {
	GuestKernel string `placeholder:"NAME" help:"Kernel of the guests: a name in test/xenlab/images/kernels (default: the first one there)."`
	Dom0Kernel  string `name:"dom0-kernel" placeholder:"NAME" help:"Kernel of dom0, likewise."`
	Xen         string `placeholder:"NAME" help:"Xen: a name in test/xenlab/images/xens (default: the first one there)."`
}

// choose returns the parts that are asked for, or a usageError that has the known ones.
func (f *partFlags) choose(e *env) (lab.Parts, error) {
	kernels, err := lab.KnownKernels(imagesSource(e))
	if err != nil {
		return lab.Parts{}, err
	}
	xens, err := lab.KnownXens(imagesSource(e))
	if err != nil {
		return lab.Parts{}, err
	}
	p := lab.Parts{Dom0: cmp.Or(f.Dom0Kernel, kernels[0]), Guests: cmp.Or(f.GuestKernel, kernels[0]), Xen: cmp.Or(f.Xen, xens[0])}
	for _, asked := range []struct {
		flag, name, what string
		known            []string
	}{{"--guest-kernel", p.Guests, "kernel", kernels}, {"--dom0-kernel", p.Dom0, "kernel", kernels}, {"--xen", p.Xen, "Xen", xens}} {
		if !slices.Contains(asked.known, asked.name) {
			return p, usageError{fmt.Errorf("%s %s: there is no such %s in the lab; known are %s", asked.flag, asked.name, asked.what, strings.Join(asked.known, ", "))}
		}
	}
	return p, nil
}

// buildFlags are the flags of commands that boot.
type buildFlags struct {
	partFlags
	Images string `placeholder:"DIR" type:"existingdir" help:"Folder with built images (default: built and kept in the cache)."`
	Daemon string `placeholder:"FILE" type:"existingfile" help:"Static binary of the daemon (default: bin/xnetfrontd)."`
	Store  string `default:"xenstored" enum:"xenstored,oxenstored" help:"Dom0's xenstored: xenstored, in C, or oxenstored, in OCaml (default: xenstored)."`
	Guest  string `default:"pv" enum:"pv,pvh" help:"Type of guests: pv, or pvh, which does not always boot under emulation (default: pv)."`
	Logs   string `placeholder:"DIR" type:"path" help:"Folder for the logs (default: a new one in the cache; the last 10 are kept)."`
}

// prepared is what a boot needs.
type prepared struct {
	env    *env
	images string
	built  lab.Built
	agent  string
	daemon string
	logs   string
	guest  string
	store  string

	mu    sync.Mutex
	boots int
}

// prepare builds what is missing. Its errors say what to do.
func (b *buildFlags) prepare(e *env) (p *prepared, err error) {
	parts, err := b.choose(e)
	switch {
	case err != nil:
		return nil, err
	case b.Images != "" && b.GuestKernel+b.Dom0Kernel+b.Xen != "":
		return nil, usageError{fmt.Errorf("--images %s has its own: leave out --guest-kernel, --dom0-kernel and --xen", b.Images)}
	}
	p = &prepared{env: e, images: b.Images, daemon: b.Daemon, logs: b.Logs, guest: b.Guest, store: b.Store}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.daemon == "" {
		p.daemon = filepath.Join(e.source, "bin", "xnetfrontd")
		if _, err := os.Stat(p.daemon); err != nil {
			return p, fmt.Errorf("the daemon's binary: %w: run make build first", err)
		}
	}
	if p.images == "" {
		if p.images, err = lab.BuildImages(e.ctx, imagesSource(e), parts, e.err); err != nil {
			return p, err
		}
	}
	if p.built, err = lab.ReadBuilt(p.images); err != nil {
		return p, err
	}
	if p.logs == "" {
		cache, err := lab.CacheDir()
		if err != nil {
			return p, err
		}
		runs := filepath.Join(cache, "runs")
		p.logs = filepath.Join(runs, time.Now().Format("20060102-150405"))
		if err := dropOldRuns(runs); err != nil {
			return p, err
		}
	}
	if err := os.MkdirAll(p.logs, 0o755); err != nil {
		return p, err
	}
	p.agent = filepath.Join(p.logs, "agent")
	return p, buildAgent(e, p.agent)
}

// stands says what the lab stands on.
func (p *prepared) stands() string {
	b := p.built
	return fmt.Sprintf("Xen %s with %s, Linux %s in dom0, %s in %s guests", b.Xen, p.store, b.Dom0, b.Guests, p.guest)
}

// memMiB is the memory of a boot's QEMU.
func (p *prepared) memMiB() int { return lab.MemMiB(p.built.Dom0MemMiB) }

func (p *prepared) close() error {
	if p.agent == "" {
		return nil
	}
	if err := os.Remove(p.agent); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// buildAgent builds the agent as a static binary.
func buildAgent(e *env, to string) error {
	cmd := exec.CommandContext(e.ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", to, "./test/xenlab/agent")
	cmd.Dir = e.source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = e.err, e.err
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("build the agent: there is no go in PATH: install Go, see go.mod for the version")
		}
		return fmt.Errorf("build the agent: %w", err)
	}
	return nil
}

// dropOldRuns leaves room for one more run's logs.
func dropOldRuns(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names) // they are dates
	var errs []error
	for len(names) >= runsKept {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, names[0])))
		names = names[1:]
	}
	return errors.Join(errs...)
}

// boot boots a lab with so many CPUs, see [lab.Options]. Each boot of a run has a folder of
// its own, except that the first one's is the run's.
func (p *prepared) boot(ctx context.Context, cpus int) (*lab.Lab, error) {
	p.mu.Lock()
	p.boots++
	n := p.boots
	p.mu.Unlock()
	dir := p.logs
	if n > 1 {
		dir = filepath.Join(dir, fmt.Sprintf("boot%d", n))
	}
	return lab.Boot(ctx, lab.Options{
		Images: p.images, RunDir: dir, Agent: p.agent, Daemon: p.daemon,
		CPUs: cpus, GuestType: p.guest, Store: p.store, Payload: map[string]string{},
	})
}
