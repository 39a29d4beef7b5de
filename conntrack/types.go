package conntrack

// Proto is a session's protocol. ICMP stands for echo sessions on both sides:
// ICMPv6 towards the client, ICMPv4 towards the server.
type Proto uint8

const (
	ICMP Proto = 1
	TCP  Proto = 6
	UDP  Proto = 17

	// Entry marks a handoff server's connection tracking entry, cached beside the
	// sessions that come from it. It stands for both TCP and UDP and for every
	// port of the server (handoff draft §4), so its ServerPort is 0. No packet
	// has this protocol number: 255 is reserved.
	Entry Proto = 255
)

// Origin says who made a session's mapping.
type Origin uint8

const (
	OriginNAT64   Origin = iota // generated here
	OriginHandoff               // given by a handoff server
	OriginStatic                // configured
)

// Addr6 is an IPv6 address as two big-endian words: Hi holds octets 0–7, its
// most significant byte being octet 0.
type Addr6 struct{ Hi, Lo uint64 }

// Key64 names a session by what an IPv6 packet of it carries. For ICMP,
// ClientPort is the echo identifier and ServerPort 0. IPv4 addresses are
// uint32 with the first octet most significant; ports are plain numbers.
type Key64 struct {
	Client     Addr6
	Server     uint32
	ClientPort uint16
	ServerPort uint16
	Proto      Proto
	Pool6      uint8 // index of the pool6 prefix that the server was addressed through
}

// Key46 names a session by what an IPv4 packet of it carries. For ICMP,
// MappedPort is the mapped identifier and ServerPort 0.
type Key46 struct {
	Server     uint32
	Mapped     uint32
	ServerPort uint16
	MappedPort uint16
	Proto      Proto
}

// Tick is coarse time: tenths of a second of CLOCK_BOOTTIME (or of a replay's
// own clock). It lasts 13 years before it wraps.
type Tick uint32

// TicksPerSecond converts.
const TicksPerSecond = 10

// TCP flag bits as they stand in the header.
const (
	FlagFIN uint8 = 0x01
	FlagSYN uint8 = 0x02
	FlagRST uint8 = 0x04
	FlagACK uint8 = 0x10
)

// Verdict of an operation that may refuse. Established sessions never get one.
type Verdict uint8

const (
	OK             Verdict = iota
	TableFull              // limits.sessions reached, or the probe bound exceeded
	PortsUsedUp            // no free port (or identifier) left in pool4
	NotOwner               // another shard owns the client's mappings: give the packet to Owner
	NoMapping              // no BIB entry for the mapped port
	FilteredByAddr         // filtering is address-dependent and the client never talked to this server
	ClientSessions         // the client has as many sessions as one may have
	ClientPorts            // the client has as many mapped ports and identifiers as one may have
	ClientsFull            // there is no place to count the client's in
)

// Table and slot sizes are bounded so that an index fits its field.
const (
	maxShards   = 256
	maxPool4    = 4096
	maxPool6    = 256
	maxSessions = 1 << 28
)

// kind is a space of mapped numbers. TCP and UDP share one, because a mapping
// serves both (a handoff entry has no protocol field); ICMP identifiers have
// a space of their own (RFC 6146 §3.1).
type kind uint8

const (
	kindPorts kind = 0
	kindICMP  kind = 1
	kinds          = 2
)

// kindOf gives the number space that a protocol takes its mappings from.
func kindOf(p Proto) kind {
	if p == ICMP {
		return kindICMP
	}
	return kindPorts
}

// code packs a Proto into three bits. Zero means "no protocol": an empty slot
// matches no key.
func (p Proto) code() uint64 { return uint64(protoCodes[p]) }

// protoCodes is read only.
var protoCodes = [256]uint8{ICMP: 1, TCP: 2, UDP: 3, Entry: 4}

// protoOf is the inverse of code.
func protoOf(code uint64) Proto {
	return [8]Proto{0, ICMP, TCP, UDP, Entry}[code&7]
}

// String gives the name that `nat64ctl` prints.
func (p Proto) String() string {
	switch p {
	case ICMP:
		return "icmp"
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case Entry:
		return "entry"
	}
	return "unknown"
}

// String gives the name that `nat64ctl` prints.
func (o Origin) String() string {
	switch o {
	case OriginHandoff:
		return "handoff"
	case OriginStatic:
		return "static"
	}
	return "nat64"
}

// String names a verdict for traces and test failures.
func (v Verdict) String() string {
	names := [...]string{"ok", "table-full", "ports-used-up", "not-owner", "no-mapping", "filtered-by-address",
		"client-sessions", "client-ports", "clients-full"}
	if int(v) < len(names) {
		return names[v]
	}
	return "unknown"
}
