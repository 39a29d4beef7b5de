package handoff

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
	"handoff64/ring"
)

// control is one payload from a server, and what is to become of it.
type control struct {
	name    string
	payload []byte
	refusal Refusal
	entry   bool
	kind    conntrack.FromServerKind // of the packet
	packet  bool
}

// error4 is a router's ICMP error about a packet.
func error4(dst uint32, kind byte, quote []byte) []byte {
	p := udp4(203<<24|113, dst, uint16(kind)<<8, 0, quote)
	p[9] = protocolICMP
	return p
}

// error6 is a router's ICMPv6 error about a packet.
func error6(dst [16]byte, kind byte, quote []byte) []byte {
	p := udp6([16]byte{0: 0x20, 1: 1, 15: 9}, dst, uint16(kind)<<8, 0, quote)
	p[6] = protocolICMPv6
	return p
}

// spoofed are payloads that break one rule each (draft §6), sent by server 1.
func (r *rig) spoofed() []control {
	s, other := serverAddr(1), serverAddr(2)
	e := entry(client1, 40000, 3719)
	six, mine := octets6(client1), within(s)
	before4 := udp4(s, ownAddr, 53, 3719, nil)
	before6, after6 := udp6(six, mine, 40000, 53, nil), udp6(mine, six, 53, 40000, nil)
	token := func(data []byte, packet []byte) []byte { return append(wire.AppendToken(nil, data), packet...) }
	auth := func(data []byte, packet []byte) []byte { return append(wire.AppendAuthenticator(nil, data), packet...) }
	wrong := slices.Clone(r.token(s))
	wrong[17] ^= 1
	foreign := e
	foreign.Prefix[0]++
	short := e // the /40, as if it were a /96
	a := rigPool6[1].Addr().As16()
	short.Prefix = [12]byte(a[:12])
	withPort := func(p uint16) []byte { x := e; x.MappedPort = p; return r.formC(s, x, nil) }
	ofClient2 := entry(client2, 40000, 3719)
	return []control{
		{name: "nothing", payload: nil, refusal: Refusal(wire.Empty)},
		{name: "garbage", payload: []byte("garbage"), refusal: Refusal(wire.CutPacket)},
		{name: "unknown format", payload: append(r.formA(s, nil), 0xf0), refusal: Refusal(wire.UnknownFormat)},
		{name: "cut packet", payload: r.formA(s, before4[:27]), refusal: Refusal(wire.CutPacket)},
		{name: "octets behind the packet", payload: r.formA(s, append(slices.Clone(before4), 0)), refusal: Refusal(wire.OctetsAfterPacket)},
		{name: "no content", payload: r.formA(s, nil), refusal: Refusal(wire.NoContent)},
		{name: "packet without token", payload: before4, refusal: Refusal(wire.NoToken)},
		{name: "IPv6 without authenticator", payload: after6, refusal: Refusal(wire.NoAuthenticator)},
		{name: "IPv6 with token", payload: r.formA(s, after6), refusal: Refusal(wire.NoAuthenticator)},
		{name: "entry without authenticator", payload: wire.AppendEntry(r.formA(s, nil), &e), refusal: Refusal(wire.NoAuthenticator)},
		{name: "wrong token", payload: token(wrong, before4), refusal: BadToken},
		{name: "empty token", payload: token(nil, before4), refusal: BadToken},
		{name: "token of another server", payload: token(r.token(other), before4), refusal: BadToken},
		{name: "authenticator as token", payload: token(r.auth(s, client1), before4), refusal: BadToken},
		{name: "token as authenticator", payload: auth(r.token(s), after6), refusal: BadAuthenticator},
		{name: "authenticator of another server", payload: auth(r.auth(other, client1), after6), refusal: BadAuthenticator},
		{name: "authenticator of another client", payload: auth(r.auth(s, client2), after6), refusal: BadAuthenticator},
		{name: "entry for another client", payload: wire.AppendEntry(auth(r.auth(s, client1), nil), &ofClient2), refusal: BadAuthenticator},
		{name: "entry, authenticator of another server", payload: wire.AppendEntry(auth(r.auth(other, client1), nil), &e), refusal: BadAuthenticator},
		{name: "entry, right token, wrong authenticator", payload: append(wire.AppendEntry(wire.AppendAuthenticator(r.formA(s, nil), wrong), &e), before4...), refusal: BadAuthenticator},
		{name: "foreign prefix", payload: r.formC(s, foreign, nil), refusal: ForeignPrefix},
		{name: "prefix that is no /96", payload: r.formC(s, short, nil), refusal: ForeignPrefix},
		{name: "port 0", payload: withPort(0), refusal: BadMappedPort},
		{name: "port 1023", payload: withPort(1023), refusal: BadMappedPort},
		{name: "port 3544", payload: withPort(3544), refusal: BadMappedPort},
		{name: "server port", payload: withPort(r.cfg.ServerPort), refusal: BadMappedPort},
		{name: "client port", payload: withPort(r.cfg.ClientPort), refusal: BadMappedPort},
		{name: "IPv4 from another server", payload: r.formA(s, udp4(other, ownAddr, 53, 3719, nil)), refusal: ForeignIPv4},
		{name: "IPv4 to somebody else", payload: r.formA(s, udp4(s, other, 53, 3719, nil)), refusal: ForeignIPv4},
		{name: "IPv4 of another pool4 address", payload: r.formA(s, udp4(otherOwn, s, 3719, 53, nil)), refusal: ForeignIPv4},
		{name: "IPv4 from us to another server", payload: r.formA(s, udp4(ownAddr, other, 3719, 53, nil)), refusal: ForeignIPv4},
		{name: "entry with foreign IPv4", payload: r.formC(s, e, udp4(other, ownAddr, 53, 3719, nil)), refusal: ForeignIPv4},
		{name: "IPv6 with a foreign source", payload: auth(r.auth(s, client1), udp6(within(other), six, 53, 40000, nil)), refusal: ForeignIPv6},
		{name: "IPv6 from outside pool6", payload: auth(r.auth(s, client1), udp6(octets6(client2), six, 53, 40000, nil)), refusal: ForeignIPv6},
		{name: "(b) before translation", payload: auth(r.auth(s, client1), before6), refusal: NotTranslated},
		{name: "entry with foreign IPv6", payload: r.formC(s, e, udp6(within(other), six, 53, 40000, nil)), refusal: ForeignIPv6},
		{name: "entry, IPv6 of another client", payload: r.formC(s, e, udp6(octets6(client2), mine, 1, 2, nil)), refusal: OtherClient},
		{name: "(a) with a router's ICMP error", payload: r.formA(s, error4(ownAddr, 11, udp4(ownAddr, s, 3719, 53, nil))), refusal: ForeignIPv4},
		{name: "entry, ICMP error about another server's packet", payload: r.formC(s, e, error4(ownAddr, 3, udp4(ownAddr, other, 3719, 53, nil))), refusal: ForeignIPv4},
		{name: "entry, ICMP error about another address's packet", payload: r.formC(s, e, error4(ownAddr, 3, udp4(otherOwn, s, 3719, 53, nil))), refusal: ForeignIPv4},
		{name: "entry, ICMP error to another address", payload: r.formC(s, e, error4(otherOwn, 3, udp4(ownAddr, s, 3719, 53, nil))), refusal: ForeignIPv4},
		{name: "entry, ICMP redirect", payload: r.formC(s, e, error4(ownAddr, 5, udp4(ownAddr, s, 3719, 53, nil))), refusal: ForeignIPv4},
		{name: "entry, ICMP error cut", payload: r.formC(s, e, error4(ownAddr, 3, udp4(ownAddr, s, 3719, 53, nil)[:19])), refusal: ForeignIPv4},
		{name: "entry, ICMPv6 error about another server's packet", payload: r.formC(s, e, error6(mine, 1, udp6(within(other), six, 53, 40000, nil))), refusal: OtherClient},
		{name: "entry, ICMPv6 error about another client's packet", payload: r.formC(s, e, error6(mine, 1, udp6(mine, octets6(client2), 53, 40000, nil))), refusal: OtherClient},
		{name: "entry, ICMPv6 error to another server", payload: r.formC(s, e, error6(within(other), 1, udp6(mine, six, 53, 40000, nil))), refusal: ForeignIPv6},
		{name: "entry, ICMPv6 message that is no error", payload: r.formC(s, e, error6(mine, 128, udp6(mine, six, 53, 40000, nil))), refusal: OtherClient},
		{name: "entry, ICMPv6 error cut", payload: r.formC(s, e, error6(mine, 1, udp6(mine, six, 53, 40000, nil)[:39])), refusal: OtherClient},
		{name: "entry, IPv6 to another client", payload: r.formC(s, e, udp6(mine, octets6(client2), 1, 2, nil)), refusal: OtherClient},
	}
}

