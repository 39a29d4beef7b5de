package dataplane

import (
	"fmt"
	"strings"
	"testing"

	"handoff64/conntrack"
)

// Lifetimes of these tests, all different: seconds in ticks.
var tcpTimeouts = conntrack.Timeouts{
	UDP: 3000, ICMP: 600, TCPEstablished: 2000, TCPTransitory: 1000, TCPIncomingSYN: 60, Entry: 2000,
}

// tcpRules is RFC 6146 §3.5.2.2, read from its text and not from the code. For
// each state it says what a SYN, a FIN, an RST and any other segment do, from
// the IPv6 and from the IPv4 side: the next state, the lifetime (EST, TRANS, or
// "same": what is left runs on), and what becomes of the packet: sent, stored
// or dropped.
//
// Three cells are ours. A FIN in ESTABLISHED leaves the lifetime alone by the
// RFC's letter; it starts anew, because RFC 5382 REQ-5 counts idle time from
// the last packet. A SYN after both FINs opens the next connection (tcp.go says
// why), where the RFC would let it pass without a lifetime of its own.
var tcpRules = []struct {
	from   string
	v6, v4 [4]string
}{
	{"CLOSED without BIB entry",
		[4]string{"V6_INIT TRANS sent", "CLOSED - dropped", "CLOSED - dropped", "CLOSED - dropped"},
		[4]string{"CLOSED - stored", "CLOSED - dropped", "CLOSED - dropped", "CLOSED - dropped"}},
	{"CLOSED with BIB entry",
		[4]string{"V6_INIT TRANS sent", "CLOSED - sent", "CLOSED - sent", "CLOSED - sent"},
		[4]string{"V4_INIT TRANS sent", "CLOSED - sent", "CLOSED - sent", "CLOSED - sent"}},
	{"V4_INIT",
		[4]string{"ESTABLISHED EST sent", "V4_INIT same sent", "V4_INIT same sent", "V4_INIT same sent"},
		[4]string{"V4_INIT same sent", "V4_INIT same sent", "V4_INIT same sent", "V4_INIT same sent"}},
	{"V6_INIT",
		[4]string{"V6_INIT TRANS sent", "V6_INIT same sent", "V6_INIT same sent", "V6_INIT same sent"},
		[4]string{"ESTABLISHED EST sent", "V6_INIT same sent", "V6_INIT same sent", "V6_INIT same sent"}},
	{"ESTABLISHED",
		[4]string{"ESTABLISHED EST sent", "V6_FIN_RCV EST sent", "TRANS TRANS sent", "ESTABLISHED EST sent"},
		[4]string{"ESTABLISHED EST sent", "V4_FIN_RCV EST sent", "TRANS TRANS sent", "ESTABLISHED EST sent"}},
	{"V4_FIN_RCV",
		[4]string{"V4_FIN_RCV EST sent", "V4_FIN_V6_FIN_RCV TRANS sent", "V4_FIN_RCV EST sent", "V4_FIN_RCV EST sent"},
		[4]string{"V4_FIN_RCV EST sent", "V4_FIN_RCV EST sent", "V4_FIN_RCV EST sent", "V4_FIN_RCV EST sent"}},
	{"V6_FIN_RCV",
		[4]string{"V6_FIN_RCV EST sent", "V6_FIN_RCV EST sent", "V6_FIN_RCV EST sent", "V6_FIN_RCV EST sent"},
		[4]string{"V6_FIN_RCV EST sent", "V4_FIN_V6_FIN_RCV TRANS sent", "V6_FIN_RCV EST sent", "V6_FIN_RCV EST sent"}},
	{"V4_FIN_V6_FIN_RCV",
		[4]string{"V6_INIT TRANS sent", "V4_FIN_V6_FIN_RCV same sent", "V4_FIN_V6_FIN_RCV same sent", "V4_FIN_V6_FIN_RCV same sent"},
		[4]string{"V4_INIT TRANS sent", "V4_FIN_V6_FIN_RCV same sent", "V4_FIN_V6_FIN_RCV same sent", "V4_FIN_V6_FIN_RCV same sent"}},
	{"TRANS",
		[4]string{"ESTABLISHED EST sent", "ESTABLISHED EST sent", "TRANS same sent", "ESTABLISHED EST sent"},
		[4]string{"ESTABLISHED EST sent", "ESTABLISHED EST sent", "TRANS same sent", "ESTABLISHED EST sent"}},
}

// tcpWay is how a connection of ours gets into a state: segments with the side
// that they come from. The BIB entry is another connection's of the same port.
var tcpWay = map[string]string{
	"CLOSED without BIB entry": "",
	"CLOSED with BIB entry":    "bib",
	"V4_INIT":                  "bib 4S",
	"V6_INIT":                  "6S",
	"ESTABLISHED":              "6S 4SA",
	"V4_FIN_RCV":               "6S 4SA 4FA",
	"V6_FIN_RCV":               "6S 4SA 6FA",
	"V4_FIN_V6_FIN_RCV":        "6S 4SA 6FA 4FA",
	"TRANS":                    "6S 4SA 6R",
}

