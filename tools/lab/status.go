package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Status is what `nat64ctl --json status` says, as far as a lab looks at it.
type Status struct {
	Version    string `json:"version"`
	Ready      bool   `json:"ready"`
	Interfaces map[string]struct {
		Name    string `json:"name"`
		XDPMode string `json:"xdp_mode"`
		Queues  int    `json:"queues"`
	} `json:"interfaces"`
	Workers []struct {
		CPU   int `json:"cpu"`
		Queue int `json:"queue"`
	} `json:"workers"`
	Sessions struct {
		Used     uint64 `json:"used"`
		Capacity uint64 `json:"capacity"`
	} `json:"sessions"`
	BIB struct {
		Used uint64 `json:"used"`
	} `json:"bib"`
	Clients struct {
		Counted      int `json:"counted"`
		SessionLimit int `json:"session_limit"`
	} `json:"clients"`
	PortBlocks struct {
		Size     int `json:"size"`
		Assigned int `json:"assigned"`
	} `json:"port_blocks"`
	Handoff struct {
		Enabled       bool   `json:"enabled"`
		Servers       uint64 `json:"servers"`
		CachedEntries uint64 `json:"cached_entries"`
	} `json:"handoff"`
}

// Volume counts packets and octets.
type Volume struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Sides holds one value for each interface.
type Sides[T any] struct {
	IPv6 T `json:"ipv6"`
	IPv4 T `json:"ipv4"`
}

// Stats is what `nat64ctl --json stats` says, as far as a lab looks at it.
type Stats struct {
	RX         Sides[Volume] `json:"rx"`
	TX         Sides[Volume] `json:"tx"`
	Translated struct {
		V6ToV4  uint64 `json:"v6_to_v4"`
		V4ToV6  uint64 `json:"v4_to_v6"`
		Hairpin uint64 `json:"hairpin"`
	} `json:"translated"`
	Drops    map[string]uint64 `json:"drops"`
	Lost     Sides[uint64]     `json:"lost"` // before they reached a worker
	Sessions struct {
		Created uint64 `json:"created"`
		Expired uint64 `json:"expired"`
	} `json:"sessions"`
	Log struct {
		Written uint64 `json:"written"`
		Lost    uint64 `json:"lost"`
	} `json:"log"`
	TUN struct {
		Lost   uint64 `json:"lost"`
		Errors uint64 `json:"errors"`
	} `json:"tun"`
	Handoff   HandoffCounts `json:"handoff"`
	Passed    Sides[uint64] `json:"passed"`
	Parked    uint64        `json:"parked"`
	Generated uint64        `json:"generated"`
}

// HandoffCounts is the part of Stats about handoff servers.
type HandoffCounts struct {
	Notifications uint64 `json:"notifications"`
	Queries       uint64 `json:"queries"`
	Replies       uint64 `json:"replies"`
	EntriesCached uint64 `json:"entries_cached"`
	EntriesPurged uint64 `json:"entries_purged"`
	Tunnelled     uint64 `json:"tunnelled"`
	Invalid       uint64 `json:"invalid"`
}

// Server is one line of `nat64ctl --json servers`.
type Server struct {
	Server  string `json:"server"`
	State   string `json:"state"`
	Entries int    `json:"entries"`
}

// Dropped is the sum over all reasons.
func (s Stats) Dropped() (sum uint64) {
	for _, n := range s.Drops {
		sum += n
	}
	return sum
}

// In and Out are the two sides of the translator's books: every packet that
// it received or made itself has become exactly one of the things in Out.
func (s Stats) In() uint64 { return s.RX.IPv6.Packets + s.RX.IPv4.Packets + s.Generated }
func (s Stats) Out() uint64 {
	return s.Translated.V6ToV4 + s.Translated.V4ToV6 + s.Translated.Hairpin +
		s.Passed.IPv6 + s.Passed.IPv4 + s.Parked + s.Dropped()
}

// Session is one line of `nat64ctl --json sessions`.
type Session struct {
	Protocol string  `json:"protocol"`
	Client   string  `json:"client"`
	Server6  string  `json:"server6"`
	Mapped   string  `json:"mapped"`
	Server4  string  `json:"server4"`
	State    string  `json:"state"`
	Origin   string  `json:"origin"`
	IdleS    float64 `json:"idle_s"`
	ExpiresS float64 `json:"expires_s"`
}

// Binding is one line of `nat64ctl --json bib list`.
type Binding struct {
	Protocol string `json:"protocol"`
	Client   string `json:"client"`
	Mapped   string `json:"mapped"`
	Static   bool   `json:"static"`
	Sessions int    `json:"sessions"`
}

// Status asks for the daemon's status.
func (d *Daemon) Status(ctx context.Context) (s Status, err error) {
	return one[Status](ctx, d, "status")
}

// Stats asks for the daemon's counters.
func (d *Daemon) Stats(ctx context.Context) (s Stats, err error) { return one[Stats](ctx, d, "stats") }

// Sessions lists the daemon's sessions.
func (d *Daemon) Sessions(ctx context.Context) ([]Session, error) {
	return lines[Session](ctx, d, "sessions")
}

// Bindings lists the daemon's BIB.
func (d *Daemon) Bindings(ctx context.Context) ([]Binding, error) {
	return lines[Binding](ctx, d, "bib", "list")
}

// Servers lists what the daemon knows of handoff servers, by address.
func (d *Daemon) Servers(ctx context.Context) (map[string]Server, error) {
	all, err := lines[Server](ctx, d, "servers")
	known := make(map[string]Server)
	for _, s := range all {
		known[s.Server] = s
	}
	return known, err
}

// one runs a command that prints one JSON object.
func one[T any](ctx context.Context, d *Daemon, args ...string) (v T, err error) {
	out, err := d.Ctl(ctx, append([]string{"--json"}, args...)...)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return v, fmt.Errorf("nat64ctl %v printed %q: %w", args, out, err)
	}
	return v, nil
}

// lines runs a command that prints one JSON object a line.
func lines[T any](ctx context.Context, d *Daemon, args ...string) (all []T, err error) {
	out, err := d.Ctl(ctx, append([]string{"--json"}, args...)...)
	if err != nil {
		return nil, err
	}
	return parseLines[T](fmt.Sprintf("nat64ctl %v", args), out)
}

// parseLines reads one JSON object a line.
func parseLines[T any](program, out string) (all []T, err error) {
	for line := range strings.Lines(out) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			return nil, fmt.Errorf("%s printed %q: %w", program, line, err)
		}
		all = append(all, v)
	}
	return all, nil
}

// settleTimeout bounds the wait for the counters to add up. They do within
// one burst of packets; a link is never silent for long, though, because the
// kernels on it look for their neighbours.
const settleTimeout = 5 * time.Second

// SettledStats asks for the counters until they add up, or says by how much
// they do not.
func (d *Daemon) SettledStats(ctx context.Context) (Stats, error) {
	for deadline := time.Now().Add(settleTimeout); ; {
		s, err := d.Stats(ctx)
		if err != nil || s.In() == s.Out() {
			return s, err
		}
		if time.Now().After(deadline) {
			return s, fmt.Errorf("received and generated: %d packets; translated, passed, parked and dropped: %d; they must be equal: %+v", s.In(), s.Out(), s)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
