package dataplane

import (
	"testing"

	"handoff64/conntrack"
)

// Packets of one new connection that arrive in one burst: the first opens the
// session, the others belong to it, although none had one when the burst was
// looked up.
func TestConnectionWithinABurst(t *testing.T) {
	r := newRig(t, setup{})
	_, out4 := r.from6(tcp6(t, clientA, 40000, serverA, 80, "S"), tcp6(t, clientA, 40000, serverA, 80, "A"),
		udp6(t, clientB, 40000, serverA, 53, nil), tcp6(t, clientA, 40000, serverA, 80, "FA"), udp6(t, clientB, 40000, serverA, 53, nil))
	if len(out4) != 5 {
		t.Fatalf("%d packets came out, want 5", len(out4))
	}
	_, _, mapped, _ := transport(t, decode(t, out4[0]))
	for _, i := range []int{1, 3} {
		if _, _, port, _ := transport(t, decode(t, out4[i])); port != mapped {
			t.Errorf("packet %d has mapped port %d, the one before %d", i, port, mapped)
		}
	}
	if used := r.table.Stats().Used; used != 2 {
		t.Errorf("%d sessions, want 2", used)
	}
	// The order within the connection holds: what closes it comes after what opens it.
	r.table.Sessions(func(s conntrack.SessionInfo) bool {
		if s.Key.Proto == conntrack.TCP && s.State != conntrack.StateV6Init {
			t.Errorf("state %v, want V6_INIT: a FIN before the answer changes nothing", s.State)
		}
		return true
	})
}
