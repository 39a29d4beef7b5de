package conntrack

import (
	"testing"
)

// model is the obvious flow table: a map, and a list of who has which port.
type model struct {
	f        *fixture
	t        testing.TB
	now      Tick
	sessions map[Key64]*modelSession
	mappings map[modelClient]Mapping // dynamic ones
	statics  map[mappedKey]Static
	limit    int
	each     ClientLimits
}

type modelClient struct {
	addr Addr6
	port uint16
	kind kind
}

type modelSession struct {
	Session
	used   Tick
	state  TCPState
	static bool
}

const modelLimit = 40

var modelPool = []Pool4Range{{poolAddr, 2000, 2019}, {poolAddr + 1, 2000, 2009}}

func newModel(t testing.TB, shards int) *model {
	return &model{
		f: newFixture(t, Config{Shards: shards, Sessions: modelLimit, Pool4: modelPool, AddressDependent: true}),
		t: t, now: 1, sessions: map[Key64]*modelSession{}, mappings: map[modelClient]Mapping{},
		statics: map[mappedKey]Static{}, limit: modelLimit,
	}
}

// key is one of few, so that operations meet.
func (m *model) key(a, b byte) Key64 {
	k := Key64{Client: Addr6{1, uint64(a&15) + 1}, ClientPort: uint16(a >> 4), Server: uint32(b & 3), ServerPort: uint16(b >> 2 & 3),
		Proto: []Proto{UDP, TCP, ICMP, TCP}[b>>4&3], Pool6: b >> 6 & 1}
	if k.Proto == ICMP {
		k.ServerPort = 0
	}
	return k
}

func (k *Key64) modelClient() modelClient {
	return modelClient{k.Client, k.ClientPort, kindOf(k.Proto)}
}

// open is a new flow from IPv6.
func (m *model) open(k Key64) {
	m.t.Helper()
	st := StateNone
	if k.Proto == TCP {
		st = StateV6Init
	}
	known := m.sessions[k]
	want, static := m.mappedStatically(&k)
	dynamic, had := m.mappings[k.modelClient()]
	noPort := !static && !had && m.portsOver(k.Client)
	se, v := m.f.tryOpen(k, st, m.now)
	switch {
	case noPort || v == ClientPorts:
		if !noPort || v != ClientPorts {
			m.t.Fatalf("open %+v: %v, ports over the limit: %v", k, v, noPort)
		}
		return
	case v == PortsUsedUp:
		if static || had || m.freePorts(kindOf(k.Proto)) > 0 {
			m.t.Fatalf("open %+v: %v with %d ports free", k, v, m.freePorts(kindOf(k.Proto)))
		}
		return
	case v == ClientSessions && known == nil && m.sessionsOver(&k):
		return
	case v == TableFull && known == nil && len(m.sessions) >= m.limit && !m.sessionsOver(&k):
		return
	case v != OK || known == nil && m.displacedBy(&se) == 0 && m.sessionsOver(&k):
		m.t.Fatalf("open %+v: %v with %d sessions, over the limit: %v", k, v, len(m.sessions), m.sessionsOver(&k))
	}
	if known != nil {
		known.used = m.now
		return
	}
	got := Mapping{se.Mapped, se.MappedPort, static}
	if static && got != want || !static && had && got != dynamic {
		m.t.Fatalf("open %+v: mapped to %+v, want %+v or %+v", k, got, want, dynamic)
	}
	if !static && !had {
		m.checkNewPort(kindOf(k.Proto), got)
		m.mappings[k.modelClient()] = got
	}
	m.add(se, st, static)
}

// add notes a session, which displaces one of the same IPv4 side.
func (m *model) add(se Session, st TCPState, static bool) {
	for k, other := range m.sessions {
		if other.key46() == se.key46() {
			m.drop(k)
		}
	}
	if !static {
		m.mappings[se.Key.modelClient()] = Mapping{se.Mapped, se.MappedPort, false}
	}
	m.sessions[se.Key] = &modelSession{se, m.now, st, static}
}

