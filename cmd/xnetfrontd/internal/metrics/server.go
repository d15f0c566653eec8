package metrics

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"
)

// Limits of the cost of clients. A client takes nothing from the vifs but some CPU time, and
// nothing from the clients of another socket.
const (
	// maxClients is the number of connections that a socket has at once; others wait for
	// accept.
	maxClients = 16
	// maxScrapes is the number of scrapes that are answered at once, over all sockets; others
	// get 503.
	maxScrapes = 4
	// readTimeout is how long a client may take for its request, scrapeTimeout how long the
	// values may take, and writeTimeout how long both and the client's reading may take.
	readTimeout   = 5 * time.Second
	scrapeTimeout = 5 * time.Second
	writeTimeout  = 20 * time.Second
	// maxHeader is the longest header of a request in bytes, without the 4 KiB that net/http
	// adds.
	maxHeader = 8 << 10
)

// Options say where a [Server] listens.
type Options struct {
	Socket string         // path of a unix socket; empty: none
	Listen string         // host and port of a TCP socket; empty: none
	Passed []net.Listener // sockets that systemd has opened; see [Passed]
	Log    *zap.Logger
}

// Server answers GET /metrics.
type Server struct {
	http http.Server
	log  *zap.Logger
	stop context.CancelFunc
	done sync.WaitGroup
}

// Start begins to serve the metrics of r. If a socket cannot be opened, Start logs that, and
// the server tries again for as long as it lives. The vifs matter more than their metrics, and
// an address may be that of a TAP which is configured later. The unix socket is there when
// Start returns, unless there was an error.
func Start(o Options, r prometheus.Gatherer, program string) *Server {
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{log: o.Log, stop: stop}
	s.http = http.Server{
		Handler:        newHandler(r, program, o.Log),
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       stdLog(o.Log),
	}
	// Each scrape has a connection of its own, so that no client keeps others out by holding
	// one.
	s.http.SetKeepAlivesEnabled(false)
	for _, ln := range o.Passed {
		s.log.Info("metrics are served on a socket that systemd passed", zap.Stringer("address", ln.Addr()))
		s.done.Go(func() { s.serve(ln) })
	}
	if o.Socket != "" {
		e := unixEndpoint(o.Socket)
		ln, err := e(ctx)
		s.done.Go(func() { s.keep(ctx, e, ln, err) })
	}
	if o.Listen != "" {
		e := tcpEndpoint(o.Listen)
		s.done.Go(func() {
			ln, err := e(ctx)
			s.keep(ctx, e, ln, err)
		})
	}
	return s
}

// Close ends every connection and frees the sockets.
func (s *Server) Close() error {
	s.stop()
	err := s.http.Close()
	s.done.Wait()
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return nil
}

// Waits between attempts to listen: doubled after each.
const (
	relistenMin = time.Second
	relistenMax = 30 * time.Second
)

// keep serves on an endpoint until ctx ends. ln and err are the result of the first attempt to
// listen.
func (s *Server) keep(ctx context.Context, e endpoint, ln net.Listener, err error) {
	said := ""
	for wait := relistenMin; ; wait = min(2*wait, relistenMax) {
		switch {
		case err == nil:
			s.log.Info("metrics are served", zap.Stringer("address", ln.Addr()))
			s.serve(ln)
			said, wait = "", relistenMin
		case errors.Is(err, errNotAllowed):
			s.log.Error("metrics are not served", notServed(err)...)
			return
		case ctx.Err() == nil && err.Error() != said:
			said = err.Error()
			s.log.Error("metrics are not served", notServed(err, zap.Duration("retry_in", wait))...)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		ln, err = e(ctx)
	}
}

// serve answers on ln until the server is closed, or ln fails.
func (s *Server) serve(ln net.Listener) {
	err := s.http.Serve(netutil.LimitListener(ln, maxClients))
	if !errors.Is(err, http.ErrServerClosed) {
		s.log.Error("metrics are not served any more", notServed(err, zap.Stringer("address", ln.Addr()))...)
	}
}

// newHandler answers with the metrics of r at /metrics, and with a hint to that page at /.
func newHandler(r prometheus.Gatherer, program string, log *zap.Logger) http.Handler {
	figures := promhttp.HandlerFor(whole{r}, promhttp.HandlerOpts{
		ErrorLog: stdLog(log),
		// An error of one metric must not hide the others.
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             scrapeTimeout,
	})
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case q.URL.Path != "/metrics" && q.URL.Path != "/":
			http.NotFound(w, q)
		case q.Method != http.MethodGet && q.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		case q.URL.Path == "/metrics":
			figures.ServeHTTP(w, q)
		default:
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			// An error means that the client is gone.
			_, _ = fmt.Fprintf(w, "xnetfrontd %s: figures for Prometheus are at /metrics\n", program)
		}
	})
}

// whole gathers nothing if a panic kept the daemon's own metrics from being made. A scrape
// without them would count as a success, and no alert would fire.
type whole struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (g whole) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.Gatherer.Gather()
	all, several := err.(prometheus.MultiError) // errors.As does not look into it
	if !several {
		all = prometheus.MultiError{err}
	}
	for _, e := range all {
		if fault := (faultError{}); errors.As(e, &fault) {
			return nil, fault
		}
	}
	return families, err
}

// stdLog is the log for packages that take only the standard library's.
func stdLog(log *zap.Logger) *stdlog.Logger {
	l, err := zap.NewStdLogAt(log, zap.WarnLevel)
	if err != nil {
		return zap.NewStdLog(log)
	}
	return l
}
