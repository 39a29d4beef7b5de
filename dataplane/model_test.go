package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"handoff64/conntrack"
	"handoff64/dataplane/reference"
)

// natModel is a NAT64 as RFC 6146 describes it: plain maps, one rule after the
// other, packets by the slow translator of dataplane/reference. The one thing
// that it takes from the real one is which port a new mapping has.
type natModel struct {
	now       int // tenths of seconds
	dependent bool
	portOf    func(bibKey) (uint16, bool) // what the real one chose

	bib      map[bibKey]uint16
	sessions map[flowKey]*flow
	stored   map[synKey]*storedSYN
	pool4    []byte

	invited     map[bibKey]bool // mapped where a stored SYN was sent to
	invitations int
	problem     error // a mapping is not where such a SYN waits
}

// bibKey is a client's port or identifier. TCP and UDP have different BIBs, but
// one mapped port for both: the deviation that docs/conformance.md names.
type bibKey struct {
	client netip.Addr
	port   uint16
	echo   bool
}

type flowKey struct {
	bibKey
	server     netip.Addr // IPv4
	serverPort uint16     // 0 for echoes
	proto      byte       // 6, 17, or 1 for both ICMPs
}

type flow struct {
	state string // of TCP: the RFC's names
	life  int
	used  int
	vague bool // when it was last renewed is known to some seconds only
}

type synKey struct {
	server       netip.Addr
	port, mapped uint16
}

type storedSYN struct {
	packet []byte
	since  int
	round  bool
}

// Lifetimes of RFC 6146 §4 in tenths of seconds; an established connection has
// RFC 5382's 2 h 4 min.
const (
	lifeUDP, lifeICMP, lifeTrans, lifeEst, lifeSYN = 3000, 600, 2400, 74400, 60
)

func newModel(dependent bool, pool4 string, portOf func(bibKey) (uint16, bool)) *natModel {
	return &natModel{
		dependent: dependent, portOf: portOf, pool4: netip.MustParseAddr(pool4).AsSlice(),
		bib: map[bibKey]uint16{}, sessions: map[flowKey]*flow{}, stored: map[synKey]*storedSYN{},
		invited: map[bibKey]bool{},
	}
}

// fate is what the model expects of a packet: one that leaves, or a reason.
type fate struct {
	drop DropReason
	also DropReason        // of an error about it that went round
	out  *reference.Packet // leaves, a translation or an error of the NAT64's own
}

func dropped(r DropReason) fate { return fate{drop: r} }

// answered is a drop with an ICMPv4 error about it. One about a packet that went
// round goes round itself, back to the client (RFC 6146 §3.8).
func (m *natModel) answered(r DropReason, typ, code byte, about []byte, round bool) fate {
	o := m.own4(typ, code, about)
	if !round {
		return fate{drop: r, out: o}
	}
	back := m.error4(*o)
	return fate{drop: r, also: back.drop, out: back.out}
}

// embed and extract are RFC 6052 §2.2 for a /96 prefix.
func embed(v4 []byte) []byte {
	return append([]byte{0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0}, v4...)
}

func extract(v6 []byte) []byte { return v6[12:16] }

// tuple reads ports, or the identifier, from the upper layer.
func tuple(p *reference.Packet) (src, dst uint16, proto byte) {
	if p.Proto == 6 || p.Proto == 17 {
		return binary.BigEndian.Uint16(p.Upper), binary.BigEndian.Uint16(p.Upper[2:]), p.Proto
	}
	id := binary.BigEndian.Uint16(p.Upper[4:])
	return id, id, 1
}

func isQuery(p *reference.Packet) bool {
	return p.Proto == 58 && p.Upper[0] == 128 || p.Proto == 1 && p.Upper[0] == 8
}

func isError(p *reference.Packet) bool {
	return p.Proto == 58 && p.Upper[0] < 128 || p.Proto == 1 && p.Upper[0] != 0 && p.Upper[0] != 8
}

