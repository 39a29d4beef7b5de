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
	"path/filepath"
	"strings"
	"syscall"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/pkg/profile"

	"handoff64/cmd/commandline"
	"handoff64/cmd/nat64d/config"
	"handoff64/dataplane"
)

// profiles maps --profile to pkg/profile's kinds.
var profiles = map[string]func(*profile.Profile){
	"cpu": profile.CPUProfile, "mem": profile.MemProfile, "mutex": profile.MutexProfile,
	"block": profile.BlockProfile, "trace": profile.TraceProfile,
}

func runCommand(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("run", "Translates until SIGTERM or SIGINT. SIGHUP reads the configuration file anew.",
		"run --config FILE [--pprof ADDR] [--profile KIND] [--profile-dir DIR] [--tables DIR]", stdout, stderr)
	file := fs.String("config", "", "configuration `FILE` (JSON)")
	pprofAddr := fs.String("pprof", "", "serve net/http/pprof on this `ADDR`, such as 127.0.0.1:6060")
	kind := fs.String("profile", "", "write a profile when nat64d stops; `KIND` is cpu, mem, mutex, block or trace")
	dir := fs.String("profile-dir", ".", "`DIR` for the profile")
	tables := fs.String("tables", "", "`DIR` of the session tables that a restart takes up again; "+
		"\"none\" keeps them in the process (default: below /dev/shm, named after the control socket)")
	if code, ok := fs.Read(args); !ok {
		return code
	}
	if *kind != "" && profiles[*kind] == nil {
		return fs.Misuse(fmt.Sprintf("--profile %q is unknown; give cpu, mem, mutex, block or trace", *kind))
	}
	text, c, ok := loadDocument(*file, stderr)
	if !ok {
		return commandline.Usage
	}
	d := &daemon{cfg: c, file: absolute(*file), tables: tablesDir(c, *tables), start: time.Now(), clock: dataplane.NewClock()}
	d.settings.begin(text, c)
	d.log = newLogger(c, &d.settings.level, stderr)
	log := d.log
	for _, w := range c.Warnings {
		log.Warn("configuration: " + w.Error())
	}
	if *kind != "" {
		defer profile.Start(profiles[*kind], profile.ProfilePath(*dir), profile.NoShutdownHook, profile.Quiet).Stop()
	}
	if err := d.runUntilSignal(*pprofAddr); err != nil {
		fmt.Fprintf(stderr, "nat64d: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return commandline.Failure
	}
	return commandline.OK
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

// absolute is where a file lies whatever the working directory is later.
func absolute(file string) string {
	abs, err := filepath.Abs(file)
	if err != nil {
		return file
	}
	return abs
}

func newLogger(c *config.Config, level slog.Leveler, w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// runUntilSignal runs until SIGTERM or SIGINT.
func (d *daemon) runUntilSignal(pprofAddr string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	defer d.reloadOnHangup()()
	log := d.log
	if d.tables != "" {
		if err := os.MkdirAll(d.tables, 0o700); err != nil {
			return fmt.Errorf("session tables: %w", err)
		}
	}
	if pprofAddr != "" {
		stop, err := servePprof(pprofAddr, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	log.Info("starting", "version", commandline.Version(version), "ipv6", d.cfg.IPv6Interface, "ipv4", d.cfg.IPv4Interface)
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
