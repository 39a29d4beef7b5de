package server

import (
	"bytes"
	"encoding/binary"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/handoff/wire"
)

// entryAnswer checks that the only answer is in format (c).
func (x *harness) entryAnswer(as []answer, mapped, port uint16, auth, pkt []byte) {
	x.t.Helper()
	p := x.answer(as)
	form, _ := p.ToNAT64()
	want := *entryOf(mapped, clientAddr, port)
	if form != wire.FormEntry || p.Entry != want || !bytes.Equal(p.Authenticator, auth) || !bytes.Equal(p.Packet, pkt) {
		x.t.Fatalf("the answer is %+v, want the entry %+v", p, want)
	}
	if a := as[0]; a.own != ownAddr || a.to != nat64Addr || a.port != nat64Port {
		x.t.Fatalf("answer from %v to %v:%d", a.own, a.to, a.port)
	}
}

func (x *harness) events(kinds ...EventKind) {
	x.t.Helper()
	var got []EventKind
	for _, e := range x.out.events {
		got = append(got, e.Kind)
	}
	if len(got) != len(kinds) {
		x.t.Fatalf("events %v, want %v", got, kinds)
	}
	for i := range got {
		if got[i] != kinds[i] {
			x.t.Fatalf("events %v, want %v", got, kinds)
		}
	}
}

func TestNotification(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	x.entryAnswer(x.want(notification(3719, clientAddr, 53186), notified), 3719, 53186, goodAuth, nil)
	x.events(Created)
	x.entryAnswer(x.want(notification(3719, clientAddr, 53186), notified), 3719, 53186, goodAuth, nil)
	x.events() // a retry changes nothing
	if !x.out.empty() {
		t.Fatal("a retry is written to disk")
	}
	// The client's port gets another mapped port; then another client gets that.
	x.entryAnswer(x.want(notification(3720, clientAddr, 53186), notified), 3720, 53186, goodAuth, nil)
	x.events(Deleted, Created)
	x.want(notification(3721, clientAddr, 5), notified)
	other := clientAddr
	other[15] = 0x75
	x.want(notification(3720, other, 9), notified)
	x.events(Deleted, Created)
	if x.channel().count() != 2 {
		t.Fatalf("%d entries", x.channel().count())
	}
	// Both rules at once: the client's old entry and the port's old owner go.
	x.want(notification(3720, clientAddr, 5), notified)
	x.events(Deleted, Deleted, Created)
}

func TestNotificationRefused(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	for _, p := range []uint16{0, 9, 1023, teredoPort, serverPort, nat64Port} {
		x.want(notification(p, clientAddr, 7), refusedMappedPort)
	}
	x.want(notification(2000, addr6{}, 7), refusedClient)
	x.want(notification(2000, addr6{0: 0xff, 1: 2, 15: 1}, 7), refusedClient)
	x.want(notification(2000, clientAddr, 0), refusedClient)
	for name, p := range map[wire.Status]payload{
		wire.NoToken:         {auth: goodAuth, entry: entryOf(2000, clientAddr, 7)},
		wire.NoAuthenticator: {token: goodToken, entry: entryOf(2000, clientAddr, 7)},
		wire.NoIdentifier:    {token: goodToken, auth: goodAuth, entry: entryOf(2000, clientAddr, 7), bare: true},
		wire.NoContent:       {token: goodToken, auth: goodAuth},
	} {
		x.want(p, refusedFormat(name))
	}
	if x.channel().count() != 0 || !x.out.empty() {
		t.Fatal("something was stored")
	}
}

func TestMultiEntry(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	other := addr6{0: 0x20, 15: 9}
	otherAuth := []byte("another client's..")
	var m wire.MultiEntry
	m.Reset(goodToken, nil)
	m.AddEntry(goodAuth, entryOf(2001, clientAddr, 1))
	m.AddEntry(goodAuth, entryOf(2002, clientAddr, 2))
	m.AddEntry(otherAuth, entryOf(2003, other, 1))
	o, as := x.give(ownAddr, nat64Addr, nat64Port, m.Bytes())
	if o != notified || len(as) != 3 {
		t.Fatalf("%v with %d answers", o, len(as))
	}
	for i := range as {
		p := x.answer(as[i : i+1])
		auth := goodAuth
		if i == 2 {
			auth = otherAuth
		}
		if p.Entry.MappedPort != uint16(2001+i) || !bytes.Equal(p.Authenticator, auth) || p.PacketVersion != 0 {
			t.Errorf("echo %d is %+v", i, p)
		}
	}
	// One bad entry and none is stored.
	m.Reset(goodToken, nil)
	m.AddEntry(goodAuth, entryOf(2004, clientAddr, 4))
	m.AddEntry(goodAuth, entryOf(80, clientAddr, 5))
	if o, as := x.give(ownAddr, nat64Addr, nat64Port, m.Bytes()); o != refusedMappedPort || len(as) != 0 || x.channel().count() != 3 {
		t.Fatalf("%v with %d answers, %d entries", o, len(as), x.channel().count())
	}
}

