package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is what frames carry.
type Protocol uint8

const (
	UDP       Protocol = iota
	TCP                // segments with data, as of an open connection
	TCPSYN             // segments that open one, with data behind the header
	TCPSYNACK          // and what answers them
	Echo               // ICMP echo requests, of the addresses' family
	EchoReply          // and what answers them
)

var protocolNames = [...]string{UDP: "udp", TCP: "tcp", TCPSYN: "tcp-syn", TCPSYNACK: "tcp-syn-ack", Echo: "icmp", EchoReply: "icmp-reply"}

func (p Protocol) String() string { return protocolNames[p] }

// ParseProtocol is the reverse of String.
func ParseProtocol(name string) (Protocol, error) {
	for p, n := range protocolNames {
		if n == name {
			return Protocol(p), nil
		}
	}
	return 0, fmt.Errorf("protocol %q is none of %s", name, strings.Join(protocolNames[:], ", "))
}

// Answer is what the other side sends in return.
func (p Protocol) Answer() Protocol {
	switch p {
	case Echo:
		return EchoReply
	case TCPSYN:
		return TCPSYNACK
	}
	return p
}

// Opening is what a flow begins with.
func (p Protocol) Opening() Protocol {
	if p == TCP {
		return TCPSYN
	}
	return p
}

func (p Protocol) isTCP() bool { return p == TCP || p == TCPSYN || p == TCPSYNACK }

// isEcho says whether there is one identifier in place of two ports.
func (p Protocol) isEcho() bool { return p == Echo || p == EchoReply }

// Ports is a range of ports, both ends included.
type Ports struct{ First, Last uint16 }

// ParsePorts reads "53" or "1024-65535".
func ParsePorts(text string) (Ports, error) {
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, err := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || a > b {
		return Ports{}, fmt.Errorf("ports %q: want a number or a range such as 1024-65535", text)
	}
	return Ports{uint16(a), uint16(b)}, nil
}

// String is what ParsePorts reads.
func (p Ports) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (p Ports) len() uint64 { return uint64(p.Last) - uint64(p.First) + 1 }

// Flows is every combination of the addresses of two prefixes and the ports of
// two ranges, counted with the source port first, then the source address, the
// destination port and the destination address. Addresses of a prefix are all
// in it, also the first and the last.
type Flows struct {
	Protocol           Protocol
	Src, Dst           netip.Prefix // of one family
	SrcPorts, DstPorts Ports        // of echoes, SrcPorts are identifiers and DstPorts do not count
	Count              uint64       // only the first so many; 0: all
}

// maxAddresses bounds how many addresses of a prefix count.
const maxAddresses = 1 << 32

// maxCombinations keeps numbers of flows within a stamp's sequence.
const maxCombinations = 1 << 40

// Validate says what is wrong with f.
func (f *Flows) Validate() error {
	if !f.Src.IsValid() || !f.Dst.IsValid() {
		return errors.New("flows need a source and a destination")
	}
	if f.Src.Addr().Is4() != f.Dst.Addr().Is4() {
		return fmt.Errorf("source %v and destination %v are of different families", f.Src, f.Dst)
	}
	if f.SrcPorts.First > f.SrcPorts.Last || f.DstPorts.First > f.DstPorts.Last {
		return fmt.Errorf("ports %v and %v: a range ends before it begins", f.SrcPorts, f.DstPorts)
	}
	n, ok := f.combinations()
	if f.Count == 0 && !ok {
		return fmt.Errorf("from %v to %v there are more than 2^40 flows: say how many are wanted", f.Src, f.Dst)
	}
	if ok && f.Count > n {
		return fmt.Errorf("%d flows are wanted, and %v ports %v to %v ports %v has %d: give larger prefixes or ranges", f.Count, f.Src, f.SrcPorts, f.Dst, f.DstPorts, n)
	}
	if f.Count > maxCombinations {
		return fmt.Errorf("%d flows: at most 2^40", f.Count)
	}
	return nil
}

// Len is the number of flows. f is valid.
func (f *Flows) Len() uint64 {
	if f.Count != 0 {
		return f.Count
	}
	n, _ := f.combinations()
	return n
}

// combinations is how many there are, and whether that is at most maxCombinations.
func (f *Flows) combinations() (uint64, bool) {
	n := uint64(1)
	for _, m := range [4]uint64{addresses(f.Src), addresses(f.Dst), f.SrcPorts.len(), f.destinationPorts()} {
		hi, lo := bits.Mul64(n, m)
		if hi != 0 || lo > maxCombinations {
			return 0, false
		}
		n = lo
	}
	return n, true
}

func (f *Flows) destinationPorts() uint64 {
	if f.Protocol.isEcho() {
		return 1
	}
	return f.DstPorts.len()
}

// addresses is the number of addresses in a prefix, as far as they count.
func addresses(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	if host >= 32 {
		return maxAddresses
	}
	return 1 << host
}

// Tuple is one flow: what identifies it in the headers. IPv4 addresses are in
// the Lo halves.
type Tuple struct {
	SrcHi, SrcLo, DstHi, DstLo uint64
	SrcPort, DstPort           uint16 // of echoes SrcPort is the identifier, DstPort 0
}

// Reverse is the flow of the answers.
func (t Tuple) Reverse(p Protocol) Tuple {
	t.SrcHi, t.SrcLo, t.DstHi, t.DstLo = t.DstHi, t.DstLo, t.SrcHi, t.SrcLo
	if !p.isEcho() {
		t.SrcPort, t.DstPort = t.DstPort, t.SrcPort
	}
	return t
}

// Source gives flows by their numbers. Its flows do not change.
type Source interface {
	Len() uint64
	Tuple(i uint64) Tuple // i is less than Len
}

// Product is the Source of a Flows. Immutable.
type Product struct {
	first                       Tuple
	srcPorts, sources, dstPorts uint64
	count                       uint64
}

// NewProduct returns the flows of f, which is valid.
func NewProduct(f Flows) *Product {
	p := &Product{srcPorts: f.SrcPorts.len(), sources: addresses(f.Src), dstPorts: f.destinationPorts(), count: f.Len()}
	p.first.SrcHi, p.first.SrcLo = Words(f.Src.Masked().Addr())
	p.first.DstHi, p.first.DstLo = Words(f.Dst.Masked().Addr())
	p.first.SrcPort, p.first.DstPort = f.SrcPorts.First, f.DstPorts.First
	if f.Protocol.isEcho() {
		p.first.DstPort = 0
	}
	return p
}

// Len implements Source.
func (p *Product) Len() uint64 { return p.count }

// Tuple implements Source.
func (p *Product) Tuple(i uint64) Tuple {
	t := p.first
	t.SrcPort += uint16(i % p.srcPorts)
	if i /= p.srcPorts; i == 0 {
		return t
	}
	t.SrcLo += i % p.sources
	if i /= p.sources; i == 0 {
		return t
	}
	t.DstPort += uint16(i % p.dstPorts)
	t.DstLo += i / p.dstPorts
	return t
}

// Table is a Source that was learned, in the order of what it answers.
type Table []Tuple

// Len implements Source.
func (t Table) Len() uint64 { return uint64(len(t)) }

// Tuple implements Source.
func (t Table) Tuple(i uint64) Tuple { return t[i] }

// Words are the two halves of an address; that of IPv4 is in lo.
func Words(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		b := a.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// Destination is the address that packets of the flow go to.
func (t Tuple) Destination(ipv6 bool) netip.Addr {
	if !ipv6 {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(t.DstLo))))
	}
	b := binary.BigEndian.AppendUint64(nil, t.DstHi)
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, t.DstLo)))
}
