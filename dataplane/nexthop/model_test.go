package nexthop

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAgainstModel changes routes at random, in small and in large batches,
// and compares lookups with a plain list of routes that is searched from end
// to end.
func TestAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	f := testFIB(t)
	var model []routeMsg
	var kept *Snapshot // an old snapshot, and what it said
	var said []netip.Addr
	for round := range 400 {
		changes := 1 + rnd.IntN(3)
		if round%20 == 0 {
			changes = 300
		}
		for range changes {
			if len(model) > 0 && rnd.IntN(3) == 0 {
				i := rnd.IntN(len(model))
				f.apply(model[i], true, 0)
				model = slices.Delete(model, i, i+1)
				continue
			}
			r := randomUnicast(rnd)
			if slices.ContainsFunc(model, func(o routeMsg) bool { return o.prefix == r.prefix && o.metric == r.metric }) {
				continue
			}
			f.add(r)
			model = append(model, r)
		}
		s := f.publish()
		for range 50 {
			dst := randomDst(rnd)
			if _, h := find(s, dst.String()); h.Via != modelVia(model, dst) {
				t.Fatalf("round %d: %v goes via %v, want %v", round, dst, h.Via, modelVia(model, dst))
			}
		}
		if round == 200 {
			kept = s
			said = vias(s)
		}
	}
	if !slices.Equal(vias(kept), said) {
		t.Error("a published snapshot changed")
	}
	if len(model) < 200 {
		t.Errorf("only %d routes at the end", len(model))
	}
}

// vias looks fixed destinations up.
func vias(s *Snapshot) (out []netip.Addr) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		_, h := find(s, randomDst(rnd).String())
		out = append(out, h.Via)
	}
	return out
}

// randomDst draws from a small part of both address spaces.
func randomDst(rnd *rand.Rand) netip.Addr {
	if rnd.IntN(2) == 0 {
		return addr4(10<<24 | rnd.Uint32N(1<<16))
	}
	return addr6(0x20010db8_00000000|rnd.Uint64N(1<<16), rnd.Uint64())
}

func randomUnicast(rnd *rand.Rand) routeMsg {
	dst := randomDst(rnd)
	bits := 8 + rnd.IntN(25)
	h := nextHop{ifindex: index4, weight: 1, via: addr4(0xc0000200 + rnd.Uint32N(50))}
	if dst.Is6() {
		bits = 32 + rnd.IntN(97)
		h = nextHop{ifindex: index6, weight: 1, via: addr6(0xfe80<<48, rnd.Uint64N(50))}
	}
	p, err := dst.Prefix(bits)
	if err != nil {
		panic(err)
	}
	return routeMsg{
		prefix: p, table: unix.RT_TABLE_MAIN, kind: unix.RTN_UNICAST, pref: 1,
		metric: 1 + rnd.Uint32N(5), hops: []nextHop{h},
	}
}

func modelVia(model []routeMsg, dst netip.Addr) netip.Addr {
	var best *routeMsg
	for i := range model {
		r := &model[i]
		if !r.prefix.Contains(dst) {
			continue
		}
		if best == nil || r.prefix.Bits() > best.prefix.Bits() ||
			r.prefix.Bits() == best.prefix.Bits() && r.metric < best.metric {
			best = r
		}
	}
	if best == nil {
		return netip.Addr{}
	}
	return best.hops[0].via
}

// attr writes one attribute.
func attr(kind uint16, val ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(val)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, val...)
	return append(b, make([]byte, -len(b)&3)...)
}