// TestMultiEntryWithoutRoom: what finds no room is refused, the rest is not.
func TestMultiEntryWithoutRoom(t *testing.T) {
	live := &frozen{liveSet{}}
	x := newAuthenticated(t, 2, live)
	for p := range uint16(10) {
		live.live[peer{nat64Addr, 2000 + p}] = struct{}{}
	}
	var m wire.MultiEntry
	m.Reset(goodToken, nil)
	for n := range uint16(4) {
		m.AddEntry(goodAuth, entryOf(2000+n, clientAddr, 1+n))
	}
	if o, as := x.give(ownAddr, nat64Addr, nat64Port, m.Bytes()); o != notified || len(as) != 2 || x.h.counts.entriesRefused.Load() != 2 {
		t.Fatalf("%v with %d answers, %d refused", o, len(as), x.h.counts.entriesRefused.Load())
	}
	m.Reset(goodToken, nil)
	m.AddEntry(goodAuth, entryOf(2008, clientAddr, 8))
	m.AddEntry(goodAuth, entryOf(2009, clientAddr, 9))
	if o, as := x.give(ownAddr, nat64Addr, nat64Port, m.Bytes()); o != refusedPorts || len(as) != 0 {
		t.Fatalf("%v with %d answers", o, len(as))
	}
}

func TestQuery(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	q := query(clientAddr, 53186, 3719)
	x.entryAnswer(x.want(q, answered), 3719, 53186, goodAuth, q.packet)
	x.events(Created)
	x.entryAnswer(x.want(q, answered), 3719, 53186, goodAuth, q.packet)
	x.events()
	if !x.out.empty() {
		t.Fatal("a query that finds its entry is written to disk")
	}
	// UDP shares the entry (an entry has no protocol field).
	u := q
	u.packet = ip6(clientAddr, embed(wellKnown, ownAddr), packet.ProtoUDP, udp(53186, 53, "?"))
	x.entryAnswer(x.want(u, answered), 3719, 53186, goodAuth, u.packet)
	// A hint that is taken, or must not be.
	for _, hint := range []uint16{0, 80, 3719, teredoPort, serverPort, nat64Port} {
		p := x.answer(x.want(query(clientAddr, 10000+hint%1000, hint), answered))
		if m := p.Entry.MappedPort; m == hint || m < 1024 || m == teredoPort || m == serverPort || m == nat64Port {
			t.Errorf("hint %d gave mapped port %d", hint, m)
		}
	}
}

