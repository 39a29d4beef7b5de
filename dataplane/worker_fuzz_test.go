package dataplane

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
	"handoff64/dataplane/fixture"
)

// FuzzWorker gives one or two whole workers with small tables any sequence of
// frames and pauses. Whatever comes: no panic, the packets add up, every frame
// is somewhere, what leaves is a right packet for a host that may be reached.
//
// The first octet of an input chooses the set-up, then each operation begins
// with one: see script.
func FuzzWorker(f *testing.F) {
	for _, s := range caseScripts(f) {
		f.Add(s)
		f.Add(append([]byte{s[0] | fuzzWatched}, s[1:]...))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 1<<14 {
			return
		}
		s := script{rest: input}
		s.rig = fuzzRig(t, s.octet())
		for n := 0; len(s.rest) > 0 && n < 200 && !t.Failed(); n++ {
			s.step(t)
		}
		s.drain(t)
	})
}

// Bits of the first octet.
const (
	fuzzTwoWorkers = 1 << iota
	fuzzHandoff
	fuzzAddressDependent
	fuzzNoHairpin
	fuzzNoIncoming
	fuzzSmallMTU
	fuzzUDPZeroDrop
	fuzzWatched // a trace and a capture run
)

// fuzzRig has the addresses of the cases and few ports, so that a guess is
// often right.
func fuzzRig(t *testing.T, bits byte) *rig {
	s := setup{workers: 1 + int(bits&fuzzTwoWorkers), handoff: bits&fuzzHandoff != 0, frames: 256}
	s.rules = func(rs *Rules) {
		rs.Pool4 = NewRanges4([]netip.Prefix{netip.MustParsePrefix("203.0.113.1/32")})
		rs.AddressDependent = bits&fuzzAddressDependent != 0
		rs.Hairpin = bits&fuzzNoHairpin == 0
		rs.TCPIncoming = bits&fuzzNoIncoming == 0
		rs.Translation.UDPZeroCompute = bits&fuzzUDPZeroDrop == 0
		if bits&fuzzSmallMTU != 0 {
			rs.MTU = [families]uint32{1280, 600}
		}
	}
	client := conntrack.Addr6{Hi: 0x20010db8_00000000, Lo: 0x17}
	s.table = func(c *conntrack.Config) {
		c.Sessions = 16
		c.Pool4 = []conntrack.Pool4Range{{Addr: addr4("203.0.113.1"), First: 5120, Last: 5127}}
		c.Static = []conntrack.Static{
			{Proto: conntrack.UDP, Client: client, ClientPort: 53, Mapped: addr4("203.0.113.1"), MappedPort: 53},
			{Proto: conntrack.TCP, Client: client, ClientPort: 80, Mapped: addr4("203.0.113.1"), MappedPort: 8080},
			{Proto: conntrack.ICMP, Client: client, ClientPort: 7, Mapped: addr4("203.0.113.1"), MappedPort: 77},
		}
	}
	r := newRig(t, s)
	if bits&fuzzWatched != 0 {
		r.tap(TapConfig{Octets: 100, Sent: true})
	}
	return r
}

// script is an input being carried out.
type script struct {
	rest []byte
	rig  *rig
	past [][]byte // the last frames that left, to be answered
	bad  bool     // a frame whose checksums were wrong may still be inside
}

// Operations: the low two bits of an octet, and flags.
const (
	opPacket6 = iota // length (2 octets), the packet from its IP header on
	opPacket4
	opWait   // an octet: tenths of seconds, squared
	opAnswer // an octet: which of the last frames, and how it is answered

	opRepair = 1 << 2 // give the packet right checksums
	opFrame  = 1 << 3 // the packet begins with its Ethernet header
	opOther  = 1 << 4 // it arrives at the second worker
	opError  = 1 << 2 // answer with an ICMP error that quotes the frame
)

func (s *script) octet() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

func (s *script) take(n int) []byte {
	n = min(n, len(s.rest))
	b := slices.Clone(s.rest[:n])
	s.rest = s.rest[n:]
	return b
}

// step carries out one operation.
func (s *script) step(t *testing.T) {
	op := s.octet()
	var frame []byte
	side := IPv6
	switch op & 3 {
	case opWait:
		n := conntrack.Tick(s.octet())
		for range 4 {
			s.rig.now += n * n / 4
			s.rig.poll()
		}
	case opAnswer:
		if frame = s.answer(op, s.octet()); frame == nil {
			return
		}
		side = sideOf(frame)
	default:
		side = Family(op & 1)
		n := int(s.octet())<<8 | int(s.octet())
		frame = s.take(min(n, 1700))
		if op&opFrame == 0 {
			frame = append(ethernetTo(side), frame...)
		}
		if op&opRepair != 0 && len(frame) > ethernetHeader {
			repair(frame[ethernetHeader:])
		}
	}
	if frame != nil {
		ports := s.rig.in6
		if side == IPv4 {
			ports = s.rig.in4
		}
		ports[int(op/opOther)%len(ports)].Inject(frame)
	}
	s.judge(t, frame)
}