// FuzzDecode: no message makes a decoder panic or return nonsense.
func FuzzDecode(f *testing.F) {
	hops := append([]byte{16, 0, 0, 3, 4, 0, 0, 0}, attr(unix.RTA_GATEWAY, 192, 0, 2, 1)...)
	f.Add(slices.Concat([]byte{unix.AF_INET, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0}, attr(unix.RTA_DST, 10, 0, 0, 0),
		attr(unix.RTA_MULTIPATH, hops...), attr(unix.RTA_METRICS, attr(unix.RTAX_MTU, 0x14, 5, 0, 0)...)))
	f.Add(slices.Concat([]byte{unix.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0}, attr(unix.RTA_OIF, 4, 0, 0, 0),
		attr(unix.RTA_VIA, 10, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1), attr(unix.RTA_PREF, 3)))
	f.Add(slices.Concat([]byte{unix.AF_INET, 0, 0, 0, 4, 0, 0, 0, 2, 0, 0, 0}, attr(unix.NDA_DST, 192, 0, 2, 1), attr(unix.NDA_LLADDR, 2, 0, 0, 0, 0, 1)))
	f.Add(slices.Concat([]byte{unix.AF_INET6, 64, 0, 0, 6, 0, 0, 0}, attr(unix.IFA_ADDRESS, make([]byte, 16)...), attr(unix.IFA_FLAGS, 0x40, 0, 0, 0)))
	f.Add(slices.Concat(make([]byte, 16), attr(unix.IFLA_IFNAME, []byte("eth0\x00")...), attr(unix.IFLA_MTU, 0xdc, 5, 0, 0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, ok, err := decodeRoute(b); ok && (err != nil || !r.prefix.IsValid() || r.prefix != r.prefix.Masked()) {
			t.Errorf("route %+v: %v", r, err)
		} else if ok {
			fib := testFIB(t)
			fib.add(r)
			fib.publish()
			fib.apply(r, true, 0)
			fib.publish()
			if len(fib.dests) != 0 || len(fib.sets) != 0 {
				t.Errorf("route %+v does not go away", r)
			}
		}
		if n, ok, err := decodeNeigh(b); ok && (err != nil || !n.key.addr.IsValid()) {
			t.Errorf("neighbour %+v: %v", n, err)
		}
		if a, ok, err := decodeAddr(b); ok && (err != nil || !a.addr.IsValid()) {
			t.Errorf("address %+v: %v", a, err)
		}
		if l, ok, err := decodeLink(b); ok && err != nil {
			t.Errorf("link %+v: %v", l, err)
		}
		for m := range (batch{data: b}).messages() {
			if len(m.data) > len(b) {
				t.Errorf("message of %d octets in %d", len(m.data), len(b))
			}
		}
	})
}

func TestDecodeRoute(t *testing.T) {
	head := func(family, bits, table, kind byte, flags byte) []byte {
		return []byte{family, bits, 0, 0, table, 3, 0, kind, flags, 0, 0, 0}
	}
	u32 := func(v uint32) []byte { return native.AppendUint32(nil, v) }
	ll := append([]byte{0xfe, 0x80}, make([]byte, 13)...)
	ll = append(ll, 1)
	nexthop := func(weight, flags byte, ifindex uint32, attrs ...byte) []byte {
		b := native.AppendUint16(nil, uint16(8+len(attrs)))
		return append(append(append(b, flags, weight-1), u32(ifindex)...), attrs...)
	}
	for name, c := range map[string]struct {
		msg  []byte
		want routeMsg
		ok   bool
	}{
		"default": {slices.Concat(head(unix.AF_INET, 0, 254, 1, 0), attr(unix.RTA_OIF, u32(4)...), attr(unix.RTA_GATEWAY, 192, 0, 2, 1)),
			to("0.0.0.0/0", 0, hop(4, "192.0.2.1")), true},
		"table in an attribute": {slices.Concat(head(unix.AF_INET, 0, 252, 1, 0), attr(unix.RTA_TABLE, u32(1000)...)),
			routeMsg{prefix: netip.MustParsePrefix("0.0.0.0/0"), table: 1000, kind: 1, pref: 1}, false},
		"metric, mtu, over IPv6": {slices.Concat(head(unix.AF_INET, 8, 254, 1, 0), attr(unix.RTA_DST, 10, 0, 0, 0), attr(unix.RTA_PRIORITY, u32(7)...),
			attr(unix.RTA_METRICS, attr(unix.RTAX_MTU, u32(1300)...)...), attr(unix.RTA_OIF, u32(4)...), attr(unix.RTA_VIA, append([]byte{10, 0}, ll...)...)),
			to("10.0.0.0/8", 7, hop(4, "fe80::1")).withMTU(1300), true},
		"multipath": {slices.Concat(head(unix.AF_INET6, 32, 254, 1, 0), attr(unix.RTA_DST, append([]byte{0x20, 1, 0xd, 0xb8}, make([]byte, 12)...)...),
			attr(unix.RTA_MULTIPATH, slices.Concat(nexthop(3, 0, 6, attr(unix.RTA_GATEWAY, ll...)...), nexthop(1, unix.RTNH_F_DEAD, 9))...)),
			to("2001:db8::/32", 0, nextHop{6, netip.MustParseAddr("fe80::1"), 3, false}, nextHop{9, netip.Addr{}, 1, true}), true},
		"cached":                     {append(head(unix.AF_INET, 0, 254, 1, 0)[:9], 2, 0, 0), to("0.0.0.0/0", 0), false},
		"encapsulated":               {slices.Concat(head(unix.AF_INET, 0, 254, 1, 0), attr(unix.RTA_ENCAP, 0)), routeMsg{prefix: netip.MustParsePrefix("0.0.0.0/0"), table: 254, kind: 1, pref: 1, opaque: true}, true},
		"nexthop object, unresolved": {slices.Concat(head(unix.AF_INET, 0, 254, 1, 0), attr(rtaNHID, u32(1)...)), routeMsg{prefix: netip.MustParsePrefix("0.0.0.0/0"), table: 254, kind: 1, pref: 1, opaque: true}, true},
	} {
		got, ok, err := decodeRoute(c.msg)
		got.protocol = 0
		if err != nil || ok != c.ok || !slices.Equal(got.hops, c.want.hops) {
			t.Errorf("%s: %+v, %v, %v; want %+v, %v", name, got, ok, err, c.want, c.ok)
		}
		got.hops, c.want.hops = nil, nil
		if got.prefix != c.want.prefix || got.table != c.want.table || got.metric != c.want.metric || got.mtu != c.want.mtu || got.opaque != c.want.opaque {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	for name, msg := range map[string][]byte{
		"short":           {unix.AF_INET, 0},
		"too long a mask": head(unix.AF_INET, 33, 254, 1, 0),
		"no next hop":     append(head(unix.AF_INET, 0, 254, 1, 0), attr(unix.RTA_MULTIPATH, 0, 0, 0, 0, 4, 0, 0, 0)...),
		"next hop beyond": append(head(unix.AF_INET, 0, 254, 1, 0), attr(unix.RTA_MULTIPATH, 99, 0, 0, 0, 4, 0, 0, 0)...),
	} {
		if _, ok, err := decodeRoute(msg); err == nil || ok {
			t.Errorf("%s: accepted", name)
		}
	}
}
