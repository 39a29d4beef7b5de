package annotate

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"handoff64/handoff/server"
)

var (
	nat64  = [4]byte{192, 0, 2, 64}
	pooled = [4]byte{100, 64, 0, 7}
	alice  = netip.MustParseAddr("2001:db8:1::10")
	bob    = netip.MustParseAddr("2001:db8:2::7")
	web    = [4]byte{192, 0, 2, 10}
	mail   = [4]byte{192, 0, 2, 25}
	monday = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
)

// at is so many seconds after the tests' beginning, as microseconds.
func at(seconds float64) int64 {
	return monday.Add(time.Duration(seconds * float64(time.Second))).UnixMicro()
}

// moments is from one such time to another.
func moments(from, to float64) Moment { return Moment{at(from), at(to)} }

func event(kind server.EventKind, seconds float64, address [4]byte, port uint16, client netip.Addr, clientPort uint16, own [4]byte) *server.Event {
	return &server.Event{Time: at(seconds), Kind: kind, NAT64: nat64, Address: address, MappedPort: port, Client: client.As16(), ClientPort: clientPort, Server: own}
}

// known is an index that has learned of these events.
func known(events ...*server.Event) *Index {
	x := NewIndex()
	for _, e := range events {
		x.Event(e)
	}
	return x
}

func TestFind(t *testing.T) {
	const c, d = server.Created, server.Deleted
	none := [4]byte{}
	reused := known(
		event(c, 10, nat64, 5000, alice, 400, web), event(d, 20, nat64, 5000, alice, 400, web),
		event(c, 30, nat64, 5000, bob, 500, web),
	)
	for name, test := range map[string]struct {
		x    *Index
		a    [4]byte
		port uint16
		at   Moment
		want Verdict
		who  string
	}{
		"while it was there":          {reused, nat64, 5000, moments(15, 15), Found, "[2001:db8:1::10]:400"},
		"its first moment":            {reused, nat64, 5000, moments(10, 10), Found, "[2001:db8:1::10]:400"},
		"its last moment":             {reused, nat64, 5000, moments(20, 20), Found, "[2001:db8:1::10]:400"},
		"the next client of the port": {reused, nat64, 5000, moments(99, 99), Found, "[2001:db8:2::7]:500"},
		"between two clients":         {reused, nat64, 5000, moments(25, 25), Unknown, ""},
		"before anybody":              {reused, nat64, 5000, moments(9, 9.999), Unknown, ""},
		"within the second":           {reused, nat64, 5000, moments(9.5, 10.5), Found, "[2001:db8:1::10]:400"},
		"a time with both in it":      {reused, nat64, 5000, moments(15, 35), Ambiguous, "[2001:db8:2::7]:500 [2001:db8:1::10]:400"},
		"another port":                {reused, nat64, 5001, moments(15, 15), Unknown, ""},
		"another address":             {reused, mail, 5000, moments(15, 15), Direct, ""},
		"a NAT64 without entries": {known(&server.Event{Time: at(1), Kind: server.Initialized, NAT64: nat64}),
			nat64, 5000, moments(15, 15), Unknown, ""},
		"the same line twice": {known(event(c, 10, nat64, 5000, alice, 400, web), event(c, 11, nat64, 5000, alice, 400, web), event(d, 20, nat64, 5000, alice, 400, web)),
			nat64, 5000, moments(25, 25), Unknown, ""},
		"its end is not in the log": {known(event(c, 10, nat64, 5000, alice, 400, web), event(c, 30, nat64, 5000, bob, 500, web)),
			nat64, 5000, moments(35, 35), Found, "[2001:db8:2::7]:500"},
		"the text log does not say which of us": {known(event(c, 10, nat64, 5000, alice, 400, none), event(d, 20, nat64, 5000, alice, 400, none)),
			nat64, 5000, moments(12, 12), Found, "[2001:db8:1::10]:400"},
		"two of our addresses": {known(event(c, 10, nat64, 5000, alice, 400, web), event(c, 11, nat64, 5000, bob, 500, mail), event(d, 12, nat64, 5000, alice, 400, web)),
			nat64, 5000, moments(11.5, 11.5), Ambiguous, "[2001:db8:2::7]:500 [2001:db8:1::10]:400"},
		"two of our addresses, which the text log does not tell apart": {known(event(c, 10, nat64, 5000, alice, 400, none), event(c, 11, nat64, 5000, bob, 500, none), event(d, 12, nat64, 5000, alice, 400, none)),
			nat64, 5000, moments(11.5, 11.5), Ambiguous, "[2001:db8:2::7]:500 [2001:db8:1::10]:400"},
		"one of these has ended": {known(event(c, 10, nat64, 5000, alice, 400, none), event(c, 11, nat64, 5000, bob, 500, none), event(d, 12, nat64, 5000, alice, 400, none)),
			nat64, 5000, moments(13, 13), Found, "[2001:db8:2::7]:500"},
		"one of the two has ended": {known(event(c, 10, nat64, 5000, alice, 400, web), event(c, 11, nat64, 5000, bob, 500, mail), event(d, 12, nat64, 5000, alice, 400, web)),
			nat64, 5000, moments(13, 13), Found, "[2001:db8:2::7]:500"},
		"the one that lasts began first": {known(event(c, 10, nat64, 5000, alice, 400, web), event(c, 11, nat64, 5000, bob, 500, mail), event(d, 12, nat64, 5000, bob, 500, mail)),
			nat64, 5000, moments(13, 13), Found, "[2001:db8:1::10]:400"},
		"a whole address": {known(event(c, 10, pooled, 0, alice, 0, web)),
			pooled, 6000, moments(13, 13), Found, "[2001:db8:1::10]:6000"},
		"a whole address that is another's now": {known(event(c, 10, pooled, 0, alice, 0, web), event(d, 20, pooled, 0, alice, 0, web), event(c, 30, pooled, 0, bob, 0, web)),
			pooled, 6000, moments(31, 31), Found, "[2001:db8:2::7]:6000"},
		"the clock was set back": {known(event(c, 10, nat64, 5000, alice, 400, web), event(d, 5, nat64, 5000, alice, 400, web), event(c, 6, nat64, 5000, bob, 500, web)),
			nat64, 5000, moments(7, 7), Found, "[2001:db8:2::7]:500"},
	} {
		v, who := test.x.Find(test.a, test.port, test.at, nil)
		var names string
		for i, w := range who {
			if i > 0 {
				names += " "
			}
			names += w.String()
		}
		if v != test.want || names != test.who {
			t.Errorf("%s: %d %q, want %d %q", name, v, names, test.want, test.who)
		}
	}
}