// ethernetTo is the header of a frame that arrives on the side.
func ethernetTo(side Family) []byte {
	if side == IPv4 {
		return append(append(slices.Clone([]byte(macBox4)), macRouter...), 0x08, 0x00)
	}
	return append(append(slices.Clone([]byte(macBox6)), macRouter...), 0x86, 0xdd)
}

func sideOf(frame []byte) Family {
	if frame[12] == 0x08 {
		return IPv4
	}
	return IPv6
}

// judge lets the workers work and looks at what leaves.
func (s *script) judge(t *testing.T, in []byte) {
	r := s.rig
	if in != nil && checkPacket(in, true) != nil {
		s.bad = true
	}
	out6, out4 := r.from6()
	for i := range r.handoff {
		r.tunnelled(t, i)
	}
	for side, frames := range [][][]byte{out6, out4} {
		for _, f := range frames {
			if err := s.checkOut(Family(side), f); err != nil {
				t.Errorf("%v: % x\nafter % x", err, f, in)
			}
			if len(f) > ethernetHeader+20 {
				s.past = append(s.past, f)
			}
		}
	}
	s.past = s.past[max(0, len(s.past)-8):]
	waiting := uint64(0)
	for _, w := range r.workers {
		waiting += w.counters.Parked
	}
	s.bad = s.bad && waiting > 0
	r.check()
}

// checkOut says what is wrong with a frame that left.
func (s *script) checkOut(side Family, f []byte) error {
	if len(f) < ethernetHeader+20 || sideOf(f) != side {
		return errors.New("not a packet of the side")
	}
	if err := checkPacket(f, !s.bad); err != nil {
		return err
	}
	if side == IPv4 {
		dst := binary.BigEndian.Uint32(f[ethernetHeader+16:])
		if first := dst >> 24; first == 0 || first == 127 || first >= 224 {
			return errors.New("sent to an address that is no host's")
		}
		if f[ethernetHeader+8] == 0 {
			return errors.New("sent with TTL 0")
		}
		return nil
	}
	if dst := f[ethernetHeader+24]; dst == 0xff || dst == 0 && f[ethernetHeader+25] == 0x64 && s.rig.rules.pool6Index(hiLo(netip.AddrFrom16([16]byte(f[ethernetHeader+24:])).String())) >= 0 {
		return errors.New("sent to pool6 or a multicast address")
	}
	if f[ethernetHeader+7] == 0 {
		return errors.New("sent with hop limit 0")
	}
	return nil
}

// checkPacket has a foreign decoder look at lengths and checksums; sums says
// whether those behind the IP header must be right, too.
func checkPacket(f []byte, sums bool) error {
	p := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.NoCopy)
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		if int(ip.Length) != len(f)-ethernetHeader || int(ip.IHL)*4 > int(ip.Length) {
			return fmt.Errorf("total length %d and %d words of header in a packet of %d", ip.Length, ip.IHL, len(f)-ethernetHeader)
		}
		if fold(f[ethernetHeader:][:int(ip.IHL)*4]) != 0xffff {
			return errors.New("wrong header checksum")
		}
	case *layers.IPv6:
		if int(ip.Length)+40 != len(f)-ethernetHeader {
			return fmt.Errorf("payload length %d in a packet of %d", ip.Length, len(f)-ethernetHeader)
		}
	default:
		return errors.New("no IP header can be read")
	}
	if !sums {
		return nil
	}
	for _, l := range p.Layers() {
		if c, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			if err := c.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				return err
			}
		}
	}
	err, bad := p.VerifyChecksums()
	if err == nil && len(bad) > 0 {
		err = fmt.Errorf("wrong checksum: %+v", bad)
	}
	return err
}

// drain ends everything that is inside: a day passes.
func (s *script) drain(t *testing.T) {
	for range 24 {
		s.rig.now += 3600 * conntrack.TicksPerSecond
		for range 8 {
			s.rig.poll()
		}
	}
	s.judge(t, nil)
	if n := s.rig.table.Stats().Used; n != 0 && !t.Failed() {
		t.Errorf("%d sessions live after a day of silence", n)
	}
}

// answer makes a frame out of one that left: the same with the ends swapped, or
// an ICMP error of its destination about it.
func (s *script) answer(op, which byte) []byte {
	if len(s.past) == 0 {
		return nil
	}
	was := s.past[int(which&7)%len(s.past)]
	ip := was[ethernetHeader:]
	side := sideOf(was)
	if op&opError != 0 {
		return append(ethernetTo(side), errorAbout(ip, which)...)
	}
	f := append(ethernetTo(side), ip...)
	swapEnds(f[ethernetHeader:], which>>3)
	return f
}

