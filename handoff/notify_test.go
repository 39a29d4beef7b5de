package handoff

import (
	"bytes"
	"testing"
	"time"

	"handoff64/conntrack"
	"handoff64/handoff/wire"
)

// A payload with one entry is byte for byte token, identifier, authenticator,
// entry (draft §5).
func TestSingleEntryPayload(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	r.notify(s.addr, client1, 40000, 3719)
	r.pass(0)
	s.none() // it waits for company
	r.pass(10 * time.Millisecond)
	got, from := s.recv()
	if from.Addr() != ipv4Address(ownAddr) || from.Port() != r.cfg.ClientPort {
		t.Errorf("from %s", from)
	}
	e := entry(client1, 40000, 3719)
	want := wire.AppendToken(nil, r.token(s.addr))
	want = wire.AppendIdentifier(want)
	want = wire.AppendAuthenticator(want, r.auth(s.addr, client1))
	want = wire.AppendEntry(want, &e)
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
	if st := r.w.Stats(); st.Notifications != 1 || st.Payloads != 1 || st.Servers[conntrack.ServerUnknown] != 1 {
		t.Errorf("%+v", st)
	}
	r.pass(time.Hour)
	s.none() // an unknown server is told once
}

// The own address of a notification is that of the mapping.
func TestChannelPerAddress(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	r.push(1, conntrack.ToServer{Kind: conntrack.Notify, Server: s.addr, Own: otherOwn, Client: client1, ClientPort: 1, MappedPort: 2000})
	r.pass(0)
	r.pass(10 * time.Millisecond)
	if _, from := s.recv(); from.Addr() != ipv4Address(otherOwn) {
		t.Errorf("from %s", from)
	}
	// An address that is no longer in pool4 sends nothing.
	r.push(1, conntrack.ToServer{Kind: conntrack.Notify, Server: s.addr, Own: otherOwn + 1, Client: client1, ClientPort: 1, MappedPort: 2000})
	r.pass(0)
	r.pass(10 * time.Millisecond)
	s.none()
	if st := r.w.Stats(); st.SendError != 1 {
		t.Errorf("%+v", st)
	}
}

func TestNoEntryForShorterPrefixes(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	r.push(0, conntrack.ToServer{Kind: conntrack.Notify, Pool6: 1, Server: s.addr, Own: ownAddr, Client: client1, ClientPort: 1, MappedPort: 2000})
	r.pass(0)
	r.pass(10 * time.Millisecond)
	s.none()
	if st := r.w.Stats(); st.NoEntry != 1 {
		t.Errorf("%+v", st)
	}
}

// Notifications of one channel leave together, grouped by client, in payloads of
// at most 1232 octets; those of another channel apart from them.
func TestCoalescing(t *testing.T) {
	for _, clients := range []int{1, 2, 6, 60} {
		r := newRig(t)
		s, other := r.server(1), r.server(2)
		var want []wire.Entry
		for i := range 60 {
			c := conntrack.Addr6{Hi: client1.Hi, Lo: uint64(i % clients)}
			r.notify(s.addr, c, uint16(i), uint16(2000+i))
			want = append(want, entry(c, uint16(i), uint16(2000+i)))
		}
		r.notify(other.addr, client1, 7, 3000)
		r.pass(0)
		if st := r.w.Stats(); st.Payloads != 0 {
			t.Errorf("%d payloads before the batch delay", st.Payloads)
		}
		r.pass(10 * time.Millisecond)
		got := s.entries(len(want))
		for _, e := range want {
			if !contains(got, e) {
				t.Errorf("%d clients: %v is missing", clients, e)
			}
		}
		other.entries(1)
		// token 20, identifier 146, then 20 a client and 34 an entry
		payloads, left := uint64(1), wire.MaxMultiEntry-166
		perClient := 60 / clients
		for i, room := 0, left; i < 60; i++ {
			need := 34
			if i%perClient == 0 || room == left {
				need += 20
			}
			if need > room {
				payloads, room, need = payloads+1, left, 54
			}
			room -= need
		}
		if st := r.w.Stats(); st.Payloads != payloads+1 {
			t.Errorf("%d clients: %d payloads, want %d", clients, st.Payloads-1, payloads)
		}
	}
}

// Full lists leave early instead of losing anything.
func TestManyNotesAtOnce(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	for i := range ripeNotes {
		r.w.tell(channelKey{ownAddr, s.addr}, note{client: client1, clientPort: uint16(i), mappedPort: 2000})
	}
	r.w.flush()
	s.entries(ripeNotes) // the clock has not moved
	for i := range maxNotes + 1 {
		r.w.tell(channelKey{ownAddr, serverAddr(3) + uint32(i/100)}, note{client: client1, clientPort: uint16(i), mappedPort: 2000})
	}
	if n := r.w.batch.channels.used; n > maxNotes/100+1 {
		t.Errorf("%d channels wait", n)
	}
	r.w.flush()
	if st := r.w.Stats(); st.Payloads+st.SendError+st.SendFull == 0 {
		t.Errorf("a full pool sent nothing: %+v", st)
	}
}

func TestManyChannelsAtOnce(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	r.w.tell(channelKey{ownAddr, s.addr}, note{client: client1, clientPort: 1, mappedPort: 2000})
	for i := range uint32(maxChannels) {
		r.w.tell(channelKey{ownAddr, serverAddr(100) + i}, note{client: client1, clientPort: 1, mappedPort: 2000})
	}
	r.w.flush()
	s.entries(1) // the oldest made room
	if n := r.w.batch.channels.used; n != maxChannels {
		t.Errorf("%d channels wait", n)
	}
}