// serves says whether the protocol's BIB has an entry for the client's port:
// as long as it has a session (RFC 6146 §3.1).
func (m *natModel) serves(b bibKey, proto byte) bool {
	for k := range m.sessions {
		if k.bibKey == b && k.proto == proto {
			return true
		}
	}
	return false
}

// from6 is a packet from a client (RFC 6146 §3.5 to §3.8).
func (m *natModel) from6(pkt []byte) fate {
	p := reference.Decode(pkt)
	if isError(&p) {
		return m.error6(p)
	}
	v4 := extract(p.Dst)
	src, dst, proto := tuple(&p)
	k := flowKey{bibKey{netip.AddrFrom16([16]byte(p.Src)), src, proto == 1}, netip.AddrFrom4([4]byte(v4)), dst, proto}
	if proto == 1 {
		k.serverPort = 0
	}
	if r := m.admit6(k, &p); r != NotDropped {
		return dropped(r)
	}
	if p.TTL <= 1 {
		return fate{drop: DropHopLimit, out: m.own6(3, 0, pkt)}
	}
	port := m.bib[k.bibKey]
	e := reference.Endpoint{Src: m.pool4, Dst: v4, SrcPort: port, DstPort: dst}
	q := reference.Translate(p, e, 0)
	if !bytes.Equal(v4, m.pool4) {
		return fate{out: &q}
	}
	return m.from4(q.Encode(), true) // §3.8: as if it had come in on the other side
}

// admit6 finds or makes the session of a client's packet.
func (m *natModel) admit6(k flowKey, p *reference.Packet) DropReason {
	if s := m.sessions[k]; s != nil {
		m.renew(s, k.proto, p, false)
		return NotDropped
	}
	switch {
	case k.proto == 6 && !opening(p):
		if m.serves(k.bibKey, 6) {
			return NotDropped // "CLOSED": translated if there is a TCP BIB entry
		}
		return DropTCPWithoutSession
	case k.proto == 1 && !isQuery(p):
		return DropNoMapping
	}
	if _, known := m.bib[k.bibKey]; !known {
		m.newMapping(k)
	}
	s := m.open(k, "V6 INIT")
	syn := synKey{k.server, k.serverPort, m.bib[k.bibKey]}
	if k.proto == 6 && m.stored[syn] != nil { // "V4 INIT": a V6 SYN establishes
		s.state, s.life = "ESTABLISHED", lifeEst
		delete(m.stored, syn)
	}
	return NotDropped
}

// newMapping notes where the real one put a new mapping. One for a SYN has to
// be where a SYN from the same server's port waits for a client, if there is
// any: the oldest, of those whose port is free.
func (m *natModel) newMapping(k flowKey) {
	port, _ := m.portOf(k.bibKey)
	oldest, at := m.now+1, map[uint16]bool{}
	for key, s := range m.stored {
		if _, taken := m.clientOf(key.mapped, false); taken || key.mapped < 1024 || key.server != k.server || key.port != k.serverPort || k.proto != 6 {
			continue
		}
		if s.since < oldest {
			oldest = s.since
			clear(at)
		}
		if s.since == oldest {
			at[key.mapped] = true
		}
	}
	if len(at) > 0 && !at[port] {
		m.problem = fmt.Errorf("%v is mapped to %d, but SYNs wait at %v", k, port, at)
	}
	m.bib[k.bibKey] = port
	m.invited[k.bibKey] = len(at) > 0
	m.invitations += min(len(at), 1)
}

func (m *natModel) open(k flowKey, state string) *flow {
	s := &flow{state: state, used: m.now, life: map[byte]int{6: lifeTrans, 17: lifeUDP, 1: lifeICMP}[k.proto]}
	m.sessions[k] = s
	return s
}

// opening: a SYN, and not one that answers another.
func opening(p *reference.Packet) bool { return p.Upper[13]&0x17 == 0x02 }

