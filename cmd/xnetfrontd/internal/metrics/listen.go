package metrics

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/xnetfrontd/xnetfrontd/cmd/xnetfrontd/internal/localsocket"
)

// endpoint opens a socket of the daemon's own.
type endpoint func(ctx context.Context) (net.Listener, error)

// errNotAllowed says that no later attempt can succeed.
var errNotAllowed = errors.New("this process may have no TCP socket (RestrictAddressFamilies= of its unit)")

func unixEndpoint(path string) endpoint {
	return func(context.Context) (net.Listener, error) {
		ln, err := localsocket.Listen(path, localsocket.Name{What: "metrics.socket", Setting: "metrics.socket"})
		if err != nil {
			return nil, err
		}
		return ln, nil
	}
}

func tcpEndpoint(address string) endpoint {
	return func(ctx context.Context) (net.Listener, error) {
		var config net.ListenConfig
		ln, err := config.Listen(ctx, "tcp", address)
		switch {
		case errors.Is(err, unix.EAFNOSUPPORT):
			return nil, fmt.Errorf("metrics.listen %s: %w: enable xnetfrontd-metrics.socket in its place", address, errNotAllowed)
		case err != nil:
			return nil, fmt.Errorf("metrics.listen %s: %w", address, err)
		}
		return ln, nil
	}
}

// passedName is the FileDescriptorName= of the socket unit.
const passedName = "metrics"

// Passed returns the sockets that systemd has opened for the metrics. It removes systemd's
// variables from the environment, since they are not meant for the processes that this one
// starts. So it must be called once, before any process is started.
func Passed(log *zap.Logger) (listeners []net.Listener) {
	for _, f := range activation.Files(true) {
		var ln net.Listener
		err := fmt.Errorf("FileDescriptorName=%s is expected", passedName)
		if f.Name() == passedName {
			ln, err = net.FileListener(f)
		}
		if err == nil {
			listeners = append(listeners, ln)
		} else {
			log.Warn("a socket that systemd passed is not used", zap.String("name", f.Name()), zap.Error(err))
		}
		_ = f.Close() // the listener has its own
	}
	return listeners
}