// Of what is written after handoffd has stopped, nothing is known.
func TestStopped(t *testing.T) {
	x := known(event(server.Created, 10, nat64, 5000, alice, 400, web))
	x.end = at(20)
	for _, test := range []struct {
		at   Moment
		want Verdict
	}{{moments(15, 15), Found}, {moments(20, 20.9), Found}, {moments(20.1, 21), Unknown}} {
		if v, _ := x.Find(nat64, 5000, test.at, nil); v != test.want {
			t.Errorf("%v with the port: %d, want %d", test.at, v, test.want)
		}
		if v, _ := x.FindAlone(nat64, test.at, nil); v != test.want {
			t.Errorf("%v without: %d, want %d", test.at, v, test.want)
		}
	}
	if v, _ := x.Find(mail, 5000, moments(30, 30), nil); v != Direct {
		t.Errorf("an address of nobody: %d", v)
	}
}

// What the table has counts from when it was made, also if the log that said so
// is gone, and once if the log says it as well.
func TestRows(t *testing.T) {
	row := &server.Row{NAT64: netip.AddrFrom4(nat64), Address: netip.AddrFrom4(nat64), MappedPort: 5000, Client: alice, ClientPort: 400,
		Server: netip.AddrFrom4(web), Created: monday.Add(10 * time.Second)}
	for name, x := range map[string]*Index{
		"log gone":          known(),
		"in the log":        known(event(server.Created, 10, nat64, 5000, alice, 400, web)),
		"in a log of text":  known(event(server.Created, 10, nat64, 5000, alice, 400, [4]byte{})),
		"another before it": known(event(server.Created, 1, nat64, 5000, bob, 500, web), event(server.Deleted, 9, nat64, 5000, bob, 500, web)),
	} {
		x.Row(row)
		if v, who := x.Find(nat64, 5000, moments(11, 11), nil); v != Found || who[0].Addr() != alice {
			t.Errorf("%s: %d %v", name, v, who)
		}
		if v, _ := x.Find(nat64, 5000, moments(9.5, 9.5), nil); v != Unknown {
			t.Errorf("%s: before it was made: %d", name, v)
		}
	}
}

