package dataplane

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"handoff64/conntrack"
)

// overfillSYNs sends SYNs of different flows until three found no room.
func overfillSYNs(t *testing.T, r *rig) {
	for port := 1; r.drops(DropSYNStoreFull) < 3; port++ {
		r.from4(tcp4(t, serverA, port, mappedA, 5000, "S"))
	}
	if n := r.drops(DropSYNStored); n < synSlots/4 || n > synSlots {
		t.Errorf("%d SYNs were stored, there is room for %d", n, synSlots)
	}
	r.check()
}

// unreachable checks that an ICMPv4 Port Unreachable quotes the packet.
func portUnreachable(t *testing.T, out4 [][]byte, about []byte) {
	t.Helper()
	p := one(t, out4)
	c := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
	ip := p.NetworkLayer().(*layers.IPv4)
	if c.TypeCode != layers.CreateICMPv4TypeCode(3, 3) || ip.DstIP.String() != serverA || ip.SrcIP.String() != box4 {
		t.Errorf("%s > %s: %v", ip.SrcIP, ip.DstIP, c.TypeCode)
	}
	whole := about[ethernetHeader:][:int(about[ethernetHeader+2])<<8|int(about[ethernetHeader+3])] // without padding
	if quote := c.LayerPayload(); !bytes.Equal(quote, whole) {
		t.Errorf("quotes\n% x, the SYN was\n% x", quote, whole)
	}
	e := p.LinkLayer().(*layers.Ethernet)
	if !bytes.Equal(e.DstMAC, macRouter) || !bytes.Equal(e.SrcMAC, macBox4) {
		t.Errorf("Ethernet %s > %s", e.SrcMAC, e.DstMAC)
	}
}

// RFC 6146 §3.5.2.2, RFC 5382 REQ-4: no answer for TCP_INCOMING_SYN, Port
// Unreachable about the first SYN then, and none about those sent again.
func TestStoredSYNIsAnswered(t *testing.T) {
	f := newTCPFlow(t, setup{})
	syn := tcp4(t, serverA, tcpServerPort, mappedA, tcpMappedPort, "S")
	out6, out4 := f.from4(syn)
	none(t, append(out6, out4...))
	start := f.now
	_, out4 = f.until(start + 20)
	none(t, out4)
	f.segment('4', "S")
	_, out4 = f.until(start + tcpTimeouts.TCPIncomingSYN - 1)
	none(t, out4)
	_, out4 = f.until(start + tcpTimeouts.TCPIncomingSYN)
	portUnreachable(t, out4, syn)
	_, out4 = f.until(f.now + 2*tcpTimeouts.TCPIncomingSYN)
	none(t, out4)
	if fate := f.segment('4', "S"); fate != "stored" { // its place is free again
		t.Errorf("another one was %s", fate)
	}
	if n := f.drops(DropSYNStored); n != 3 {
		t.Errorf("%d dropped as stored, want 3", n)
	}
	if st := f.table.Stats(); st.Created != 0 || st.BIB != 0 {
		t.Errorf("tables: %+v", st)
	}
}

// The longest headers are quoted whole.
func TestStoredSYNKeepsAllHeaders(t *testing.T) {
	r := newRig(t, setup{})
	ip := ip4(serverA, mappedA, layers.IPProtocolTCP)
	for range 40 {
		ip.Options = append(ip.Options, layers.IPv4Option{OptionType: 1})
	}
	c := tcpLayer(tcpServerPort, 5000, "S")
	for range 40 {
		c.Options = append(c.Options, layers.TCPOption{OptionType: 1})
	}
	c.SetNetworkLayerForChecksum(ip)
	syn := build(t, ether(layers.EthernetTypeIPv4), ip, c, gopacket.Payload("fast open"))
	r.from4(syn)
	_, out4 := r.until(r.now + 60)
	portUnreachable(t, out4, syn)
	// Of more than that, the start.
	syn = build(t, ether(layers.EthernetTypeIPv4), ip, c, gopacket.Payload(make([]byte, 400)))
	r.from4(syn)
	_, out4 = r.until(r.now + 60)
	if quote := one(t, out4).Layer(layers.LayerTypeICMPv4).LayerPayload(); !bytes.Equal(quote, syn[ethernetHeader:synFrame]) {
		t.Errorf("quotes %d octets: % x", len(quote), quote)
	}
}

