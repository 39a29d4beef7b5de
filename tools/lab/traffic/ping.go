package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"handoff64/tools/lab"
)

// defaultTTL is that of IPv4 echo requests (RFC 1700's recommendation).
const defaultTTL = 64

// Answer is what came back for an echo request.
type Answer struct {
	Type     icmp.Type // echo reply or an error about the request
	Code     int
	From     netip.Addr
	HopLimit int // hop limit or TTL with which it arrived
	MTU      int // of a Packet Too Big or Fragmentation Needed
	RTT      time.Duration
}

// Reply says whether it is an echo reply.
func (a Answer) Reply() bool {
	return a.Type == ipv6.ICMPTypeEchoReply || a.Type == ipv4.ICMPTypeEchoReply
}

// Pinger sends echo requests with one identifier from a host. For one
// goroutine.
type Pinger struct {
	ID   int
	Wait time.Duration // for the answer to each try

	v6  *ipv6.PacketConn
	v4  *ipv4.PacketConn
	seq int
}

// NewPinger opens a raw socket in the host: "ip6" or "ip4". An id of 0 means
// any.
func NewPinger(h lab.Host, network string, id int) (*Pinger, error) {
	if id == 0 {
		id = 1 + rand.IntN(0xffff)
	}
	p := &Pinger{ID: id, Wait: time.Second}
	protocol, address := "ip6:58", "::"
	if network == "ip4" {
		protocol, address = "ip4:1", "0.0.0.0"
	}
	c, err := h.ListenPacket(protocol, address)
	if err != nil {
		return nil, fmt.Errorf("ICMP socket: %w", err)
	}
	if network == "ip4" {
		p.v4 = ipv4.NewPacketConn(c)
		err = p.v4.SetControlMessage(ipv4.FlagTTL, true)
	} else {
		p.v6 = ipv6.NewPacketConn(c)
		err = p.v6.SetControlMessage(ipv6.FlagHopLimit, true)
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("ICMP socket: ask for hop limits: %w", err)
	}
	return p, nil
}

// Close closes the socket.
func (p *Pinger) Close() error {
	if p.v4 != nil {
		return p.v4.Close()
	}
	return p.v6.Close()
}

// Ping sends an echo request with size octets of data and the given hop limit
// (0 for the host's own) and waits for what comes back; it tries three times.
func (p *Pinger) Ping(ctx context.Context, to netip.Addr, size, hopLimit int) (Answer, error) {
	for range udpTries {
		p.seq = (p.seq + 1) & 0xffff
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i + p.seq)
		}
		start := time.Now()
		if err := p.send(to, data, hopLimit); err != nil {
			return Answer{}, fmt.Errorf("ping %s with %d octets: %w", to, size, err)
		}
		a, err := p.receive(ctx, start.Add(p.Wait), data)
		if err == nil {
			a.RTT = time.Since(start)
			return a, nil
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() || ctx.Err() != nil {
			return Answer{}, fmt.Errorf("ping %s with %d octets: %w", to, size, err)
		}
	}
	return Answer{}, fmt.Errorf("ping %s with %d octets: no answer in %d tries", to, size, udpTries)
}

func (p *Pinger) send(to netip.Addr, data []byte, hopLimit int) error {
	m := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: p.ID, Seq: p.seq, Data: data}}
	if p.v4 != nil {
		m.Type = ipv4.ICMPTypeEcho
	}
	wire, err := m.Marshal(nil) // the kernel fills in the ICMPv6 checksum
	if err != nil {
		return err
	}
	dst := &net.IPAddr{IP: to.AsSlice()}
	if p.v4 != nil {
		if hopLimit == 0 {
			hopLimit = defaultTTL
		}
		// Linux takes no TTL with a message, only for the socket.
		if err := p.v4.SetTTL(hopLimit); err != nil {
			return err
		}
		_, err = p.v4.WriteTo(wire, nil, dst)
	} else {
		_, err = p.v6.WriteTo(wire, &ipv6.ControlMessage{HopLimit: hopLimit}, dst)
	}
	return err
}

