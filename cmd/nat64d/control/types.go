package control

import (
	"context"
	"net/netip"
	"strings"
)

// Daemon is what a running translator offers to whoever looks into it. The
// server calls it from many goroutines at once, so every method must be safe
// for concurrent use; none of them may slow a worker down.
type Daemon interface {
	Status() Status
	Stats() Stats
	// DropReasons returns every reason there is, also those that never occurred.
	DropReasons() []DropReason
	// Sessions calls yield for each session until yield returns false. It may
	// leave out sessions that the filter does not match; the server applies
	// filter and limit itself, so it need not.
	Sessions(filter SessionFilter, yield func(Session) bool)
	// BIB calls yield for each BIB entry until yield returns false.
	BIB(yield func(BIBEntry) bool)
	// AddBIB makes a static mapping. For "icmp" the ports are identifiers.
	AddBIB(proto string, client, mapped netip.AddrPort) error
	// RemoveBIB takes a static mapping away.
	RemoveBIB(proto string, mapped netip.AddrPort) error
	// Servers calls yield for each known handoff server until yield returns false.
	Servers(yield func(HandoffServer) bool)
	// Settings tells what every key of the configuration holds.
	Settings() Settings
	// Set changes a live key until the next reload; by is who asked for it. What
	// is wrong with key or value comes as a ConfigError, and nothing has changed.
	Set(by, key, value string) (Changed, error)
	// Reload reads the configuration file anew and applies what is live. A bad
	// file is a ConfigError, and nothing has changed.
	Reload(by string) (Changed, error)
	// Trace shows the ways of the packets that f chooses until ctx ends, f.Count is
	// reached or the sink has had enough, and says how many of them it missed.
	Trace(ctx context.Context, f PacketFilter, sink Sink[TraceEvent]) (missed uint64, err error)
	// Capture shows the packets that f chooses and what leaves because of them, up
	// to so many octets of each.
	Capture(ctx context.Context, f PacketFilter, octets int, sink Sink[Frame]) (missed uint64, err error)
	// Flush ends all sessions, or forgets what handoff servers gave, which they
	// give again when it is needed. It returns when all of it is gone.
	Flush(handoffOnly bool) error
}

// Status is what `nat64ctl status` shows. Plain data, as all types of this file.
type Status struct {
	Version    string         `json:"version"`
	UptimeS    float64        `json:"uptime_s"`
	Ready      bool           `json:"ready"`
	Interfaces Interfaces     `json:"interfaces"`
	Workers    []Worker       `json:"workers"`
	Pool6      []netip.Prefix `json:"pool6"`
	Pool4      []Pool4        `json:"pool4"`
	Sessions   Usage          `json:"sessions"`
	BIB        BIBUsage       `json:"bib"`
	Clients    Clients        `json:"clients"`
	PortBlocks PortBlocks     `json:"port_blocks"`
	Handoff    HandoffStatus  `json:"handoff"`
	// Differs names the keys that hold something else than the configuration
	// file said when it was last read: set since then, or waiting for a restart.
	Differs []string `json:"differs"`
}

// Settings are all keys of the configuration.
type Settings struct {
	File string    `json:"file"`
	Keys []Setting `json:"keys"`
}

// Setting is one key of the configuration. Its values are as the file has them.
type Setting struct {
	Key     string `json:"key"`
	Value   any    `json:"value"`   // in force; null when it cannot be said but by leaving the key out
	File    any    `json:"file"`    // what the file said when it was last read
	Takes   string `json:"takes"`   // what a change takes: "live", "reload" or "restart"
	Differs bool   `json:"differs"` // Value is not File
}

// Changed is what became of a change of the configuration.
type Changed struct {
	Applied  []Change `json:"applied"`
	Restart  []Change `json:"restart,omitempty"` // what the file says and only a restart can do
	Warnings []string `json:"warnings,omitempty"`
}

// Change is one key whose value changes.
type Change struct {
	Key  string `json:"key"`
	From any    `json:"from"`
	To   any    `json:"to"`
}

// ConfigError says everything that is wrong with a configuration.
type ConfigError struct{ Problems []string }

func (e ConfigError) Error() string { return strings.Join(e.Problems, "; ") }

// Interfaces are the two sides of the translator; both may be the same one.
type Interfaces struct {
	IPv6 Interface `json:"ipv6"`
	IPv4 Interface `json:"ipv4"`
}

// Interface says how one side is attached.
type Interface struct {
	Name     string `json:"name"`
	XDPMode  string `json:"xdp_mode"` // "native" or "generic"
	ZeroCopy bool   `json:"zero_copy"`
	Queues   int    `json:"queues"`
}

// Worker is one poll-mode worker. CPU is -1 when it is not pinned.
type Worker struct {
	CPU   int `json:"cpu"`
	Queue int `json:"queue"`
}

// Pool4 is one entry of pool4 in the words of the configuration.
type Pool4 struct {
	Address string `json:"address"`
	Ports   string `json:"ports"`
}

// Usage is how much of a table is taken.
type Usage struct {
	Used     int `json:"used"`
	Capacity int `json:"capacity"`
}

// BIBUsage counts the mappings.
type BIBUsage struct {
	Used int `json:"used"`
}

