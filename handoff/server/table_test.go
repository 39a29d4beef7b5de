package server

import (
	"encoding/binary"
	"errors"
	"testing"
)

// selfcheck holds every structure of the table against every other.
func selfcheck(t testing.TB, tb *table) {
	t.Helper()
	total := 0
	for k, c := range tb.channels {
		if c.key != k {
			t.Fatalf("channel %v says that it is %v", k, c.key)
		}
		inList, perClient := 0, map[uint32]uint32{}
		for i := c.oldest(); i != 0; i = c.entries[i].newer {
			e := &c.entries[i]
			inList++
			perClient[e.client]++
			if c.byTuple[tupleIndex{e.client, e.prefix, e.clientPort}] != i || c.findMapped(e.mapped) != i {
				t.Fatalf("entry %d of %v is not found by its own tuple and port", i, k)
			}
			if c.entries[e.newer].older != i || c.entries[e.older].newer != i {
				t.Fatalf("entry %d of %v: the list is broken", i, k)
			}
		}
		leases := 0
		for l := c.leases.use.newer; l != c.leases.use; l = l.newer {
			leases++
			perClient[l.client]++
			if l.channel != c || c.leases.byKey[l.leaseKey] != l || l.older.newer != l {
				t.Fatalf("lease %v of %v is not found by its own key", l.address, k)
			}
			if l.whole() && tb.pool.byAddress[l.address] != l || !l.whole() && c.leases.byProtocol[l.protocol] != l {
				t.Fatalf("lease %v of %v is not found by its own address", l.address, k)
			}
		}
		if leases != len(c.leases.byKey) {
			t.Fatalf("%v: %d leases in the list, %d keys", k, leases, len(c.leases.byKey))
		}
		mapped := 0
		for _, page := range c.ports.pages {
			if page == nil {
				continue
			}
			for _, i := range page {
				if i != 0 {
					mapped++
				}
			}
		}
		if inList != c.count() || mapped != c.count() || len(c.entries)-1-len(c.freeEntries) != c.count() {
			t.Fatalf("%v: %d in the list, %d ports, %d slots, %d tuples", k, inList, mapped, len(c.entries)-1-len(c.freeEntries), c.count())
		}
		for a, i := range c.clientIndex {
			if c.clients[i].addr != a || c.clients[i].entries != perClient[i] || perClient[i] == 0 {
				t.Fatalf("%v: client %v has %d entries, says %d", k, netip6(a), perClient[i], c.clients[i].entries)
			}
		}
		if len(perClient) != len(c.clientIndex) {
			t.Fatalf("%v: %d clients have entries, %d are known", k, len(perClient), len(c.clientIndex))
		}
		total += c.count() + leases
	}
	if total != tb.count {
		t.Fatalf("the table counts %d entries and has %d", tb.count, total)
	}
}

// model is the slow, obvious table: one map and a list in the order of use.
type model struct {
	ports map[tuple]uint16
	used  []tuple // least recently used first
	max   int
	live  liveSet
}

func (m *model) drop(k tuple) {
	delete(m.ports, k)
	for i, u := range m.used {
		if u == k {
			m.used = append(m.used[:i:i], m.used[i+1:]...)
			return
		}
	}
}

func (m *model) touch(k tuple) {
	p := m.ports[k]
	m.drop(k)
	m.ports[k], m.used = p, append(m.used, k)
}

// room is makeRoom on the model.
func (m *model) room() bool {
	for range len(m.used) {
		k := m.used[0]
		if _, ok := m.live[peer{nat64Addr, m.ports[k]}]; ok {
			m.touch(k)
			continue
		}
		m.drop(k)
		return true
	}
	return false
}

func (m *model) learn(k tuple, port uint16) bool {
	if m.ports[k] == port {
		m.touch(k)
		return true
	}
	m.drop(k)
	for other, p := range m.ports {
		if p == port {
			m.drop(other)
		}
	}
	if len(m.ports) >= m.max && !m.room() {
		return false
	}
	m.ports[k], m.used = port, append(m.used, k)
	return true
}

// fakeSockets is a host with the sockets that a test says; each look is new.
type fakeSockets struct {
	live  liveSet
	looks uint64
	err   error
}

func (f *fakeSockets) view(int64) (liveSet, uint64, error) {
	f.looks++
	return f.live, f.looks, f.err
}

