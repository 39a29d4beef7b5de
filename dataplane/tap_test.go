package dataplane

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"handoff64/conntrack"
	"handoff64/ring"
)

// sighting is a Sight with a copy of its octets.
type sighting struct {
	Sight
	data []byte
}

// tap opens a tap on the workers of a rig; the function drains it.
func (r *rig) tap(c TapConfig) (*Taps, *Tap, func() []sighting) {
	r.t.Helper()
	taps := NewTaps(r.workers)
	c.Records = max(c.Records, 256)
	tap, err := taps.Open(c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.poll()
	if !taps.Watched() {
		r.t.Error("a round has not taken up the tap")
	}
	return taps, tap, func() (all []sighting) {
		tap.Drain(func(s *Sight, octets []byte) { all = append(all, sighting{*s, bytes.Clone(octets)}) })
		return all
	}
}

// summary is what matters of a record in these tests.
func (s *sighting) summary() string {
	out := fmt.Sprintf("came %d left %d reached %d side %d", s.Came, s.Left, s.Reached, s.Side)
	if s.Kind == SightOut {
		return fmt.Sprintf("out side %d, %d octets", s.Side, len(s.data))
	}
	if s.Reason != NotDropped {
		out += " " + s.Reason.String()
	}
	switch {
	case s.Known:
		out += " known"
	case s.HasSession:
		out += " opened"
	}
	if s.Mapping {
		out += " mapped"
	}
	if s.Answered {
		out += fmt.Sprintf(" answered %d/%d", s.Answer[0], s.Answer[1])
	}
	return out
}

func TestTapTellsEachWay(t *testing.T) {
	denied := "198.51.100.66"
	r := newRig(t, setup{rules: func(rules *Rules) {
		rules.Deny = NewRanges4([]netip.Prefix{netip.MustParsePrefix(denied + "/32")})
	}})
	_, tap, seen := r.tap(TapConfig{})
	expect := func(what string, want ...string) []sighting {
		t.Helper()
		all := seen()
		var got []string
		for i := range all {
			got = append(got, all[i].summary())
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s:\ngot  %q\nwant %q", what, got, want)
		}
		return all
	}
	_, out := r.from6(udp6(t, clientA, 1000, serverA, 53, nil))
	_, _, mapped, _ := transport(t, one(t, out))
	first := expect("opened", "came 0 left 1 reached 4 side 0 opened")
	if s := first[0]; s.ClientPort != 1000 || s.Server != addr4(serverA) || s.ServerPort != 53 || s.Mapped != addr4(mappedA) || int(s.MappedPort) != mapped || s.Out != 28 {
		t.Errorf("%+v", s.Sight)
	}
	r.from6(udp6(t, clientA, 1000, serverA, 53, nil))
	expect("known", "came 0 left 1 reached 4 side 0 known")
	r.from4(udp4(t, serverA, 53, mappedA, mapped, nil))
	back := expect("back", "came 0 left 1 reached 4 side 1 known")
	if hi, lo := hiLo(clientA); back[0].Client != (conntrack.Addr6{Hi: hi, Lo: lo}) || back[0].ClientPort != 1000 {
		t.Errorf("%+v", back[0].Sight)
	}
	r.from4(udp4(t, serverA, 54, mappedA, mapped, nil))
	expect("another port of the server", "came 0 left 1 reached 4 side 1 opened mapped")
	r.from4(udp4(t, serverA, 53, mappedA, mapped+2, nil))
	expect("nobody there", "came 0 left 3 reached 2 side 1 no_mapping answered 3/3")
	r.from6(udp6(t, clientA, 1000, denied, 53, nil))
	expect("denied", "came 0 left 3 reached 2 side 0 denied_destination answered 1/1")
	r.from6(tcp6(t, clientA, 1000, serverA, 80, "A"))
	expect("no session", "came 0 left 3 reached 2 side 0 tcp_without_session")
	expired := udp6(t, clientA, 1000, serverA, 53, nil)
	expired[ethernetHeader+7] = 1
	r.from6(expired)
	expect("hop limit", "came 0 left 3 reached 3 side 0 hop_limit known answered 3/0")
	r.from6(udp6(t, clientB, 2000, mappedA, mapped, nil))
	expect("hairpin", "came 0 left 2 reached 4 side 0 opened", "came 2 left 1 reached 4 side 1 opened mapped")
	odd := udp6(t, clientA, 1000, serverA, 53, nil)
	odd[12], odd[13] = 0x88, 0xcc
	r.from6(odd)
	expect("not IP", "came 0 left 3 reached 0 side 0 not_ip")
	r.from6(odd[:10])
	expect("no Ethernet", "came 0 left 3 reached 0 side 0 truncated")
	if n := tap.Missed(); n != 0 {
		t.Errorf("%d missed", n)
	}
}

func TestTapShowsOctets(t *testing.T) {
	r := newRig(t, setup{})
	taps := NewTaps(r.workers)
	full, err := taps.Open(TapConfig{Octets: 1 << 16, Sent: true, Records: 64})
	if err != nil {
		t.Fatal(err)
	}
	tap2, err := taps.Open(TapConfig{Octets: 20, Sent: true, Records: 64}) // a second listener
	if err != nil {
		t.Fatal(err)
	}
	in := udp6(t, clientA, 1000, serverA, 5300, []byte("some payload"))
	_, out := r.from6(in)
	one(t, out)
	var got []sighting
	full.Drain(func(s *Sight, octets []byte) { got = append(got, sighting{*s, bytes.Clone(octets)}) })
	if len(got) != 2 || !bytes.Equal(got[0].data, in) || got[1].Kind != SightOut || !bytes.Equal(got[1].data, out[0]) {
		t.Fatalf("%+v", got)
	}
	if got[0].Serial != got[1].Serial || got[1].Side != IPv4 || got[0].Side != IPv6 {
		t.Errorf("%+v", got)
	}
	got = nil
	tap2.Drain(func(s *Sight, octets []byte) { got = append(got, sighting{*s, bytes.Clone(octets)}) })
	if len(got) != 2 || !bytes.Equal(got[0].data, in[:20]) || int(got[0].Wire) != len(in) || !bytes.Equal(got[1].data, out[0][:20]) {
		t.Errorf("cut to 20 octets: %+v", got)
	}
	// An answer belongs to what it answers.
	_, _ = r.from4(udp4(t, serverA, 53, mappedA, 3, nil))
	got = nil
	full.Drain(func(s *Sight, octets []byte) { got = append(got, sighting{*s, bytes.Clone(octets)}) })
	if len(got) != 2 || got[0].Reason != DropNoMapping || got[1].Side != IPv4 || len(got[1].data) < 70 {
		t.Errorf("an answer: %+v", got)
	}
}

// Fragments made of one packet are all shown.
func TestTapShowsFragments(t *testing.T) {
	r := newRig(t, setup{})
	_, out := r.from6(udp6(t, clientA, 1000, serverA, 53, nil))
	_, _, mapped, _ := transport(t, one(t, out))
	_, _, seen := r.tap(TapConfig{Octets: 1 << 16, Sent: true})
	big := udp4(t, serverA, 53, mappedA, mapped, make([]byte, 1460))
	out6, _ := r.from4(big)
	all := seen()
	if len(out6) != 2 || len(all) != 3 || all[0].Left != LeftPieces || !bytes.Equal(all[1].data, out6[0]) || !bytes.Equal(all[2].data, out6[1]) {
		t.Errorf("%d fragments, seen %d", len(out6), len(all))
		for i := range all {
			t.Log(all[i].summary())
		}
	}
}

func TestTapFilter(t *testing.T) {
	hiA, loA := hiLo(clientA)
	a := conntrack.Addr6{Hi: hiA, Lo: loA}
	for name, tc := range map[string]struct {
		f    TapFilter
		want string // which of the packets below, in their order
	}{
		"all":            {TapFilter{}, "abcde"},
		"tcp":            {TapFilter{Proto: 6}, "b"},
		"client":         {TapFilter{Client: a, ClientBits: 128}, "abc"},
		"client prefix":  {TapFilter{Client: a, ClientBits: 32}, "abcd"},
		"client port":    {TapFilter{ClientPort: 1000}, "ac"},
		"server":         {TapFilter{Server: addr4("203.0.113.1"), ServerBits: 32}, "e"},
		"server prefix":  {TapFilter{Server: addr4("198.51.100.0"), ServerBits: 24}, "abcd"},
		"server port":    {TapFilter{ServerPort: 53}, "ac"},
		"mapped":         {TapFilter{Mapped: addr4(mappedA), HasMapped: true}, "acde"},
		"port":           {TapFilter{Port: 3}, "e"},
		"dropped":        {TapFilter{Dropped: true}, "be"},
		"reason":         {TapFilter{Reason: DropNoMapping}, "e"},
		"side":           {TapFilter{Side: IPv4, HasSide: true}, "ce"},
		"several":        {TapFilter{Proto: 17, Client: a, ClientBits: 128, Side: IPv6, HasSide: true}, "a"},
		"contradiction":  {TapFilter{Proto: 6, ServerPort: 53}, ""},
		"other reason":   {TapFilter{Reason: DropTTL}, ""},
		"another client": {TapFilter{Client: conntrack.Addr6{Hi: 1}, ClientBits: 64}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, setup{})
			_, _, seen := r.tap(TapConfig{Filter: tc.f})
			got := ""
			note := func(letter string) {
				for range seen() {
					got += letter
				}
			}
			_, out := r.from6(udp6(t, clientA, 1000, serverA, 53, nil))
			_, _, mapped, _ := transport(t, one(t, out))
			note("a")
			r.from6(tcp6(t, clientA, 1001, serverA, 80, "A"))
			note("b")
			r.from4(udp4(t, serverA, 53, mappedA, mapped, nil))
			note("c")
			r.from6(udp6(t, clientB, 1002, serverA, 54, nil))
			note("d")
			r.from4(udp4(t, "203.0.113.1", 9, mappedA, 3, nil))
			note("e")
			if got != tc.want {
				t.Errorf("chose %q, want %q", got, tc.want)
			}
		})
	}
}