// genuine are payloads that keep every rule.
func (r *rig) genuine() []control {
	s := serverAddr(1)
	e := entry(client1, 40000, 3719)
	six, mine := octets6(client1), within(s)
	before4, after4 := udp4(s, ownAddr, 53, 3719, nil), udp4(ownAddr, s, 3719, 53, nil)
	before6, after6 := udp6(six, mine, 40000, 53, nil), udp6(mine, six, 53, 40000, nil)
	auth := wire.AppendAuthenticator(nil, r.auth(s, client1))
	low, high := e, e
	low.MappedPort, high.MappedPort = 1024, 65535
	return []control{
		{name: "(a) before", payload: r.formA(s, before4), packet: true, kind: conntrack.GotPacket},
		{name: "(a) after", payload: r.formA(s, after4), packet: true, kind: conntrack.GotTranslated},
		{name: "(b)", payload: append(slices.Clone(auth), after6...), packet: true, kind: conntrack.GotTranslated},
		{name: "(b) with a prefix that is no /96", payload: append(slices.Clone(auth), udp6(within40(s), six, 53, 40000, nil)...), packet: true, kind: conntrack.GotTranslated},
		{name: "(c)", payload: r.formC(s, e, nil), entry: true},
		{name: "(c) port 1024", payload: r.formC(s, low, nil), entry: true},
		{name: "(c) port 65535", payload: r.formC(s, high, nil), entry: true},
		{name: "(c) IPv6 before", payload: r.formC(s, e, before6), entry: true, packet: true, kind: conntrack.GotPacket},
		{name: "(c) IPv6 after", payload: r.formC(s, e, after6), entry: true, packet: true, kind: conntrack.GotTranslated},
		{name: "(c) IPv4 before", payload: r.formC(s, e, before4), entry: true, packet: true, kind: conntrack.GotPacket},
		{name: "(c) IPv4 after", payload: r.formC(s, e, after4), entry: true, packet: true, kind: conntrack.GotTranslated},
		{name: "(c) with a router's ICMP error", payload: r.formC(s, e, error4(ownAddr, 11, after4)), entry: true, packet: true, kind: conntrack.GotPacket},
		{name: "(c) with a router's ICMPv6 error", payload: r.formC(s, e, error6(mine, 2, after6)), entry: true, packet: true, kind: conntrack.GotPacket},
		{name: "(c) with a useless token", payload: wire.AppendEntry(append(slices.Clone(auth), wire.AppendToken(nil, nil)...), &e), entry: true},
	}
}

