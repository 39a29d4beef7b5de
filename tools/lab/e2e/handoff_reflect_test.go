package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"handoff64/handoff/wire"
	"handoff64/tools/lab"
)

// exposure is what went to an address and what it sent back.
type exposure struct{ packetsIn, octetsIn, packetsOut, octetsOut int }

// exposed adds up a capture on the link of an address.
func exposed(file string, address netip.Addr, counts func(packet4) bool) (x exposure, err error) {
	err = eachIPv4(file, func(p packet4) {
		switch {
		case !counts(p):
		case p.dst == address:
			x.packetsIn, x.octetsIn = x.packetsIn+1, x.octetsIn+p.octets
		case p.src == address:
			x.packetsOut, x.octetsOut = x.packetsOut+1, x.octetsOut+p.octets
		}
	})
	return x, err
}

// below expects that less came out than went in, and that there was something.
func (x exposure) below(t *testing.T, what string) {
	t.Helper()
	t.Logf("%s: %d packets of %d octets in, %d of %d out: factors %.2f and %.2f", what, x.packetsIn, x.octetsIn, x.packetsOut, x.octetsOut,
		float64(x.packetsOut)/float64(x.packetsIn), float64(x.octetsOut)/float64(x.octetsIn))
	if x.packetsOut >= x.packetsIn || x.octetsOut >= x.octetsIn {
		t.Errorf("%s: what comes out is not less than what goes in: %+v", what, x)
	}
	if x.packetsOut == 0 {
		t.Errorf("%s: nothing comes out at all, so nothing was measured", what)
	}
}

// forgeable lets a host send packets with any source through the router.
func (w *world) forgeable(host string) {
	w.t.Helper()
	for _, name := range []string{"all", host} {
		w.must(w.Host("r4").SetSysctl("ipv4/conf/"+name+"/rp_filter", "0"))
	}
}

// victimOf is somebody in whose name packets are forged: addresses of the second
// server's link that nobody has, so that nothing of what they get goes on.
func victimOf(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(20 + i%200)}), uint16(1024+i))
}

// Strangers' packets to ports that nobody has go back to whoever they claim to
// be from, for that might be a handoff server: but fewer and smaller.
func TestHandoffNat64dIsNoReflector(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, size := range []int{0, 8, 100, 600, 1200, 1472} {
		t.Run(fmt.Sprintf("%d octets", size), func(t *testing.T) {
			w := routed(t, handoffSet("stranger_packets_per_second", 100_000))
			w.forgeable("server2")
			captured := w.record(w.Host("r4"), "nat64")
			forge := w.forger(w.Host("server2"))
			victims := make(map[netip.Addr]bool)
			for i := range 2000 {
				victim := victimOf(i)
				victims[victim.Addr()] = true
				to := netip.AddrPortFrom(lab.Pool4, uint16(20_000+i))
				if i%2 == 0 {
					w.must(forge.udp(victim, to, noise(size)))
				} else {
					w.must(forge.send(victim.Addr(), to.Addr(), 6, tcp4(victim, to, 2, noise(max(size-12, 0)))))
				}
				if i%16 == 15 {
					time.Sleep(2 * time.Millisecond)
				}
			}
			w.eventually("all have arrived", 10*time.Second, func() error {
				if s := w.stats(); s.RX.IPv4.Packets < 2000 {
					return fmt.Errorf("%d", s.RX.IPv4.Packets)
				}
				return nil
			})
			time.Sleep(100 * time.Millisecond) // what comes of it comes
			x, err := exposed(captured(), lab.Pool4, func(p packet4) bool { return victims[p.src] || victims[p.dst] })
			w.must(err)
			x.below(t, "nat64d")
		})
	}
}

// The same for handoffd: tokens that it does not know make it ask, and that
// is less than what was sent.
func TestHandoffdIsNoReflector(t *testing.T) {
	t.Parallel()
	w := routed(t)
	w.forgeable("server2")
	h := w.handoffd("server")
	captured := w.record(w.server, "eth0")
	forge := w.forger(w.Host("server2"))
	to := netip.AddrPortFrom(w.Server(), controlPort)
	victims := make(map[netip.Addr]bool)
	for i := range 2000 {
		victim := victimOf(i)
		victims[victim.Addr()] = true
		token := make([]byte, 18)
		binary.BigEndian.PutUint64(token, rand.Uint64())
		b := wire.AppendToken(nil, token)
		entry := wire.Entry{MappedPort: 5000, Prefix: [12]byte(lab.Pool6.Addr().AsSlice()[:12]), Client: w.Client().As16(), ClientPort: 4000}
		switch i % 3 {
		case 0: // a notification
			b = wire.AppendEntry(wire.AppendAuthenticator(wire.AppendIdentifier(b), token), &entry)
		case 1: // a query
			b = append(wire.AppendAuthenticator(b, token), embedded6(netip.AddrPortFrom(w.Client(), 4000), netip.AddrPortFrom(lab.Embed(w.Server()), 53), noise(i%500))...)
		case 2: // a packet to return
			b = append(b, embedded4(w.Server(), victim.Addr(), 17, udp4(netip.AddrPortFrom(w.Server(), 53), victim, noise(i%500)))...)
		}
		w.must(forge.udp(victim, to, b))
		if i%16 == 15 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	w.eventually("all have arrived", 10*time.Second, func() error {
		status, err := h.Status(w.ctx)
		if err == nil && status.Counters.Received < 2000 {
			err = fmt.Errorf("%d", status.Counters.Received)
		}
		return err
	})
	status, err := h.Status(w.ctx)
	w.must(err)
	if status.Entries != 0 || status.NAT64s != 0 || status.Counters.Created != 0 {
		t.Errorf("handoffd believes in %d NAT64s and %d entries", status.NAT64s, status.Entries)
	}
	w.knock(w.Server())
	x, err := exposed(captured(), w.Server(), func(p packet4) bool { return victims[p.src] || victims[p.dst] })
	w.must(err)
	x.below(t, "handoffd")
}
