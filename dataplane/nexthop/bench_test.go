package nexthop

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// fullTable is a fib with so many routes of the lengths that are common in
// the global table, through a handful of gateways.
func fullTable(b *testing.B, routes int) *fib {
	b.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	f := testFIB(b)
	for range routes {
		gw := rnd.Uint32N(8)
		p4 := netip.PrefixFrom(addr4(rnd.Uint32()), 16+rnd.IntN(9)).Masked()
		p6 := netip.PrefixFrom(addr6(2<<60|rnd.Uint64()>>4, 0), 28+rnd.IntN(21)).Masked()
		f.add(
			to(p4.String(), 0, nextHop{ifindex: index4, weight: 1, via: addr4(0xc0000201 + gw)}),
			to(p6.String(), 1024, nextHop{ifindex: index6, weight: 1, via: addr6(0xfe80<<48, uint64(gw)+1)}),
		)
	}
	f.publish()
	return f
}

func BenchmarkLookup(b *testing.B) {
	for _, routes := range []int{1, 1000, 200_000} {
		s := fullTable(b, routes).last
		rnd := rand.New(rand.NewPCG(3, 4))
		dst := make([]uint64, 4096)
		for i := range dst {
			dst[i] = rnd.Uint64()
		}
		var sum uint32
		b.Run(fmt.Sprintf("4/routes=%d", routes), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				sum += s.Lookup4(uint32(dst[i%len(dst)]))
			}
		})
		b.Run(fmt.Sprintf("6/routes=%d", routes), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				sum += s.Lookup6(2<<60|dst[i%len(dst)]>>4, 1)
			}
		})
		_ = sum
	}
}

// BenchmarkPublish: one route changes in a table of this size.
func BenchmarkPublish(b *testing.B) {
	for _, routes := range []int{1000, 200_000} {
		f := fullTable(b, routes)
		b.Run(fmt.Sprintf("routes=%d", routes), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				var p [4]byte
				binary.BigEndian.PutUint32(p[:], 100<<24|uint32(i/2)<<8)
				r := to(netip.PrefixFrom(netip.AddrFrom4(p), 24).String(), 0, hop(index4, "192.0.2.1"))
				f.apply(r, i%2 == 1, 0)
				f.publish()
			}
		})
	}
}
