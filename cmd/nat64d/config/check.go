package config

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fastjson"
)

const (
	minMTU6 = 1280 // RFC 8200 §5
	minMTU4 = 68   // RFC 791 §3.2

	// frameOverhead is what a frame holds beside the IP packet: the 256 octets
	// in front that translation grows into, and an Ethernet header with a VLAN tag.
	frameOverhead = 256 + 18
)

// LargestPacket is the largest IP packet that fits a frame. The kernel drops
// larger ones before nat64d sees them.
func (x *XDP) LargestPacket() int { return x.FrameSize - frameOverhead }

// check finds what can only be seen once the whole file is read. A part that
// has problems already is not judged again.
func (p *parser) check() {
	p.checkWorkers()
	p.checkXDP()
	p.checkMTU()
	p.checkStatic()
	p.checkDenied()
	p.checkTimeouts()
	p.checkHandoff()
	if p.config.Poll == "" {
		p.config.Poll = "adaptive"
		if len(p.config.Workers.CPUs) > 0 {
			p.config.Poll = "busy"
		}
	}
}

func (p *parser) checkWorkers() {
	w := &p.config.Workers
	if p.bad("workers") {
		return
	}
	if w.Count > 0 && len(w.CPUs) > 0 && w.Count != len(w.CPUs) {
		p.problem("workers.cpus", fmt.Sprintf("names %d CPUs for %d workers", len(w.CPUs), w.Count),
			"give one CPU for each worker, or leave workers.count out")
	}
	if w.Count == 0 {
		w.Count = len(w.CPUs)
	}
}

// checkCPU checks the CPU that was read last.
func (p *parser) checkCPU(path string, cpu int) {
	before := p.config.Workers.CPUs[:len(p.config.Workers.CPUs)-1]
	if slices.Contains(before, cpu) {
		p.problem(path, fmt.Sprintf("CPU %d stands here again", cpu), "give each worker a CPU of its own")
		return
	}
	known := func(r [2]uint16) bool { return int(r[0]) <= cpu && cpu <= int(r[1]) }
	if len(p.cpus) > 0 && !slices.ContainsFunc(p.cpus, known) {
		p.problem(path, fmt.Sprintf("this machine has no CPU %d", cpu), "it has "+FormatRanges(p.cpus))
	}
}

// onlineCPUs is nil when the kernel does not tell.
func onlineCPUs() [][2]uint16 {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil
	}
	rs, err := parseRanges(strings.TrimSpace(string(b)), 0)
	if err != nil {
		return nil
	}
	return rs
}

func (p *parser) checkXDP() {
	x := &p.config.XDP
	if p.bad("xdp") || x.FramesPerQueue >= 2*x.RingSize {
		return
	}
	p.problem("xdp.frames_per_queue", fmt.Sprintf("%d frames cannot fill the rings of %d", x.FramesPerQueue, x.RingSize),
		fmt.Sprintf("give at least %d, or a smaller xdp.ring_size", 2*x.RingSize))
}

func (p *parser) checkMTU() {
	c := p.config
	if p.bad("mtu") || p.bad("xdp.frame_size") || p.bad("lowest_ipv6_mtu") {
		return
	}
	most := c.XDP.LargestPacket()
	fix := fmt.Sprintf("give at most %d", most)
	if c.XDP.FrameSize < 4096 {
		fix += ", or xdp.frame_size 4096"
	}
	for _, m := range []struct {
		path string
		mtu  int
	}{{"mtu.ipv6", c.MTU.IPv6}, {"mtu.ipv4", c.MTU.IPv4}} {
		if m.mtu > most {
			p.problem(m.path, fmt.Sprintf("%d does not fit a frame of %d octets", m.mtu, c.XDP.FrameSize), fix)
		}
	}
	if c.MTU.IPv6 > 0 && c.LowestIPv6MTU > c.MTU.IPv6 {
		p.problem("lowest_ipv6_mtu", fmt.Sprintf("%d is more than mtu.ipv6, which is %d", c.LowestIPv6MTU, c.MTU.IPv6),
			"give at most that (RFC 7915 §4)")
	}
}

// readStatic reads one static mapping.
func readStatic(p *parser, path string, v *fastjson.Value) {
	var s StaticBIB
	before := len(p.problems)
	object(
		field{"protocol", choice(&s.Protocol, "tcp", "udp", "icmp"), `give "tcp", "udp" or "icmp"`},
		field{"ipv6", endpoint(&s.Client, `give the client's address and port, such as "[2001:db8::5]:80"`, usableClient),
			`give the client's address and port, such as "[2001:db8::5]:80"`},
		field{"ipv4", endpoint(&s.Mapped, `give an address of pool4 and a port, such as "192.0.2.1:8080"`, netip.Addr.Is4),
			`give an address of pool4 and a port, such as "192.0.2.1:8080"`},
	)(p, path, v)
	if len(p.problems) > before {
		return
	}
	// 0 is an identifier like any other (RFC 792), but no port.
	for _, e := range []struct {
		key  string
		port uint16
	}{{"ipv6", s.Client.Port()}, {"ipv4", s.Mapped.Port()}} {
		if s.Protocol != "icmp" && e.port == 0 {
			p.problem(join(path, e.key), "port 0 cannot be mapped", "give a port from 1 to 65535")
		}
	}
	p.config.StaticBIB = append(p.config.StaticBIB, s)
	p.static = append(p.static, path)
}

