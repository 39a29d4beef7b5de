package nexthop

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func question(dst string) Question {
	a := netip.MustParseAddr(dst)
	if a.Is4() {
		return Question{IPv4, 0, uint64(as4(a))}
	}
	hi, lo := as6(a)
	return Question{IPv6, hi, lo}
}

// probed returns, and forgets, whom the fib wants probed, and how.
func (f *fib) probed() map[string]uint16 {
	out := make(map[string]uint16)
	for _, p := range f.probes {
		out[p.key.addr.String()] = p.state
	}
	f.probes = nil
	return out
}

func sameProbes(got, want map[string]uint16) bool {
	if len(got) != len(want) {
		return false
	}
	for k, v := range want {
		if s, ok := got[k]; !ok || s != v {
			return false
		}
	}
	return true
}

func TestAsk(t *testing.T) {
	f := testFIB(t)
	f.add(to("192.0.2.0/24", 0, hop(index4, "")).withMTU(1200), to("0.0.0.0/0", 0, hop(index4, "192.0.2.1")),
		to("198.51.100.0/24", 0, hop(indexOther, "10.0.0.1")), to("2001:db8::/64", 0, hop(index6, "")))
	gen := f.publish().Gen
	f.probed() // the gateway, at once
	use := func(addrs ...string) map[string]uint16 {
		m := make(map[string]uint16)
		for _, a := range addrs {
			m[a] = 0
		}
		return m
	}
	after := func(d time.Duration) time.Time { return t0.Add(d) }
	for _, c := range []struct {
		what string
		at   time.Time
		do   func(now time.Time)
		want map[string]uint16
	}{
		{"a destination behind the gateway", t0, func(now time.Time) { f.ask(now, question("8.8.8.8")) }, use("192.0.2.1")},
		{"another one, too soon", after(time.Second / 2), func(now time.Time) { f.ask(now, question("9.9.9.9")) }, use()},
		{"on link, both families", t0, func(now time.Time) {
			f.ask(now, question("192.0.2.7"))
			f.ask(now, question("2001:db8::7"))
			f.ask(now, question("192.0.2.7"))
		}, use("192.0.2.7", "2001:db8::7")},
		{"where nothing can be resolved", t0, func(now time.Time) {
			f.ask(now, question("198.51.100.1"))
			f.ask(now, question("2001:db8:1::1"))
		}, use()},
		{"again, as nothing happened", after(time.Second), func(now time.Time) { f.ask(now, question("192.0.2.7")) }, use("192.0.2.7")},
		{"too soon after it failed", after(3 * time.Second), func(now time.Time) {
			f.setNeigh(now, neighbour(index4, "192.0.2.7", unix.NUD_FAILED, 0))
			f.ask(now.Add(time.Second-1), question("192.0.2.7"))
		}, use()},
		{"a second after it failed", after(4 * time.Second), func(now time.Time) { f.ask(now, question("192.0.2.7")) }, use("192.0.2.7")},
		{"the kernel's table is full", after(4 * time.Second), func(now time.Time) {
			f.refused(neighKey{index4, netip.MustParseAddr("192.0.2.7")}, now)
			f.ask(now, question("192.0.2.7"))
		}, use()},
	} {
		c.do(c.at)
		if got := f.probed(); !sameProbes(got, c.want) {
			t.Errorf("%s: probes %v, want %v", c.what, got, c.want)
		}
		f.publish()
	}
	_, h := find(f.last, "192.0.2.7")
	if h.State != Unresolved || !h.Failed || h.MTU != 1200 {
		t.Errorf("refused neighbour: %+v, want unresolved, failed, MTU 1200", *h)
	}
	f.ask(after(6*time.Second), question("192.0.2.7"))
	if _, h := find(f.publish(), "192.0.2.7"); h.Failed {
		t.Error("still failed while a new attempt is under way")
	}
	if f.last.Gen != gen {
		t.Errorf("generation %d, want %d", f.last.Gen, gen)
	}
}

