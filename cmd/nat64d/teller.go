package main

import (
	"fmt"
	"time"

	"handoff64/cmd/nat64d/control"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/packet"
)

// teller puts into words what the workers have recorded of packets.
type teller struct {
	rules *dataplane.Rules
	names [2]string // of the interfaces
}

var stepNames = [...]string{"parse", "classify", "lookup", "translate", "tx"}

// event is the way of one packet.
func (w *teller) event(s *dataplane.Sight) control.TraceEvent {
	e := control.TraceEvent{
		Time: time.Unix(0, s.Time), Worker: int(s.Worker), Packet: s.Serial, Protocol: protocolName(&s.Packet), Outcome: outcomes[s.Left],
	}
	w.ends(&e, s)
	if s.Left == dataplane.LeftDropped {
		e.Reason = s.Reason.String()
	}
	texts := [...]func(*dataplane.Sight) string{w.parse, w.classify, w.lookup, w.translate, w.tx}
	for i := range texts {
		step := dataplane.Step(i)
		if step > s.Reached {
			break
		}
		text := ""
		if step < s.Reached || s.Left != dataplane.LeftDropped {
			text = texts[i](s)
		}
		if step == s.Reached {
			text = join(text, w.leaving(s))
		}
		if text != "" {
			e.Steps = append(e.Steps, control.TraceStep{Step: stepNames[i], Text: text})
		}
	}
	return e
}

// outcomes are the words for how a packet left.
var outcomes = [...]string{
	dataplane.LeftKept: "held", dataplane.LeftSent: "translated", dataplane.LeftTurned: "hairpinned", dataplane.LeftDropped: "dropped",
	dataplane.LeftParked: "parked", dataplane.LeftGiven: "given to another worker", dataplane.LeftServer: "given to the handoff worker",
	dataplane.LeftKernel: "passed to the kernel", dataplane.LeftPieces: "translated into fragments",
}

func (w *teller) ends(e *control.TraceEvent, s *dataplane.Sight) {
	if s.Reached < dataplane.StepLookup {
		return
	}
	if known6(s.Client) {
		e.Client = endText(netip6(s.Client.Hi, s.Client.Lo), s.ClientPort)
	}
	if s.Server != 0 {
		e.Server = endText(netip4(s.Server), s.ServerPort)
	}
	if s.Mapped != 0 {
		e.Mapped = endText(netip4(s.Mapped), s.MappedPort)
	}
}

// parse says what the packet is and where it came from.
func (w *teller) parse(s *dataplane.Sight) string {
	from := "in on " + w.names[s.Side]
	switch s.Came {
	case dataplane.CameKernel:
		from = "from the host itself"
	case dataplane.CameHairpin:
		from = "come round after hairpinning"
	case dataplane.CameServer, dataplane.CameDone:
		from = "back from a handoff server"
	}
	if s.Waited {
		from = "again, after waiting for its next hop"
	}
	return from + ": " + packetText(s)
}

// packetText describes a packet by its own header.
func packetText(s *dataplane.Sight) string {
	p := &s.Packet
	if p.End == 0 {
		return fmt.Sprintf("EtherType 0x%04x", s.EtherType)
	}
	src, dst := netip4(p.Src4), netip4(p.Dst4)
	version, ttl := "IPv4", "TTL"
	if p.SrcHi|p.SrcLo|p.DstHi|p.DstLo != 0 && s.EtherType != 0x0800 {
		src, dst = netip6(p.SrcHi, p.SrcLo), netip6(p.DstHi, p.DstLo)
		version, ttl = "IPv6", "hop limit"
	}
	text := fmt.Sprintf("%s, %d octets, %s", version, p.End-p.L3, protocolName(p))
	switch p.Kind {
	case packet.KindTCP:
		text += fmt.Sprintf(" %s > %s [%s]", endText(src, p.SrcPort), endText(dst, p.DstPort), flagsText(p.TCPFlags))
	case packet.KindUDP:
		text += fmt.Sprintf(" %s > %s", endText(src, p.SrcPort), endText(dst, p.DstPort))
	case packet.KindEchoRequest:
		text += fmt.Sprintf(" echo request %s > %s, identifier %d", src, dst, p.SrcPort)
	case packet.KindEchoReply:
		text += fmt.Sprintf(" echo reply %s > %s, identifier %d", src, dst, p.SrcPort)
	case packet.KindICMPError, packet.KindICMPOther:
		text += fmt.Sprintf(" type %d code %d %s > %s", p.ICMPType, p.ICMPCode, src, dst)
	default:
		text += fmt.Sprintf(" %s > %s", src, dst)
	}
	if p.MoreFrags || p.FragOffset != 0 {
		text += fmt.Sprintf(", fragment at %d of %#x", p.FragOffset, p.ID)
	}
	return text + fmt.Sprintf(", %s %d", ttl, p.TTL)
}

