package conntrack

import (
	"sync"
	"testing"
)

// tcpTable is RFC 6146 §3.5.2.2 as a table: for each state what a SYN, a FIN, an
// RST and any other segment lead to, from IPv6 and from IPv4, and (upper case R)
// whether the lifetime starts anew.
var tcpTable = []struct {
	from   TCPState
	v6, v4 [4]string // SYN, FIN, RST, other
}{
	{StateV4Init, [4]string{"ESTABLISHED R", "V4_INIT", "V4_INIT", "V4_INIT"}, [4]string{"V4_INIT", "V4_INIT", "V4_INIT", "V4_INIT"}},
	{StateV6Init, [4]string{"V6_INIT R", "V6_INIT", "V6_INIT", "V6_INIT"}, [4]string{"ESTABLISHED R", "V6_INIT", "V6_INIT", "V6_INIT"}},
	{StateEstablished, [4]string{"ESTABLISHED R", "V6_FIN_RCV R", "TRANS R", "ESTABLISHED R"}, [4]string{"ESTABLISHED R", "V4_FIN_RCV R", "TRANS R", "ESTABLISHED R"}},
	{StateV4Fin, [4]string{"V4_FIN_RCV R", "V4_FIN_V6_FIN_RCV R", "V4_FIN_RCV R", "V4_FIN_RCV R"}, [4]string{"V4_FIN_RCV R", "V4_FIN_RCV R", "V4_FIN_RCV R", "V4_FIN_RCV R"}},
	{StateV6Fin, [4]string{"V6_FIN_RCV R", "V6_FIN_RCV R", "V6_FIN_RCV R", "V6_FIN_RCV R"}, [4]string{"V6_FIN_RCV R", "V4_FIN_V6_FIN_RCV R", "V6_FIN_RCV R", "V6_FIN_RCV R"}},
	{StateV4FinV6Fin, [4]string{"V6_INIT R", "V4_FIN_V6_FIN_RCV", "V4_FIN_V6_FIN_RCV", "V4_FIN_V6_FIN_RCV"}, [4]string{"V4_INIT R", "V4_FIN_V6_FIN_RCV", "V4_FIN_V6_FIN_RCV", "V4_FIN_V6_FIN_RCV"}},
	{StateTrans, [4]string{"ESTABLISHED R", "ESTABLISHED R", "TRANS", "ESTABLISHED R"}, [4]string{"ESTABLISHED R", "ESTABLISHED R", "TRANS", "ESTABLISHED R"}},
}

func TestTCPStateMachine(t *testing.T) {
	flags := [4]uint8{FlagSYN, FlagFIN | FlagACK, FlagRST, FlagACK}
	seen := 0
	for _, row := range tcpTable {
		for side, want := range [2][4]string{row.v6, row.v4} {
			for i, fl := range flags {
				f := newFixture(t, Config{})
				k := flow(1)
				k.Proto = TCP
				se := f.open(k, row.from, 100)
				f.packet(se, side == 1, fl, 200)
				v64, _ := f.get64(k)
				v46, _ := f.get46(se.key46())
				got := v64.State().String()
				if f.lastUsed(k) == 200 {
					got += " R"
				}
				if got != want[i] {
					t.Errorf("%v, side %d, flags %#x: %q, want %q", row.from, side, fl, got, want[i])
				}
				if v46.State() != v64.State() {
					t.Errorf("%v: the mirror says %v, the state is %v", row.from, v46.State(), v64.State())
				}
				seen++
			}
		}
	}
	if seen != (tcpStates-1)*8 {
		t.Errorf("%d transitions tested, want %d", seen, (tcpStates-1)*8)
	}
}

// packet is a TCP packet of a session from one side.
func (f *fixture) packet(se Session, fromV4 bool, flags uint8, now Tick) {
	f.tb.Helper()
	if fromV4 {
		v, ok := f.get46(se.key46())
		if !ok {
			f.tb.Fatal("session not found by its IPv4 side")
		}
		f.PacketTCP46(&v, flags, now)
		return
	}
	v, ok := f.get64(se.Key)
	if !ok {
		f.tb.Fatal("session not found by its IPv6 side")
	}
	f.PacketTCP64(&v, flags, now)
}

func (f *fixture) lastUsed(k Key64) (last Tick) {
	f.Sessions(func(i SessionInfo) bool {
		if i.Key == k {
			last = i.LastUsed
		}
		return i.Key != k
	})
	return last
}