func TestAskIsBounded(t *testing.T) {
	f := testFIB(t)
	f.add(to("10.0.0.0/8", 0, hop(index4, "")))
	f.publish()
	for i := range uint64(2 * maxPending) {
		f.ask(t0, Question{IPv4, 0, 10<<24 + i})
	}
	if n := len(f.probes); n != maxPending {
		t.Errorf("%d destinations asked for at a time, want %d", n, maxPending)
	}
	for _, p := range slices.Clone(f.probes) {
		f.setNeigh(t0, neighMsg{key: p.key, state: unix.NUD_FAILED})
	}
	f.probed()
	f.ask(t0, Question{IPv4, 0, 11<<24 - 1})
	if n := len(f.probes); n != 1 || f.pending != 1 {
		t.Errorf("after all failed: %d probes, %d pending, want one", n, f.pending)
	}
}

func TestRound(t *testing.T) {
	f := testFIB(t)
	f.add(to("192.0.2.0/24", 0, hop(index4, "")),
		to("0.0.0.0/0", 0, hop(index4, "192.0.2.1")), to("10.1.0.0/16", 0, hop(index4, "192.0.2.2")),
		to("10.2.0.0/16", 0, hop(index4, "192.0.2.3")), to("10.3.0.0/16", 0, hop(index4, "192.0.2.4")))
	for _, n := range []neighMsg{
		neighbour(index4, "192.0.2.1", unix.NUD_REACHABLE, 1), // gateways: used,
		neighbour(index4, "192.0.2.2", unix.NUD_STALE, 2),     // not used,
		neighbour(index4, "192.0.2.3", unix.NUD_FAILED, 3),    // dead,
		neighbour(index4, "192.0.2.4", unix.NUD_PERMANENT, 4), // set by hand
		neighbour(index4, "192.0.2.10", unix.NUD_STALE, 10),   // hosts: used,
		neighbour(index4, "192.0.2.11", unix.NUD_STALE, 11),   // not used,
		neighbour(index4, "192.0.2.12", unix.NUD_REACHABLE, 12),
		neighbour(index4, "192.0.2.13", unix.NUD_DELAY, 13),
		neighbour(index4, "192.0.2.14", unix.NUD_NOARP, 14),
	} {
		f.setNeigh(t0, n)
	}
	s := f.publish()
	f.probed()
	for _, dst := range []string{"8.8.8.8", "10.3.0.1", "192.0.2.10", "192.0.2.12", "192.0.2.13", "192.0.2.14"} {
		_, h := find(s, dst)
		h.MarkUsed()
	}
	f.round(t0)
	if got, want := f.probed(), map[string]uint16{"192.0.2.1": unix.NUD_PROBE, "192.0.2.3": 0, "192.0.2.10": 0}; !sameProbes(got, want) {
		t.Errorf("probes %v, want %v", got, want)
	}
	f.round(t0)
	if got, want := f.probed(), map[string]uint16{"192.0.2.3": 0}; !sameProbes(got, want) {
		t.Errorf("with no traffic: probes %v, want %v", got, want)
	}
}

// TestUsedNeighbourFails: the kernel gives a used neighbour up because its MAC
// address changed; it is asked for at once, and not called failed.
func TestUsedNeighbourFails(t *testing.T) {
	f := testFIB(t)
	f.add(to("0.0.0.0/0", 0, hop(index4, "192.0.2.1")))
	f.setNeigh(t0, neighbour(index4, "192.0.2.1", unix.NUD_PROBE, 1))
	_, h := find(f.publish(), "8.8.8.8")
	h.MarkUsed()
	f.setNeigh(t0, neighbour(index4, "192.0.2.1", unix.NUD_FAILED, 0))
	_, h = find(f.publish(), "8.8.8.8")
	if got := f.probed(); h.State != Unresolved || h.Failed || !sameProbes(got, map[string]uint16{"192.0.2.1": 0}) {
		t.Errorf("hop %+v, probes %v", *h, got)
	}
	f.setNeigh(t0, neighbour(index4, "192.0.2.1", unix.NUD_FAILED, 0))
	if _, h = find(f.publish(), "8.8.8.8"); !h.Failed {
		t.Errorf("after the second failure: %+v", *h)
	}
	f.round(t0.Add(time.Minute)) // retries do not call it well
	if _, h = find(f.publish(), "8.8.8.8"); !h.Failed {
		t.Errorf("while it is retried unasked: %+v", *h)
	}
}

