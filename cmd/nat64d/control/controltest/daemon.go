// Package controltest has a Daemon without a data path, for tests of what
// stands in front of one.
package controltest

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"handoff64/cmd/nat64d/control"
)

// Daemon answers with what its fields hold and keeps the mappings that are
// added. Set the fields before it is used; its methods are safe for concurrent
// use.
type Daemon struct {
	StatusValue  control.Status
	StatsValue   func() control.Stats
	DropsValue   []control.DropReason
	SessionsFunc func(yield func(control.Session) bool)
	ServersValue []control.HandoffServer
	Flushed      atomic.Pointer[bool] // how Flush was called last
	TraceValue   []control.TraceEvent
	FramesValue  []control.Frame
	Missed       uint64 // by traces and captures
	// SetFunc and ReloadFunc answer to Set and Reload.
	SetFunc    func(by, key, value string) (control.Changed, error)
	ReloadFunc func(by string) (control.Changed, error)

	mu  sync.Mutex
	bib []control.BIBEntry
}

// Addr is netip.MustParseAddrPort under a shorter name.
func Addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func exampleServers() []control.HandoffServer {
	ago := 3.5
	return []control.HandoffServer{
		{Server: netip.MustParseAddr("198.51.100.10"), State: "handoff", Entries: 1234, LastHeardS: &ago},
		{Server: netip.MustParseAddr("203.0.113.9"), State: "unknown", Entries: 2},
	}
}

// New returns a daemon in the middle of ordinary work, with figures that differ
// from one another wherever they could be mixed up.
func New() *Daemon {
	return &Daemon{
		StatusValue: exampleStatus(),
		StatsValue:  func() control.Stats { return ExampleStats(1) },
		DropsValue: []control.DropReason{
			{Name: "hop_limit", Count: 12345, Step: "classify", Sentence: "The hop limit ran out.", Section: "RFC 7915 §5.1"},
			{Name: "bad_header_checksum", Count: 0, Step: "parse", Sentence: "A checksum was wrong.", Section: "RFC 7915 §4.5"},
			{Name: "table_full", Count: 7, Step: "lookup", Sentence: "The session table is full: raise limits.sessions.", Section: "RFC 6146 §3.5"},
		},
		SessionsFunc: func(yield func(control.Session) bool) {
			for _, s := range ExampleSessions() {
				if !yield(s) {
					return
				}
			}
		},
		ServersValue: exampleServers(),
		bib: []control.BIBEntry{
			{Protocol: "tcp", Client: Addr("[2001:db8::5]:80"), Mapped: Addr("192.0.2.1:8080"), Static: true, Sessions: 3},
			{Protocol: "udp", Client: Addr("[2001:db8::17]:53186"), Mapped: Addr("192.0.2.1:3719"), Sessions: 1},
		},
	}
}

func exampleStatus() control.Status {
	return control.Status{
		Version: "v0.1.0", UptimeS: 93784.5, Ready: true,
		Interfaces: control.Interfaces{
			IPv6: control.Interface{Name: "eth1", XDPMode: "native", ZeroCopy: true, Queues: 2},
			IPv4: control.Interface{Name: "eth0", XDPMode: "generic", Queues: 1},
		},
		Workers:    []control.Worker{{CPU: 2, Queue: 0}, {CPU: -1, Queue: 1}},
		Pool6:      []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/48")},
		Pool4:      []control.Pool4{{Address: "192.0.2.1", Ports: "1024-65535"}, {Address: "198.51.100.0/28", Ports: "5000"}},
		Sessions:   control.Usage{Used: 4242, Capacity: 1048576},
		BIB:        control.BIBUsage{Used: 1234},
		Differs:    []string{"pool6", "lowest_ipv6_mtu"},
		Clients:    control.Clients{Counted: 12, SessionLimit: 500, PortLimit: 200},
		PortBlocks: control.PortBlocks{Size: 256, Assigned: 31},
	}
}

// ExampleStats returns counters in which everything has happened n times as
// often as in the first.
func ExampleStats(n uint64) control.Stats {
	return control.Stats{
		RX: control.Traffic{IPv6: control.Counter{Packets: 1000000 * n, Bytes: 1500 << 20 * n},
			IPv4: control.Counter{Packets: 2000000 * n, Bytes: 700 << 10 * n}},
		TX: control.Traffic{IPv6: control.Counter{Packets: 1987600 * n, Bytes: 900 * n},
			IPv4: control.Counter{Packets: 1000001 * n, Bytes: 3 << 30 * n}},
		Translated: control.Translated{V6ToV4: 987553 * n, V4ToV6: 1987599 * n, Hairpin: 12 * n},
		Passed:     control.PerSide{IPv6: 45 * n, IPv4: 12456 * n},
		Parked:     1 * n,
		Generated:  18 * n,
		Drops:      map[string]uint64{"hop_limit": 12345 * n, "bad_header_checksum": 0, "table_full": 7 * n},
		Sessions:   control.SessionCounts{Created: 5000 * n, Expired: 758 * n},
		Lost:       control.PerSide{IPv6: 17 * n, IPv4: 5 * n},
		TUN:        control.TUNCounts{Lost: 6 * n, Errors: 2 * n},
		Workers:    []control.WorkerCounts{{Received: 2400000 * n, Dropped: 12000 * n}, {Received: 600000 * n, Dropped: 352 * n}},
		Log:        control.LogCounts{Written: 5758 * n, Lost: 3 * n},
		Handoff: control.HandoffCounts{
			Notifications: 4321 * n, Queries: 321 * n, Replies: 4600 * n, EntriesCached: 4400 * n, EntriesPurged: 21 * n,
			Tunnelled: 54 * n, Invalid: 3 * n,
		},
	}
}