// from4 is a packet from the IPv4 side, or one that went round.
func (m *natModel) from4(pkt []byte, round bool) fate {
	p := reference.Decode(pkt)
	if isError(&p) {
		return m.error4(p)
	}
	src, dst, proto := tuple(&p)
	server := netip.AddrFrom4([4]byte(p.Src))
	b, found := m.clientOf(dst, proto == 1)
	k := flowKey{b, server, src, proto}
	if proto == 1 {
		k.serverPort = 0
	}
	s := m.sessions[k]
	if !found || s == nil {
		if o, stop := m.admit4(k, &p, pkt, found, round); stop {
			return o
		}
	} else {
		m.renew(s, proto, &p, true)
	}
	if p.TTL <= 1 {
		return m.answered(DropTTL, 11, 0, pkt, round)
	}
	e := reference.Endpoint{Src: embed(p.Src), Dst: b.client.AsSlice(), SrcPort: src, DstPort: b.port}
	if proto == 1 {
		e.SrcPort = b.port // the reference puts an identifier into the first
	}
	q := reference.Translate(p, e, 0)
	return fate{out: &q}
}

// admit4 deals with a packet from the IPv4 side that has no session; stop says
// that it goes no further.
func (m *natModel) admit4(k flowKey, p *reference.Packet, pkt []byte, found, round bool) (o fate, stop bool) {
	refuse := func(r DropReason, typ, code byte) (fate, bool) {
		if typ == 0 {
			return dropped(r), true
		}
		return m.answered(r, typ, code, pkt, round), true
	}
	syn := k.proto == 6 && opening(p)
	if !found || !m.serves(k.bibKey, k.proto) {
		switch {
		case syn:
			return m.store(k, p, pkt, round), true
		case k.proto == 6 || k.proto == 1 && !isQuery(p):
			return refuse(DropNoMapping, 0, 0)
		case k.proto == 1:
			return refuse(DropNoMapping, 3, 1)
		}
		return refuse(DropNoMapping, 3, 3)
	}
	if m.dependent && !m.knows(k) {
		switch {
		case syn:
			return m.store(k, p, pkt, round), true
		case k.proto == 6:
			return refuse(DropFiltered, 0, 0)
		}
		return refuse(DropFiltered, 3, 13)
	}
	switch {
	case k.proto == 6 && !syn:
		return fate{}, false // "CLOSED": translated, and opens nothing
	case k.proto == 1 && !isQuery(p):
		return refuse(DropNoMapping, 0, 0)
	}
	m.open(k, "V4 INIT")
	return fate{}, false
}

// knows says whether the client's port was used with the server's address.
func (m *natModel) knows(k flowKey) bool {
	for o := range m.sessions {
		if o.bibKey == k.bibKey && o.proto == k.proto && o.server == k.server {
			return true
		}
	}
	return false
}

func (m *natModel) store(k flowKey, p *reference.Packet, pkt []byte, round bool) fate {
	_, mapped, _ := tuple(p)
	key := synKey{k.server, k.serverPort, mapped}
	if m.stored[key] == nil {
		m.stored[key] = &storedSYN{slices.Clone(pkt), m.now, round}
	}
	return dropped(DropSYNStored)
}

func (m *natModel) clientOf(mapped uint16, echo bool) (bibKey, bool) {
	for b, port := range m.bib {
		if port == mapped && b.echo == echo {
			return b, true
		}
	}
	return bibKey{}, false
}