// modelRun plays a script of octets against table and model.
func modelRun(t testing.TB, script []byte) {
	const most = 12
	live := &fakeSockets{live: liveSet{}}
	tb := newTable(most, serverPort, live, seeded())
	m := &model{ports: map[tuple]uint16{}, max: most, live: live.live}
	key := channelKey{ownAddr, nat64Addr}
	var ch changes
	tb.authenticate(key, nat64Port, goodToken, ownAddr, 1, &ch)
	c := tb.channels[key]
	for now := int64(2); len(script) >= 4; now, script = now+1, script[4:] {
		k := tuple{prefix: wellKnown, client: addr6{0: 0x20, 15: script[1] % 5}, port: 1 + uint16(script[2]%9)}
		k.prefix[11] = script[2] >> 7
		port := 5000 + uint16(script[3]%17)
		ch.reset()
		switch script[0] % 4 {
		case 0:
			_, o := tb.learn(c, k, port, now, &ch)
			if want := m.learn(k, port); (o == accepted) != want {
				t.Fatalf("learn port %d: %v, the model says %v", port, o, want)
			}
		case 1:
			checkCreate(t, tb, c, m, k, port, now, &ch)
		case 2:
			if i := c.find(k); i != 0 {
				c.touch(i)
				m.touch(k)
			}
		case 3:
			p := peer{nat64Addr, port}
			if _, ok := live.live[p]; ok {
				delete(live.live, p)
			} else {
				live.live[p] = struct{}{}
			}
		}
		compare(t, tb, c, m)
	}
}

// checkCreate is a query's way to an entry.
func checkCreate(t testing.TB, tb *table, c *channel, m *model, k tuple, hint uint16, now int64, ch *changes) {
	t.Helper()
	if i := c.find(k); i != 0 {
		if m.ports[k] != c.entries[i].mapped {
			t.Fatalf("an entry with port %d, the model has %d", c.entries[i].mapped, m.ports[k])
		}
		return
	}
	hintFree := c.findMapped(hint) == 0
	i, o := tb.create(c, k, hint, nat64Port, now, ch)
	ok := len(m.ports) < m.max || m.room()
	if (o == accepted) != ok {
		t.Fatalf("create: %v, the model says %v", o, ok)
	}
	if !ok {
		return
	}
	got := c.entries[i].mapped
	if hintFree && got != hint {
		t.Fatalf("hint %d was free, the port is %d", hint, got)
	}
	m.ports[k], m.used = got, append(m.used, k)
}

func compare(t testing.TB, tb *table, c *channel, m *model) {
	t.Helper()
	selfcheck(t, tb)
	if c.count() != len(m.ports) {
		t.Fatalf("%d entries, the model has %d", c.count(), len(m.ports))
	}
	n := 0
	for i := c.oldest(); i != 0; i = c.entries[i].newer {
		if e := &c.entries[i]; m.ports[m.used[n]] != e.mapped {
			t.Fatalf("use %d is of port %d, the model says %d", n, e.mapped, m.ports[m.used[n]])
		}
		n++
	}
}

func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 1, 1, 1, 1, 3, 0, 0, 1, 0, 2, 2, 1})
	random := seeded()
	long := make([]byte, 400)
	for i := range long {
		long[i] = byte(random.Uint32())
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, script []byte) { modelRun(t, script[:min(len(script), 4000)]) })
}

func TestTableAgainstModel(t *testing.T) {
	random := seeded()
	script := make([]byte, 4*500)
	for range 60 {
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		modelRun(t, script)
	}
}

// TestPortChoice: all the usable ports are given out, and no other.
func TestPortChoice(t *testing.T) {
	tb := newTable(maxMapped, serverPort, &fakeSockets{}, seeded())
	key := channelKey{ownAddr, nat64Addr}
	var ch changes
	tb.authenticate(key, nat64Port, goodToken, ownAddr, 1, &ch)
	c := tb.channels[key]
	seen := map[uint16]bool{}
	for n := range maxMapped {
		ch.reset()
		k := tuple{prefix: wellKnown, client: addr6{0: 0x20, 14: byte(n >> 8), 15: byte(n)}, port: 1}
		i, o := tb.create(c, k, 0, nat64Port, 2, &ch)
		if o != accepted {
			t.Fatalf("entry %d: %v", n, o)
		}
		seen[c.entries[i].mapped] = true
	}
	selfcheck(t, tb)
	if len(seen) != maxMapped || maxMapped != 65536-1024-3 {
		t.Fatalf("%d different ports of %d", len(seen), maxMapped)
	}
	for _, p := range []uint16{0, 1, 80, 1023, teredoPort, serverPort, nat64Port} {
		if seen[p] {
			t.Errorf("port %d was given out", p)
		}
	}
	// One more: the least recently used goes.
	oldest := c.entries[c.oldest()].mapped
	ch.reset()
	i, o := tb.create(c, tuple{prefix: wellKnown, client: clientAddr, port: 2}, 0, nat64Port, 3, &ch)
	if o != accepted || c.entries[i].mapped != oldest {
		t.Fatalf("the next entry: %v, port %d, not %d that became free", o, c.entries[i].mapped, oldest)
	}
	if len(ch.events) != 2 || ch.events[0].Kind != Deleted || ch.events[1].Kind != Created {
		t.Fatalf("events %v", ch.events)
	}
}

