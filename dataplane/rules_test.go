package dataplane

import (
	"net/netip"
	"testing"
)

// New rules bear upon the next round: what they forbid to open is not opened,
// and what is open goes on.
func TestRulesChangeBetweenRounds(t *testing.T) {
	r := newRig(t, setup{})
	w := r.workers[0]
	_, out := r.from6(udp6(t, clientA, 1000, serverA, 53, nil))
	one(t, out)
	strict := *r.rules
	strict.Deny = NewRanges4([]netip.Prefix{netip.MustParsePrefix(serverA + "/32")})
	w.SetRules(&strict)
	if w.Follows(&strict) {
		t.Error("the worker follows before its next round")
	}
	r.poll()
	if !w.Follows(&strict) {
		t.Error("the worker does not follow after a round")
	}
	_, out = r.from6(udp6(t, clientA, 1000, serverA, 53, nil)) // established
	one(t, out)
	_, out = r.from6(udp6(t, clientA, 1001, serverA, 53, nil))
	none(t, out)
	if n := r.drops(DropDenied); n != 1 {
		t.Errorf("%d dropped as denied, want 1", n)
	}
	w.SetRules(r.rules)
	_, out = r.from6(udp6(t, clientA, 1001, serverA, 53, nil))
	one(t, out)
	if !w.Follows(r.rules) {
		t.Error("the worker does not go back")
	}
}
