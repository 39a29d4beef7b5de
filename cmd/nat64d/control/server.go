package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// headerTimeout bounds how long a connection may take to say what it wants.
const headerTimeout = 5 * time.Second

// Server answers on the control socket and, if asked, serves metrics over TCP.
// Safe for concurrent use.
type Server struct {
	servers []*http.Server
	metrics net.Addr
	log     *slog.Logger
	wg      sync.WaitGroup

	// gate is held for reading by every request under way. Close locks it for
	// good: from then on nobody uses the Daemon, whose tables may go.
	gate    sync.RWMutex
	taps    taps
	cutting atomic.Bool // walks over tables end at the next entry
}

// Start binds the control socket at path and the metrics address ("" for none)
// and begins to answer for d. Both stand when it returns.
func Start(path, metricsAddr string, d Daemon, log *slog.Logger) (*Server, error) {
	s := &Server{log: log}
	socket, err := listenUnix(path)
	if err != nil {
		return nil, err
	}
	if metricsAddr != "" {
		l, err := net.Listen("tcp", metricsAddr)
		if err != nil {
			socket.Close()
			return nil, fmt.Errorf("listening for metrics on %s: %w", metricsAddr, err)
		}
		s.metrics = l.Addr()
		s.serve(l, metricsHandler(d, log), "metrics")
	}
	s.serve(socket, handler(d, &s.cutting, &s.taps), "control")
	return s, nil
}

func (s *Server) serve(l net.Listener, h http.Handler, name string) {
	hs := &http.Server{
		Handler:           s.gated(h),
		ReadHeaderTimeout: headerTimeout,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.servers = append(s.servers, hs)
	s.wg.Go(func() {
		if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("no longer answering", "interface", name, "error", err)
		}
	})
}

// gated lets requests in until Close has waited for the last one.
func (s *Server) gated(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.gate.TryRLock() {
			panic(http.ErrAbortHandler)
		}
		defer s.gate.RUnlock()
		h.ServeHTTP(w, r)
	})
}

// MetricsAddr is where metrics are served; nil when they are not.
func (s *Server) MetricsAddr() net.Addr { return s.metrics }

// Close stops answering and removes the socket. Requests under way may finish
// until ctx ends; then they are cut off, which is no error: a reader that has
// stopped reading must not keep a translator from stopping well. When it
// returns, the Daemon is not in use any more.
func (s *Server) Close(ctx context.Context) error {
	s.taps.shutDown()
	var errs []error
	for _, hs := range s.servers {
		err := hs.Shutdown(ctx)
		if err != nil && ctx.Err() != nil {
			s.log.Warn("cut off requests that did not end", "reason", err)
			s.cutting.Store(true)
			err = hs.Close()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("finishing control requests: %w", err))
		}
	}
	s.cutting.Store(true)
	s.wg.Wait()
	s.gate.Lock()
	return errors.Join(errs...)
}
