package dataplane

import (
	"encoding/binary"
	"time"

	"handoff64/conntrack"
	"handoff64/dataplane/nexthop"
	"handoff64/dataplane/packet"
	"handoff64/ring"
)

// tapSet is what a worker does for the taps that are open: it is made anew when
// that changes, and from then on is the worker's alone. Its records follow a
// burst: begin before the first step, known and looked around the lookup, end
// after the last step. Nothing in it survives the burst but the serial numbers.
type tapSet struct {
	taps   []*Tap
	queues []*tapQueue // of this worker, as taps
	octets int         // the most that a tap wants of a packet
	sent   bool        // a tap wants what leaves

	serial uint64
	now    int64
	burst  *burst // under way, or the last one; nil before the first
	sights [BurstSize]Sight
	seen   [BurstSize]uint32 // octets copied of each packet as it came
	before []byte            // and those octets
	staged staged
}

// staged holds copies of what was made for packets of the burst: answers and
// fragments. What finds no room is missed by every tap that wanted it.
type staged struct {
	n      int
	who    [stagedMost]uint8
	side   [stagedMost]Family
	wire   [stagedMost]uint32
	octets []byte
}

// stagedMost leaves room for a burst of packets that each become two fragments.
const stagedMost = 2 * BurstSize

func newTapSet(open []*Tap, worker, frameSize int) *tapSet {
	s := &tapSet{}
	for _, t := range open {
		s.taps = append(s.taps, t)
		s.queues = append(s.queues, t.queues[worker])
		s.octets = max(s.octets, t.config.Octets)
		s.sent = s.sent || t.config.Sent
	}
	if s.octets > 0 {
		s.before = make([]byte, BurstSize*frameSize)
		s.staged.octets = make([]byte, stagedMost*frameSize)
	}
	return s
}

// takeTaps takes up what is open now.
func (w *Worker) takeTaps() {
	if t := w.pendingTaps.Load(); t != w.taps {
		w.taps = t
		w.seenTaps.Store(t)
	}
}

// begin notes the packets as they come.
func (s *tapSet) begin(w *Worker, b *burst) {
	s.now = time.Now().UnixNano()
	s.burst = b
	s.staged.n = 0
	for i := range b.n {
		m := &b.meta[i]
		m.left, m.outcome, m.reason = LeftKept, outcomeSent, NotDropped
		s.serial++
		s.sights[i] = Sight{
			Time: s.now, Serial: s.serial, Worker: uint8(w.id), Side: w.side, Came: Came(m.via), Waited: m.waited, place: noPlace,
		}
		at := m.offset()
		if m.len >= ethernetHeader && at+int(m.len) <= len(m.frame) {
			s.sights[i].EtherType = binary.BigEndian.Uint16(m.frame[at+12:])
		}
		s.seen[i] = 0
		if s.octets > 0 && m.via == viaPort && !m.waited && at+int(m.len) <= len(m.frame) {
			s.seen[i] = m.len
			copy(s.copyOf(i), m.frame[at:at+int(m.len)])
		}
	}
}

// copyOf is where the octets of a packet lie as it came.
func (s *tapSet) copyOf(i int) []byte {
	size := len(s.before) / BurstSize
	return s.before[i*size:][:s.seen[i]]
}

// known notes, before the lookup, what the tables have for each packet: after
// it, what the packet has opened looks the same.
func (s *tapSet) known(w *Worker, b *burst) {
	var v64 conntrack.View64
	var v46 conntrack.View46
	for i := range b.n {
		m := &b.meta[i]
		t := &s.sights[i]
		if m.reason != DropNotIP && m.reason != DropTruncated { // else they may be another packet's
			t.Packet, t.Dir = m.p, m.dir
		}
		if m.verdict != undecided {
			continue
		}
		t.Reached = StepLookup
		m.k64, m.k46 = conntrack.Key64{}, conntrack.Key46{} // what the lookup leaves alone is another packet's
		if m.class != classSession {
			continue
		}
		if m.dir == V6ToV4 {
			m.key64()
			t.Known = w.table.Lookup64(&m.k64, w.table.Hash64(&m.k64), &v64)
			continue
		}
		m.key46()
		if t.Known = w.table.Lookup46(&m.k46, w.table.Hash46(&m.k46), &v46); t.Known {
			continue
		}
		var bib conntrack.BIB
		if bib, t.Mapping = w.table.FindBIB(m.k46.Proto, m.k46.Mapped, m.k46.MappedPort); t.Mapping {
			t.Client, t.ClientPort = bib.Client, bib.ClientPort
		}
	}
}

