package conntrack

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Pool4Range is a range of ports, and of ICMP identifiers, of one pool4
// address. An address may have several.
type Pool4Range struct {
	Addr        uint32
	First, Last uint16 // both included
}

// Static is a configured mapping. It serves one protocol; the same mapping for
// TCP and UDP is two of them. It may lie outside the ranges of its address,
// and its address outside pool4.
type Static struct {
	Proto      Proto
	Client     Addr6
	ClientPort uint16
	Mapped     uint32
	MappedPort uint16
}

// Timeouts are RFC 6146 §4's session lifetimes.
type Timeouts struct {
	UDP            Tick
	ICMP           Tick
	TCPEstablished Tick
	TCPTransitory  Tick
	TCPIncomingSYN Tick
	Entry          Tick // how long an unused entry of a handoff server stays cached
}

// DefaultTimeouts are RFC 6146's (ICMP, UDP, TCP_TRANS, TCP_INCOMING_SYN) and
// RFC 5382's (established).
func DefaultTimeouts() Timeouts {
	return Timeouts{
		UDP: 300 * TicksPerSecond, ICMP: 60 * TicksPerSecond, TCPEstablished: 7440 * TicksPerSecond,
		TCPTransitory: 240 * TicksPerSecond, TCPIncomingSYN: 6 * TicksPerSecond, Entry: 7440 * TicksPerSecond,
	}
}

// Config is what New builds a Table from.
type Config struct {
	Shards   int // one per worker
	Sessions int // limit over all shards
	Entries  int // limit on cached entries of handoff servers; 0 without handoff
	Pool4    []Pool4Range
	Reserved []uint16 // ports of pool4 that dynamic mappings never get
	Static   []Static
	Timeouts Timeouts // zero: DefaultTimeouts
	// PerClient limits what one client may have; see SetClientLimits.
	PerClient  ClientLimits
	PortBlocks PortBlocks
	// LogSessions notes sessions in the journals; see LogSessions.
	LogSessions bool

	// AddressDependent keeps what HasSessionWith needs (RFC 4787 REQ-8).
	AddressDependent bool

	// Secret keys the hashes and the choice of ports. nil draws a random one;
	// replays and tests fix it, and get the same ports every time.
	Secret *[32]byte

	// Dir, when not empty, keeps the sessions in a file there, for a restart to
	// take up again: on hugetlbfs or tmpfs. Now is the present tick and Pool6 the
	// prefixes that Key64.Pool6 counts in; both matter only with Dir.
	Dir   string
	Now   Tick
	Pool6 []netip.Prefix
}

// check reports every problem at once.
func (c *Config) check() error {
	var errs []error
	if c.Shards < 1 || c.Shards > maxShards {
		errs = append(errs, fmt.Errorf("shards: %d is not within 1 to %d", c.Shards, maxShards))
	}
	if c.Sessions < 1 || c.Sessions > maxSessions {
		errs = append(errs, fmt.Errorf("sessions: %d is not within 1 to %d", c.Sessions, maxSessions))
	}
	if c.Entries < 0 || c.Entries > maxSessions {
		errs = append(errs, fmt.Errorf("entries: %d is not within 0 to %d", c.Entries, maxSessions))
	}
	if err := c.PortBlocks.check(); err != nil {
		errs = append(errs, err)
	}
	if len(c.Pool6) > maxPool6 {
		errs = append(errs, fmt.Errorf("pool6: %d prefixes, at most %d", len(c.Pool6), maxPool6))
	}
	if len(c.Pool4) == 0 {
		errs = append(errs, errors.New("pool4: at least one range is needed"))
	}
	for _, r := range c.Pool4 {
		if r.First > r.Last {
			errs = append(errs, fmt.Errorf("pool4: range %s:%d-%d is empty", ipv4(r.Addr), r.First, r.Last))
		}
	}
	if n := len(pool4Addresses(c.Pool4)); n > maxPool4 {
		errs = append(errs, fmt.Errorf("pool4: %d addresses, at most %d", n, maxPool4))
	}
	if len(errs) > 0 {
		return fmt.Errorf("conntrack configuration: %w", errors.Join(errs...))
	}
	return nil
}

// pool4Addresses lists the addresses once each, ascending.
func pool4Addresses(ranges []Pool4Range) []uint32 {
	var addrs []uint32
	for _, r := range ranges {
		addrs = append(addrs, r.Addr)
	}
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// ipv4 formats an address for messages.
func ipv4(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// ipv6 formats an address for messages.
func ipv6(a Addr6) netip.Addr {
	var b [16]byte
	for i := range 8 {
		b[i], b[8+i] = byte(a.Hi>>(56-8*i)), byte(a.Lo>>(56-8*i))
	}
	return netip.AddrFrom16(b)
}
