package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"

	"handoff64/cmd/commandline"
	"handoff64/handoff/server"
)

const runUsage = `  handoffd run [FLAGS]

  --config FILE               JSON object with the flags below as keys; flags on the command line win
  --listen ADDRESS:PORT       control port (0.0.0.0:64064)
  --state-dir DIR             where the table lies (/var/lib/handoffd)
  --log FILE|-                who was behind which port, flushed to disk (STATE-DIR/handoffd.log);
                              "-" is standard output, which cannot be flushed: then only the table is durable
  --log-format text|json      (text)
  --mode minimal              TCP and UDP; the NAT64 translates; needs no privilege
         local-nat            every protocol; handoffd translates, each client has an IPv4 address of the pool
         mixed                handoffd translates, local programs see the NAT64's address
                              local-nat and mixed need CAP_NET_ADMIN at the start, to make a TUN device
  --pool PREFIX               addresses for the clients of local-nat, of RFC 1918 or RFC 6598 (100.64.0.0/16)
  --device NAME               the TUN device; it is there as long as handoffd runs (handoff0)
  --device-mtu N              its MTU; 0: what the default route's interface leaves room for (0)
  --mode-changes              make the device in any mode, so that "handoffd mode" can choose any later
  --max-entries-per-nat64 N   when a NAT64 has that many, the least recently used entry that no local
                              socket uses makes room for a new one (64000)
  --lookup-socket PATH|none   where programs ask who their clients are, as handoff/client does; for the
                              group of this process (STATE-DIR/lookup.sock)
  --http [ADDRESS]:PORT       the same over TCP; without an address on 127.0.0.1 (none)

SIGTERM stops the server. SIGHUP makes it open the log anew, and take over the mode from the
configuration file. All capabilities are given up once the device is made.
`

// settings is what flags and configuration file say. Used by one goroutine.
type settings struct {
	config, listen, stateDir, log, logFormat, mode, pool, device, lookupSocket, http string
	maxEntries, deviceMTU                                                            int
	modeChanges                                                                      bool
}

func (s *settings) register(fs *flag.FlagSet) {
	d := server.DefaultConfig()
	fs.StringVar(&s.config, "config", "", "")
	fs.StringVar(&s.listen, "listen", d.Listen.String(), "")
	fs.StringVar(&s.stateDir, "state-dir", d.StateDir, "")
	fs.StringVar(&s.log, "log", "", "")
	fs.StringVar(&s.logFormat, "log-format", d.LogFormat, "")
	fs.StringVar(&s.mode, "mode", d.Mode.String(), "")
	fs.StringVar(&s.pool, "pool", d.Pool.String(), "")
	fs.StringVar(&s.device, "device", d.Device, "")
	fs.IntVar(&s.deviceMTU, "device-mtu", d.DeviceMTU, "")
	fs.BoolVar(&s.modeChanges, "mode-changes", false, "")
	fs.StringVar(&s.lookupSocket, "lookup-socket", "", "")
	fs.StringVar(&s.http, "http", "", "")
	fs.IntVar(&s.maxEntries, "max-entries-per-nat64", d.MaxEntries, "")
}

// serverConfig checks the settings.
func (s *settings) serverConfig() (c server.Config, err error) {
	c = server.DefaultConfig()
	if c.Mode, err = server.ParseMode(s.mode); err != nil {
		return c, usageError{err}
	}
	if c.Pool, err = netip.ParsePrefix(s.pool); err != nil {
		return c, usagef("pool %q is not a prefix such as 100.64.0.0/16: %w", s.pool, err)
	}
	c.Device, c.DeviceMTU, c.ModeChanges = s.device, s.deviceMTU, s.modeChanges
	if c.Listen, err = netip.ParseAddrPort(s.listen); err != nil {
		return c, usagef("listen %q is not ADDRESS:PORT: %w", s.listen, err)
	}
	c.StateDir, c.Log, c.LogFormat, c.MaxEntries = s.stateDir, s.log, s.logFormat, s.maxEntries
	c.Version, c.LookupSocket = commandline.Version(version), s.lookupSocket
	if c.HTTP, err = httpAddress(s.http); err != nil {
		return c, err
	}
	if err := c.Check(); err != nil {
		return c, usageError{err}
	}
	return c, nil
}

// httpAddress reads --http: without an address it is this host alone.
func httpAddress(text string) (at netip.AddrPort, err error) {
	full := text
	switch {
	case text == "":
		return at, nil
	case strings.HasPrefix(text, ":"):
		full = "127.0.0.1" + text
	}
	if at, err = netip.ParseAddrPort(full); err != nil {
		return at, usagef("http %q is not [ADDRESS]:PORT: %w", text, err)
	}
	return at, nil
}

// readSettings merges defaults, file and command line, in that order.
func readSettings(p *program, c *command, args []string) (s settings, done bool, err error) {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	s.register(fs)
	words, done, err := c.parse(p, fs, args)
	if err != nil || done {
		return s, done, err
	}
	if err := c.noWords(words); err != nil {
		return s, false, err
	}
	if s.config == "" {
		return s, false, nil
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return s, false, applyFile(s.config, fs, given)
}

func runServer(p *program, c *command, args []string) error {
	s, done, err := readSettings(p, c, args)
	if err != nil || done {
		return err
	}
	cfg, err := s.serverConfig()
	if err != nil {
		return err
	}
	cfg.Stdout = p.stdout
	log := slog.New(slog.NewTextHandler(p.stderr, nil))
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // before there is a log to rotate: it must not end us
	defer signal.Stop(hangups)
	srv, err := server.Open(p.ctx, cfg, log)
	if err != nil {
		return err
	}
	if err := dropPrivileges(); err != nil {
		return errors.Join(err, srv.Close())
	}
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	go onHangup(ctx, hangups, func() {
		srv.Reopen()
		if err := rereadMode(p, c, args, srv); err != nil {
			log.Error("reload the configuration; all stays as it was", "error", err)
		}
	})
	return srv.Run(ctx, func() {
		log.Info("ready", "listen", netip.AddrPortFrom(cfg.Listen.Addr(), srv.Port()), "state_dir", cfg.StateDir, "mode", s.mode)
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			log.Error("tell systemd", "error", err)
		}
	})
}

// rereadMode takes over the mode that flags and configuration file say now. The
// other settings count from the next start.
func rereadMode(p *program, c *command, args []string, srv *server.Server) error {
	s, _, err := readSettings(p, c, args)
	if err != nil || s.config == "" {
		return err
	}
	cfg, err := s.serverConfig()
	if err != nil {
		return err
	}
	return srv.SetMode(cfg.Mode)
}

// onHangup calls f for every SIGHUP until ctx ends.
func onHangup(ctx context.Context, hangups <-chan os.Signal, f func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			f()
		}
	}
}

// errFile marks a configuration file that cannot be used.
var errFile = errors.New("the keys are those of handoffd run --help")

// readAll reads a configuration file of reasonable size.
func readAll(path string) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("open the configuration: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const most = 1 << 20
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration %s: %w", path, err)
	}
	if len(b) > most {
		return nil, usagef("configuration %s has more than %d octets: %w", path, most, errFile)
	}
	return b, nil
}
