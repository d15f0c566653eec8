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

// Limits of what clients may cost. Whoever is connected takes nothing from the vifs but
// some time of a CPU, and nothing from the clients of another socket.
const (
	// maxClients is how many connections a socket has at once; further ones wait for
	// accept.
	maxClients = 16
	// maxScrapes is how many are answered at once, over all sockets; to others the
	// answer is 503.
	maxScrapes = 4
	// readTimeout is how long a client may take over its request, scrapeTimeout how long
	// the figures may take, writeTimeout both of them and the client's reading.
	readTimeout   = 5 * time.Second
	scrapeTimeout = 5 * time.Second
	writeTimeout  = 20 * time.Second
	// maxHeader is how long a request's header may be in bytes, net/http's own slop of
	// 4 KiB not counted.
	maxHeader = 8 << 10
)

// Options say where a [Server] listens.
type Options struct {
	Socket string         // path of a unix socket; empty: none
	Listen string         // host and port of a TCP socket; empty: none
	Passed []net.Listener // what systemd has opened; see [Passed]
	Log    *zap.Logger
}

// Server answers GET /metrics.
type Server struct {
	http http.Server
	log  *zap.Logger
	stop context.CancelFunc
	done sync.WaitGroup
}

// Start begins to serve what r gathers. A socket that cannot be had is logged, and tried
// again for as long as the server lives: to serve vifs is more than to be seen doing it,
// and an address of the guest's may be one of a TAP that has yet to be configured. The
// unix socket is there when Start returns, unless there was an error.
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
	// A connection for each scrape: so none can be kept, and nobody keeps others out.
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

// keep serves on an endpoint, of which ln and err are the first attempt at listening,
// until ctx ends.
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

// newHandler answers with r's figures at /metrics, and with where they are at /.
func newHandler(r prometheus.Gatherer, program string, log *zap.Logger) http.Handler {
	figures := promhttp.HandlerFor(whole{r}, promhttp.HandlerOpts{
		ErrorLog: stdLog(log),
		// What is wrong with one figure must not hide the others.
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
			// An error is the client's, who is gone.
			_, _ = fmt.Fprintf(w, "xnetfrontd %s: figures for Prometheus are at /metrics\n", program)
		}
	})
}

// whole gathers nothing if a fault kept the daemon's own figures from being made: a scrape
// without them would pass for one, and no alert would see it.
type whole struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (g whole) Gather() ([]*dto.MetricFamily, error) {
	families, err := g.Gatherer.Gather()
	all, several := err.(prometheus.MultiError) // which errors.As does not look into
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

// stdLog is for packages that know of no other log.
func stdLog(log *zap.Logger) *stdlog.Logger {
	l, err := zap.NewStdLogAt(log, zap.WarnLevel)
	if err != nil {
		return zap.NewStdLog(log)
	}
	return l
}
