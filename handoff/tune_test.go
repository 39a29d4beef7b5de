package handoff

import (
	"testing"
	"time"

	"handoff64/conntrack"
)

// Tune changes what is sent back to strangers, from the next round on.
func TestTune(t *testing.T) {
	r := newRig(t, func(c *Config) { c.StrangersPerSecond = 1 << 30 })
	s := r.server(1)
	packet := udp4(s.addr, ownAddr, 5, 9, make([]byte, 100))
	strangers := func() (sent uint64) {
		before := r.w.Stats().Tunnelled
		for range 50 {
			r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel4, Server: s.addr, Own: ownAddr, Stranger: true}, packet)
			r.pass(time.Millisecond)
			r.drain()
		}
		return r.w.Stats().Tunnelled - before
	}
	if strangers() == 0 {
		t.Fatal("nothing is sent to strangers although it may be")
	}
	r.w.Tune(Tuning{BatchDelay: 5 * time.Millisecond, StrangersPerSecond: 0})
	if n := strangers(); n != 0 {
		t.Errorf("%d packets sent to strangers after that was turned off", n)
	}
	if r.w.batchDelay != int64(5*time.Millisecond) {
		t.Errorf("batch delay %v", time.Duration(r.w.batchDelay))
	}
	r.w.Tune(Tuning{StrangersPerSecond: 1 << 30})
	if strangers() == 0 {
		t.Error("nothing is sent to strangers after it was turned on again")
	}
}