// drop forgets a session, and with the last one the mapping.
func (m *model) drop(k Key64) {
	static := m.sessions[k].static
	delete(m.sessions, k)
	for other, s := range m.sessions {
		if other.modelClient() == k.modelClient() && !s.static {
			return
		}
	}
	if !static {
		delete(m.mappings, k.modelClient())
	}
}

func (m *model) mappedStatically(k *Key64) (Mapping, bool) {
	for _, st := range m.statics {
		if st.Proto == k.Proto && st.Client == k.Client && st.ClientPort == k.ClientPort {
			return Mapping{st.Mapped, st.MappedPort, true}, true
		}
	}
	return Mapping{}, false
}

// taken counts the ports that nobody new can have.
func (m *model) taken(kd kind) map[Mapping]bool {
	taken := map[Mapping]bool{}
	for c, mp := range m.mappings {
		if c.kind == kd {
			taken[mp] = true
		}
	}
	for _, st := range m.statics {
		if kindOf(st.Proto) == kd {
			taken[Mapping{st.Mapped, st.MappedPort, false}] = true
		}
	}
	return taken
}

func (m *model) freePorts(kd kind) int {
	n := 0
	for _, r := range modelPool {
		n += int(r.Last-r.First) + 1
	}
	for mp := range m.taken(kd) {
		if inPool(mp) {
			n--
		}
	}
	return n
}

func inPool(mp Mapping) bool {
	for _, r := range modelPool {
		if mp.Addr == r.Addr && mp.Port >= r.First && mp.Port <= r.Last {
			return true
		}
	}
	return false
}

func (m *model) checkNewPort(kd kind, mp Mapping) {
	m.t.Helper()
	if m.taken(kd)[mp] || !inPool(mp) {
		m.t.Fatalf("a new mapping got %+v, which is taken or not ours", mp)
	}
}

// packet is one of a known flow.
func (m *model) packet(k Key64, fromV4 bool, flags uint8) {
	s := m.sessions[k]
	if s == nil {
		return
	}
	if k.Proto == TCP {
		m.f.packet(s.Session, fromV4, flags, m.now)
		g := segment(flags) & segFlags
		if fromV4 {
			g |= segV4
		}
		next, refresh := advance(s.state, g)
		if s.state = next; refresh {
			s.used = m.now
		}
		return
	}
	if fromV4 {
		v, _ := m.f.get46(s.key46())
		v.Touch(m.now)
	} else {
		v, _ := m.f.get64(k)
		v.Touch(m.now)
	}
	s.used = m.now
}

// pass lets time go by. A session must be there until its lifetime ends, and be
// gone when that was longer ago than a shortened lifetime may go unnoticed.
func (m *model) pass(ticks Tick) {
	m.t.Helper()
	m.now += ticks
	m.f.expireAll(m.now)
	for k, s := range m.sessions {
		end := s.used + m.f.lifetime(k.Proto, s.state)
		_, there := m.f.get64(k)
		switch {
		case !there && before(m.now, end):
			m.t.Fatalf("session %+v ended at %d, lives until %d", k, m.now, end)
		case there && !before(m.now, end+recheckTicks), there && k.Proto != TCP && !before(m.now, end):
			m.t.Fatalf("session %+v is there at %d, should have ended at %d", k, m.now, end)
		case !there:
			m.drop(k)
		}
	}
}

func (m *model) remove(k Key64) {
	if v, ok := m.f.get64(k); ok {
		m.f.Shard(int(v.Owner)).Remove(&v)
		m.drop(k)
	}
}