// receive reads until an answer to the last request arrives.
func (p *Pinger) receive(ctx context.Context, deadline time.Time, data []byte) (Answer, error) {
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	buf := make([]byte, 1<<16)
	for {
		wire, a, err := p.read(deadline, buf)
		if err != nil {
			return Answer{}, err
		}
		mine, err := p.match(wire, &a, data)
		if mine || err != nil {
			return a, err
		}
	}
}

// read takes one ICMP message off the socket, without its IP header.
func (p *Pinger) read(deadline time.Time, buf []byte) ([]byte, Answer, error) {
	var a Answer
	var n int
	var from net.Addr
	if p.v4 != nil {
		if err := p.v4.SetReadDeadline(deadline); err != nil {
			return nil, a, err
		}
		got, cm, src, err := p.v4.ReadFrom(buf)
		if err != nil {
			return nil, a, err
		}
		n, from = got, src
		if cm != nil {
			a.HopLimit = cm.TTL
		}
	} else {
		if err := p.v6.SetReadDeadline(deadline); err != nil {
			return nil, a, err
		}
		got, cm, src, err := p.v6.ReadFrom(buf)
		if err != nil {
			return nil, a, err
		}
		n, from = got, src
		if cm != nil {
			a.HopLimit = cm.HopLimit
		}
	}
	addr, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
	a.From = addr.Unmap()
	return buf[:n], a, nil
}

// match says whether a message answers the last request, and fills in the
// rest of the answer.
func (p *Pinger) match(wire []byte, a *Answer, data []byte) (bool, error) {
	protocol := 58
	if p.v4 != nil {
		protocol = 1
	}
	m, err := icmp.ParseMessage(protocol, wire)
	if err != nil {
		return false, nil // not ours to judge: every ICMP message of the host arrives here
	}
	a.Type, a.Code = m.Type, m.Code
	switch body := m.Body.(type) {
	case *icmp.Echo:
		if !a.Reply() || body.ID != p.ID || body.Seq != p.seq {
			return false, nil
		}
		if !bytes.Equal(body.Data, data) {
			return true, fmt.Errorf("the reply from %s holds %d octets, not the %d sent", a.From, len(body.Data), len(data))
		}
		return true, nil
	case *icmp.PacketTooBig:
		a.MTU = body.MTU
		return p.quotes(body.Data), nil
	case *icmp.TimeExceeded:
		return p.quotes(body.Data), nil
	case *icmp.DstUnreach:
		// RFC 1191 §4: the MTU of a Fragmentation Needed is in octets 6 and 7.
		if p.v4 != nil && m.Code == 4 {
			a.MTU = int(binary.BigEndian.Uint16(wire[6:]))
		}
		return p.quotes(body.Data), nil
	}
	return false, nil
}

// quotes says whether an ICMP error quotes the last request.
func (p *Pinger) quotes(packet []byte) bool {
	var header int
	switch {
	case p.v4 != nil && len(packet) >= ipv4.HeaderLen && packet[9] == 1:
		header = int(packet[0]&0xf) * 4
	case p.v6 != nil && len(packet) >= ipv6.HeaderLen && packet[6] == 58:
		header = ipv6.HeaderLen
	default:
		return false
	}
	if len(packet) < header+8 {
		return false
	}
	echo := packet[header:]
	return int(binary.BigEndian.Uint16(echo[4:])) == p.ID && int(binary.BigEndian.Uint16(echo[6:])) == p.seq
}

// Hop is one step of a path; Err says why nothing answered there.
type Hop struct {
	Answer
	Err error
}

// Trace sends echo requests with rising hop limits until the destination
// answers or maxHops are tried.
func (p *Pinger) Trace(ctx context.Context, to netip.Addr, maxHops int) []Hop {
	var hops []Hop
	for limit := 1; limit <= maxHops && ctx.Err() == nil; limit++ {
		a, err := p.Ping(ctx, to, 32, limit)
		hops = append(hops, Hop{Answer: a, Err: err})
		if err == nil && a.Type != ipv6.ICMPTypeTimeExceeded && a.Type != ipv4.ICMPTypeTimeExceeded {
			break
		}
	}
	return hops
}