func endpoint(dst *netip.AddrPort, hint string, usable func(netip.Addr) bool) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		s, ok := p.str(path, v, hint)
		if !ok {
			return
		}
		ap, err := netip.ParseAddrPort(s)
		if err != nil || !usable(ap.Addr()) {
			p.problem(path, describe(v)+" is not possible", hint)
			return
		}
		*dst = ap
	}
}

func usableClient(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.Zone() == "" && (a.IsGlobalUnicast())
}

// checkStatic checks the static mappings against the pools and one another.
func (p *parser) checkStatic() {
	clients, mapped := map[StaticBIB]string{}, map[StaticBIB]string{}
	for i, s := range p.config.StaticBIB {
		path := p.static[i]
		if n := slices.IndexFunc(p.config.Pool6, func(x netip.Prefix) bool { return x.Contains(s.Client.Addr()) }); n >= 0 {
			p.problem(join(path, "ipv6"), fmt.Sprintf("%s is inside pool6 (%s)", s.Client.Addr(), p.config.Pool6[n]),
				"give the address of an IPv6 host")
		}
		inside := func(x Pool4) bool { return x.Prefix.Contains(s.Mapped.Addr()) }
		if !p.bad("pool4") && len(p.config.Pool4) > 0 && !slices.ContainsFunc(p.config.Pool4, inside) {
			p.problem(join(path, "ipv4"), fmt.Sprintf("%s is not in pool4", s.Mapped.Addr()),
				"give an address of pool4 or add this one to it")
		}
		c, m := StaticBIB{s.Protocol, s.Client, netip.AddrPort{}}, StaticBIB{s.Protocol, netip.AddrPort{}, s.Mapped}
		if first, ok := clients[c]; ok {
			p.problem(join(path, "ipv6"), fmt.Sprintf("%s %s is mapped by %s already", s.Protocol, s.Client, first), "keep one of the two")
		} else if first, ok := mapped[m]; ok {
			p.problem(join(path, "ipv4"), fmt.Sprintf("%s %s is taken by %s already", s.Protocol, s.Mapped, first), "keep one of the two")
		}
		clients[c], mapped[m] = path, path
	}
}

// checkDenied warns of pool4 addresses that clients cannot reach through
// hairpinning because deny_ipv4 names them.
func (p *parser) checkDenied() {
	if !p.config.Hairpin {
		return
	}
	for i, x := range p.config.Pool4 {
		for _, d := range p.config.DenyIPv4 {
			if d.Overlaps(x.Prefix) {
				p.warn(join(p.pool4[i], "address"), fmt.Sprintf("%s is in %s of deny_ipv4", show4(x.Prefix), d),
					"clients cannot reach each other through it; set hairpin to false if that is meant")
			}
		}
	}
}

// discardPort is where a server sends the packets that it expects back
// (handoff draft §9).
const discardPort = 9

// checkHandoff finds what would take the control channel away, and warns of
// what keeps handoff from working as it could.
func (p *parser) checkHandoff() {
	c := p.config
	if !c.Handoff.Enabled {
		return
	}
	if !slices.ContainsFunc(c.Pool6, func(x netip.Prefix) bool { return x.Bits() == 96 }) && len(c.Pool6) > 0 {
		p.warn("pool6", "has no /96 prefix, and handoff entries exist for no other", `set handoff.enabled to false unless a /96 prefix is coming`)
	}
	if c.Handoff.ClientPort == discardPort {
		p.problem("handoff.client_port", "9 is the port that servers find a NAT64 by", "give another port (handoff draft §9)")
	}
	for i, s := range c.StaticBIB {
		if s.Protocol == "udp" && int(s.Mapped.Port()) == c.Handoff.ClientPort {
			p.problem(join(p.static[i], "ipv4"), fmt.Sprintf("UDP port %d is that of the control channel", s.Mapped.Port()),
				"map another port, or give another handoff.client_port")
		}
	}
	if !c.AssignPool4 {
		p.warn("assign_pool4", "is false while handoff is on", "put the pool4 addresses on this host yourself: the control channel is sent from them")
	}
	for i, x := range c.Pool4 {
		if !slices.ContainsFunc(x.Ports, func(r [2]uint16) bool { return r[0] <= 1024 && r[1] == 65535 }) {
			p.warn(join(p.pool4[i], "ports"), FormatRanges(x.Ports)+" is less than handoff servers choose from",
				"give 1024-65535, else a connection whose server chooses another port cannot come back")
		}
	}
}

// checkTimeouts warns of what is legal but breaks what hosts count on.
func (p *parser) checkTimeouts() {
	t := &p.config.Timeouts
	for _, r := range []struct {
		key          string
		value, least time.Duration
		section      string
	}{
		{"udp", t.UDP, 2 * time.Minute, "RFC 4787 REQ-5"},
		{"icmp", t.ICMP, time.Minute, "RFC 5508 REQ-2"},
		{"tcp_established", t.TCPEstablished, 2*time.Hour + 4*time.Minute, "RFC 5382 REQ-5"},
		{"tcp_transitory", t.TCPTransitory, 4 * time.Minute, "RFC 5382 REQ-5"},
		{"tcp_incoming_syn", t.TCPIncomingSYN, 6 * time.Second, "RFC 5382 REQ-4"},
		{"fragment", t.Fragment, 2 * time.Second, "RFC 6146 §4"},
	} {
		if r.value < r.least {
			p.warn("timeouts."+r.key, fmt.Sprintf("%s is less than %s asks for", r.value, r.section),
				fmt.Sprintf("give at least %s unless that is meant", r.least))
		}
	}
}