// TestPortsAreUnpredictable: without a hint no port follows from the one before.
func TestPortsAreUnpredictable(t *testing.T) {
	tb := newTable(64000, serverPort, &fakeSockets{}, seeded())
	key := channelKey{ownAddr, nat64Addr}
	var ch changes
	tb.authenticate(key, nat64Port, goodToken, ownAddr, 1, &ch)
	c := tb.channels[key]
	near, last := 0, 0
	for n := range 2000 {
		i, o := tb.create(c, tuple{prefix: wellKnown, client: clientAddr, port: uint16(n + 1)}, 0, nat64Port, 2, &ch)
		if o != accepted {
			t.Fatal(o)
		}
		p := int(c.entries[i].mapped)
		if d := p - last; d > -64 && d < 64 {
			near++
		}
		last = p
	}
	if near > 20 { // four are expected of 2000 draws
		t.Fatalf("%d of 2000 ports were close to the one before", near)
	}
}

func TestEvictionSparesLiveSockets(t *testing.T) {
	live := &fakeSockets{live: liveSet{}}
	tb := newTable(3, serverPort, live, seeded())
	key := channelKey{ownAddr, nat64Addr}
	var ch changes
	tb.authenticate(key, nat64Port, goodToken, ownAddr, 1, &ch)
	c := tb.channels[key]
	learn := func(port, mapped uint16) outcome {
		_, o := tb.learn(c, tuple{prefix: wellKnown, client: clientAddr, port: port}, mapped, 2, &ch)
		return o
	}
	for n := range uint16(3) {
		if o := learn(n+1, 5001+n); o != accepted {
			t.Fatal(o)
		}
	}
	live.live[peer{nat64Addr, 5001}] = struct{}{}
	live.live[peer{addr4{192, 0, 2, 9}, 5002}] = struct{}{} // another NAT64's
	if o := learn(4, 5004); o != accepted || c.findMapped(5001) == 0 || c.findMapped(5002) != 0 {
		t.Fatalf("%v: the oldest is live, so the next one goes", o)
	}
	for _, p := range []uint16{5003, 5004} {
		live.live[peer{nat64Addr, p}] = struct{}{}
	}
	if o := learn(5, 5005); o != refusedPorts || c.count() != 3 {
		t.Fatalf("all are live: %v with %d entries", o, c.count())
	}
	live.err = errors.New("no list today")
	if o := learn(5, 5005); o != refusedLiveness || c.count() != 3 {
		t.Fatalf("nobody knows: %v with %d entries", o, c.count())
	}
	live.err, live.live = nil, liveSet{}
	if o := learn(5, 5005); o != accepted || c.count() != 3 {
		t.Fatalf("none is live: %v with %d entries", o, c.count())
	}
	selfcheck(t, tb)
}

// TestStormAsksOnce: within one view of the sockets a table that is all live is
// walked through once, not once for each entry that is refused.
func TestStormAsksOnce(t *testing.T) {
	view := &frozen{live: liveSet{}}
	tb := newTable(100, serverPort, view, seeded())
	key := channelKey{ownAddr, nat64Addr}
	var ch changes
	tb.authenticate(key, nat64Port, goodToken, ownAddr, 1, &ch)
	c := tb.channels[key]
	for n := range uint16(100) {
		tb.learn(c, tuple{prefix: wellKnown, client: clientAddr, port: n + 1}, 5000+n, 2, &ch)
		view.live[peer{nat64Addr, 5000 + n}] = struct{}{}
	}
	if o := tb.makeRoom(c, 3, &ch); o != refusedPorts || c.exhausted != 1 {
		t.Fatalf("%v, exhausted in view %d", o, c.exhausted)
	}
	first := c.oldest()
	c.touch(first)
	second := c.oldest()
	if o := tb.makeRoom(c, 3, &ch); o != refusedPorts || c.oldest() != second {
		t.Fatalf("%v, and the entries were walked through again", o)
	}
}

type frozen struct{ live liveSet }

func (f *frozen) view(int64) (liveSet, uint64, error) { return f.live, 1, nil }

func TestTooManyPrefixesDeleteNothing(t *testing.T) {
	x := newAuthenticated(t, 1000, noSockets{})
	c := x.channel()
	for n := range maxPrefixes + 1 {
		e := entryOf(5000, clientAddr, 9)
		binary.BigEndian.PutUint16(e.Prefix[10:], uint16(n))
		want := notified
		if n == maxPrefixes {
			want = refusedPrefixes
		}
		x.want(payload{token: goodToken, auth: goodAuth, entry: e}, want)
	}
	if c.count() != 1 || c.findMapped(5000) == 0 {
		t.Fatalf("%d entries after a refused one", c.count())
	}
	p := query(clientAddr, 77, 0)
	p.packet = ip6(clientAddr, addr6{0: 0x20, 12: 198, 13: 51, 14: 100, 15: 1}, 6, tcp(77, 80))
	x.want(p, refusedPrefixes)
}
