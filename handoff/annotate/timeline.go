package annotate

import (
	"cmp"
	"net/netip"
	"slices"
	"sort"
)

// timeline answers for lines that have no port: it knows when an address had
// one client only, whatever the ports. It is made when first asked for, and
// again after the index has learned something.
type timeline struct {
	ports []*history
	fresh bool
	steps []step
}

// step is what holds from a time on.
type step struct {
	from    int64
	clients int      // different ones at that time
	client  [16]byte // which, if it is one
}

// FindAlone says who was behind an address if only one client can have been.
// The port of what is appended to dst is 0.
func (x *Index) FindAlone(address [4]byte, at Moment, dst []netip.AddrPort) (Verdict, []netip.AddrPort) {
	t := x.addresses[address]
	if t == nil {
		return Direct, dst
	}
	if at.From > x.end {
		return Unknown, dst
	}
	if !t.fresh {
		t.build()
	}
	begin := len(dst)
	// The step that holds at the beginning, and those that begin in between.
	first := max(0, sort.Search(len(t.steps), func(i int) bool { return t.steps[i].from > at.From })-1)
	for _, s := range t.steps[first:] {
		if s.from > at.To {
			break
		}
		if s.clients > 1 {
			return Ambiguous, dst[:begin]
		}
		if c := netip.AddrPortFrom(netip.AddrFrom16(s.client), 0); s.clients == 1 && !slices.Contains(dst[begin:], c) {
			dst = append(dst, c)
		}
	}
	v := verdict(len(dst) - begin)
	if v == Ambiguous {
		dst = dst[:begin]
	}
	return v, dst
}

// edge is the beginning or the end of a span.
type edge struct {
	at     int64
	change int // +1, −1
	client [16]byte
}

// build goes through all beginnings and ends in their order.
func (t *timeline) build() {
	var edges []edge
	for _, h := range t.ports {
		for i := range h.spans {
			s := &h.spans[i]
			edges = append(edges, edge{s.from, 1, s.client})
			if s.to != forever {
				edges = append(edges, edge{s.to + 1, -1, s.client})
			}
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	t.fresh, t.steps = true, t.steps[:0]
	spans := map[[16]byte]int{} // of each client that has any
	for i, e := range edges {
		if spans[e.client] += e.change; spans[e.client] == 0 {
			delete(spans, e.client)
		}
		if i+1 < len(edges) && edges[i+1].at == e.at {
			continue
		}
		s := step{from: e.at, clients: len(spans)}
		if s.clients == 1 {
			for s.client = range spans {
			}
		}
		t.steps = append(t.steps, s)
	}
}