func (m *model) addStatic(k Key64, mp Mapping) {
	st := Static{k.Proto, k.Client, k.ClientPort, mp.Addr, mp.Port}
	_, clientHas := m.mappedStatically(&k)
	_, portHas := m.statics[st.mappedKey()]
	sameKindStatic := false
	for _, o := range m.statics {
		sameKindStatic = sameKindStatic || kindOf(o.Proto) == kindOf(k.Proto) && o.Mapped == mp.Addr && o.MappedPort == mp.Port
	}
	foreign := false
	for c, d := range m.mappings {
		foreign = foreign || c.kind == kindOf(k.Proto) && d == mp && c != k.modelClient()
	}
	want := !clientHas && !portHas && (sameKindStatic || !foreign)
	if err := m.f.AddStatic(st); (err == nil) != want {
		m.t.Fatalf("add %v: %v, want success %v", st, err, want)
	}
	if want {
		m.statics[st.mappedKey()] = st
	}
}

// removeStatic removes a mapping and lets its sessions be swept.
func (m *model) removeStatic(key mappedKey) {
	_, known := m.statics[key]
	if err := m.f.RemoveStatic(key.proto, key.addr, key.port); (err == nil) != known {
		m.t.Fatalf("remove %+v: %v, known %v", key, err, known)
	}
	delete(m.statics, key)
	for k, s := range m.sessions {
		if s.static && s.key46().MappedPort == key.port && s.Mapped == key.addr && k.Proto == key.proto {
			delete(m.sessions, k)
		}
	}
	m.pass(0)
	m.f.staticMu.Lock()
	m.f.reap()
	m.f.staticMu.Unlock()
}

// visit is a packet from IPv4 to a mapped port.
func (m *model) visit(p Proto, mp Mapping, server uint32) {
	se, v := m.f.fromV4(p, mp.Addr, mp.Port, server, m.now)
	st, static := m.statics[mappedKey{mp.Addr, mp.Port, p}]
	client, dynamic := modelClient{st.Client, st.ClientPort, kindOf(p)}, false
	for c, d := range m.mappings {
		if !static && c.kind == kindOf(p) && d == mp {
			client, dynamic = c, true
		}
	}
	switch {
	case v == NoMapping && !static && !dynamic:
	case v == ClientSessions && m.sessions[se.Key] == nil && m.sessionsOver(&se.Key):
	case v == TableFull && m.sessions[se.Key] == nil && len(m.sessions) >= m.limit && !m.sessionsOver(&se.Key):
	case v == OK && m.sessions[se.Key] == nil && m.displacedBy(&se) == 0 && m.sessionsOver(&se.Key):
		m.t.Fatalf("visit %v %+v: %+v got a session too many", p, mp, se.Key.Client)
	case v == OK && (static || dynamic) && se.Key.Client == client.addr && se.Key.ClientPort == client.port:
		if known := m.sessions[se.Key]; known != nil {
			known.used = m.now
			return
		}
		m.add(se, se.State, static)
	default:
		m.t.Fatalf("visit %v %+v: %v, static %v, dynamic %v", p, mp, v, static, dynamic)
	}
}

// agree compares the two tables.
func (m *model) agree() {
	m.t.Helper()
	m.f.check()
	for k, s := range m.sessions {
		v64, ok := m.f.get64(k)
		if !ok || v64.Mapped != s.Mapped || v64.MappedPort != s.MappedPort || v64.State() != s.state || (v64.Origin == OriginStatic) != s.static {
			m.t.Fatalf("session %+v: %+v, %v, want %+v", k, v64, ok, s)
		}
		if v46, ok := m.f.get46(s.key46()); !ok || v46.Client != k.Client || v46.ClientPort != k.ClientPort || v46.Pool6 != k.Pool6 {
			m.t.Fatalf("session %+v: the way back is %+v, %v", k, v46, ok)
		}
		if !m.f.ownerOf(&k).HasSessionWith(k.Client, k.ClientPort, k.Server, k.Proto) {
			m.t.Fatalf("session %+v: the filter does not know it", k)
		}
	}
	n := 0
	m.f.Sessions(func(SessionInfo) bool { n++; return true })
	if st := m.f.Stats(); n != len(m.sessions) || int(st.Used) != n || int(st.BIB) != len(m.mappings) || int(st.Statics) != len(m.statics) {
		m.t.Fatalf("%d sessions and %d mappings, %+v; want %d and %d", n, st.BIB, st, len(m.sessions), len(m.mappings))
	}
}

