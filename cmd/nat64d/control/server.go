package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
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
	s.serve(socket, handler(d), "control")
	return s, nil
}

func (s *Server) serve(l net.Listener, h http.Handler, name string) {
	hs := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.servers = append(s.servers, hs)
	s.wg.Go(func() {
		if err := hs.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("no longer answering", "interface", name, "error", err)
		}
	})
}

// MetricsAddr is where metrics are served; nil when they are not.
func (s *Server) MetricsAddr() net.Addr { return s.metrics }

// Close stops answering and removes the socket. Requests under way may finish
// until ctx ends; then they are cut off.
func (s *Server) Close(ctx context.Context) error {
	var errs []error
	for _, hs := range s.servers {
		if err := hs.Shutdown(ctx); err != nil {
			errs = append(errs, fmt.Errorf("finishing control requests: %w", err), hs.Close())
		}
	}
	s.wg.Wait()
	return errors.Join(errs...)
}