// Clients says what limits hold for each client (0: none) and how many clients
// have something that counts against them.
type Clients struct {
	Counted      int `json:"counted"`
	SessionLimit int `json:"session_limit"`
	PortLimit    int `json:"port_limit"`
}

// PortBlocks says how large port blocks are (0: there are none) and how many
// clients have now.
type PortBlocks struct {
	Size     int `json:"size"`
	Assigned int `json:"assigned"`
}

// HandoffStatus is the state of the handoff protocol.
type HandoffStatus struct {
	Enabled       bool `json:"enabled"`
	Servers       int  `json:"servers"`
	CachedEntries int  `json:"cached_entries"`
}

// Stats is what `nat64ctl stats` shows. One snapshot satisfies
//
//	rx.ipv6 + rx.ipv4 + generated = translated (all three) + passed + parked + drops
type Stats struct {
	RX         Traffic           `json:"rx"`
	TX         Traffic           `json:"tx"`
	Translated Translated        `json:"translated"`
	Passed     PerSide           `json:"passed"`
	Parked     uint64            `json:"parked"`
	Generated  uint64            `json:"generated"`
	Drops      map[string]uint64 `json:"drops"`
	Sessions   SessionCounts     `json:"sessions"`
	// Lost is what the kernel had no room for in the workers' rings: it reached
	// no worker and is in no other count.
	Lost PerSide `json:"lost"`
	// TUN is about the device that leads to the host's kernel.
	TUN     TUNCounts      `json:"tun"`
	Log     LogCounts      `json:"log"`
	Handoff HandoffCounts  `json:"handoff"`
	Workers []WorkerCounts `json:"workers"`
}

// WorkerCounts is one worker's part.
type WorkerCounts struct {
	Received uint64 `json:"received"` // packets, from either interface
	Dropped  uint64 `json:"dropped"`
}

// TUNCounts is what went wrong at the TUN device. It is in no other count, but
// for packets that could not be written to it, which are dropped.
type TUNCounts struct {
	Lost   uint64 `json:"lost"`   // the host's packets for its NAT64 that found the device's queue full
	Errors uint64 `json:"errors"` // reads and writes that the kernel refused
}

// LogCounts counts lines, and records for a collector, about sessions and port
// blocks.
type LogCounts struct {
	Written uint64 `json:"written"`
	Lost    uint64 `json:"lost"`
}

// Traffic counts packets and octets on both sides.
type Traffic struct {
	IPv6 Counter `json:"ipv6"`
	IPv4 Counter `json:"ipv4"`
}

// Counter is a pair of counts that move together.
type Counter struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Translated counts packets by direction. A hairpinned packet is counted
// under Hairpin only.
type Translated struct {
	V6ToV4  uint64 `json:"v6_to_v4"`
	V4ToV6  uint64 `json:"v4_to_v6"`
	Hairpin uint64 `json:"hairpin"`
}

// PerSide counts packets by the interface they came in on.
type PerSide struct {
	IPv6 uint64 `json:"ipv6"`
	IPv4 uint64 `json:"ipv4"`
}

// SessionCounts counts sessions since the start.
type SessionCounts struct {
	Created uint64 `json:"created"`
	Expired uint64 `json:"expired"`
}

// HandoffCounts counts handoff messages and cache entries since the start.
type HandoffCounts struct {
	Notifications uint64 `json:"notifications"`
	Queries       uint64 `json:"queries"`
	Replies       uint64 `json:"replies"`
	EntriesCached uint64 `json:"entries_cached"`
	EntriesPurged uint64 `json:"entries_purged"`
	Tunnelled     uint64 `json:"tunnelled"`
	Invalid       uint64 `json:"invalid"`
}

// DropReason is one row of the table of drop reasons with its count.
type DropReason struct {
	Name     string `json:"name"`
	Count    uint64 `json:"count"`
	Step     string `json:"step"`     // the step of the packet path that drops, which is also its file
	Sentence string `json:"sentence"` // for the operator
	Section  string `json:"section"`  // of the RFC or document that asks for it
}

// Session is one line of `nat64ctl sessions`. For ICMP the ports of Client and
// Mapped are identifiers and those of the server are 0.
type Session struct {
	Protocol string         `json:"protocol"` // "tcp", "udp" or "icmp"
	Client   netip.AddrPort `json:"client"`
	Server6  netip.AddrPort `json:"server6"`
	Mapped   netip.AddrPort `json:"mapped"`
	Server4  netip.AddrPort `json:"server4"`
	State    string         `json:"state"`
	Origin   string         `json:"origin"` // "nat64", "handoff" or "static"
	IdleS    float64        `json:"idle_s"`
	ExpiresS float64        `json:"expires_s"`
}

// BIBEntry is one line of `nat64ctl bib list`.
type BIBEntry struct {
	Protocol string         `json:"protocol"`
	Client   netip.AddrPort `json:"client"`
	Mapped   netip.AddrPort `json:"mapped"`
	Static   bool           `json:"static"`
	Sessions int            `json:"sessions"`
}

// HandoffServer is one line of `nat64ctl servers`.
type HandoffServer struct {
	Server     netip.Addr `json:"server"`
	State      string     `json:"state"` // "unknown", "handoff" or "down"
	Entries    int        `json:"entries"`
	LastHeardS *float64   `json:"last_heard_s"` // seconds ago; null when never
}
