package traffic

import (
	"encoding/binary"
	"fmt"

	"handoff64/dataplane/packet"
)

// Link is the two Ethernet addresses of a frame.
type Link struct{ Dst, Src [6]byte }

// MaxFrame is the octets of the largest frame: a frame of the UMEM without its
// headroom.
const MaxFrame = 2048 - 256

// hopLimit is that of all frames, as hosts set it.
const hopLimit = 64

// Flags of TCP (RFC 9293 §3.1).
const tcpSYN, tcpPSH, tcpACK = 0x02, 0x08, 0x10

// MinFrame is the octets of the smallest frame that holds a stamp.
func MinFrame(p Protocol, ipv6 bool) int { return headerLen(p, ipv6) + StampLen }

func headerLen(p Protocol, ipv6 bool) int {
	n := packet.EthernetLen + packet.IPv4Len + packet.UDPLen
	if ipv6 {
		n += packet.IPv6Len - packet.IPv4Len
	}
	if p.isTCP() {
		n += packet.TCPLen - packet.UDPLen
	}
	return n
}

// template is a frame of one size with everything in it but what differs
// between its flows.
type template struct {
	frame []byte
	l3Sum uint64 // of the IPv4 header without the addresses
	l4Sum uint64 // of pseudo-header and upper layer without addresses, ports and identifier
}

// Builder writes frames. Owned by one goroutine.
type Builder struct {
	protocol  Protocol
	ipv6      bool
	l4        int // offset of the upper layer
	payload   int // and of what it carries
	templates []template
	cycle     []uint8 // template of each frame of a cycle of sizes
}

// NewBuilder returns a Builder of frames of one protocol and family in the
// given sizes.
func NewBuilder(p Protocol, ipv6 bool, link Link, sizes Sizes) (*Builder, error) {
	if len(sizes) == 0 || len(sizes) > maxCycle {
		return nil, fmt.Errorf("%d frame sizes: want 1 to %d", len(sizes), maxCycle)
	}
	b := &Builder{protocol: p, ipv6: ipv6, l4: packet.EthernetLen + packet.IPv4Len, payload: headerLen(p, ipv6)}
	if ipv6 {
		b.l4 = packet.EthernetLen + packet.IPv6Len
	}
	known := map[int]uint8{}
	for _, octets := range sizes {
		if least := MinFrame(p, ipv6); octets < least || octets > MaxFrame {
			return nil, fmt.Errorf("frames of %d octets: %s over %s takes %d to %d (without frame check sequence)", octets, p, family(ipv6), least, MaxFrame)
		}
		at, ok := known[octets]
		if !ok {
			at = uint8(len(b.templates))
			known[octets] = at
			b.templates = append(b.templates, b.newTemplate(link, octets))
		}
		b.cycle = append(b.cycle, at)
	}
	return b, nil
}