// looked notes the session that each packet has after the lookup, and what it
// says of its ends where it has none.
func (s *tapSet) looked(b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		t := &s.sights[i]
		if t.Reached < StepLookup {
			continue
		}
		t.IsError = m.class == classError
		t.HasSession = m.verdict == undecided && m.via != viaServerDone
		if t.HasSession {
			t.Reached = StepTranslate
		}
		if m.dir == V6ToV4 {
			t.session64(m)
		} else {
			t.session46(m)
		}
	}
}

// session64 is for packets from the IPv6 side. The key of an ICMP error is that
// of the session it is about.
func (t *Sight) session64(m *meta) {
	k := &m.k64
	t.Proto, t.Client, t.ClientPort, t.Server, t.ServerPort, t.Pool6 = k.Proto, k.Client, k.ClientPort, k.Server, k.ServerPort, k.Pool6
	if t.HasSession {
		t.Mapped, t.MappedPort, t.Origin, t.State = m.v64.Mapped, m.v64.MappedPort, m.v64.Origin, m.v64.State()
	}
}

func (t *Sight) session46(m *meta) {
	k := &m.k46
	t.Proto, t.Server, t.ServerPort, t.Mapped, t.MappedPort = k.Proto, k.Server, k.ServerPort, k.Mapped, k.MappedPort
	if t.HasSession {
		v := &m.v46
		t.Client, t.ClientPort, t.Pool6, t.Origin, t.State = v.Client, v.ClientPort, v.Pool6, v.Origin, v.State()
	}
}

// made notes what was made because of a packet: an answer or a fragment, with
// its Ethernet header. Slow paths call it. What is about no packet of the burst
// (the answer to a stored SYN) is not shown.
func (s *tapSet) made(w *Worker, m *meta, d ring.Desc, dir Direction, answer bool) {
	b, i := s.burst, 0
	if b == nil {
		return // there has not been one yet
	}
	for i < b.n && &b.meta[i] != m {
		i++
	}
	if i == b.n {
		return
	}
	at := int(d.Addr) & (w.umem.FrameSize - 1)
	frame := w.umem.Frame(d.Addr &^ uint64(w.umem.FrameSize-1))[at : at+int(d.Len)]
	if t := &s.sights[i]; answer {
		l4 := ethernetHeader + 20
		if dir == V4ToV6 {
			l4 = ethernetHeader + 40
		}
		t.Answered, t.Answer = true, [2]uint8(frame[l4:])
	}
	g := &s.staged
	if !s.sent || g.n == stagedMost {
		return
	}
	g.who[g.n], g.side[g.n], g.wire[g.n] = uint8(i), dir.side(), d.Len
	if s.octets > 0 {
		copy(g.copyOf(g.n), frame)
	}
	g.n++
}

func (g *staged) copyOf(n int) []byte {
	size := len(g.octets) / stagedMost
	return g.octets[n*size:][:g.wire[n]]
}

// end completes the records and gives them to the taps that chose them. The
// frames of what was translated are as they are sent, and nobody else's yet.
func (s *tapSet) end(w *Worker, b *burst) {
	for i := range b.n {
		m := &b.meta[i]
		t := &s.sights[i]
		s.finish(t, m)
		for k, tap := range s.taps {
			if !tap.config.Filter.Match(t) {
				continue
			}
			q := s.queues[k]
			var as []byte
			if tap.config.Octets > 0 && t.Left != LeftGiven { // its owner shows it, with what becomes of it
				as = s.copyOf(i)
			}
			q.push(t, as, tap.config.Octets)
			if tap.config.Sent {
				s.leaving(w, tap, q, i, m)
			}
		}
	}
}