func TestQueryRefused(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	server := embed(wellKnown, ownAddr)
	with := func(pkt []byte) payload { return payload{token: goodToken, auth: goodAuth, packet: pkt} }
	segments := append([]byte{packet.ProtoTCP, 0, 0, 1, 0, 0, 0, 0}, tcp(7, 80)...)
	later := append([]byte{packet.ProtoTCP, 0, 0, 8, 0, 0, 0, 1}, tcp(7, 80)...)
	bad := ip6(clientAddr, server, packet.ProtoICMPv6, icmp(128, 0, 1, nil))
	bad[len(bad)-1] ^= 1
	half := append([]byte{packet.ProtoICMPv6, 0, 0, 1, 0, 0, 0, 1}, icmp(128, 0, 1, nil)...)
	for name, c := range map[string]struct {
		pkt []byte
		o   outcome
	}{
		"another server":     {ip6(clientAddr, embed(wellKnown, addr4{198, 51, 100, 2}), 6, tcp(7, 80)), refusedDestination},
		"multicast client":   {ip6(addr6{0: 0xff, 1: 1}, server, 6, tcp(7, 80)), refusedClient},
		"no client":          {ip6(addr6{}, server, 6, tcp(7, 80)), refusedClient},
		"port zero":          {ip6(clientAddr, server, 17, udp(0, 80, "")), refusedClient},
		"short TCP":          {ip6(clientAddr, server, 6, tcp(7, 80)[:10]), refusedPacket},
		"segments left":      {ip6(clientAddr, server, packet.ProtoRouting, segments), refusedPacket},
		"a later fragment":   {ip6(clientAddr, server, packet.ProtoFragment, later), refusedFragment},
		"half an echo":       {ip6(clientAddr, server, packet.ProtoFragment, half), refusedFragment},
		"echo, bad checksum": {bad, refusedChecksum},
		"echo reply":         {ip6(clientAddr, server, packet.ProtoICMPv6, icmp(129, 0, 1, nil)), refusedICMP},
		"neighbour":          {ip6(clientAddr, server, packet.ProtoICMPv6, icmp(135, 0, 0, make([]byte, 16))), refusedICMP},
		"error about a ping": {ip6(clientAddr, server, packet.ProtoICMPv6, icmp(1, 4, 0, ip6(server, clientAddr, 58, icmp(129, 0, 1, nil)))), refusedICMP},
		"foreign error":      {ip6(clientAddr, server, packet.ProtoICMPv6, icmp(1, 4, 0, ip6(clientAddr, clientAddr, 6, tcp(80, 7)))), refusedForeign},
		"unmatched error":    {ip6(clientAddr, server, packet.ProtoICMPv6, icmp(1, 4, 0, ip6(server, clientAddr, 6, tcp(80, 7)))), refusedICMP},
		"empty error":        {ip6(clientAddr, server, packet.ProtoICMPv6, icmp(1, 4, 0, nil)), refusedPacket},
		"SCTP, loopback":     {ip6(addr6{15: 1}, server, 132, make([]byte, 12)), refusedICMP},
	} {
		if o, as := x.ask(with(c.pkt)); o != c.o || len(as) != 0 || !x.out.empty() {
			t.Errorf("%s: %v with %d answers, want %v", name, o, len(as), c.o)
		}
	}
	if x.channel().count() != 0 {
		t.Fatalf("%d entries", x.channel().count())
	}
}

func TestEcho(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	server := embed(wellKnown, ownAddr)
	// Behind an extension header, which the reply does without.
	echo := icmp(128, 0, 0x12340007, []byte("odd length!"))
	plain := ip6(clientAddr, server, packet.ProtoICMPv6, echo)
	options := append([]byte{packet.ProtoICMPv6, 0, 1, 4, 0, 0, 0, 0}, plain[packet.IPv6Len:]...)
	for name, pkt := range map[string][]byte{"plain": plain, "with options": ip6(clientAddr, server, packet.ProtoDestOptions, options)} {
		p := x.answer(x.want(payload{token: goodToken, auth: goodAuth, packet: pkt}, echoed))
		var q packet.Parsed
		if s := packet.Parse6(p.Packet, 0, &q); s != packet.Good {
			t.Fatalf("%s: the reply is %v", name, s)
		}
		form, _ := p.ToNAT64()
		if form != wire.FormIPv6 || q.Kind != packet.KindEchoReply || fromWords(q.DstHi, q.DstLo) != clientAddr ||
			fromWords(q.SrcHi, q.SrcLo) != server || !icmp6Valid(p.Packet, &q) || !bytes.Equal(p.Authenticator, goodAuth) {
			t.Fatalf("%s: the reply is %+v", name, q)
		}
		if !bytes.Equal(p.Packet[q.L4+4:], echo[4:]) {
			t.Fatalf("%s: the reply carries %x", name, p.Packet[q.L4+4:])
		}
	}
	if x.channel().count() != 0 || !x.out.empty() {
		t.Fatal("an echo leaves state")
	}
}