// portsOver and sessionsOver tell whether a client has as much as it may.
func (m *model) portsOver(client Addr6) bool {
	n := 0
	for c := range m.mappings {
		if c.addr == client {
			n++
		}
	}
	return m.each.Ports > 0 && n >= m.each.Ports
}

func (m *model) sessionsOver(k *Key64) bool {
	n := 0
	for other := range m.sessions {
		if other.Client == k.Client {
			n++
		}
	}
	return m.each.Sessions > 0 && n >= m.each.Sessions
}

// displacedBy counts the sessions that have the same IPv4 side.
func (m *model) displacedBy(se *Session) (n int) {
	for k, other := range m.sessions {
		if k != se.Key && other.key46() == se.key46() {
			n++
		}
	}
	return n
}

// setLimits changes the limits and lets the shards count what there is.
func (m *model) setLimits(b byte) {
	m.each = [4]ClientLimits{{}, {Sessions: 4}, {Ports: 2}, {Sessions: 5, Ports: 3}}[b&3]
	m.f.SetClientLimits(m.each)
	m.pass(0)
	if !m.f.Swept() {
		m.t.Fatal("the walk is over, Swept says it is not")
	}
	sessions, ports := map[Addr6]int{}, map[Addr6]int{}
	for k := range m.sessions {
		sessions[k.Client]++
	}
	for c := range m.mappings {
		ports[c.addr]++
	}
	if m.each == (ClientLimits{}) {
		return
	}
	for client := range sessions {
		if s, p := m.f.ClientHas(client); s != sessions[client] || p != ports[client] {
			m.t.Fatalf("client %+v counts %d sessions and %d ports, has %d and %d", client, s, p, sessions[client], ports[client])
		}
	}
}

// do runs one operation that four octets name.
func (m *model) do(op [4]byte) {
	m.t.Helper()
	k := m.key(op[1], op[2])
	mp := Mapping{Addr: poolAddr + uint32(op[3]>>6&1), Port: 1998 + uint16(op[3]&31)}
	switch op[0] % 13 {
	case 0, 1, 2, 3:
		m.open(k)
	case 4, 5:
		m.packet(k, op[3]&128 != 0, op[3]&31)
	case 6:
		m.pass(Tick(op[3]) * 4)
	case 7:
		m.pass(Tick(op[3]) * 64)
	case 8:
		m.remove(k)
	case 9:
		m.addStatic(k, mp)
	case 10:
		m.removeStatic(mappedKey{mp.Addr, mp.Port, k.Proto})
	case 11:
		m.visit(k.Proto, mp, uint32(op[1]&3))
	case 12:
		m.setLimits(op[3])
	}
}

// FuzzFlowTable runs any sequence of operations on the table and on the model.
func FuzzFlowTable(f *testing.F) {
	for seed := range byte(12) {
		var ops []byte
		x := uint32(seed)*2654435761 + 1
		for range 800 {
			x ^= x << 13
			x ^= x >> 17
			x ^= x << 5
			ops = append(ops, byte(x), byte(x>>8), byte(x>>16), byte(x>>24))
		}
		f.Add(seed, ops)
	}
	f.Fuzz(func(t *testing.T, shards byte, ops []byte) {
		m := newModel(t, int(shards%4)+1)
		for i := 0; i+4 <= len(ops) && i < 4*2000; i += 4 {
			m.do([4]byte(ops[i:]))
			if i%64 == 0 {
				m.agree()
			}
		}
		m.agree()
	})
}