// tcpFlow drives one connection, whose mapped port is known beforehand.
type tcpFlow struct {
	*rig
	segments int
}

const (
	tcpClientPort = 40000
	tcpMappedPort = 5000
	tcpServerPort = 443
)

func newTCPFlow(t *testing.T, s setup) *tcpFlow {
	table := s.table
	s.table = func(c *conntrack.Config) {
		c.Timeouts = tcpTimeouts
		c.Pool4 = []conntrack.Pool4Range{{Addr: addr4(mappedA), First: tcpMappedPort, Last: tcpMappedPort}}
		if table != nil {
			table(c)
		}
	}
	return &tcpFlow{rig: newRig(t, s)}
}

// segment lets one arrive and tells what became of it.
func (f *tcpFlow) segment(side byte, flags string) (fate string) {
	f.t.Helper()
	f.segments++
	stored := f.drops(DropSYNStored)
	var out [][]byte
	if side == '6' {
		_, out = f.from6(tcp6(f.t, clientA, tcpClientPort, serverA, tcpServerPort, flags))
	} else {
		out, _ = f.from4(tcp4(f.t, serverA, tcpServerPort, mappedA, tcpMappedPort, flags))
	}
	switch {
	case len(out) == 1:
		f.addressed(side, out[0])
		return "sent"
	case f.drops(DropSYNStored) > stored:
		return "stored"
	}
	return "dropped"
}

// addressed checks a translated segment, with and without a session.
func (f *tcpFlow) addressed(side byte, b []byte) {
	f.t.Helper()
	src, dst, sport, dport := transport(f.t, decode(f.t, b))
	got := fmt.Sprintf("%s %d > %s %d", src, sport, dst, dport)
	want := fmt.Sprintf("%s %d > %s %d", mappedA, tcpMappedPort, serverA, tcpServerPort)
	if side == '4' {
		want = fmt.Sprintf("%s %d > %s %d", "64:ff9b::c633:640a", tcpServerPort, clientA, tcpClientPort)
	}
	if got != want {
		f.t.Errorf("sent %s, want %s", got, want)
	}
}

// reach brings the connection into a state.
func (f *tcpFlow) reach(state string) {
	f.t.Helper()
	for step := range strings.FieldsSeq(tcpWay[state]) {
		if step == "bib" {
			_, out4 := f.from6(tcp6(f.t, clientA, tcpClientPort, elsewhere, 80, "S"))
			one(f.t, out4)
			continue
		}
		if fate := f.segment(step[0], step[1:]); fate != "sent" {
			f.t.Fatalf("on the way to %s: segment %s was %s", state, step, fate)
		}
	}
	if got, _ := f.session(); got != strings.Fields(state)[0] {
		f.t.Fatalf("reached %s, want %s", got, state)
	}
}

// session is the state as `nat64ctl sessions` shows it, and what is left of the
// lifetime.
func (f *tcpFlow) session() (state string, left conntrack.Tick) {
	state = "CLOSED"
	f.table.Sessions(func(i conntrack.SessionInfo) bool {
		if i.Key.Server == addr4(serverA) && i.Key.Proto == conntrack.TCP {
			state, left = i.State.String(), i.LastUsed+i.Lifetime-f.now
		}
		return true
	})
	return state, left
}

// Every state and every segment, through the whole worker: packets in, packets
// and sessions out.
func TestTCPRules(t *testing.T) {
	for _, row := range tcpRules {
		for side, cells := range map[byte][4]string{'6': row.v6, '4': row.v4} {
			for i, flags := range []string{"S", "FA", "R", "A"} {
				t.Run(fmt.Sprintf("%s, V%c %s", row.from, side, flags), func(t *testing.T) {
					f := newTCPFlow(t, setup{})
					f.reach(row.from)
					f.now += 70
					_, before := f.session()
					fate := f.segment(side, flags)
					state, left := f.session()
					class := "?"
					switch {
					case state == "CLOSED":
						class = "-"
					case left == before:
						class = "same"
					case left == tcpTimeouts.TCPEstablished:
						class = "EST"
					case left == tcpTimeouts.TCPTransitory:
						class = "TRANS"
					}
					if got := state + " " + class + " " + fate; got != cells[i] {
						t.Errorf("%s, want %s", got, cells[i])
					}
				})
			}
		}
	}
	if len(tcpRules) != len(tcpWay) {
		t.Errorf("%d states, ways to %d", len(tcpRules), len(tcpWay))
	}
}