// swapEnds exchanges addresses and ports, which leaves checksums right; tcp are
// flags for a TCP segment.
func swapEnds(ip []byte, tcp byte) {
	at, n, up, proto := 12, 4, int(ip[0]&15)*4, ip[9]
	if ip[0]>>4 == 6 {
		at, n, up, proto = 8, 16, 40, ip[6]
		ip[7] = 64
	} else {
		ip[8] = 64
	}
	src := slices.Clone(ip[at : at+n])
	copy(ip[at:], ip[at+n:at+2*n])
	copy(ip[at+n:], src)
	if len(ip) < up+8 {
		return
	}
	u := ip[up:]
	switch {
	case proto == 6 || proto == 17:
		u[0], u[1], u[2], u[3] = u[2], u[3], u[0], u[1]
		if proto == 6 && len(u) >= 20 {
			u[13] = tcp & 0x1f
		}
	case proto == 58 && u[0]&^1 == 128:
		u[0] ^= 1
	case proto == 1 && (u[0] == 8 || u[0] == 0):
		u[0] ^= 8
	}
	repair(ip)
}

// errorAbout is an ICMP error about the packet, from where it was going.
func errorAbout(ip []byte, which byte) []byte {
	var b []byte
	if ip[0]>>4 == 6 {
		quote := ip[:min(len(ip), 48+int(which)*4)]
		b = append([]byte{0x60, 0, 0, 0, byte((8 + len(quote)) >> 8), byte(8 + len(quote)), 58, 64}, ip[24:40]...)
		b = append(append(b, ip[8:24]...), 1+which>>3&3, which>>5, 0, 0, 0, 0, 5, 0)
		b = append(b, quote...)
	} else {
		quote := ip[:min(len(ip), 28+int(which)*4)]
		b = append([]byte{0x45, 0, byte((28 + len(quote)) >> 8), byte(28 + len(quote)), 0, 1, 0, 0, 64, 1, 0, 0}, ip[16:20]...)
		b = append(append(b, ip[12:16]...), []byte{3, 11, 12, 3}[which>>3&3], which>>5, 0, 0, 0, 0, 5, 0)
		b = append(b, quote...)
	}
	repair(b)
	return b
}

// repair gives a packet without extension headers right checksums.
func repair(ip []byte) {
	var up, end int
	var proto byte
	var pseudo []byte
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4 && len(ip) >= int(ip[0]&15)*4 && ip[0]&15 >= 5:
		up, proto, end = int(ip[0]&15)*4, ip[9], min(len(ip), int(binary.BigEndian.Uint16(ip[2:])))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^fold(ip[:up]))
		pseudo = append(slices.Clone(ip[12:20]), 0, proto, byte((end-up)>>8), byte(end-up))
	case len(ip) >= 40 && ip[0]>>4 == 6:
		up, proto, end = 40, ip[6], min(len(ip), 40+int(binary.BigEndian.Uint16(ip[4:])))
		pseudo = append(slices.Clone(ip[8:40]), 0, 0, byte((end-up)>>8), byte(end-up), 0, 0, 0, proto)
	default:
		return
	}
	at := map[byte]int{6: 16, 17: 6, 1: 2, 58: 2}[proto]
	if at == 0 || end < up+at+2 {
		return
	}
	if proto == 1 {
		pseudo = nil
	}
	u := ip[up:end]
	u[at], u[at+1] = 0, 0
	ck := ^fold(append(pseudo, u...))
	if ck == 0 && proto == 17 {
		ck = 0xffff
	}
	binary.BigEndian.PutUint16(u[at:], ck)
}

// fold sums b up as RFC 1071 has it.
func fold(b []byte) uint16 {
	sum := uint32(0)
	for i, o := range b {
		sum += uint32(o) << (8 * (1 - i&1))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// caseScripts writes the cases down as inputs: what they send, and when.
func caseScripts(tb testing.TB) (all [][]byte) {
	cases, err := fixture.LoadAll("testdata/cases")
	if err != nil {
		tb.Fatal(err)
	}
	for i, c := range cases {
		input := []byte{byte(i) % 128}
		for _, s := range c.Steps {
			if s.Send == nil {
				input = append(input, opWait, byte(min(255, s.Wait.Seconds())))
				continue
			}
			n := len(s.Send.Octets)
			input = append(append(input, byte(s.Side), byte(n>>8), byte(n)), s.Send.Octets...)
			input = append(input, opAnswer, byte(i), opAnswer|opError, byte(i))
		}
		all = append(all, input)
	}
	return all
}