// TestPendingEnds: an outcome that never comes is a failure.
func TestPendingEnds(t *testing.T) {
	f := testFIB(t)
	f.add(to("192.0.2.0/24", 0, hop(index4, "")))
	f.publish()
	f.ask(t0, question("192.0.2.7"))
	f.round(t0.Add(askTimeout + 1))
	if _, h := find(f.publish(), "192.0.2.7"); h.State != Unresolved || !h.Failed || f.pending != 0 {
		t.Errorf("hop %+v, %d pending", *h, f.pending)
	}
}

// TestManyNeighbours: more on-link neighbours than a session's 16 bits can
// name. All work; those with a high index are not to be cached; and once they
// are gone, low indices are given out again, under a new generation.
func TestManyNeighbours(t *testing.T) {
	f := testFIB(t)
	f.add(to("10.0.0.0/8", 0, hop(index4, "")))
	const count = 70_000
	addr := func(i int) netip.Addr { return addr4(10<<24 + uint32(i)) }
	for i := range count {
		f.setNeigh(t0, neighMsg{
			key: neighKey{index4, addr(i)}, state: unix.NUD_REACHABLE,
			mac: [6]byte{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, isMAC: true,
		})
	}
	s := f.publish()
	seen := make(map[uint32]bool)
	cached := 0
	for i := range count {
		index, h := find(s, addr(i).String())
		if want := [6]byte{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}; h.State != Resolved || [6]byte(h.Eth[:6]) != want {
			t.Fatalf("%v: hop %+v, want %x", addr(i), *h, want)
		}
		seen[index] = true
		if w := s.Word(index); w != 0 {
			cached++
			if back, ok := s.Cached(w); !ok || back != index {
				t.Fatalf("%v: index %d cached, %d (%v) read", addr(i), index, back, ok)
			}
		}
	}
	if len(seen) != count || cached >= 1<<16 || cached < 1<<16-10 {
		t.Errorf("%d indices, %d of them cached; want %d and nearly %d", len(seen), cached, count, 1<<16)
	}
	for i := range count {
		f.delNeigh(neighKey{index4, addr(i)})
	}
	if after := f.publish(); after.Gen != s.Gen {
		t.Errorf("neighbours went, and with them generation %d", s.Gen)
	}
	f.round(t0.Add(2 * hostLifetime))
	swept := f.publish()
	if _, h := find(swept, addr(1).String()); h.State != Connected || swept.Gen == s.Gen {
		t.Errorf("after the sweep: %v in generation %d, was %d", h.State, swept.Gen, s.Gen)
	}
	f.setNeigh(t0, neighbour(index4, "10.9.9.9", unix.NUD_REACHABLE, 9))
	if i, _ := find(f.publish(), "10.9.9.9"); int(i) >= len(s.Hops) {
		t.Errorf("a new neighbour got index %d: freed ones are not used", i)
	}
}

// TestHostMTUFollowsRoute: the mtu metric of an on-link route is that of its
// hosts.
func TestHostMTUFollowsRoute(t *testing.T) {
	f := testFIB(t)
	f.add(to("192.0.2.0/24", 0, hop(index4, "")))
	f.setNeigh(t0, neighbour(index4, "192.0.2.7", unix.NUD_REACHABLE, 7))
	before := f.publish()
	f.apply(to("192.0.2.0/24", 0, hop(index4, "")).withMTU(900), false, unix.NLM_F_REPLACE)
	s := f.publish()
	if _, h := find(s, "192.0.2.7"); h.MTU != 900 || h.State != Resolved || s.Gen == before.Gen {
		t.Errorf("hop %+v in generation %d, was %d", *h, s.Gen, before.Gen)
	}
}