// Simultaneous open: the client's SYN comes while the server's is stored. The
// connection is established, and nothing is said about the stored SYN. With
// several workers, whichever received what.
func TestSimultaneousOpen(t *testing.T) {
	for _, filtering := range []bool{false, true} {
		for workers := 1; workers <= 3; workers++ {
			for from := range workers {
				t.Run(fmt.Sprintf("filtering %v, worker %d of %d", filtering, from, workers), func(t *testing.T) {
					f := newTCPFlow(t, setup{workers: workers, rules: func(r *Rules) { r.AddressDependent = filtering }})
					if filtering {
						f.reach("CLOSED with BIB entry")
					}
					out6, out4 := f.pass(f.in4[from], [][]byte{tcp4(t, serverA, tcpServerPort, mappedA, tcpMappedPort, "S")})
					none(t, append(out6, out4...))
					f.now += 30
					if fate := f.segment('6', "S"); fate != "sent" {
						t.Fatalf("the client's SYN was %s", fate)
					}
					if state, left := f.session(); state != "ESTABLISHED" || left != tcpTimeouts.TCPEstablished {
						t.Errorf("state %s for %d ticks", state, left)
					}
					out6, out4 = f.until(f.now + 2*tcpTimeouts.TCPIncomingSYN)
					none(t, append(out6, out4...))
					for _, s := range []struct {
						side  byte
						flags string
					}{{'4', "SA"}, {'6', "SA"}, {'4', "A"}, {'6', "A"}} {
						if fate := f.segment(s.side, s.flags); fate != "sent" {
							t.Errorf("%c %s: %s", s.side, s.flags, fate)
						}
					}
				})
			}
		}
	}
}

// A SYN stored while the port was nobody's, and sent again when it was
// somebody's: the connection is there, so nothing is answered.
func TestStoredSYNOvertakenByItsRepetition(t *testing.T) {
	f := newTCPFlow(t, setup{})
	f.segment('4', "S")
	f.reach("CLOSED with BIB entry")
	if fate := f.segment('4', "S"); fate != "sent" {
		t.Fatalf("repeated SYN: %s", fate)
	}
	out6, out4 := f.until(f.now + 100)
	none(t, append(out6, out4...))
}

// Nothing is stored where policy, or a source that is no host, says no.
func TestSYNsThatAreNotStored(t *testing.T) {
	f := newTCPFlow(t, setup{rules: func(r *Rules) { r.TCPIncoming = false }})
	f.segment('4', "S")
	for _, source := range []string{"240.0.0.1", "127.0.0.1", "0.0.0.0", "224.0.0.1", mappedA} {
		r := newRig(t, setup{})
		r.from4(tcp4(t, source, 80, mappedA, 5000, "S"))
		if n := r.drops(DropBadSource); n != 1 {
			t.Errorf("from %s: %d dropped as bad_source", source, n)
		}
		_, out4 := r.until(r.now + 100)
		none(t, out4)
	}
	_, out4 := f.until(f.now + 100)
	none(t, out4)
	if n := f.drops(DropTCPIncoming); n != 1 {
		t.Errorf("%d dropped as tcp_incoming", n)
	}
}

// With handoff the sender comes first (protocol.md §6, rule 5 of the IPv4
// side): it gets the SYN over the control channel, and nothing is stored.
func TestHandoffComesBeforeStoring(t *testing.T) {
	for _, filtering := range []bool{false, true} {
		f := newTCPFlow(t, setup{handoff: true, rules: func(r *Rules) { r.AddressDependent = filtering }})
		if filtering {
			f.reach("CLOSED with BIB entry")
			f.tunnelled(t, 0)
		}
		f.segment('4', "S")
		if sent := f.tunnelled(t, 0); len(sent) != 1 || sent[0].Kind != conntrack.Tunnel4 || f.drops(DropSYNStored) != 0 {
			t.Errorf("filtering %v: tunnelled %+v, %d stored", filtering, sent, f.drops(DropSYNStored))
		}
	}
}

