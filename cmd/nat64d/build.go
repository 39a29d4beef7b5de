package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"handoff64/cmd/nat64d/config"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/xlat"
	"handoff64/ring/xsk"
)

// This file turns the configuration into what the packages want.

func rulesFrom(c *config.Config) (*dataplane.Rules, error) {
	r := &dataplane.Rules{
		Pool4:            dataplane.NewRanges4(pool4Prefixes(c)),
		Deny:             dataplane.NewRanges4(c.DenyIPv4),
		WellKnownStrict:  c.WellKnownPrefix == "strict",
		AddressDependent: c.Filtering == "address-dependent",
		TCPIncoming:      c.TCPIncoming,
		Hairpin:          c.Hairpin,
		MSS:              mssFrom(c.TCPMSSClamp),

		ErrorsFromDestination: c.ICMPErrorSource == "destination",
		Handoff:               c.Handoff.Enabled,

		LowestIPv6MTU:       uint32(c.LowestIPv6MTU),
		MTU:                 [2]uint32{uint32(c.MTU.IPv6), uint32(c.MTU.IPv4)},
		ICMPErrorsPerSecond: c.Limits.ICMPErrorsPerSecond,
		FragmentTimeout:     ticks(c.Timeouts.Fragment),
		Host:                hostRulesFrom(c),
		Translation: xlat.Options{
			TrafficClassFromTOS: c.TrafficClass == "copy",
			UDPZeroCompute:      c.UDPZeroChecksum == "compute",
		},
	}
	for _, p := range c.Pool6 {
		prefix, err := xlat.ParsePrefix(p)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		r.Pool6 = append(r.Pool6, prefix)
	}
	if a := c.ICMPSource.IPv6; a.IsValid() {
		r.ICMPSource6 = addr6(a)
	}
	if a := c.ICMPSource.IPv4; a.IsValid() {
		r.ICMPSource4 = addr4(a)
	}
	return r, nil
}

func mssFrom(octets int) dataplane.MSSClamp {
	if octets == config.MSSAuto {
		return dataplane.MSSAuto
	}
	return dataplane.MSSClamp(octets)
}

func pool4Prefixes(c *config.Config) []netip.Prefix {
	out := make([]netip.Prefix, len(c.Pool4))
	for i, p := range c.Pool4 {
		out[i] = p.Prefix
	}
	return out
}

func tableFrom(c *config.Config, shards int) conntrack.Config {
	t := conntrack.Config{
		Shards:           shards,
		Sessions:         c.Limits.Sessions,
		PortBlocks:       conntrack.PortBlocks{Size: c.PortBlocks.Size, Grace: ticks(c.PortBlocks.Grace)},
		LogSessions:      c.Log.Sessions,
		PerClient:        conntrack.ClientLimits{Sessions: c.Limits.SessionsPerClient, Ports: c.Limits.PortsPerClient},
		AddressDependent: true, // filtering can be switched on later, and must know the sessions from before
		Pool6:            c.Pool6,
		Timeouts: conntrack.Timeouts{
			UDP: ticks(c.Timeouts.UDP), ICMP: ticks(c.Timeouts.ICMP), TCPEstablished: ticks(c.Timeouts.TCPEstablished),
			TCPTransitory: ticks(c.Timeouts.TCPTransitory), TCPIncomingSYN: ticks(c.Timeouts.TCPIncomingSYN),
			Entry: ticks(c.Timeouts.TCPEstablished),
		},
	}
	if h := c.Handoff; h.Enabled {
		t.Entries = h.CacheEntries
		t.Reserved = []uint16{teredoPort, uint16(h.ServerPort), uint16(h.ClientPort)}
	}
	for _, p := range c.Pool4 {
		for a := p.Prefix.Addr(); p.Prefix.Contains(a); a = a.Next() {
			for _, r := range p.Ports {
				t.Pool4 = append(t.Pool4, conntrack.Pool4Range{Addr: addr4(a), First: r[0], Last: r[1]})
			}
		}
	}
	t.Static = staticsFrom(c)
	return t
}

// Ports that mean something to handoff (handoff draft §9, §10).
const (
	discardPort = 9    // validation packets come to it
	teredoPort  = 3544 // never a mapped port
)

func filterFrom(c *config.Config) xsk.FilterConfig {
	f := xsk.FilterConfig{Pool6: c.Pool6, OtherProtocols: c.Handoff.Enabled, KernelProtocols: c.KernelProtocols, Exclusive: c.Exclusive}
	if c.Handoff.Enabled {
		f.ControlPort = uint16(c.Handoff.ClientPort)
	}
	for _, p := range c.Pool4 {
		var ports []xsk.PortRange
		for _, r := range p.Ports {
			ports = append(ports, xsk.PortRange{First: r[0], Last: r[1]})
		}
		udp := ports
		if c.Handoff.Enabled {
			udp = append(without(ports, uint16(c.Handoff.ClientPort)), xsk.PortRange{First: discardPort, Last: discardPort})
		}
		f.Pool4 = append(f.Pool4, xsk.Pool4{Prefix: p.Prefix, TCP: ports, UDP: udp, ICMP: ports})
	}
	for _, s := range c.StaticBIB {
		f.Statics = append(f.Statics, xsk.Static{Proto: xsk.Proto(protoFrom(s.Protocol)), Addr: s.Mapped})
	}
	return f
}

// hostRulesFrom says of fragments what filterFrom says of whole packets.
func hostRulesFrom(c *config.Config) dataplane.HostRules {
	h := dataplane.HostRules{Enabled: true, Exclusive: c.Exclusive}
	for _, p := range c.Pool4 {
		first := addr4(p.Prefix.Addr())
		h.Pool = append(h.Pool, dataplane.PoolPorts{First: first, Last: first | uint32(1<<(32-p.Prefix.Bits())-1), Ports: p.Ports})
	}
	if c.Handoff.Enabled {
		h.ControlPort, h.DiscardPort = uint16(c.Handoff.ClientPort), discardPort
	}
	if !c.Handoff.Enabled && !c.Exclusive {
		return h
	}
	for p := range 256 {
		if !slices.Contains(c.KernelProtocols, uint8(p)) {
			h.OurProtocols[p>>6] |= 1 << (p & 63)
		}
	}
	return h
}

// without cuts a port out of ranges: that of the control channel, which stays
// with the kernel.
func without(ranges []xsk.PortRange, port uint16) (out []xsk.PortRange) {
	for _, r := range ranges {
		if port < r.First || r.Last < port {
			out = append(out, r)
			continue
		}
		if r.First < port {
			out = append(out, xsk.PortRange{First: r.First, Last: port - 1})
		}
		if port < r.Last {
			out = append(out, xsk.PortRange{First: port + 1, Last: r.Last})
		}
	}
	return out
}

// ticks rounds up, so that no lifetime becomes zero.
func ticks(d time.Duration) conntrack.Tick {
	const tick = time.Second / conntrack.TicksPerSecond
	return conntrack.Tick((d + tick - 1) / tick)
}

func protoFrom(name string) conntrack.Proto {
	switch name {
	case "tcp":
		return conntrack.TCP
	case "udp":
		return conntrack.UDP
	}
	return conntrack.ICMP
}

func addr4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func addr6(a netip.Addr) conntrack.Addr6 {
	b := a.As16()
	return conntrack.Addr6{Hi: binary.BigEndian.Uint64(b[:8]), Lo: binary.BigEndian.Uint64(b[8:])}
}

func netip4(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

func netip6(hi, lo uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.AddrFrom16(b)
}
