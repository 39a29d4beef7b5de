// Command example is a web server on an IPv4-only host that logs the IPv6
// addresses of its clients, which handoffd knows.
//
//	go run ./handoff/client/example --listen :8080 --handoffd /var/lib/handoffd/lookup.sock
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"handoff64/handoff/client"
)

func main() {
	listen := flag.String("listen", ":8080", "address and port to serve")
	handoffd := flag.String("handoffd", client.DefaultSocket, "look-up socket of handoffd, or http://ADDRESS:PORT")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := serve(ctx, *listen, *handoffd, log); err != nil {
		log.Error("example", "error", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, listen, handoffd string, log *slog.Logger) error {
	c, err := client.Dial(ctx, handoffd)
	if err != nil {
		return err
	}
	defer c.Close()
	l, err := net.Listen("tcp4", listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: hello(log), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { srv.Close() })
	log.Info("ready", "listen", l.Addr())
	// This line is all there is to it: RemoteAddr is the real client from here on.
	if err := srv.Serve(c.Listener(l, log)); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// hello knows nothing of NAT64.
func hello(log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		log.Info("request", "client", r.RemoteAddr, "method", r.Method, "path", r.URL.Path)
		fmt.Fprintf(w, "You are %s.\n", r.RemoteAddr)
	}
}
