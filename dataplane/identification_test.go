package dataplane

import (
	"math/bits"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// identificationsOf are those of n small packets of one flow, as they leave.
func identificationsOf(t *testing.T, seed uint64, n int) (ids []uint16) {
	t.Helper()
	r := newRig(t, setup{})
	r.workers[0].ids = newIdentifications(seed)
	for len(ids) < n {
		var some [][]byte
		for range min(n-len(ids), 60) {
			some = append(some, udp6(t, clientA, 4000, serverA, 4001, nil))
		}
		_, out4 := r.from6(some...)
		for _, b := range out4 {
			ip := decode(t, b).NetworkLayer().(*layers.IPv4)
			if ip.Id == 0 {
				t.Fatal("an identification of zero")
			}
			ids = append(ids, ip.Id)
		}
	}
	return ids
}

// TestIdentificationsCannotBeCounted: what a counter, a step or a linear
// generator would show is not there. Every bit is as often set as not, changes
// as often as not from one packet to the next, and two seeds have nothing in
// common (RFC 7915 §5.1, RFC 7739 §3).
func TestIdentificationsCannotBeCounted(t *testing.T) {
	const n = 4096
	ids, others := identificationsOf(t, 1, n), identificationsOf(t, 2, n)
	var set, changed, common [16]int
	steps := map[uint16]int{}
	for i, id := range ids {
		for bit := range 16 {
			set[bit] += int(id >> bit & 1)
			common[bit] += int((id ^ others[i]) >> bit & 1)
			if i > 0 {
				changed[bit] += int((id ^ ids[i-1]) >> bit & 1)
			}
		}
		if i > 0 {
			steps[id-ids[i-1]]++
		}
	}
	// Seven standard deviations of n coins: 32 each.
	for bit := range 16 {
		for name, count := range map[string]int{"set": set[bit], "changed": changed[bit], "differs between seeds": common[bit]} {
			if count < n/2-7*32 || count > n/2+7*32 {
				t.Errorf("bit %d is %s in %d of %d", bit, name, count, n)
			}
		}
	}
	for step, count := range steps {
		if count > 6 {
			t.Errorf("%d packets count %d on from the one before", count, step)
		}
	}
	if d := distinct(ids); d < n*9/10 {
		t.Errorf("%d packets have only %d identifications", n, d)
	}
}

func distinct(ids []uint16) (n int) {
	var seen [1024]uint64
	for _, id := range ids {
		seen[id>>6] |= 1 << (id & 63)
	}
	for _, w := range seen {
		n += bits.OnesCount64(w)
	}
	return n
}