// renew is what a packet does to its session: RFC 6146 §3.5.2.2 for TCP.
func (m *natModel) renew(s *flow, proto byte, p *reference.Packet, v4 bool) {
	restart := func() { s.used, s.vague = m.now, false }
	if proto != 6 {
		restart()
		return
	}
	flags := p.Upper[13]
	fin, syn, rst := flags&1 != 0, flags&2 != 0, flags&4 != 0
	become := func(state string, life int) { s.state, s.life = state, life; restart() }
	switch {
	case s.state == "V4 INIT" && syn && !v4, s.state == "V6 INIT" && syn && v4:
		become("ESTABLISHED", lifeEst)
	case s.state == "V6 INIT" && syn:
		restart()
	case s.state == "ESTABLISHED" && rst:
		become("TRANS", lifeTrans)
	case s.state == "ESTABLISHED" && fin && v4:
		become("V4 FIN RCV", lifeEst) // deviation: restarts the lifetime
	case s.state == "ESTABLISHED" && fin:
		become("V6 FIN RCV", lifeEst)
	case s.state == "V4 FIN RCV" && fin && !v4, s.state == "V6 FIN RCV" && fin && v4:
		become("V6 FIN + V4 FIN RCV", lifeTrans)
	case s.state == "ESTABLISHED", s.state == "V4 FIN RCV", s.state == "V6 FIN RCV":
		restart()
	case s.state == "V6 FIN + V4 FIN RCV" && syn && !rst: // deviation: the next connection
		become(map[bool]string{true: "V4 INIT", false: "V6 INIT"}[v4], lifeTrans)
	case s.state == "TRANS" && !rst:
		become("ESTABLISHED", lifeEst)
	}
}

// error4 is an ICMPv4 error: it has the session of the packet that it quotes.
func (m *natModel) error4(p reference.Packet) fate {
	q := reference.Decode(p.Upper[8:])
	src, dst, proto := tuple(&q)
	b, found := m.clientOf(src, proto == 1)
	k := flowKey{b, netip.AddrFrom4([4]byte(q.Dst)), dst, proto}
	if proto == 1 {
		k.serverPort = 0
	}
	if !found || m.sessions[k] == nil {
		return dropped(DropErrorWithoutSession)
	}
	if p.TTL <= 1 {
		return dropped(DropTTL)
	}
	outer := reference.Endpoint{Src: embed(p.Src), Dst: b.client.AsSlice()}
	inner := reference.Endpoint{Src: b.client.AsSlice(), Dst: embed(q.Dst), SrcPort: b.port, DstPort: dst}
	o := reference.Error(p, outer, inner, 0)
	return fate{out: &o}
}

// error6 is an ICMPv6 error. One of the client itself comes from its mapped
// address, one of a router from the NAT64's.
func (m *natModel) error6(p reference.Packet) fate {
	q := reference.Decode(p.Upper[8:])
	src, dst, proto := tuple(&q)
	b := bibKey{netip.AddrFrom16([16]byte(q.Dst)), dst, proto == 1}
	k := flowKey{b, netip.AddrFrom4([4]byte(extract(q.Src))), src, proto}
	if proto == 1 {
		k.serverPort = 0
	}
	if m.sessions[k] == nil {
		return dropped(DropErrorWithoutSession)
	}
	if p.TTL <= 1 {
		return dropped(DropHopLimit)
	}
	outer := reference.Endpoint{Src: m.pool4, Dst: extract(p.Dst)}
	if !bytes.Equal(p.Src, q.Dst) {
		outer.Src = netip.MustParseAddr(box4).AsSlice()
	}
	inner := reference.Endpoint{Src: extract(q.Src), Dst: m.pool4, SrcPort: src, DstPort: m.bib[b]}
	if proto == 1 {
		inner.SrcPort = m.bib[b]
	}
	o := reference.Error(p, outer, inner, 0)
	return fate{out: &o}
}

// own6 and own4 are errors of the NAT64's own about a whole packet.
func (m *natModel) own6(typ, code byte, about []byte) *reference.Packet {
	p := reference.Packet{
		Src: netip.MustParseAddr(box6).AsSlice(), Dst: about[8:24], TTL: 64, Proto: 58,
		Upper: append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, about[:min(len(about), 1280-48)]...),
	}
	p.Sent = len(p.Upper)
	p.Fill()
	return &p
}

func (m *natModel) own4(typ, code byte, about []byte) *reference.Packet {
	p := reference.Packet{
		Src: netip.MustParseAddr(box4).AsSlice(), Dst: about[12:16], TOS: 0xc0, TTL: 64, Proto: 1, DF: true,
		Upper: append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, about[:min(len(about), 576-28)]...),
	}
	p.Sent = len(p.Upper)
	p.Fill()
	return &p
}