// within40 is the server's address in the /40 prefix: its octets 5–7 and 9.
func within40(server uint32) (b [16]byte) {
	b = rigPool6[1].Addr().As16()
	o := octets4(server)
	b[5], b[6], b[7], b[9] = o[0], o[1], o[2], o[3]
	return b
}

// Each rule of draft §6, through real sockets: what breaks it is counted under
// its name and nothing else happens; what keeps all rules reaches the workers.
func TestEveryCheck(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	seen := map[Refusal]bool{NotPool4: true, NotServerPort: true, OwnAddress: true}
	for _, c := range slices.Concat(r.spoofed(), r.genuine()) {
		r.lend(1)
		r.got = r.got[:0]
		before, was := r.w.Stats(), r.cfg.Servers.State(s.addr)
		s.send(c.payload)
		r.until(c.name, func() bool { st := r.w.Stats(); return st.Invalid+st.Replies > before.Invalid+before.Replies })
		st := r.w.Stats()
		seen[c.refusal] = true
		if c.refusal != Accepted {
			if st.Refused[c.refusal] != before.Refused[c.refusal]+1 || st.Replies != before.Replies {
				t.Errorf("%s: not counted as %s", c.name, c.refusal)
			}
			if len(r.got) != 0 || r.cfg.Servers.State(s.addr) != was {
				t.Errorf("%s: workers got %v, the server is %s", c.name, r.got, r.cfg.Servers.State(s.addr))
			}
		} else {
			r.checkDelivery(&c, s.addr)
		}
		r.takeBack()
		r.census()
	}
	for f := NotPool4; int(f) < NumRefusals; f++ {
		if !seen[f] {
			t.Errorf("nothing provokes %s", f)
		}
	}
}