func TestInitialTCP(t *testing.T) {
	for _, c := range []struct {
		flags  uint8
		fromV4 bool
		want   TCPState
		ok     bool
	}{
		{FlagSYN, false, StateV6Init, true},
		{FlagSYN, true, StateV4Init, true},
		{FlagSYN | FlagACK, true, StateV4Init, true},
		{FlagSYN | FlagRST, false, StateNone, false},
		{FlagACK, false, StateNone, false},
		{FlagRST, true, StateNone, false},
		{FlagFIN | FlagACK, false, StateNone, false},
	} {
		if st, ok := InitialTCP(c.flags, c.fromV4); st != c.want || ok != c.ok {
			t.Errorf("flags %#x from IPv4 %v: %v, %v", c.flags, c.fromV4, st, ok)
		}
	}
}

// Data in an established connection writes to its own direction's slot alone.
func TestEstablishedDataTouchesOneSlot(t *testing.T) {
	f := newFixture(t, Config{})
	k := flow(1)
	k.Proto = TCP
	se := f.open(k, StateEstablished, 100)
	v, _ := f.get64(k)
	f.packet(se, true, FlagACK, 300)
	if got := v.slot.stamp.Load(); got != 100 {
		t.Errorf("a packet from IPv4 stamped the 64 slot with %d", got)
	}
	f.packet(se, false, FlagACK, 400)
	v46, _ := f.get46(se.key46())
	if got := v46.slot.stamp.Load(); got != 300 {
		t.Errorf("the 46 slot's stamp is %d, want 300", got)
	}
	if f.lastUsed(k) != 400 {
		t.Errorf("last used %d, want 400", f.lastUsed(k))
	}
}

// A view of a session that is gone changes nothing in the one that took its
// slots, neither its TCP state nor its next hop.
func TestStaleViewIsHarmless(t *testing.T) {
	f := newFixture(t, Config{})
	k := flow(1)
	k.Proto = TCP
	se := f.open(k, StateEstablished, 1)
	v64, _ := f.get64(k)
	v46, _ := f.get46(se.key46())
	stale := v64
	f.Shard(0).Remove(&v64)
	f.Shard(0).Remove(&v64)
	f.open(k, StateEstablished, 1)
	f.PacketTCP64(&stale, FlagRST, 2)
	if v, _ := f.get64(k); v.State() != StateEstablished {
		t.Errorf("a stale view from IPv6 made the state %v", v.State())
	}
	f.PacketTCP46(&v46, FlagFIN, 2)
	stale.SetHop(7)
	v46.SetHop(7)
	f.Shard(0).Remove(&stale)
	now, ok := f.get64(k)
	if !ok || now.slot != stale.slot {
		t.Fatal("the new session does not have the old one's slot, so this tests nothing")
	}
	if now.State() != StateEstablished || now.Hop != 0 {
		t.Errorf("state %v, hop %d", now.State(), now.Hop)
	}
	f.check()
}

// Two workers that drive one session through its states leave state and mirror
// equal.
func TestMirrorFollowsUnderContention(t *testing.T) {
	f := newFixture(t, Config{})
	k := flow(1)
	k.Proto = TCP
	se := f.open(k, StateEstablished, 1)
	for round := range 300 {
		var wg sync.WaitGroup
		for side := range 2 {
			wg.Go(func() {
				for i := range 20 {
					f.packet(se, side == 1, []uint8{FlagRST, FlagACK, FlagFIN, FlagSYN}[(i*7+round+side)%4], Tick(round))
				}
			})
		}
		wg.Wait()
		v64, _ := f.get64(k)
		v46, _ := f.get46(se.key46())
		if v64.State() != v46.State() {
			t.Fatalf("round %d: state %v, mirror %v", round, v64.State(), v46.State())
		}
	}
}

// Whoever stores an older word into the mirror sees that the state moved on. And
// a mirror that went to another session is left alone.
func TestMirrorIsRepeated(t *testing.T) {
	var canon, mirror slot
	older, newer := stateWord(5, StateV4Fin), stateWord(5, StateTrans)
	canon.state.Store(newer)
	mirror.state.Store(stateWord(5, StateEstablished))
	if mirrorState(&canon, &mirror, older); mirror.state.Load() != newer {
		t.Errorf("the mirror is %#x, want %#x", mirror.state.Load(), newer)
	}
	other := stateWord(6, StateEstablished)
	mirror.state.Store(other)
	if mirrorState(&canon, &mirror, newer); mirror.state.Load() != other {
		t.Errorf("another session's mirror became %#x", mirror.state.Load())
	}
	mirror.state.Store(stateWord(5, StateEstablished))
	canon.state.Store(other)
	if mirrorState(&canon, &mirror, older); mirror.state.Load() == other {
		t.Error("the state of the slot's next session was copied")
	}
}