// vagueness is how far the model's idea of a time and the real one may be
// apart: a tick of the wheel, or the step in which time passes.
func (s *flow) vagueness() int {
	if s.vague {
		return 2 * timeStep
	}
	return 5
}

const timeStep = 50

// settled says whether at that time it is clear of every session and stored SYN
// whether it has ended.
func (m *natModel) settled(at int) bool {
	near := func(d, vagueness int) bool { return -vagueness < d && d < vagueness+timeStep }
	for _, s := range m.sessions {
		d := at - s.used - s.life
		if near(d, s.vagueness()) || s.state == "ESTABLISHED" && near(d-lifeTrans, 2*timeStep) {
			return false
		}
	}
	for _, s := range m.stored {
		if near(at-s.since-lifeSYN, 5) {
			return false
		}
	}
	return true
}

// pass lets time pass and returns what leaves meanwhile: probes for connections
// that were idle too long, errors for SYNs that nobody wanted.
func (m *natModel) pass(to int) (out []*reference.Packet) {
	for k, s := range m.stored {
		if to-s.since > lifeSYN {
			delete(m.stored, k)
			b, _ := m.clientOf(k.mapped, false)
			if m.sessions[flowKey{b, k.server, k.port, 6}] != nil {
				continue // RFC 5382 REQ-4: the connection is there after all
			}
			if o := m.answered(DropSYNStored, 3, 3, s.packet, s.round).out; o != nil {
				out = append(out, o)
			}
		}
	}
	for k, s := range m.sessions {
		for m.sessions[k] != nil && to-s.used > s.life {
			if s.state != "ESTABLISHED" {
				delete(m.sessions, k)
				break
			}
			out = append(out, m.probe(k))
			s.state, s.used, s.life, s.vague = "TRANS", s.used+s.life, lifeTrans, true
		}
	}
	for b := range m.bib {
		if !m.serves(b, 6) && !m.serves(b, 17) && !m.serves(b, 1) {
			delete(m.bib, b)
		}
	}
	m.now = to
	return out
}

// probe is RFC 6146 §3.5.2.2: a segment of the server's without data, numbers
// zero, ACK alone.
func (m *natModel) probe(k flowKey) *reference.Packet {
	v4 := k.server.AsSlice()
	p := reference.Packet{Src: embed(v4), Dst: k.client.AsSlice(), TTL: 64, Proto: 6, Upper: make([]byte, 20), Sent: 20}
	binary.BigEndian.PutUint16(p.Upper, k.serverPort)
	binary.BigEndian.PutUint16(p.Upper[2:], k.port)
	p.Upper[12], p.Upper[13] = 5<<4, 0x10
	p.Fill()
	return &p
}

// sameMapping holds the model's mappings to the real one's: a bijection.
func (m *natModel) sameMappings(table *conntrack.Table) error {
	if m.problem != nil {
		return m.problem
	}
	seen := map[bibKey]uint16{}
	table.BIB(func(i conntrack.BIBInfo) bool {
		seen[bibKey{netip6(i.Client), i.ClientPort, i.Proto == conntrack.ICMP}] = i.MappedPort
		return true
	})
	for b, port := range m.bib {
		if seen[b] != port {
			return fmt.Errorf("%v is mapped to %d, and was to %d", b, seen[b], port)
		}
		for other, taken := range m.bib {
			if other != b && taken == port && other.echo == b.echo {
				return fmt.Errorf("%v and %v have one mapped port, %d", b, other, port)
			}
		}
		if !b.echo && !m.invited[b] && port%2 != b.port%2 {
			return fmt.Errorf("%v is mapped to %d: the parity is lost", b, port)
		}
	}
	if len(seen) != len(m.bib) {
		return fmt.Errorf("%d mappings, want %d", len(seen), len(m.bib))
	}
	return nil
}

func netip6(a conntrack.Addr6) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return netip.AddrFrom16(b)
}