// A session that nothing passes ends with its lifetime, an established one with
// TRANS's behind its own.
func TestTCPLifetimesEnd(t *testing.T) {
	est, trans := tcpTimeouts.TCPEstablished, tcpTimeouts.TCPTransitory
	for state, lifetime := range map[string]conntrack.Tick{
		"V4_INIT": trans, "V6_INIT": trans, "ESTABLISHED": est + trans, "V4_FIN_RCV": est, "V6_FIN_RCV": est,
		"V4_FIN_V6_FIN_RCV": trans, "TRANS": trans,
	} {
		t.Run(state, func(t *testing.T) {
			f := newTCPFlow(t, setup{})
			f.reach(state)
			start := f.now
			f.until(start + lifetime - 1)
			if got, _ := f.session(); got == "CLOSED" {
				t.Fatal("ended too early")
			}
			f.until(start + lifetime)
			if got, _ := f.session(); got != "CLOSED" {
				t.Errorf("is %s after its lifetime", got)
			}
		})
	}
}

// until lets time pass, and returns what comes out meanwhile.
func (r *rig) until(then conntrack.Tick) (out6, out4 [][]byte) {
	r.t.Helper()
	for r.now < then {
		r.now = min(r.now+10, then)
		a, b := r.from6()
		out6, out4 = append(out6, a...), append(out4, b...)
	}
	return out6, out4
}

// A mapping that only UDP uses is none of TCP's: a scan does not reach it.
func TestUDPMappingIsNoTCPBIBEntry(t *testing.T) {
	f := newTCPFlow(t, setup{})
	_, out4 := f.from6(udp6(t, clientA, tcpClientPort, elsewhere, 53, nil))
	one(t, out4)
	for flags, want := range map[string]string{"A": "dropped", "R": "dropped", "FA": "dropped", "SA": "dropped", "S": "stored"} {
		if fate := f.segment('4', flags); fate != want {
			t.Errorf("flags %s from IPv4: %s, want %s", flags, fate, want)
		}
	}
	if fate := f.segment('6', "A"); fate != "dropped" {
		t.Errorf("ACK from IPv6: %s", fate)
	}
	// With handoff on, mappings have no protocol: they let SYNs in, but no stray segments.
	h := newTCPFlow(t, setup{handoff: true})
	_, out4 = h.from6(udp6(t, clientA, tcpClientPort, elsewhere, 53, nil))
	one(t, out4)
	if fate := h.segment('4', "A"); fate != "dropped" || h.drops(DropTCPWithoutSession) != 1 {
		t.Errorf("with handoff, ACK from IPv4: %s", fate)
	}
	if fate := h.segment('4', "S"); fate != "sent" {
		t.Errorf("with handoff, SYN from IPv4: %s", fate)
	}
	h.tunnelled(t, 0)
	// And the other way round: a stranger's datagram to a port of TCP's alone.
	g := newTCPFlow(t, setup{})
	g.reach("ESTABLISHED")
	out6, out4 := g.from4(udp4(t, elsewhere, 53, mappedA, tcpMappedPort, nil))
	none(t, out6)
	if len(out4) != 1 || g.drops(DropNoMapping) != 1 {
		t.Errorf("%d answers, %d drops", len(out4), g.drops(DropNoMapping))
	}
}

// With connections from outside switched off, so are segments of no session;
// static mappings are open. Address-dependent filtering goes for both.
func TestStraySegmentsAndPolicy(t *testing.T) {
	f := newTCPFlow(t, setup{rules: func(r *Rules) { r.TCPIncoming = false }})
	f.reach("CLOSED with BIB entry")
	for flags, reason := range map[string]DropReason{"S": DropTCPIncoming, "A": DropTCPWithoutSession} {
		if fate := f.segment('4', flags); fate != "dropped" || f.drops(reason) != 1 {
			t.Errorf("flags %s: %s, %d times %s", flags, fate, f.drops(reason), reason)
		}
	}
	f = newTCPFlow(t, setup{rules: func(r *Rules) { r.AddressDependent = true }})
	f.reach("CLOSED with BIB entry")
	for flags, want := range map[string]string{"S": "stored", "A": "dropped"} {
		if fate := f.segment('4', flags); fate != want {
			t.Errorf("address-dependent, flags %s: %s, want %s", flags, fate, want)
		}
	}
	if n := f.drops(DropFiltered); n != 1 {
		t.Errorf("%d filtered, want the ACK", n)
	}
	// The same server, another port of its: allowed.
	_, out4 := f.from6(tcp6(t, clientA, tcpClientPort, serverA, 9, "S"))
	one(t, out4)
	for _, flags := range []string{"A", "S"} {
		if fate := f.segment('4', flags); fate != "sent" {
			t.Errorf("from an address that was written to, flags %s: %s", flags, fate)
		}
	}
}