// ExampleSessions returns one session of each kind.
func ExampleSessions() []control.Session {
	return []control.Session{
		{Protocol: "tcp", Client: Addr("[2001:db8::1]:40000"), Server6: Addr("[64:ff9b::c633:6401]:80"),
			Mapped: Addr("192.0.2.1:1234"), Server4: Addr("198.51.100.1:80"), State: "ESTABLISHED", Origin: "nat64", IdleS: 0.3, ExpiresS: 7439.7},
		{Protocol: "udp", Client: Addr("[2001:db8::2]:53186"), Server6: Addr("[64:ff9b::c633:6435]:53"),
			Mapped: Addr("192.0.2.1:3719"), Server4: Addr("198.51.100.53:53"), State: "UDP", Origin: "handoff", IdleS: 12, ExpiresS: 288},
		{Protocol: "icmp", Client: Addr("[2001:db8:0:1::1]:77"), Server6: Addr("[64:ff9b::c633:6401]:0"),
			Mapped: Addr("192.0.2.2:4321"), Server4: Addr("198.51.100.1:0"), State: "ICMP", Origin: "static", IdleS: 59.9, ExpiresS: 0.1},
	}
}

// Status is part of control.Daemon.
func (d *Daemon) Status() control.Status { return d.StatusValue }

// Stats is part of control.Daemon.
func (d *Daemon) Stats() control.Stats { return d.StatsValue() }

// DropReasons is part of control.Daemon.
func (d *Daemon) DropReasons() []control.DropReason { return d.DropsValue }

// Sessions is part of control.Daemon. It leaves filtering to the server.
func (d *Daemon) Sessions(_ control.SessionFilter, yield func(control.Session) bool) {
	d.SessionsFunc(yield)
}

// BIB is part of control.Daemon.
func (d *Daemon) BIB(yield func(control.BIBEntry) bool) {
	d.mu.Lock()
	bib := append([]control.BIBEntry(nil), d.bib...)
	d.mu.Unlock()
	for _, e := range bib {
		if !yield(e) {
			return
		}
	}
}

// Servers implements control.Daemon.
func (d *Daemon) Servers(yield func(control.HandoffServer) bool) {
	for _, s := range d.ServersValue {
		if !yield(s) {
			return
		}
	}
}

// Flush implements control.Daemon.
func (d *Daemon) Flush(handoffOnly bool) error {
	d.Flushed.Store(&handoffOnly)
	return nil
}

// Settings is part of control.Daemon.
func (d *Daemon) Settings() control.Settings {
	return control.Settings{File: "/etc/nat64d/nat64d.json", Keys: []control.Setting{
		{Key: "pool6", Value: []string{"64:ff9b::/96"}, File: []string{"64:ff9b::/96", "2001:db8:64::/48"}, Takes: "restart", Differs: true},
		{Key: "workers.cpus", Takes: "restart"},
		{Key: "lowest_ipv6_mtu", Value: 1400, File: 1280, Takes: "live", Differs: true},
		{Key: "filtering", Value: "endpoint-independent", File: "endpoint-independent", Takes: "live"},
		{Key: "hairpin", Value: true, File: true, Takes: "live"},
	}}
}

// Trace is part of control.Daemon. It shows TraceValue and goes on until its
// reader has had enough.
func (d *Daemon) Trace(ctx context.Context, f control.PacketFilter, sink control.Sink[control.TraceEvent]) (uint64, error) {
	if f.Reason == "unknown" {
		return 0, control.ConfigError{Problems: []string{"filter drop: no such reason"}}
	}
	if !sink.Started([2]string{"eth1", "eth0"}) {
		return 0, nil
	}
	for i, e := range d.TraceValue {
		if !sink.Each(e) || i+1 == f.Count {
			return d.Missed, nil
		}
	}
	sink.Rest()
	<-ctx.Done()
	return d.Missed, nil
}

// Capture is part of control.Daemon. It shows FramesValue and goes on until its
// reader has had enough.
func (d *Daemon) Capture(ctx context.Context, f control.PacketFilter, octets int, sink control.Sink[control.Frame]) (uint64, error) {
	if !sink.Started([2]string{"eth1", "eth0"}) {
		return 0, nil
	}
	for i, p := range d.FramesValue {
		p.Octets = p.Octets[:min(octets, len(p.Octets))]
		if !sink.Each(p) || i+1 == f.Count {
			return d.Missed, nil
		}
	}
	sink.Rest()
	<-ctx.Done()
	return d.Missed, nil
}

// Set is part of control.Daemon.
func (d *Daemon) Set(by, key, value string) (control.Changed, error) {
	return d.SetFunc(by, key, value)
}

// Reload is part of control.Daemon.
func (d *Daemon) Reload(by string) (control.Changed, error) { return d.ReloadFunc(by) }

// AddBIB is part of control.Daemon.
func (d *Daemon) AddBIB(proto string, client, mapped netip.AddrPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.bib {
		if e.Protocol == proto && e.Mapped == mapped {
			return fmt.Errorf("%s %s belongs to %s already", proto, mapped, e.Client)
		}
	}
	d.bib = append(d.bib, control.BIBEntry{Protocol: proto, Client: client, Mapped: mapped, Static: true})
	return nil
}

// RemoveBIB is part of control.Daemon.
func (d *Daemon) RemoveBIB(proto string, mapped netip.AddrPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, e := range d.bib {
		if e.Protocol == proto && e.Mapped == mapped && e.Static {
			d.bib = append(d.bib[:i], d.bib[i+1:]...)
			return nil
		}
	}
	return fmt.Errorf("%s %s has no static mapping", proto, mapped)
}