func family(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

func (b *Builder) newTemplate(link Link, octets int) template {
	t := template{frame: make([]byte, octets)}
	copy(t.frame, link.Dst[:])
	copy(t.frame[6:], link.Src[:])
	ip, upper := t.frame[packet.EthernetLen:b.l4], t.frame[b.l4:]
	b.writeUpper(upper)
	t.l4Sum = packet.Sum(upper[:b.payload-b.l4], StampSum) // behind the stamp is nothing but zeros
	if b.ipv6 {
		binary.BigEndian.PutUint16(t.frame[12:], 0x86dd)
		ip[0] = 6 << 4
		binary.BigEndian.PutUint16(ip[packet.IPv6PayloadLen:], uint16(len(upper)))
		ip[packet.IPv6NextHeader], ip[packet.IPv6HopLimit] = b.number(), hopLimit
		t.l4Sum += packet.Pseudo6(0, 0, 0, 0, uint32(len(upper)), b.number())
		return t
	}
	binary.BigEndian.PutUint16(t.frame[12:], 0x0800)
	ip[0] = 4<<4 | packet.IPv4Len/4
	binary.BigEndian.PutUint16(ip[packet.IPv4TotalLen:], uint16(len(ip)+len(upper)))
	// Not to be fragmented: the identification may then be anything (RFC 6864
	// §4.1), and a translator makes no fragment header (RFC 7915 §4.1).
	binary.BigEndian.PutUint16(ip[packet.IPv4FlagsOff:], packet.IPv4DF)
	ip[packet.IPv4TTL], ip[packet.IPv4Proto] = hopLimit, b.number()
	t.l3Sum = packet.Sum(ip, 0)
	if !b.protocol.isEcho() { // ICMPv4 has no pseudo-header (RFC 792)
		t.l4Sum += packet.Pseudo4(0, 0, uint16(len(upper)), b.number())
	}
	return t
}

// writeUpper writes the upper layer's header, as far as it is the same in all
// flows.
func (b *Builder) writeUpper(upper []byte) {
	switch b.protocol {
	case UDP:
		binary.BigEndian.PutUint16(upper[packet.UDPLength:], uint16(len(upper)))
	case TCP, TCPSYN, TCPSYNACK:
		binary.BigEndian.PutUint32(upper[4:], 1) // sequence
		if b.protocol != TCPSYN {
			binary.BigEndian.PutUint32(upper[8:], 1) // acknowledgment
		}
		upper[packet.TCPOffset] = packet.TCPLen / 4 << 4
		upper[packet.TCPFlags] = [...]uint8{TCP: tcpPSH | tcpACK, TCPSYN: tcpSYN, TCPSYNACK: tcpSYN | tcpACK}[b.protocol]
		binary.BigEndian.PutUint16(upper[14:], 0xffff) // window
	case Echo, EchoReply:
		upper[packet.ICMPType] = b.icmpType()
		binary.BigEndian.PutUint16(upper[packet.ICMPSeq:], 1)
	}
}

func (b *Builder) icmpType() byte {
	switch {
	case b.ipv6 && b.protocol == Echo:
		return packet.ICMPv6EchoRequest
	case b.ipv6:
		return packet.ICMPv6EchoReply
	case b.protocol == Echo:
		return packet.ICMPv4EchoRequest
	}
	return packet.ICMPv4EchoReply
}

// number is the protocol's number in the IP header.
func (b *Builder) number() uint8 {
	switch {
	case b.protocol == UDP:
		return packet.ProtoUDP
	case !b.protocol.isEcho():
		return packet.ProtoTCP
	case b.ipv6:
		return packet.ProtoICMPv6
	}
	return packet.ProtoICMP
}

// Build writes the frame at place i of the cycle of sizes into room, which has
// at least MaxFrame octets, and returns its length. It allocates nothing.
func (b *Builder) Build(room []byte, i uint64, t Tuple, s Stamp) int {
	at := &b.templates[b.cycle[i%uint64(len(b.cycle))]]
	n := copy(room, at.frame)
	sum := at.l4Sum + packet.SumAddr6(t.SrcHi, t.SrcLo) + packet.SumAddr6(t.DstHi, t.DstLo)
	ip := room[packet.EthernetLen:b.l4]
	if b.ipv6 {
		binary.BigEndian.PutUint64(ip[packet.IPv6Src:], t.SrcHi)
		binary.BigEndian.PutUint64(ip[packet.IPv6Src+8:], t.SrcLo)
		binary.BigEndian.PutUint64(ip[packet.IPv6Dst:], t.DstHi)
		binary.BigEndian.PutUint64(ip[packet.IPv6Dst+8:], t.DstLo)
	} else {
		binary.BigEndian.PutUint32(ip[packet.IPv4Src:], uint32(t.SrcLo))
		binary.BigEndian.PutUint32(ip[packet.IPv4Dst:], uint32(t.DstLo))
		binary.BigEndian.PutUint16(ip[packet.IPv4Checksum:], ^packet.Fold(at.l3Sum+t.SrcLo+t.DstLo))
		if b.protocol.isEcho() {
			sum = at.l4Sum
		}
	}
	b.finish(room[b.l4:], sum, t)
	s.Put(room[b.payload:])
	return n
}

// finish writes ports or identifier, and the checksum that goes with them. sum
// is that of all the rest.
func (b *Builder) finish(upper []byte, sum uint64, t Tuple) {
	if b.protocol.isEcho() {
		binary.BigEndian.PutUint16(upper[packet.ICMPID:], t.SrcPort)
		binary.BigEndian.PutUint16(upper[packet.ICMPChecksum:], ^packet.Fold(sum+uint64(t.SrcPort)))
		return
	}
	binary.BigEndian.PutUint16(upper[packet.SrcPort:], t.SrcPort)
	binary.BigEndian.PutUint16(upper[packet.DstPort:], t.DstPort)
	check := ^packet.Fold(sum + uint64(t.SrcPort) + uint64(t.DstPort))
	if b.protocol != UDP {
		binary.BigEndian.PutUint16(upper[packet.TCPChecksum:], check)
		return
	}
	if check == 0 {
		check = 0xffff // zero would say that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(upper[packet.UDPChecksum:], check)
}
