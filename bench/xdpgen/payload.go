package xdpgen

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The UDP payload of a measured packet, in octets from its start. Everything
// that differs between packets of one template is made up for, so that all have
// the same UDP checksum.
const (
	makeUpAt  = 0  // what completes the flow's own words to 0xffff
	flowAt    = 2  // number of the flow, 16 bits
	stampAt   = 4  // low 32 bits of CLOCK_MONOTONIC in ns, in the CPU's order
	unstampAt = 8  // its complement
	markAt    = 12 // mark
	// PayloadMin is the shortest payload, and what the shortest UDP packet over
	// IPv6 in a frame of 80 octets has.
	PayloadMin = 18

	mark = 0x68363474 // "h64t"
)

const (
	ethernetLen = 14
	ipv4Len     = 20
	ipv6Len     = 40
	udpLen      = 8
)

// Flow is the transport addresses of one flow's packets.
type Flow struct{ Src, Dst netip.AddrPort }

// Template is what the frames of a stream have in common: Ethernet addresses,
// sizes, and the flows among which each frame chooses one.
type Template struct {
	To, From [6]byte
	Flows    []Flow // of one family, 65,536 at most
	Payload  int    // octets behind the UDP header
}

// recordLen is the size of a flow's record: the octets in which its frames
// differ from the first flow's, as they lie in the frame.
const recordLen = 16

// patch puts len octets of a flow's record into the frame.
type patch struct{ frame, record, len int }

// compile returns the first flow's frame, the patches, and all flows' records.
// Only what differs between flows is patched: the last two octets of IPv6
// addresses, all of IPv4 addresses.
func (t Template) compile() (frame []byte, patches []patch, records []byte, err error) {
	if len(t.Flows) == 0 || len(t.Flows) > 1<<16 || t.Payload < PayloadMin {
		return nil, nil, nil, fmt.Errorf("xdpgen: %d flows of %d octets, want 1 to 65536 flows and at least %d octets", len(t.Flows), t.Payload, PayloadMin)
	}
	v6 := t.Flows[0].Src.Addr().Is6()
	if v6 {
		frame, patches = t.frame6(), patches6
	} else {
		frame, patches = t.frame4(), patches4
	}
	records = make([]byte, recordLen*len(t.Flows))
	for i, f := range t.Flows {
		if f.Src.Addr().Is6() != v6 || f.Dst.Addr().Is6() != v6 {
			return nil, nil, nil, fmt.Errorf("xdpgen: flow %d is of another family than the first", i)
		}
		record := records[i*recordLen:][:recordLen]
		if v6 && !sameButLast(f, t.Flows[0]) {
			return nil, nil, nil, fmt.Errorf("xdpgen: the addresses of flow %d differ from the first's in more than the last two octets", i)
		}
		if v6 {
			t.record6(record, i)
		} else {
			t.record4(record, i)
		}
	}
	for _, p := range patches {
		copy(frame[p.frame:][:p.len], records[p.record:])
	}
	l3 := frame[ethernetLen:]
	if v6 {
		writeUDPChecksum(l3[8:40], l3[ipv6Len:])
	} else {
		writeUDPChecksum(l3[12:20], l3[ipv4Len:])
	}
	return frame, patches, records, nil
}

// sameButLast says whether two flows' IPv6 addresses differ in the patched
// octets only.
func sameButLast(a, b Flow) bool {
	same := func(x, y netip.Addr) bool {
		p, q := x.As16(), y.As16()
		return [14]byte(p[:]) == [14]byte(q[:])
	}
	return same(a.Src.Addr(), b.Src.Addr()) && same(a.Dst.Addr(), b.Dst.Addr())
}

var patches6 = []patch{
	{ethernetLen + 22, 0, 2}, {ethernetLen + 38, 2, 2}, // last octets of the addresses
	{ethernetLen + ipv6Len, 4, 4},                     // ports
	{ethernetLen + ipv6Len + udpLen + makeUpAt, 8, 4}, // and flowAt
}

var patches4 = []patch{
	{ethernetLen + 12, 0, 8},      // addresses
	{ethernetLen + ipv4Len, 8, 4}, // ports
	{ethernetLen + ipv4Len + udpLen + makeUpAt, 12, 4},
}

func (t Template) record6(b []byte, i int) {
	src, dst := t.Flows[i].Src.Addr().As16(), t.Flows[i].Dst.Addr().As16()
	copy(b[0:], src[14:])
	copy(b[2:], dst[14:])
	binary.BigEndian.PutUint16(b[4:], t.Flows[i].Src.Port())
	binary.BigEndian.PutUint16(b[6:], t.Flows[i].Dst.Port())
	binary.BigEndian.PutUint16(b[10:], uint16(i))
	binary.BigEndian.PutUint16(b[8:], ^sum(b[:12], 0))
}

func (t Template) record4(b []byte, i int) {
	src, dst := t.Flows[i].Src.Addr().As4(), t.Flows[i].Dst.Addr().As4()
	copy(b[0:], src[:])
	copy(b[4:], dst[:])
	binary.BigEndian.PutUint16(b[8:], t.Flows[i].Src.Port())
	binary.BigEndian.PutUint16(b[10:], t.Flows[i].Dst.Port())
	binary.BigEndian.PutUint16(b[14:], uint16(i))
	binary.BigEndian.PutUint16(b[12:], ^sum(b[:16], 0))
}

func (t Template) ethernet(etherType uint16, l3 int) []byte {
	frame := make([]byte, ethernetLen+l3)
	copy(frame, t.To[:])
	copy(frame[6:], t.From[:])
	binary.BigEndian.PutUint16(frame[12:], etherType)
	return frame
}

func (t Template) frame6() []byte {
	length := udpLen + t.Payload
	frame := t.ethernet(0x86dd, ipv6Len+length)
	ip := frame[ethernetLen:]
	ip[0] = 0x60
	binary.BigEndian.PutUint16(ip[4:], uint16(length))
	ip[6], ip[7] = 17, 64
	src, dst := t.Flows[0].Src.Addr().As16(), t.Flows[0].Dst.Addr().As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
	t.udp(ip[ipv6Len:])
	return frame
}

// frame4 leaves the header checksum to the program: it depends on the flow.
func (t Template) frame4() []byte {
	length := ipv4Len + udpLen + t.Payload
	frame := t.ethernet(0x0800, length)
	ip := frame[ethernetLen:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(length))
	ip[6] = 0x40 // DF
	ip[8], ip[9] = 64, 17
	t.udp(ip[ipv4Len:])
	return frame
}

func (t Template) udp(b []byte) {
	binary.BigEndian.PutUint16(b[4:], uint16(udpLen+t.Payload))
	payload := b[udpLen:]
	copy(payload[unstampAt:], []byte{0xff, 0xff, 0xff, 0xff})
	binary.BigEndian.PutUint32(payload[markAt:], mark)
}

// sum is the folded ones' complement sum of b, which has an even length, and
// of what was summed before.
func sum(b []byte, before uint32) uint16 {
	s := before
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)&1 != 0 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// writeUDPChecksum covers the pseudo header (RFC 768, RFC 8200 §8.1).
func writeUDPChecksum(addresses, udp []byte) {
	pseudo := uint32(sum(addresses, 17)) + uint32(len(udp))
	c := ^sum(udp, pseudo)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(udp[6:], c)
}