// checkDelivery compares what workers got with what was to be expected.
func (r *rig) checkDelivery(c *control, server uint32) {
	r.Helper()
	got := r.got
	if r.cfg.Servers.State(server) != conntrack.ServerHandoff {
		r.Errorf("%s: the server is not capable", c.name)
	}
	if c.entry {
		if len(got) == 0 || got[0].Kind != conntrack.GotEntry || got[0].Client != client1 || got[0].ClientPort != 40000 ||
			got[0].Server != server || got[0].Own != ownAddr || got[0].Pool6 != 0 || got[0].MappedPort < 1024 {
			r.Errorf("%s: workers got %+v", c.name, got)
			return
		}
		got = got[1:]
	}
	if !c.packet {
		if len(got) != 0 {
			r.Errorf("%s: workers also got %+v", c.name, got)
		}
		return
	}
	var p wire.Payload
	wire.Decode(c.payload, &p)
	etherType := []byte{0x08, 0x00}
	if p.PacketVersion == 6 {
		etherType = []byte{0x86, 0xdd}
	}
	if len(got) != 1 || got[0].Kind != c.kind || got[0].Server != server || got[0].Own != ownAddr || got[0].Addr%2048 != ring.Headroom {
		r.Errorf("%s: workers got %+v", c.name, got)
		return
	}
	frame := r.umem.Mem[got[0].Addr:][:got[0].Len]
	if !bytes.Equal(frame[12:14], etherType) || !bytes.Equal(frame[14:], p.Packet) {
		r.Errorf("%s: the frame holds %x", c.name, frame)
	}
}

// takeBack takes lent frames that were not used back.
func (r *rig) takeBack() {
	r.drain()
	for _, l := range r.cfg.Links {
		for f, ok := l.Lend.Pop(); ok; f, ok = l.Lend.Pop() {
			r.stack.Push(f)
		}
	}
}

// Another source port, and an address that is not in pool4.
func TestNoControlPacket(t *testing.T) {
	r := newRig(t)
	wrongPort := r.hostAt(serverAddr(1), r.cfg.ServerPort+1)
	s := r.server(1)
	payload := r.formC(s.addr, entry(client1, 40000, 3719), nil)
	wrongPort.send(payload)
	r.until("the wrong port is refused", func() bool { return r.w.Stats().Refused[NotServerPort] == 1 })
	s.sendTo(127<<24|64<<8|3, payload)
	r.until("the wrong address is refused", func() bool { return r.w.Stats().Refused[NotPool4] == 1 })
	if st := r.w.Stats(); st.Invalid != 2 || len(r.got) != 0 || r.cfg.Servers.State(s.addr) != conntrack.ServerUnknown {
		t.Errorf("%+v %v", st, r.got)
	}
}

// What has a pool4 address as its source we sent ourselves, or somebody else
// has forged: with one port at both ends our own notification would come back
// as a valid entry.
func TestWeAreNoServer(t *testing.T) {
	r := newRig(t)
	for i, own := range []uint32{ownAddr, otherOwn} {
		us := r.hostAt(own, r.cfg.ServerPort)
		us.send(r.formC(own, entry(client1, 40000, 3719), nil))
		us.send(r.formA(own, udp4(own, ownAddr, 53, 3719, nil)))
		r.until("both are refused", func() bool { return r.w.Stats().Refused[OwnAddress] == uint64(2*i+2) })
		if st := r.w.Stats(); st.Replies != 0 || len(r.got) != 0 || r.cfg.Servers.State(own) != conntrack.ServerUnknown {
			t.Errorf("%+v %v", st, r.got)
		}
	}
}

