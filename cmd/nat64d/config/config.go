// Package config reads nat64d's configuration file.
//
//	octets ── syntax.go ──> line of every key ─┐
//	   └───── fastjson ───> values ── schema.go (which keys, which types, defaults)
//	                                    └── check_*.go (what must hold between values)
//
// It reads nothing but the file and the list of CPUs, so a configuration can
// be checked on any machine, by anybody.
package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Config is a whole, valid configuration with every default filled in. It is
// plain data: not changed after Parse, so it may be read from any goroutine.
type Config struct {
	IPv6Interface, IPv4Interface string // may be the same

	Pool6       []netip.Prefix // RFC 6052 prefixes, masked, without overlap; at most 16
	Pool4       []Pool4        // without overlap; at most 4096 addresses in all
	AssignPool4 bool

	Workers Workers
	Poll    string // "busy" or "adaptive"
	XDP     XDP

	MTU           MTU
	LowestIPv6MTU int
	TCPMSSClamp   int // octets; MSSOff or MSSAuto

	Filtering       string // "endpoint-independent" or "address-dependent"
	TCPIncoming     bool
	WellKnownPrefix string // "permissive" or "strict"
	DenyIPv4        []netip.Prefix
	ICMPErrorSource string // "router" or "destination"
	ICMPSource      ICMPSource
	UDPZeroChecksum string // "compute" or "drop"
	TrafficClass    string // "copy" or "zero"
	PortBlocks      PortBlocks
	StaticBIB       []StaticBIB
	Hairpin         bool
	Timeouts        Timeouts
	Limits          Limits
	Exclusive       bool    // pool4 addresses are the NAT64's alone
	KernelProtocols []uint8 // IP protocols that stay the host's although handoff takes all others
	LocalTraffic    bool    // the host itself uses the NAT64
	Handoff         Handoff
	ControlSocket   string
	Metrics         string // host:port, "" for none
	Log             Log
	Warnings        []Problem // legal, but most likely not what is wanted
}

// Pool4 is a block of IPv4 addresses that share the same port ranges.
type Pool4 struct {
	Prefix netip.Prefix // masked; a single address is a /32
	Ports  [][2]uint16  // first and last port of each range, ascending, without overlap
}

// Workers says how many workers run and where.
type Workers struct {
	Count int   // 0: one, which serves all queues
	CPUs  []int // CPU of each worker; empty: not pinned
}

// XDP is how packets are got from the interfaces.
type XDP struct {
	Mode           string // "auto", "native" or "generic"
	ZeroCopy       string // "auto", "on" or "off"
	BusyPoll       string // "auto", "on" or "off"
	FrameSize      int
	FramesPerQueue int
	RingSize       int
}

// MTU of both interfaces; 0 means the interface's own, followed live.
type MTU struct{ IPv6, IPv4 int }

// ICMPSource holds the source addresses of ICMP errors that the translator
// makes itself. The zero Addr means the interface's own address.
type ICMPSource struct{ IPv6, IPv4 netip.Addr }

// PortBlocks says how mapped ports are given to clients.
type PortBlocks struct {
	Size  int           // ports of a block; 0: one port at a time
	Grace time.Duration // how long an unused block stays its client's
}

// StaticBIB is a mapping that always exists. For "icmp" the ports are identifiers.
type StaticBIB struct {
	Protocol string // "tcp", "udp" or "icmp"
	Client   netip.AddrPort
	Mapped   netip.AddrPort
}

// Timeouts of sessions, and of datagrams in fragments (RFC 6146 §4); whole
// tenths of a second.
type Timeouts struct {
	UDP, ICMP, TCPEstablished, TCPTransitory, TCPIncomingSYN time.Duration
	Fragment                                                 time.Duration
}

// Limits bound what the translator spends.
type Limits struct {
	Sessions            int
	SessionsPerClient   int // 0: no limit
	PortsPerClient      int // 0: no limit; ICMP identifiers are ports here
	Fragments           int // held at one time
	ICMPErrorsPerSecond int
}

// Handoff is the handoff protocol's NAT64 side.
type Handoff struct {
	Enabled                  bool
	ServerPort, ClientPort   int
	KeyFile                  string
	KeyRotation              time.Duration
	CacheEntries             int
	BatchDelay               time.Duration
	StrangerPacketsPerSecond int
}

// Log says what is logged and how.
type Log struct {
	Level        slog.Level
	Format       string // "text" or "json"
	Sessions     bool   // an event for each session that is created or ends
	Destinations bool   // and with it the server
	IPFIX        string // host:port of a collector that gets the events, "" for none
}

// Problem is one thing wrong with a configuration file, or (in
// Config.Warnings) one thing that looks wrong.
type Problem struct {
	File   string
	Line   int    // counted from 1
	Column int    // counted from 1 in characters; 0 when the line is enough
	Path   string // such as pool4[0].ports; "" when the file as a whole is meant
	What   string // what is wrong
	Fix    string // what would be right
}

// Error is the problem on one line.
func (p Problem) Error() string {
	s := fmt.Sprintf("%s:%d: ", p.File, p.Line)
	if p.Column > 0 {
		s = fmt.Sprintf("%s:%d:%d: ", p.File, p.Line, p.Column)
	}
	if p.Path != "" {
		s += p.Path + ": "
	}
	s += p.What
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// Values of Config.TCPMSSClamp beside a number of octets.
const (
	MSSOff  = 0
	MSSAuto = -1
)

// Addresses is how many IPv4 addresses the entry holds.
func (p Pool4) Addresses() int { return 1 << (32 - p.Prefix.Bits()) }

// defaults is the configuration that an empty file would mean if nothing had
// to be given.
func defaults() *Config {
	return &Config{
		Pool6:       []netip.Prefix{wellKnownPrefix},
		AssignPool4: true,
		XDP: XDP{
			Mode: "auto", ZeroCopy: "auto", BusyPoll: "auto",
			FrameSize: 2048, FramesPerQueue: 8192, RingSize: 2048,
		},
		LowestIPv6MTU:   1280,
		TCPMSSClamp:     MSSAuto,
		Filtering:       "endpoint-independent",
		TCPIncoming:     true,
		WellKnownPrefix: "permissive",
		DenyIPv4: []netip.Prefix{
			netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"),
			netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("224.0.0.0/4"),
			netip.MustParsePrefix("240.0.0.0/4"),
		},
		ICMPErrorSource: "router",
		UDPZeroChecksum: "compute",
		TrafficClass:    "copy",
		PortBlocks:      PortBlocks{Grace: 2 * time.Minute},
		Hairpin:         true,
		Timeouts: Timeouts{
			UDP: 5 * time.Minute, ICMP: time.Minute,
			TCPEstablished: 2*time.Hour + 4*time.Minute, TCPTransitory: 4 * time.Minute,
			TCPIncomingSYN: 6 * time.Second,
			Fragment:       2 * time.Second,
		},
		Limits: Limits{Sessions: 1 << 20, Fragments: 4096, ICMPErrorsPerSecond: 1000},
		Handoff: Handoff{
			Enabled: true, ServerPort: 64064, ClientPort: 64064, KeyFile: "/var/lib/nat64d/handoff.keys",
			KeyRotation: 24 * time.Hour, CacheEntries: 1 << 20, BatchDelay: 10 * time.Millisecond,
			StrangerPacketsPerSecond: 1000,
		},
		ControlSocket: "/run/nat64d.sock",
		Metrics:       "127.0.0.1:9464",
		Log:           Log{Level: slog.LevelInfo, Format: "text", Destinations: true},
	}
}