// For one period after a rotation every packet also carries the token as the
// most recently expired key computed it (draft §4), and old tokens stay valid.
func TestRotation(t *testing.T) {
	r := newRig(t, func(c *Config) { c.KeyRotation = time.Minute })
	s := r.server(1)
	old := r.token(s.addr)
	r.pass(time.Minute)
	r.notify(s.addr, client1, 1, 2000)
	r.tunnel(0, conntrack.ToServer{Kind: conntrack.Tunnel6, Server: s.addr, Own: ownAddr, Client: client1}, udp6(octets6(client1), within(s.addr), 1, 2, nil))
	r.pass(0)
	r.pass(10 * time.Millisecond)
	for range 2 {
		payload, _ := s.recv()
		var p wire.Payload
		if st := wire.Decode(payload, &p); st != wire.OK {
			t.Fatal(st)
		}
		if !bytes.Equal(p.Rotation, old) || bytes.Equal(p.Token, old) || !bytes.Equal(p.Token, r.token(s.addr)) {
			t.Errorf("token %x, rotation %x, before the rotation %x", p.Token, p.Rotation, old)
		}
	}
	s.send(append(wire.AppendToken(nil, old), udp4(s.addr, ownAddr, 1, 2000, nil)...))
	r.until("the old token is taken", func() bool { return r.w.Stats().Replies == 1 })
}

// What is said to a capable server is said again after 1, 2, 4, 8, 16 and 32 s
// until it is echoed.
func TestRetries(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	s.capable()
	r.notify(s.addr, client1, 1, 2000)
	r.notify(s.addr, client2, 2, 2001)
	r.notify(s.addr, client2, 2, 2001) // said already
	r.pass(0)
	r.pass(10 * time.Millisecond)
	s.entries(2)
	s.send(r.formC(s.addr, entry(client2, 2, 2001), nil))
	r.until("the echo comes", func() bool { return r.w.Stats().Acknowledged == 1 })
	for i := range 6 {
		r.pass(time.Second<<i - 20*time.Millisecond)
		r.pass(0)
		s.none()
		r.pass(20 * time.Millisecond) // it is due, and waits for company
		r.pass(10 * time.Millisecond)
		if got := s.entries(1); got[0] != entry(client1, 1, 2000) {
			t.Errorf("again: %v", got)
		}
	}
	if st := r.w.Stats(); st.Retries != 6 || st.Unanswered != 0 {
		t.Errorf("%+v", st)
	}
	r.pass(65 * time.Second)
	r.pass(time.Hour)
	s.none()
	if st := r.w.Stats(); st.Retries != 6 || st.Unanswered != 1 || st.Acknowledged != 1 || r.w.retries.index.used != 0 {
		t.Errorf("%+v", st)
	}
}

// An entry whose port has changed is another entry.
func TestRetryOfChangedEntry(t *testing.T) {
	r := newRig(t)
	s := r.server(1)
	s.capable()
	r.notify(s.addr, client1, 1, 2000)
	r.notify(s.addr, client1, 1, 2002)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	s.entries(2)
	if n := r.w.retries.index.used; n != 1 {
		t.Errorf("%d entries wait for their echo", n)
	}
	r.pass(time.Second)
	r.pass(10 * time.Millisecond)
	if got := s.entries(1); got[0].MappedPort != 2002 {
		t.Errorf("again: %v", got)
	}
}

// A mapping that has ended is not told again: by then its port may be another
// client's, and the server would take that one's entry away.
func TestNoRetryForEndedMapping(t *testing.T) {
	live := true
	r := newRig(t, func(c *Config) {
		c.Mapped = func(own uint32, port uint16, client conntrack.Addr6, clientPort uint16) bool {
			return live && own == ownAddr && port == 2000 && client == client1 && clientPort == 1
		}
	})
	s := r.server(1)
	s.capable()
	r.notify(s.addr, client1, 1, 2000)
	r.pass(0)
	r.pass(10 * time.Millisecond)
	s.entries(1)
	r.pass(time.Second)
	r.pass(10 * time.Millisecond)
	s.entries(1)
	live = false
	r.pass(2 * time.Second)
	r.pass(10 * time.Millisecond)
	s.none()
	if st := r.w.Stats(); st.Retries != 1 || st.Outlived != 1 || r.w.retries.index.used != 0 {
		t.Errorf("%+v", st)
	}
}

// The oldest entry gives way when too many wait for their echo.
func TestRetriesCrowded(t *testing.T) {
	r := newRetries()
	key := func(i int) retryKey { return retryKey{client: conntrack.Addr6{Lo: uint64(i)}} }
	for i := range maxRetries {
		if isNew, out := r.add(key(i), 1, int64(i)); !isNew || out {
			t.Fatalf("add %d: %v %v", i, isNew, out)
		}
	}
	if !r.crowded() {
		t.Error("not crowded")
	}
	// Entry 7 has been repeated: it is older than entry 0 of the first queue.
	i := r.index.find(key(7))
	r.levels[0].remove(r.places, i)
	r.enter(i, 1, 0)
	for n, gone := range []int{7, 0, 1} {
		if _, out := r.add(key(maxRetries+n), 1, 9); !out {
			t.Error("nobody gave way")
		}
		if r.index.find(key(gone)) != none {
			t.Errorf("%d did not give way", gone)
		}
	}
}
