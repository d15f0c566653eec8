package main

import (
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/daemon"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/logging"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/machine"
	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/privilege"
	"github.com/xnetfrontd/xnetfrontd/pkg/tap"
)

type runCmd struct {
	configFlags
	xenFlags
	holdFlags
}

func (c *runCmd) Help() string {
	return `Tells systemd READY=1 as soon as every vif that is there has its TAP. It does not wait for
backends: a guest must boot while its backend is down. A vif that is attached later is
served from then on. A vif that is detached keeps its TAP as long as the configuration says.

    SIGTERM, SIGINT  stop: close the vifs and leave them as the toolstack made
                     them, free for any other frontend, with no grant and no
                     TAP behind. Vifs with stop = "leave", and those whose
                     backend removes closed vifs (Mirage's), stay as below
    SIGUSR2          leave everything as it is for the next process, if a holder
                     (xnetfrontd hold) keeps it; else the same as SIGTERM
    SIGHUP           read the configuration again; vifs of which nothing changes
                     go on

A second signal ends the daemon at once with exit code 1, and so does a stop that takes
longer than 10 s. A start that can serve no vif, such as when another daemon serves them
all, ends with exit code 1, too.`
}

func (c *runCmd) Run(streams) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	log, err := logging.New(cfg.Log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Sync() }() // fails on terminals and pipes, with nothing lost
	sys := machine.Local()
	if err := sys.CheckKernel(); err != nil {
		return err
	}
	privileged, err := privilege.Drop()
	if err != nil {
		log.Warn("capabilities stay in effect", zap.Error(err))
	}
	restrictUring(log)
	sig := daemon.CatchSignals(log, unix.SIGUSR2, unix.SIGHUP)
	defer sig.Close()
	at := c.xen()
	return daemon.Run(sig.Context, cfg, daemon.Options{
		Xen: at, System: sys, Log: log, Load: c.load, Reload: sig.Reload, Holder: c.socket(at.Embedded()),
		Privileged: privileged, Version: version,
	})
}

// restrictUring keeps io_uring in this process to the operations that the daemon needs, since
// the sandbox's filter does not see them. Where that is not possible, the daemon runs without
// that limit, as docs/security.md says. A warning at every start would not help the users of
// an older kernel.
func restrictUring(log *zap.Logger) {
	if err := tap.RestrictUring(); err != nil {
		log.Debug("io_uring is not restricted", logging.Problem(err))
	}
}
