package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/pkg/profile"

	"handoff64/cmd/nat64d/config"
	"handoff64/dataplane"
)

// profiles maps --profile to pkg/profile's kinds.
var profiles = map[string]func(*profile.Profile){
	"cpu": profile.CPUProfile, "mem": profile.MemProfile, "mutex": profile.MutexProfile,
	"block": profile.BlockProfile, "trace": profile.TraceProfile,
}

func runCommand(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("run", "run --config FILE [--pprof ADDR] [--profile KIND] [--profile-dir DIR] [--tables DIR]", stdout)
	file := fs.String("config", "", "configuration `FILE` (JSON)")
	pprofAddr := fs.String("pprof", "", "serve net/http/pprof on this `ADDR`, such as 127.0.0.1:6060")
	kind := fs.String("profile", "", "write a profile when nat64d stops; `KIND` is cpu, mem, mutex, block or trace")
	dir := fs.String("profile-dir", ".", "`DIR` for the profile")
	tables := fs.String("tables", "", "`DIR` of the session tables that a restart takes up again; "+
		"\"none\" keeps them in the process (default: below /dev/shm, named after the control socket)")
	if code, ok := parse(fs, args, stderr); !ok {
		return code
	}
	if *kind != "" && profiles[*kind] == nil {
		fmt.Fprintf(stderr, "nat64d run: --profile %s: unknown; one of cpu, mem, mutex, block, trace\n", *kind)
		return exitUsage
	}
	c, ok := loadConfig(*file, stderr)
	if !ok {
		return exitUsage
	}
	log := newLogger(c, stderr)
	for _, w := range c.Warnings {
		log.Warn("configuration: " + w.Error())
	}
	if *kind != "" {
		defer profile.Start(profiles[*kind], profile.ProfilePath(*dir), profile.NoShutdownHook, profile.Quiet).Stop()
	}
	if err := runDaemon(c, log, *pprofAddr, tablesDir(c, *tables)); err != nil {
		fmt.Fprintf(stderr, "nat64d: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return exitFailure
	}
	return exitOK
}

func tablesDir(c *config.Config, flag string) string {
	switch flag {
	case "":
		return defaultTables(c.ControlSocket)
	case "none":
		return ""
	}
	return flag
}

func newLogger(c *config.Config, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.Log.Level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// runDaemon runs until SIGTERM or SIGINT.
func runDaemon(c *config.Config, log *slog.Logger, pprofAddr, tables string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	stopHangup := ignoreHangup(log)
	defer stopHangup()
	if tables != "" {
		if err := os.MkdirAll(tables, 0o700); err != nil {
			return fmt.Errorf("session tables: %w", err)
		}
	}
	d := &daemon{cfg: c, log: log, tables: tables, start: time.Now(), clock: dataplane.NewClock()}
	if pprofAddr != "" {
		stop, err := servePprof(pprofAddr, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	log.Info("starting", "version", versionString(), "ipv6", c.IPv6Interface, "ipv4", c.IPv4Interface)
	err := d.serve(ctx, func() {
		// Without systemd there is nobody to tell, which is no error.
		_, _ = systemd.SdNotify(false, systemd.SdNotifyReady)
		log.Info("ready", "after", time.Since(d.start).Round(time.Millisecond))
	})
	_, _ = systemd.SdNotify(false, systemd.SdNotifyStopping)
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// ignoreHangup keeps SIGHUP from ending the process: whoever sends it wants the
// configuration read anew, which comes with a later version.
func ignoreHangup(log *slog.Logger) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	go func() {
		for range c {
			log.Warn("SIGHUP: reloading comes with a later version; restart nat64d, its sessions survive that")
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}

// servePprof serves the profiler on a listener of its own, so that the metrics
// address can be open to others and this one not.
func servePprof(addr string, log *slog.Logger) (stop func(), err error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("pprof: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("pprof ended", "error", err)
		}
	}()
	log.Info("pprof", "url", fmt.Sprintf("http://%s/debug/pprof/", l.Addr()))
	return func() { s.Close() }, nil
}
