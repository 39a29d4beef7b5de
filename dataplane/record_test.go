package dataplane

import (
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/ring"
)

// logOf empties both rings of a worker.
func logOf(l *Log) (events []conntrack.Event) {
	for _, r := range []*ring.SPSC[conntrack.Event]{l.Blocks, l.Sessions} {
		for e, ok := r.Pop(); ok; e, ok = r.Pop() {
			events = append(events, e)
		}
	}
	return events
}

// What happens to sessions and blocks reaches the rings in the round in which it
// happens, with the time of day.
func TestEventsReachTheLog(t *testing.T) {
	r := newRig(t, setup{table: func(c *conntrack.Config) {
		c.LogSessions, c.PortBlocks = true, conntrack.PortBlocks{Size: 64, Grace: 10}
	}})
	l := NewLog()
	r.workers[0].log = l
	port := r.mappedUDP(t, serverA)
	events := logOf(l)
	if len(events) != 2 || events[0].Kind != conntrack.BlockAssigned || events[1].Kind != conntrack.SessionCreated ||
		int(events[1].MappedPort) != port || events[0].MappedPort&63 != 0 || events[0].MappedLast != events[0].MappedPort+63 {
		t.Fatalf("events %+v, the port is %d", events, port)
	}
	if age := time.Since(time.UnixMilli(events[1].At)); age < 0 || age > time.Minute {
		t.Errorf("the event is said to be %v old", age)
	}
	r.table.Flush()
	for range 8 {
		r.poll()
	}
	r.now += 20
	for range 8 {
		r.poll()
	}
	events = logOf(l)
	if len(events) != 2 || events[0].Kind != conntrack.BlockReturned || events[1].Kind != conntrack.SessionEnded {
		t.Fatalf("events %+v", events)
	}
}

// A full ring is a counted loss, never a wait, and sessions do not take the
// blocks' room.
func TestFullLogLosesEvents(t *testing.T) {
	r := newRig(t, setup{table: func(c *conntrack.Config) {
		c.LogSessions, c.PortBlocks = true, conntrack.PortBlocks{Size: 4096, Grace: 10}
	}})
	l := &Log{Sessions: ring.NewSPSC[conntrack.Event](8), Blocks: ring.NewSPSC[conntrack.Event](8)}
	r.workers[0].log = l
	for port := range 20 {
		if _, out4 := r.from6(udp6(t, clientA, 4000+port, serverA, 80, nil)); len(out4) != 1 {
			t.Fatalf("packet %d waits for the log", port)
		}
	}
	r.from6(udp6(t, clientB, 1, serverA, 80, nil))
	if n := len(logOf(l)); n != 8+2 || l.Lost() != 21-8 {
		t.Errorf("%d events came, %d are lost, of 21 sessions and 2 blocks", n, l.Lost())
	}
}