func protocolName(p *packet.Parsed) string {
	switch p.Proto {
	case packet.ProtoICMP, packet.ProtoICMPv6:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", p.Proto)
}

// flagsText writes TCP flags as tcpdump does.
func flagsText(flags uint8) string {
	text := ""
	for i, c := range "FSRP.U" {
		if flags>>i&1 != 0 {
			text += string(c)
		}
	}
	if text == "" {
		return "none"
	}
	return text
}

func (w *teller) classify(s *dataplane.Sight) string {
	where := fmt.Sprintf("%s is a pool4 address", netip4(s.Packet.Dst4))
	if s.Dir == dataplane.V6ToV4 {
		where = fmt.Sprintf("%s is in pool6", netip6(s.Packet.DstHi, s.Packet.DstLo))
		if s.Server != 0 && !s.IsError {
			where += fmt.Sprintf(": the server is %s", netip4(s.Server))
		}
	}
	if s.Packet.Kind == packet.KindICMPError {
		where += "; an ICMP error: the session is that of the packet it quotes"
	}
	return where
}

func (w *teller) lookup(s *dataplane.Sight) string {
	server := netip4(s.Server).String()
	if s.Proto != conntrack.ICMP { // whose servers have no port
		server = endText(netip4(s.Server), s.ServerPort)
	}
	session := fmt.Sprintf("%s [%s]:%d <-> %s with %s", s.Proto, netip6(s.Client.Hi, s.Client.Lo), s.ClientPort,
		endText(netip4(s.Mapped), s.MappedPort), server)
	if s.Proto == conntrack.TCP {
		session += ", " + s.State.String()
	}
	switch {
	case s.HasSession && (s.Known || s.IsError):
		return "session found: " + session
	case s.HasSession && s.Mapping:
		return "no session, but a mapping; opened " + session
	case s.HasSession:
		return "no session; opened " + session
	case s.Mapping:
		return fmt.Sprintf("no session; %s is mapped to [%s]:%d", endText(netip4(s.Mapped), s.MappedPort), netip6(s.Client.Hi, s.Client.Lo), s.ClientPort)
	}
	return "no session"
}

func (w *teller) translate(s *dataplane.Sight) string {
	if s.Came == dataplane.CameDone {
		return "translated by the server already"
	}
	if s.Dir == dataplane.V6ToV4 {
		return "IPv6 to IPv4"
	}
	return "IPv4 to IPv6"
}

func (w *teller) tx(s *dataplane.Sight) string {
	side := dataplane.IPv6
	if s.Dir == dataplane.V6ToV4 {
		side = dataplane.IPv4
	}
	switch s.Left {
	case dataplane.LeftSent:
		if s.ToHost {
			return fmt.Sprintf("%d octets out to the host itself", s.Out)
		}
		return fmt.Sprintf("%d octets out on %s to %s", s.Out, w.names[side], macText(s.Eth))
	case dataplane.LeftPieces:
		return fmt.Sprintf("%d octets out on %s to %s, in fragments", s.Out, w.names[side], macText(s.Eth))
	}
	return ""
}

func macText(eth [12]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", eth[0], eth[1], eth[2], eth[3], eth[4], eth[5])
}

// leaving says how the packet left at the last step it came to, when that is not
// plain from the step itself.
func (w *teller) leaving(s *dataplane.Sight) string {
	text := ""
	switch s.Left {
	case dataplane.LeftSent, dataplane.LeftPieces:
	case dataplane.LeftTurned:
		text = "the destination is one of pool4: it comes round again as an IPv4 packet"
	case dataplane.LeftDropped:
		row := dataplane.ReasonOf(s.Reason)
		text = "dropped: " + row.Name + ": " + row.Sentence
		if row.Section != "" {
			text += " (" + row.Section + ")"
		}
	case dataplane.LeftKept:
		text = "a fragment that is held until more of its datagram is there"
	case dataplane.LeftParked:
		text = "waits for its next hop, which the kernel resolves"
	default:
		text = outcomes[s.Left]
	}
	if s.Answered {
		text = join(text, fmt.Sprintf("answered with ICMP type %d code %d", s.Answer[0], s.Answer[1]))
	}
	return text
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
