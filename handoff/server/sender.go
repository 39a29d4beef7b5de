package server

import (
	"net"

	"golang.org/x/net/ipv4"

	"handoff64/handoff/segment"
)

// sender writes datagrams in bursts. Datagrams of one size to one NAT64 that
// follow each other leave as one message that the kernel cuts up (UDP_SEGMENT),
// which costs a fraction; the last one may be shorter. Owned by one goroutine.
type sender struct {
	pc    *ipv4.PacketConn
	whole bool // the kernel or a device cannot cut messages up
	ms    []ipv4.Message
	to    [burst]net.UDPAddr
	dest  [burst]destinationKey
	n     int
	sent  func(datagrams, octets int)
	lost  func(datagrams int)
}

// destinationKey is where the datagrams of a message come from and go to.
type destinationKey struct {
	own, to addr4
	port    uint16
}

func newSender(pc *ipv4.PacketConn) *sender {
	s := &sender{pc: pc, ms: make([]ipv4.Message, burst)}
	for i := range s.ms {
		s.to[i].IP = make(net.IP, 4)
		s.ms[i] = ipv4.Message{Addr: &s.to[i], OOB: make([]byte, 0, cmsgPktinfo+segment.Space), Buffers: make([][]byte, 0, segment.Most)}
	}
	return s
}

// add queues a datagram. Its octets must stay until flush.
func (s *sender) add(k destinationKey, b []byte) {
	if s.n > 0 && !s.whole && s.dest[s.n-1] == k && joins(s.ms[s.n-1].Buffers, b) {
		m := &s.ms[s.n-1]
		m.Buffers = append(m.Buffers, b)
		return
	}
	if s.n == burst {
		s.flush()
	}
	m := &s.ms[s.n]
	m.Buffers = append(m.Buffers[:0], b)
	copy(s.to[s.n].IP, k.to[:])
	s.to[s.n].Port = int(k.port)
	s.dest[s.n] = k
	s.n++
}

// joins says whether a datagram can leave with others: all of them have the size
// of the first, and it is no larger.
func joins(with [][]byte, b []byte) bool {
	return segment.Joins(len(with), len(with[0]), len(with[len(with)-1]), len(b))
}

// flush sends what is queued.
func (s *sender) flush() {
	for i := range s.ms[:s.n] {
		s.address(i)
	}
	for at := 0; at < s.n; {
		n, err := s.pc.WriteBatch(s.ms[at:s.n], 0)
		n = max(n, 0)
		for i := at; i < at+n; i++ {
			s.account(s.ms[i].Buffers)
		}
		at += n
		if err == nil || n > 0 {
			continue
		}
		s.separately(at)
		at++
	}
	s.n = 0
}

// address writes the control messages of a message: its source and, if it is to
// be cut up, the size.
func (s *sender) address(i int) {
	m := &s.ms[i]
	m.OOB = m.OOB[:cmsgPktinfo]
	setSource(m.OOB, s.dest[i].own)
	if len(m.Buffers) > 1 {
		m.OOB = segment.Append(m.OOB, len(m.Buffers[0]))
	}
}

// separately sends the datagrams of a message that the kernel refused one by
// one: it may not cut messages up here, or the path has become narrower.
func (s *sender) separately(i int) {
	m := &s.ms[i]
	if len(m.Buffers) == 1 {
		s.lost(1)
		return
	}
	all := m.Buffers
	var one [1]ipv4.Message
	one[0] = ipv4.Message{Addr: m.Addr, OOB: m.OOB[:cmsgPktinfo], Buffers: make([][]byte, 1)}
	gone := 0
	for j := range all {
		one[0].Buffers[0] = all[j]
		if n, err := s.pc.WriteBatch(one[:], 0); err != nil || n != 1 {
			s.lost(1)
			continue
		}
		gone++
		s.account(all[j : j+1])
	}
	s.whole = s.whole || gone == len(all)
}

func (s *sender) account(datagrams [][]byte) {
	octets := 0
	for _, b := range datagrams {
		octets += len(b)
	}
	s.sent(len(datagrams), octets)
}
