package handoff

import (
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// What strangers' packets provoke is less than they are, in packets and octets,
// for every size, with and without a rotation message.
func TestReflectionFactor(t *testing.T) {
	for _, head := range []int{20, 40, 64} {
		for size := 20; size <= 1778; size += 7 {
			s := newStrangers(1 << 30)
			var packetsOut, octetsOut, answered int64
			const packets = 2000
			for i := range int64(packets) {
				if s.admit(i*int64(time.Millisecond), size, head) {
					n, octets := onWire(size, head)
					packetsOut, octetsOut, answered = packetsOut+n, octetsOut+octets, answered+1
				}
				if packetsOut >= i+1 || octetsOut >= (i+1)*int64(size) {
					t.Fatalf("size %d: %d packets of %d octets out for %d of %d in", size, packetsOut, octetsOut, i+1, (i+1)*int64(size))
				}
			}
			if answered < packets/20 {
				t.Errorf("size %d: only %d of %d answered", size, answered, packets)
			}
		}
	}
}

// The same, measured at the server's socket.
func TestReflectionMeasured(t *testing.T) {
	for _, size := range []int{0, 12, 100, 472, 1000, 1400} {
		r := newRig(t, func(c *Config) { c.StrangersPerSecond = 1 << 30 })
		s := r.server(1)
		packet := udp4(s.addr, ownAddr, 5, 9, make([]byte, size))
		const packets = 500
		for range packets {
			r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: s.addr, Own: ownAddr, Stranger: true}, packet)
			r.pass(time.Millisecond)
			r.drain()
		}
		st := r.w.Stats()
		if st.Tunnelled+st.Limited != packets || st.Limited == 0 || st.Tunnelled == 0 {
			t.Fatalf("%d octets: %+v", size, st)
		}
		octets := 0
		for range st.Tunnelled {
			payload, _ := s.recv()
			octets += len(payload) + 28
		}
		s.none()
		if octets >= packets*len(packet) {
			t.Errorf("%d octets in provoked %d", packets*len(packet), octets)
		}
		r.census()
	}
}

// Sizes are mixed so that big packets do not pay for small ones beyond the sum.
func TestReflectionOfMixedSizes(t *testing.T) {
	s := newStrangers(1 << 30)
	var in, out, packetsOut int64
	for i := range int64(10_000) {
		size := []int{1500, 20, 20, 20, 400}[i%5]
		in += int64(size)
		if s.admit(i*int64(time.Millisecond), size, 20) {
			n, octets := onWire(size, 20)
			packetsOut, out = packetsOut+n, out+octets
		}
		if out >= in || packetsOut > i {
			t.Fatalf("%d octets out for %d in", out, in)
		}
	}
}

// The rate holds however many come; what is not used is not saved up.
func TestStrangersRate(t *testing.T) {
	for _, perSecond := range []int{0, 1, 50, 1000} {
		s := newStrangers(perSecond)
		answered := 0
		start := int64(time.Hour)
		for i := range int64(100_000) {
			if s.admit(start+i*second/10_000, 400, 20) {
				answered++
			}
		}
		if limit := perSecond*10 + perSecond/10 + 1; answered > limit || answered < perSecond*5 {
			t.Errorf("%d a second: %d in 10 s", perSecond, answered)
		}
	}
}

// The draft's counter (§9) lets three of five pass.
func TestAttenuation(t *testing.T) {
	s := newStrangers(1)
	var firstThree [3]bool
	for i := range firstThree {
		firstThree[i] = s.attenuate()
	}
	if firstThree != [3]bool{true, true, false} {
		t.Errorf("the first three: %v", firstThree)
	}
	passed := 0
	for range 100_000 {
		if s.attenuate() {
			passed++
		}
	}
	if passed < 59_000 || passed > 61_000 {
		t.Errorf("%d of 100000 passed", passed)
	}
}

// Who shows a token or authenticator of ours is no stranger.
func TestVouched(t *testing.T) {
	r := newRig(t)
	s, other := r.server(1), r.server(2)
	r.notify(s.addr, client1, 1, 2000)
	r.notify(s.addr, client2, 1, 2001)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	e := entry(conntrack.Addr6{Hi: 9, Lo: 9}, 1, 2000)
	authOf := func(c conntrack.Addr6) []byte { return wire.AppendAuthenticator(nil, r.auth(s.addr, c)) }
	entryPayload := wire.AppendEntry(authOf(address6(e.Client[:])), &e)
	fragment := s.validation(wire.AppendToken(nil, r.token(s.addr)), "0123456789abcdef")
	fragment[6] = 0x20
	long := s.validation(wire.AppendToken(nil, r.token(s.addr)), "0123456789abcdef")
	long[25]++ // UDP length beyond the packet
	for _, c := range []struct {
		name   string
		packet []byte
		want   bool
	}{
		{"token", s.validation(wire.AppendToken(nil, r.token(s.addr)), "0123456789abcdef"), true},
		{"authenticator of the first client told of", s.validation(authOf(client1), "0123456789abcdef"), true},
		{"authenticator of the last client told of", s.validation(authOf(client2), "0123456789abcdef"), true},
		{"authenticator and its entry", udp4(s.addr, ownAddr, r.cfg.ServerPort, 9, entryPayload), true},
		{"authenticator and its IPv6 packet", udp4(s.addr, ownAddr, r.cfg.ServerPort, 9, append(authOf(conntrack.Addr6{Hi: 7, Lo: 7}),
			udp6(within(s.addr), octets6(conntrack.Addr6{Hi: 7, Lo: 7}), 1, 2, nil)...)), true},
		{"authenticator of another client", s.validation(authOf(conntrack.Addr6{Hi: 7, Lo: 7}), "0123456789abcdef"), false},
		{"token of another server", s.validation(wire.AppendToken(nil, r.token(other.addr)), "0123456789abcdef"), false},
		{"another port", udp4(s.addr, ownAddr, r.cfg.ServerPort+1, 9, wire.AppendToken(nil, r.token(s.addr))), false},
		{"from another address", udp4(other.addr, ownAddr, r.cfg.ServerPort, 9, wire.AppendToken(nil, r.token(s.addr))), false},
		{"no control payload", udp4(s.addr, ownAddr, r.cfg.ServerPort, 9, []byte("!")), false},
		{"no payload", udp4(s.addr, ownAddr, r.cfg.ServerPort, 9, nil), false},
		{"fragment", fragment, false},
		{"longer than it is", long, false},
		{"no UDP header", func() []byte { p := udp4(s.addr, ownAddr, 1, 9, nil)[:20]; p[3] = 20; return p }(), false},
	} {
		if got := r.w.vouched(&conntrack.ToServer{Kind: conntrack.Tunnel4, Server: s.addr, Own: ownAddr}, c.packet); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