// A reader that does not read costs the worker nothing but the count, and finds
// the first records whole when it comes.
func TestTapFullRing(t *testing.T) {
	r := newRig(t, setup{})
	taps := NewTaps(r.workers)
	tap, err := taps.Open(TapConfig{Octets: 1 << 16, Sent: true, Records: 8})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		_, out := r.from6(udp6(t, clientA, 1000+i, serverA, 53, nil))
		one(t, out)
	}
	if n := tap.Missed(); n != 32 {
		t.Errorf("%d missed, want 32 of 40", n)
	}
	for round := range 3 { // places come back
		n := tap.Drain(func(s *Sight, octets []byte) {
			if len(octets) < 42 {
				t.Errorf("%d octets", len(octets))
			}
		})
		if n != 8 {
			t.Errorf("round %d: %d records, want 8", round, n)
		}
		for range 4 {
			r.from6(udp6(t, clientA, 1000, serverA, 53, nil))
		}
	}
	taps.Close(tap)
	r.poll()
	if r.workers[0].taps != nil {
		t.Error("the worker goes on after the tap is closed")
	}
}

func TestTooManyTaps(t *testing.T) {
	r := newRig(t, setup{})
	taps := NewTaps(r.workers)
	for range maxTaps {
		if _, err := taps.Open(TapConfig{Records: 8}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := taps.Open(TapConfig{Records: 8}); err != ErrTooManyTaps {
		t.Errorf("one more: %v", err)
	}
}

// A tap allocates nothing in the worker either.
func TestTappedPollAllocatesNothing(t *testing.T) {
	r := newRig(t, setup{frames: 2048, lossless: true})
	_, tap, _ := r.tap(TapConfig{Octets: 1 << 16, Sent: true, Records: 1024})
	w := r.workers[0]
	packets := [][]byte{
		udp6(t, clientA, 1000, serverA, 5300, nil), udp4(t, serverA, 5300, mappedA, 3, nil), tcp6(t, clientB, 1000, serverA, 80, "S"),
	}
	records := 0
	allocs := testing.AllocsPerRun(200, func() {
		for _, b := range packets {
			w.main.n = 0
			for range 16 {
				addr, _ := w.frames.Pop()
				copy(w.umem.Frame(addr)[ring.Headroom:], b)
				w.main.add(w.umem, ring.Desc{Addr: addr + ring.Headroom, Len: uint32(len(b))}, viaPort)
			}
			w.process(&w.main)
			w.discardOutput()
		}
		records += tap.Drain(func(*Sight, []byte) {})
	})
	if allocs != 0 {
		t.Errorf("%v allocations per round, want 0", allocs)
	}
	if records < 200*3*16 {
		t.Errorf("%d records only", records)
	}
}

// Taps come and go while packets flow and somebody reads: for the race detector.
func TestTapsComeAndGo(t *testing.T) {
	r := newRig(t, setup{workers: 2})
	taps := NewTaps(r.workers)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				tap, err := taps.Open(TapConfig{Octets: 64 + rand.IntN(2000), Sent: true, Records: 64})
				if err != nil {
					continue
				}
				for range 20 {
					tap.Drain(func(s *Sight, octets []byte) {
						if s.Octets > 0 && len(octets) != int(s.Octets) {
							t.Errorf("%d octets, want %d", len(octets), s.Octets)
						}
					})
				}
				taps.Close(tap)
			}
		})
	}
	for i := range 3000 {
		r.from6(udp6(t, clientA, 1000+i%50, serverA, 53, nil))
	}
	close(stop)
	wg.Wait()
}

// What is made outside of any burst, here the answer to a stored SYN, finds a
// tap that has not seen a burst yet.
func TestTapBeforeTheFirstBurst(t *testing.T) {
	r := newRig(t, setup{})
	r.from4(tcp4(t, serverA, tcpServerPort, mappedA, tcpMappedPort, "S"))
	_, _, seen := r.tap(TapConfig{Octets: 100, Sent: true})
	_, out4 := r.until(r.now + 60)
	one(t, out4)
	if all := seen(); len(all) != 0 {
		t.Errorf("%d records of a packet that was not in a burst", len(all))
	}
}
