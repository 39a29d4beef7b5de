package dataplane

import (
	"slices"
	"testing"

	"handoff64/conntrack"
)

// TestFragmentTimeout: what waits does so for at least the configured time,
// and not much longer.
func TestFragmentTimeout(t *testing.T) {
	for _, ticks := range []conntrack.Tick{0, 35} {
		want := ticks
		if ticks == 0 {
			want = 2 * conntrack.TicksPerSecond
		}
		for _, f := range cutFlows() {
			for _, after := range []conntrack.Tick{want, want + 1} {
				r := cutRig(t, setup{rules: func(rs *Rules) { rs.FragmentTimeout = ticks }})
				pieces := f.cut(t, random(200), 3, 64)
				held := f.send(r, pieces[1:]...)
				r.now += after
				out := append(held, f.send(r, pieces[0])...)
				if in := after == want; in && len(out) != len(pieces) || !in && len(out) > 1 {
					t.Errorf("%s: %d of %d fragments came out after %d ticks of %d", f.name, len(out), len(pieces), after, want)
				}
				r.now += want + 1
				r.poll()
				if r.workers[0].datagrams.waiting != 0 {
					t.Errorf("%s: fragments are held for ever", f.name)
				}
			}
		}
	}
}

// A datagram that passes may take longer, as long as it makes progress.
func TestSlowDatagram(t *testing.T) {
	r := cutRig(t, setup{})
	f := cutFlows()[0]
	for i, p := range f.cut(t, random(600), 3, 64) {
		r.now += defaultFragmentTicks
		if out := f.send(r, p); len(out) != 1 {
			t.Fatalf("fragment %d: %d packets", i, len(out))
		}
	}
}

// TestFloodOfFragments: datagrams whose fragments come close together pass,
// however many others are begun and never ended, and whatever these are like.
func TestFloodOfFragments(t *testing.T) {
	const limit = 256
	id := uint16(0)
	next := func() uint16 { id++; return id }
	floods := map[string]func(r *rig){
		"later fragments": func(r *rig) { r.from4(piece4(t, next(), 64, true, make([]byte, 64), 17)) },
		"echoes that stay incomplete": func(r *rig) {
			r.from4(pieces4(t, echo4(t, 8, serverA, mappedA, 88, 1, make([]byte, 100)), next(), 64)[0])
		},
		"first fragments that pass": func(r *rig) {
			r.from6(pieces6(t, udp6(t, clientA, 4000, serverA, 4001, make([]byte, 100)), uint32(next()), 64)[0])
		},
		"fragments without a mapping": func(r *rig) {
			r.from4(pieces4(t, udp4(t, serverA, 4001, mappedA, 1999, make([]byte, 100)), next(), 64)[0])
		},
		"overlaps": func(r *rig) {
			n := next()
			r.from4(piece4(t, n, 64, true, make([]byte, 64), 17), piece4(t, n, 72, true, make([]byte, 64), 17))
		},
	}
	for name, flood := range floods {
		for _, f := range cutFlows() {
			r := cutRig(t, setup{fragments: limit, frames: 1024})
			for range 2 * limit { // until the table is full
				flood(r)
			}
			data := random(400)
			pieces := f.cut(t, data, 60000, 64)
			slices.Reverse(pieces)
			var out [][]byte
			for _, p := range pieces {
				out = append(out, f.send(r, p)...)
				for range limit / 3 / len(pieces) { // each list keeps a third
					flood(r)
				}
			}
			if len(out) != len(pieces) {
				t.Errorf("%s: %d of %d fragments of %s came out", name, len(out), len(pieces), f.name)
				continue
			}
			f.check(t, out, data, 60000)
			d := r.workers[0].datagrams
			if d.waiting > limit {
				t.Errorf("%s: %d fragments are held, the limit is %d", name, d.waiting, limit)
			}
		}
	}
}
