package server

import (
	"errors"
	"fmt"

	"handoff64/dataplane/packet"
	"handoff64/handoff/localnat"
	"handoff64/handoff/tundev"
)

// localOverhead is by how much an IPv4 packet of a local program's is shorter
// than the control datagram that takes it to the NAT64: the longer header, a
// fragment header, our authenticator, and what carries the control payload.
const localOverhead = (packet.IPv6Len - packet.IPv4Len) + packet.FragmentLen + 20 + udp4Headers

// openDevice makes the device and all that works with it. Needs CAP_NET_ADMIN,
// which can be given up after it.
func (s *Server) openDevice() error {
	if !s.cfg.needsDevice() {
		return nil
	}
	c := tundev.Config{Name: s.cfg.Device, MTU: s.cfg.DeviceMTU, Address: s.cfg.Pool.Addr().Next()}
	if s.cfg.needsPool() {
		c.Pool = s.cfg.Pool
		s.table.pool.use(c.Pool)
	}
	if c.MTU == 0 {
		c.MTU = tundev.UpstreamMTU(usualMTU) - localOverhead
	}
	d, err := s.cfg.openDevice(c)
	if err != nil {
		return fmt.Errorf("mode %v: %w", s.cfg.Mode, err)
	}
	n := &nat{
		Translator: localnat.New(), now: newParcels(), bindings: newBindings(c.Pool), committed: &s.committed,
		mtu: c.MTU, device: d, counts: &s.counts.local,
	}
	for _, l := range s.table.pool.byAddress {
		n.bindings.bind(l)
	}
	s.handler.nat = n
	out := newSender(s.socket.pc)
	out.sent = func(datagrams, octets int) {
		s.counts.sent.Add(uint64(datagrams))
		s.counts.sentOctets.Add(uint64(octets))
	}
	out.lost = func(datagrams int) { s.counts.local.lost[lostSending].Add(uint64(datagrams)) }
	s.answers = newAnswers(n, out)
	s.commit.send = func(b *batch) {
		s.socket.write(b, s.counts)
		b.handOver(d, &s.counts.local)
	}
	return nil
}

// answer begins to take answers from the device. What it returns ends that.
func (s *Server) answer() (end func() error) {
	if s.answers == nil {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() { done <- s.answers.run() }()
	return func() error {
		err := s.answers.device.Close()
		return errors.Join(err, <-done)
	}
}