func TestOtherProtocol6(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	server := embed(wellKnown, ownAddr)
	sctp := make([]byte, 12)
	options := append([]byte{132, 1, 1, 12, 15: 0}, sctp...)
	chain := append([]byte{packet.ProtoFragment, 0, 1, 4, 0, 0, 0, 0, 132, 0, 0, 0, 0, 0, 0, 1}, sctp...)
	for name, c := range map[string]struct {
		next    uint8
		upper   []byte
		pointer uint32
	}{
		"SCTP": {132, sctp, 6}, "behind options": {packet.ProtoDestOptions, options, 40}, "behind two headers": {packet.ProtoDestOptions, chain, 48},
	} {
		offending := ip6(clientAddr, server, c.next, c.upper)
		p := x.answer(x.want(payload{token: goodToken, auth: goodAuth, packet: offending}, errored))
		var q packet.Parsed
		if s := packet.Parse6(p.Packet, 0, &q); s != packet.Good || q.ICMPType != 4 || q.ICMPCode != 1 {
			t.Fatalf("%s: %v, type %d code %d", name, s, q.ICMPType, q.ICMPCode)
		}
		if fromWords(q.SrcHi, q.SrcLo) != server || fromWords(q.DstHi, q.DstLo) != clientAddr || !icmp6Valid(p.Packet, &q) {
			t.Errorf("%s: %+v", name, q)
		}
		if got := binary.BigEndian.Uint32(p.Packet[q.L4+4:]); got != c.pointer {
			t.Errorf("%s: pointer %d, want %d", name, got, c.pointer)
		}
		if !bytes.Equal(p.Packet[q.L4+8:], offending) {
			t.Errorf("%s: quotes %x", name, p.Packet[q.L4+8:])
		}
	}
}

func TestHostedPacket(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	x.want(notification(3719, clientAddr, 53186), notified)
	from := func(pkt []byte) payload { return payload{token: goodToken, packet: pkt} }

	found := ip4(ownAddr, nat64Addr, packet.ProtoTCP, tcp(80, 3719))
	x.entryAnswer(x.want(from(found), matched), 3719, 53186, goodAuth, found)
	none := ip4(ownAddr, nat64Addr, packet.ProtoUDP, udp(80, 3720, "hello"))
	p := x.answer(x.want(from(none), returned))
	if form, _ := p.ToNAT64(); form != wire.FormIPv4 || !bytes.Equal(p.Packet, none) || !bytes.Equal(p.Token, goodToken) {
		t.Fatalf("%+v", p)
	}

	quote := ip4(nat64Addr, ownAddr, packet.ProtoTCP, tcp(3719, 80))
	err := ip4(addr4{203, 0, 113, 9}, nat64Addr, packet.ProtoICMP, icmp(11, 0, 0, quote))
	x.entryAnswer(x.want(from(err), matched), 3719, 53186, goodAuth, err)

	sctp := ip4(ownAddr, nat64Addr, 132, make([]byte, 12))
	p = x.answer(x.want(from(sctp), errored))
	var q packet.Parsed
	if s := packet.Parse4(p.Packet, 0, &q); s != packet.Good || q.ICMPType != 3 || q.ICMPCode != 2 ||
		q.Src4 != word4(nat64Addr) || q.Dst4 != word4(ownAddr) || !bytes.Equal(p.Packet[q.L4+8:], sctp) {
		t.Fatalf("%v %+v", s, q)
	}
	if form, _ := p.ToNAT64(); form != wire.FormIPv4 {
		t.Fatal(form)
	}
}

func TestHostedPacketRefused(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	router := addr4{203, 0, 113, 9}
	quote := func(src, dst addr4, proto uint8, upper []byte) []byte {
		return ip4(router, nat64Addr, packet.ProtoICMP, icmp(3, 1, 0, ip4(src, dst, proto, upper)))
	}
	later := ip4(ownAddr, nat64Addr, packet.ProtoUDP, udp(1, 2, ""))
	binary.BigEndian.PutUint16(later[packet.IPv4FlagsOff:], 5)
	binary.BigEndian.PutUint16(later[packet.IPv4Checksum:], 0)
	binary.BigEndian.PutUint16(later[packet.IPv4Checksum:], ^packet.Fold(packet.Sum(later[:20], 0)))
	broken := ip4(ownAddr, nat64Addr, packet.ProtoTCP, tcp(80, 3719))
	broken[packet.IPv4Checksum] ^= 1
	for name, c := range map[string]struct {
		pkt []byte
		o   outcome
	}{
		"to another NAT64":   {ip4(ownAddr, addr4{192, 0, 2, 8}, 6, tcp(80, 3719)), refusedDestination},
		"from another host":  {ip4(router, nat64Addr, 6, tcp(80, 3719)), refusedForeign},
		"bad checksum":       {broken, refusedPacket},
		"a later fragment":   {later, refusedFragment},
		"echo reply":         {ip4(ownAddr, nat64Addr, 1, icmp(0, 0, 1, nil)), refusedICMP},
		"timestamp":          {ip4(ownAddr, nat64Addr, 1, icmp(13, 0, 1, nil)), refusedICMP},
		"error, unmatched":   {quote(nat64Addr, ownAddr, 6, tcp(3719, 80)), refusedICMP},
		"error about a ping": {quote(nat64Addr, ownAddr, 1, icmp(8, 0, 1, nil)), refusedICMP},
		"error, not ours":    {quote(nat64Addr, router, 6, tcp(3719, 80)), refusedForeign},
		"error, not its own": {quote(router, ownAddr, 6, tcp(3719, 80)), refusedForeign},
		"error, cut":         {ip4(router, nat64Addr, 1, icmp(3, 1, 0, nil)), refusedPacket},
	} {
		if o, as := x.ask(payload{token: goodToken, packet: c.pkt}); o != c.o || len(as) != 0 || !x.out.empty() {
			t.Errorf("%s: %v with %d answers, want %v", name, o, len(as), c.o)
		}
	}
}

