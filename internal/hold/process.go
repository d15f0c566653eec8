package hold

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// processName is the holder's argv[0]. Its first character tells systemd-shutdown to
// spare it in the kill rounds before a power-off, as long as it is root's
// (https://systemd.io/ROOT_STORAGE_DAEMONS).
const processName = "@xnetfrontd-hold"

// RunOptions configure [Run].
type RunOptions struct {
	Socket    string        // path to listen at, unless systemd passed a socket
	AllowUIDs []int         // as in [ServerOptions]
	Linger    time.Duration // as in [ServerOptions]
	// Ready, if not nil, gets the line "ready" when clients can connect, or else one
	// that says why they cannot. Run closes it.
	Ready io.WriteCloser
	Log   *zap.Logger
}

// Run makes this process a holder, until it has nothing to hold and is told to end.
//
// SIGTERM, SIGINT and SIGQUIT all mean the same: end, but not with something in hand.
//
//   - Nothing is held: it ends at once. That is every ordinary stop, because the daemon
//     drops what it has when it is stopped, and is stopped first.
//   - Something is parked: it stays, and says why. Ending would be the last close of an
//     event channel from before a restore, and the guest's kernel would not survive it.
//     systemd, told not to follow up with SIGKILL (SendSIGKILL=no), goes on without it,
//     systemd-shutdown spares it for its name, and it ends with the kernel.
//   - Something is in use: it stays too, and ends when the last bundle is dropped. With
//     a daemon there, ending would be of no use: the daemon starts the holder again. With
//     none there (it crashed, or is being restarted or upgraded), the bundles are all
//     that is left of connections that the next daemon wants to go on with, and nobody
//     has looked whether the guest was restored meanwhile, so they may be poison as well.
//     At a power-off nothing is lost by staying either: backends clean up after a guest
//     that is gone.
//
// SIGHUP does nothing, since it comes when a terminal is closed, and SIGPIPE nothing
// either, since it comes when the reader of the log is gone.
func Run(o RunOptions) (err error) {
	defer func() {
		if err != nil && o.Ready != nil {
			fmt.Fprintln(o.Ready, strings.ReplaceAll(err.Error(), "\n", "; "))
			err = errors.Join(err, o.Ready.Close())
		}
	}()
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT)
	defer signal.Stop(signals)

	limit, err := raiseFileLimit()
	if err != nil {
		return err
	}
	s, err := NewServer(ServerOptions{AllowUIDs: o.AllowUIDs, FileLimit: limit, Linger: o.Linger, Log: o.Log})
	if err != nil {
		return err
	}
	l, release, err := open(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	survive()
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	if err := o.sayReady(); err != nil {
		o.Log.Warn("nobody was told that it is ready", zap.Error(err))
	}
	for {
		select {
		case err := <-served:
			return err
		case got := <-signals:
			if busy := s.End(); busy != "" {
				o.Log.Warn("not ending: what is held would be lost with it; stop the daemon instead, and it ends by itself when nothing is held",
					zap.Stringer("signal", got), zap.String("held", busy), event(EventHolderStays))
			}
		}
	}
}

// open returns systemd's socket or one of its own.
func open(o RunOptions) (*net.UnixListener, func() error, error) {
	l, err := activated()
	if err != nil {
		return nil, nil, err
	}
	if l != nil {
		return l, func() error { return nil }, nil
	}
	own, err := listen(o.Socket, len(o.AllowUIDs) > 0)
	if err != nil {
		return nil, nil, err
	}
	return own.UnixListener, own.release, nil
}

func (o RunOptions) sayReady() error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return err
	}
	if o.Ready == nil {
		return nil
	}
	_, err := fmt.Fprintln(o.Ready, readyLine)
	return errors.Join(err, o.Ready.Close())
}

const readyLine = "ready"

// survive does what this process may do to outlive others. Without the right to, it
// does as well as any other process.
func survive() {
	// A name for ps: the kernel has taken it from the path of an exec, /proc/self/exe.
	_ = os.WriteFile("/proc/self/comm", []byte(processName[1:]), 0)
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	_ = os.Chdir("/") // keeps no file system busy
}

// Rename gives this process the name that a shutdown spares, by executing it once
// more, if it is root's and has another. Nothing of the process may be set up yet. It
// returns only when there is nothing to do, or with an error.
func Rename() error {
	if os.Geteuid() != 0 || strings.HasPrefix(os.Args[0], "@") {
		return nil
	}
	argv := append([]string{processName}, os.Args[1:]...)
	return fmt.Errorf("execute as %s: %w", processName, unix.Exec("/proc/self/exe", argv, os.Environ()))
}

// raiseFileLimit raises RLIMIT_NOFILE to its hard limit, and returns that.
func raiseFileLimit() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("ask for the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files to %d: %w", limit.Max, err)
	}
	const enough = 1 << 20 // the kernel's own bound (fs.nr_open) is that by default
	return int(min(limit.Max, enough)), nil
}