// A flood fills the store and takes half of the ICMP errors at most; a session
// goes on meanwhile, and rounds stay bounded.
func TestSYNFlood(t *testing.T) {
	r := newRig(t, setup{frames: 1024, rules: func(r *Rules) { r.ICMPErrorsPerSecond = 100 }})
	mapped := r.mappedUDP(t, serverA)
	var some [][]byte
	answers, least := 0, 1000
	start := r.now
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		some = some[:0]
		for range 60 {
			some = append(some, tcp4(t, serverA, 1+rng.IntN(65535), mappedA, 2000+rng.IntN(60000), "S"))
		}
		r.now++
		_, out4 := r.from4(some...)
		answers += len(out4)
		least = min(least, r.workers[0].limit.tokens)
		out6, _ := r.from4(udp4(t, serverA, 4001, mappedA, mapped, nil))
		one(t, out6)
	}
	seconds := int(r.now-start)/conntrack.TicksPerSecond - 6
	if answers < 50 || answers > 100*(seconds+1) {
		t.Errorf("%d answers in %d s", answers, seconds)
	}
	if least < 490 {
		t.Errorf("at times no more than %d.%d ICMP errors of 100 were left for others", least/10, least%10)
	}
	if stored, full := r.drops(DropSYNStored), r.drops(DropSYNStoreFull); stored+full != 300*60 || stored < synSlots/2 {
		t.Errorf("%d stored, %d found no room", stored, full)
	}
	var c Counters
	if c = r.workers[0].Counters(); c.Suppressed == 0 {
		t.Error("no answer was suppressed")
	}
}

// The store against a plain model, while others look for what is in it.
func TestSYNStoreModel(t *testing.T) {
	s := new(synStore)
	type stored struct {
		tag     uint64
		since   conntrack.Tick
		matched bool
	}
	var model []stored
	rng := rand.New(rand.NewPCG(3, 4))
	m := &meta{frame: make([]byte, 256)}
	m.p.L3, m.p.End = ethernetHeader, 60
	now := conntrack.Tick(5)
	for range 200_000 {
		m.hash = uint64(rng.IntN(2000)) << 24
		tag := synTag(m.hash)
		at := -1
		for i := range model {
			if model[i].tag == tag {
				at = i
			}
		}
		switch rng.IntN(8) {
		case 0:
			now += conntrack.Tick(rng.IntN(3))
			h, overtaken := s.take(now, 60)
			due := len(model) > 0 && now-model[0].since >= 60
			if (h != nil) != due || due && (overtaken != model[0].matched || h.since != model[0].since) {
				t.Fatalf("take: %v, %v; the model has %+v", h != nil, overtaken, model[:min(1, len(model))])
			}
			if due {
				model = model[1:]
			}
		case 1:
			if got, want := s.match(tag), at >= 0 && !model[at].matched; got != want {
				t.Fatalf("match %v, want %v", got, want)
			}
			if at >= 0 {
				model[at].matched = true
			}
		default:
			if ok := s.put(m, m.hash>>24%senderBuckets, now); ok && at < 0 {
				model = append(model, stored{tag, now, false})
			} else if !ok && at >= 0 {
				t.Fatal("no room for what is stored already")
			}
		}
		if int(s.count.Load()) != len(model) || int(s.n) != len(model) {
			t.Fatalf("%d in the store, want %d", s.n, len(model))
		}
	}
}

// Of many that look for one SYN at once, one finds it.
func TestSYNIsMatchedOnce(t *testing.T) {
	s := new(synStore)
	m := &meta{frame: make([]byte, 256)}
	m.p.L3, m.p.End = ethernetHeader, 60
	for round := range 500 {
		m.hash = uint64(round) << 20
		s.put(m, uint64(m.hash>>24)%senderBuckets, conntrack.Tick(round))
		var found [4]bool
		var wg sync.WaitGroup
		for i := range found {
			wg.Go(func() { found[i] = s.match(synTag(m.hash)) })
		}
		wg.Wait()
		n := 0
		for _, ok := range found {
			if ok {
				n++
			}
		}
		if h, overtaken := s.take(conntrack.Tick(round+60), 60); n != 1 || h == nil || !overtaken {
			t.Fatalf("round %d: %d found it, overtaken %v", round, n, overtaken)
		}
	}
}
