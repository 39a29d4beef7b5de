package nexthop

import (
	"math"
	"slices"
)

// group is a multipath route's hops with their shares. Owned by the manager's
// goroutine.
type group struct {
	set     *hopSet
	values  []uint32
	weights []uint16
}

// groupTable numbers the groups. Owned by the manager's goroutine; the
// published slice is replaced, never written to.
type groupTable struct {
	all       []group // set is nil for a free index
	published [][]member
	dirty     bool // members, or who of them is alive, changed
}

func (t *groupTable) add(s *hopSet, values []uint32, weights []uint16) uint32 {
	t.dirty = true
	g := group{set: s, values: values, weights: weights}
	if i := slices.IndexFunc(t.all, func(g group) bool { return g.set == nil }); i >= 0 {
		t.all[i] = g
		return uint32(i)
	}
	t.all = append(t.all, g)
	return uint32(len(t.all) - 1)
}

func (t *groupTable) remove(i uint32) {
	t.all[i] = group{}
	t.dirty = true
}

// publish brings the published groups up to date and tells whether any
// destination may now go another way.
func (t *groupTable) publish(failed func(value uint32) bool) bool {
	if !t.dirty {
		return false
	}
	t.dirty = false
	fresh := make([][]member, len(t.all))
	for i, g := range t.all {
		fresh[i] = g.members(failed)
	}
	same := slices.EqualFunc(fresh, t.published, func(a, b []member) bool { return slices.Equal(a, b) })
	t.published = fresh
	return !same
}

// members divides the hash space in proportion to the weights among the hops
// whose neighbour is not known to be dead; among all, if all are.
func (g group) members(failed func(uint32) bool) []member {
	allFailed := !slices.ContainsFunc(g.values, func(v uint32) bool { return !failed(v) })
	var total, sum uint64
	var out []member
	for i, v := range g.values {
		if allFailed || !failed(v) {
			total += uint64(g.weights[i])
		}
	}
	for i, v := range g.values {
		if !allFailed && failed(v) {
			continue
		}
		sum += uint64(g.weights[i])
		out = append(out, member{upTo: uint32(sum * math.MaxUint32 / total), value: v})
	}
	return out
}