// With entry and packet both go to the worker that owns the client, entry first;
// packets alone are spread, all of one flow to one worker.
func TestWhichWorker(t *testing.T) {
	r := newRig(t)
	s := serverAddr(1)
	for _, c := range []conntrack.Addr6{client1, client2} {
		r.lend(1)
		r.w.accept(s, ownAddr, r.formC(s, entry(c, 1, 2000), udp4(s, ownAddr, 1, 2000, nil)))
		l := r.cfg.Links[r.cfg.Owner(c, 1)]
		if l.In.Len() != 2 {
			t.Errorf("the owner of %v got %d things", c, l.In.Len())
		}
		if e, _ := l.In.Pop(); e.Kind != conntrack.GotEntry {
			t.Errorf("first came %v", e)
		}
		p, _ := l.In.Pop()
		r.stack.Push(p.Addr)
		r.takeBack()
	}
	used := [rigLinks]int{}
	for port := range uint16(200) {
		r.lend(1)
		r.got = nil
		for range 2 {
			r.w.accept(s, ownAddr, r.formA(s, udp4(s, ownAddr, 1, 2000+port, nil)))
		}
		for i, l := range r.cfg.Links {
			if l.In.Len() > 0 {
				used[i]++
			}
		}
		if st := r.w.Stats(); st.NoFrame != uint64(port)+1 { // one frame each: both went to one worker
			t.Fatalf("port %d: %+v", port, st)
		}
		r.takeBack()
	}
	for i, n := range used {
		if n < 20 {
			t.Errorf("worker %d got %d of 200 flows", i, n)
		}
	}
	fragment := udp4(s, ownAddr, 1, 2000, nil)
	fragment[6] = 0x20
	later := udp4(s, ownAddr, 7, 7, nil)
	later[7] = 3
	if a, b := r.w.spread(fragment), r.w.spread(later); a != b {
		t.Errorf("fragments of one packet go to workers %d and %d", a, b)
	}
	r.census()
}

func TestRefusalNames(t *testing.T) {
	seen := map[string]Refusal{}
	for f := range Refusal(NumRefusals) {
		name := f.String()
		if f.Meaning() == "" || f.Section() == "" {
			t.Errorf("%s: no meaning or no section", name)
		}
		if other, ok := seen[name]; ok || name == "" || name == "unknown" {
			t.Errorf("refusals %d and %d are both %q", other, f, name)
		}
		seen[name] = f
	}
	none := Refusal(NumRefusals)
	if none.String() != "unknown" || none.Meaning()+none.Section() != "" || NotTranslated.String() != "not_translated" || NotPool4.String() != "not_pool4" {
		t.Error("names and values do not belong together")
	}
}

// RFC 6052 §2.4's examples: 192.0.2.33 in prefixes of every length.
func TestPrefixEmbeds(t *testing.T) {
	for prefix, addr := range map[string]string{
		"2001:db8::/32":             "2001:db8:c000:221::",
		"2001:db8:100::/40":         "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":         "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56":     "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64":     "2001:db8:122:344:c0:2:2100::",
		"2001:db8:122:344::/96":     "2001:db8:122:344::192.0.2.33",
		"64:ff9b::/96":              "64:ff9b::192.0.2.33",
		"2001:db8:122:344:0:1::/96": "2001:db8:122:344:0:1:192.0.2.33",
	} {
		p := newPrefix6(netip.MustParsePrefix(prefix))
		a := netip.MustParseAddr(addr).As16()
		if !p.embeds(a[:], 0xc0000221) || p.embeds(a[:], 0xc0000222) {
			t.Errorf("%s does not hold 192.0.2.33 as %s", prefix, addr)
		}
		if p.entries() != (p.len == 12) {
			t.Errorf("entries with %s: %v", prefix, p.entries())
		}
		a[0]++
		if p.embeds(a[:], 0xc0000221) {
			t.Errorf("%s holds a foreign address", prefix)
		}
	}
}