// Lines without a port have an answer while an address had one client.
func TestFindAlone(t *testing.T) {
	const c, d = server.Created, server.Deleted
	x := known(
		event(c, 10, nat64, 5000, alice, 400, web), event(c, 11, nat64, 5001, alice, 401, web),
		event(c, 20, nat64, 5002, bob, 500, web), event(d, 25, nat64, 5000, alice, 400, web),
		event(d, 30, nat64, 5001, alice, 401, web), event(d, 40, nat64, 5002, bob, 500, web),
	)
	for _, test := range []struct {
		at   Moment
		want Verdict
		who  netip.Addr
	}{
		{moments(5, 5), Unknown, netip.Addr{}}, {moments(10, 10), Found, alice}, {moments(12, 19.9), Found, alice}, {moments(12, 20), Ambiguous, netip.Addr{}},
		{moments(27, 28), Ambiguous, netip.Addr{}}, {moments(31, 31), Found, bob}, {moments(39, 50), Found, bob}, {moments(50, 60), Unknown, netip.Addr{}},
		{moments(0, 10), Found, alice},
	} {
		v, who := x.FindAlone(nat64, test.at, nil)
		if v != test.want || v == Found && who[0] != netip.AddrPortFrom(test.who, 0) || v != Found && len(who) > 0 {
			t.Errorf("%v: %d %v, want %d %v", test.at, v, who, test.want, test.who)
		}
	}
	x.Event(event(c, 60, nat64, 5003, bob, 501, web)) // learned after the first question
	if v, _ := x.FindAlone(nat64, moments(61, 61), nil); v != Found {
		t.Errorf("after one more event: %d", v)
	}
	if v, _ := x.FindAlone(mail, moments(61, 61), nil); v != Direct {
		t.Errorf("an address of nobody: %d", v)
	}
}

// TestFindAgainstList compares with a list of all spans that is read from one
// end to the other.
func TestFindAgainstList(t *testing.T) {
	type entry struct {
		span
		port uint16
	}
	for seed := range uint64(20) {
		g := rand.New(rand.NewPCG(seed, 0))
		x, list, open := NewIndex(), []entry(nil), map[string]int{}
		for i := range 400 {
			port, own := uint16(5000+g.IntN(3)), [4]byte{192, 0, 2, byte(g.IntN(2))}
			where := fmt.Sprint(port, own)
			if n, ok := open[where]; ok {
				s := &list[n]
				x.Event(event(server.Deleted, float64(i), nat64, port, netip.AddrFrom16(s.client), s.clientPort, own))
				s.to = at(float64(i))
				delete(open, where)
				continue
			}
			s := span{client: [16]byte{0x20, 1, 15: byte(i)}, clientPort: uint16(1000 + i), server: own, from: at(float64(i)), to: forever}
			x.Event(event(server.Created, float64(i), nat64, port, netip.AddrFrom16(s.client), s.clientPort, own))
			open[where] = len(list)
			list = append(list, entry{s, port})
		}
		for range 2000 {
			from := g.Float64() * 400
			m, port := moments(from, from+g.Float64()*3), uint16(5000+g.IntN(3))
			var want []netip.AddrPort
			for _, s := range list {
				if s.port == port && s.from <= m.To && s.to >= m.From {
					want = append(want, netip.AddrPortFrom(netip.AddrFrom16(s.client), s.clientPort))
				}
			}
			_, got := x.Find(nat64, port, m, nil)
			slices.Reverse(got)
			if len(got) == mostNamed {
				want = want[len(want)-mostNamed:]
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, port %d, %v: %v, want %v", seed, port, m, got, want)
			}
		}
	}
}
