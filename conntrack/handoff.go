package conntrack

// What a worker and the handoff worker tell each other. Both are plain values
// that travel through SPSC rings; frames named in them change hands with them.

// ToServerKind says what a ToServer is.
type ToServerKind uint8

const (
	// Notify: a mapping was made, or is used with this server for the first
	// time (handoff draft §8). No frame.
	Notify ToServerKind = iota
	// Tunnel6: an IPv6 packet without a session, for the server to decide: a
	// query (handoff draft §8). Its frame comes back through the Back ring.
	Tunnel6
	// Tunnel4: an IPv4 packet that matches nothing, or is neither TCP nor UDP.
	Tunnel4
)

// ToServer goes from a worker to the handoff worker.
type ToServer struct {
	Kind       ToServerKind
	Pool6      uint8  // Notify, Tunnel6: prefix that the client used
	MappedPort uint16 // Notify: the entry's; Tunnel6: the hint, 0 for none
	ClientPort uint16 // Notify
	Server     uint32 // whom to tell
	Own        uint32 // pool4 address of the channel
	Client     Addr6  // Notify, Tunnel6
	Addr       uint64 // Tunnel*: UMEM address of the IP header
	Len        uint16 // Tunnel*: octets of the IP packet
	// Stranger marks a packet that no capable server is known to be behind: the
	// handoff worker limits what goes back to where it may not have come from.
	Stranger bool
}

// FromServerKind says what a FromServer is.
type FromServerKind uint8

const (
	// GotEntry: a checked connection tracking entry, to be cached.
	GotEntry FromServerKind = iota
	// GotPacket: a packet that came over the control channel before
	// translation; it takes the usual steps but is never tunnelled again.
	GotPacket
	// GotTranslated: a packet that the server has translated; it leaves as it is.
	GotTranslated
)

// FromServer goes from the handoff worker to a worker. Everything in it was
// checked (handoff draft §6).
type FromServer struct {
	Kind       FromServerKind
	Pool6      uint8  // GotEntry
	MappedPort uint16 // GotEntry
	ClientPort uint16 // GotEntry
	Server     uint32
	Own        uint32 // pool4 address that it came to
	Client     Addr6  // GotEntry
	Addr       uint64 // GotPacket, GotTranslated: UMEM address of the Ethernet header (its type is set, its addresses are not)
	Len        uint16 // octets from there on
}