// TestErrorFromClient: the error may come from a router, the entry and the
// authenticator are the client's.
func TestErrorFromClient(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	x.want(notification(3719, clientAddr, 53186), notified)
	server := embed(wellKnown, ownAddr)
	quote := ip6(server, clientAddr, packet.ProtoTCP, tcp(80, 53186))
	err := ip6(addr6{0: 0x20, 15: 1}, server, packet.ProtoICMPv6, icmp(2, 0, 1280, quote))
	as := x.want(payload{token: goodToken, auth: []byte("router's"), packet: err}, matched)
	x.entryAnswer(as, 3719, 53186, goodAuth, err)
}

// TestNewestAuthenticator: what a client's latest packet carried is kept.
func TestNewestAuthenticator(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	x.want(notification(3719, clientAddr, 53186), notified)
	q := query(clientAddr, 53186, 0)
	q.auth = []byte("a newer one")[:10]
	x.want(q, answered)
	if x.out.empty() {
		t.Fatal("the authenticator is not written to disk")
	}
	found := ip4(ownAddr, nat64Addr, packet.ProtoTCP, tcp(80, 3719))
	x.entryAnswer(x.want(payload{token: goodToken, packet: found}, matched), 3719, 53186, q.auth, found)
}

// TestEntryAndPacket: an entry may have a packet beside it (draft §5).
func TestEntryAndPacket(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	p := query(clientAddr, 53186, 0)
	p.entry = entryOf(3719, clientAddr, 53186)
	as := x.want(p, answered)
	if len(as) != 2 {
		t.Fatalf("%d answers", len(as))
	}
	x.entryAnswer(as[:1], 3719, 53186, goodAuth, nil)
	x.entryAnswer(as[1:], 3719, 53186, goodAuth, p.packet)
	p.packet = ip6(clientAddr, clientAddr, packet.ProtoTCP, tcp(53186, 80)) // not for this host
	x.entryAnswer(x.want(p, notified), 3719, 53186, goodAuth, nil)
	if x.h.counts.packetsRefused.Load() != 1 {
		t.Error("the packet's refusal is not counted")
	}
	p.entry.MappedPort = 80
	x.want(p, refusedMappedPort)
}

// TestOwnAddressesAreApart: each address that is asked has a table of its own.
func TestOwnAddressesAreApart(t *testing.T) {
	x := newAuthenticated(t, 100, noSockets{})
	second := addr4{198, 51, 100, 2}
	other := addr6{0: 0x20, 15: 9}
	x.authenticate(second, nat64Addr, nat64Port, goodToken)
	x.want(notification(3719, clientAddr, 1), notified)
	if o, as := x.give(second, nat64Addr, nat64Port, notification(3719, other, 1).bytes()); o != notified || as[0].own != second {
		t.Fatalf("%v from %v", o, as[0].own)
	}
	if x.channel().count() != 1 || x.h.table.count != 2 {
		t.Fatalf("%d and %d entries", x.channel().count(), x.h.table.count)
	}
}

// TestOutcomesComplete: every outcome is described, and has a name of its own.
func TestOutcomesComplete(t *testing.T) {
	seen := map[string]bool{}
	for o := accepted; int(o) < numOutcomes; o++ {
		if o.String() == "" || seen[o.String()] {
			t.Errorf("outcome %d: name %q", o, o)
		}
		seen[o.String()] = true
		if o < firstWire && outcomeRows[o].meaning == "" {
			t.Errorf("outcome %v has no meaning", o)
		}
	}
}