// finish says how the packet left.
func (s *tapSet) finish(t *Sight, m *meta) {
	switch {
	case m.verdict == forward:
		t.Left, t.Reached = LeftSent, StepTX
		t.Eth, t.Out = m.hop.Eth, uint32(m.end-m.start)
		t.ToHost = m.hop.State == nexthop.Local
	case m.verdict == turned:
		t.Left, t.Reached, t.Out = LeftTurned, StepTX, uint32(m.end-m.start)
	case m.outcome == outcomeDropped:
		t.Left, t.Reason = LeftDropped, m.reason
	default:
		t.Left = m.left
		if t.Left == LeftPieces {
			t.Reached = StepTX
			t.Eth, t.Out = m.hop.Eth, uint32(m.end-m.start)
		}
	}
	if t.Reached > StepParse || t.Reason == NotDropped || reasonTable[t.Reason].Step != "parse" {
		t.Side = map6(t.Dir)
		t.Reached = max(t.Reached, StepClassify)
	}
}

// leaving shows what leaves because of a packet.
func (s *tapSet) leaving(w *Worker, tap *Tap, q *tapQueue, i int, m *meta) {
	t := &s.sights[i]
	out := Sight{Time: t.Time, Serial: t.Serial, Kind: SightOut, Worker: t.Worker}
	for n := range s.staged.n {
		if int(s.staged.who[n]) != i {
			continue
		}
		out.Side = s.staged.side[n]
		q.push(&out, s.staged.copyOf(n), tap.config.Octets)
	}
	if m.verdict == forward {
		d := m.desc()
		at := int(d.Addr) & (len(m.frame) - 1)
		out.Side = m.dir.side()
		q.push(&out, m.frame[at:at+int(d.Len)], tap.config.Octets)
	}
}

// push gives a record to a tap, with as many of the octets as it wants.
func (q *tapQueue) push(t *Sight, octets []byte, most int) {
	if q.records.Len() == q.records.Cap() { // before a place is taken: only the reader can give it back
		q.missed.Add(1)
		return
	}
	r := *t
	r.place, r.Wire, r.Octets = noPlace, uint32(len(octets)), 0
	if n := min(len(octets), most); n > 0 {
		place, ok := q.free.Pop()
		if !ok {
			q.missed.Add(1)
			return
		}
		copy(q.octets[int(place)*most:][:n], octets)
		r.place, r.Octets = place, uint32(n)
	}
	q.records.Push(r)
}

// refused shows packets that the interface did not take: they had left the
// steps as sent.
func (s *tapSet) refused(w *Worker, d ring.Desc, dir Direction) {
	at := int(d.Addr) & (w.umem.FrameSize - 1)
	frame := w.umem.Frame(d.Addr &^ uint64(w.umem.FrameSize-1))[:at+int(d.Len)]
	t := Sight{
		Time: s.now, Worker: uint8(w.id), Side: dir.side(), Came: CameIn, Reached: StepTX, Left: LeftDropped, Reason: DropTXFull,
		EtherType: binary.BigEndian.Uint16(frame[at+12:]),
	}
	if t.Dir = V6ToV4; t.EtherType == etherTypeIPv6 {
		packet.Parse6(frame, at+ethernetHeader, &t.Packet)
	} else {
		t.Dir = V4ToV6
		packet.Parse4(frame, at+ethernetHeader, &t.Packet)
	}
	s.serial++
	t.Serial = s.serial
	for k, tap := range s.taps {
		if tap.config.Filter.Match(&t) {
			s.queues[k].push(&t, nil, tap.config.Octets)
		}
	}
}
