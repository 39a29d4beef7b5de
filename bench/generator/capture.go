package generator

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/asavie/xdp"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"handoff64/bench/traffic"
	"handoff64/dataplane/packet"
	"handoff64/ring/xsk"
)

// Match says which packets of an interface are the generator's.
type Match string

const (
	MatchStamped Match = "stamped" // those with a stamp; all else goes to the kernel
	MatchIP      Match = "ip"      // UDP, TCP and ICMP echo; so neighbour discovery goes to the kernel
)

// capture is the XDP program that picks the generator's packets out, and its
// count of the others. Any goroutine may ask for the count.
type capture struct {
	match  Match
	passed *ebpf.Map // per CPU: packets left to the kernel
}

// load makes the program for so many queues.
func (c *capture) load(queues int) (*xdp.Program, error) {
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Name: "xsks", Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: uint32(queues)})
	if err != nil {
		return nil, fmt.Errorf("map of sockets (needs CAP_BPF): %w", err)
	}
	p := &xdp.Program{Sockets: sockets}
	p.Queues, err = ebpf.NewMap(&ebpf.MapSpec{Name: "queues", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: uint32(queues)})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map of queues: %w", err), p.Close())
	}
	c.passed, err = ebpf.NewMap(&ebpf.MapSpec{Name: "passed", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map of the count: %w", err), p.Close())
	}
	p.Program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: xsk.ProgramName, Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: instructions(c.match, sockets.FD(), c.passed.FD()),
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load the program: %w", err), p.Close(), c.close())
	}
	return p, nil
}

func (c *capture) close() error {
	if c.passed == nil {
		return nil
	}
	err := c.passed.Close()
	c.passed = nil
	return err
}

// foreign is the number of packets that were left to the kernel.
func (c *capture) foreign() (uint64, error) {
	var each []uint64
	if err := c.passed.Lookup(uint32(0), &each); err != nil {
		return 0, fmt.Errorf("count of foreign packets: %w", err)
	}
	total := uint64(0)
	for _, n := range each {
		total += n
	}
	return total, nil
}

// Registers of the program, and offsets within struct xdp_md.
const (
	regContext = asm.R6
	regData    = asm.R7
	regEnd     = asm.R8

	mdData, mdDataEnd, mdQueue = 0, 4, 16
)

// The parts of a frame that the program looks at lie at fixed offsets: IPv4
// options, extension headers and VLAN tags are no part of generated frames.
const (
	ip4End = packet.EthernetLen + packet.IPv4Len
	ip6End = packet.EthernetLen + packet.IPv6Len
)

// onWire is the value that a load of two or four octets in this machine's byte
// order gives for a number in network byte order.
func onWire(v uint32, octets int) int32 {
	b := binary.BigEndian.AppendUint32(nil, v)[4-octets:]
	if octets == 2 {
		return int32(binary.NativeEndian.Uint16(b))
	}
	return int32(binary.NativeEndian.Uint32(b))
}

// instructions is the program, as there is no compiler for it at hand when it
// is loaded:
//
//	IPv4 without options and fragments, or IPv6, with
//	  UDP, TCP without options or ICMP echo, with
//	    the magic behind it (MatchStamped only)  -> socket of the queue
//	all else                                     -> count, kernel
func instructions(match Match, sockets, passed int) asm.Instructions {
	p := asm.Instructions{
		asm.Mov.Reg(regContext, asm.R1),
		asm.LoadMem(regData, asm.R1, mdData, asm.Word),
		asm.LoadMem(regEnd, asm.R1, mdDataEnd, asm.Word),
	}
	p = append(p, within(ip4End, "pass")...)
	p = append(p,
		asm.LoadMem(asm.R3, regData, 12, asm.Half),
		asm.JEq.Imm(asm.R3, onWire(0x86dd, 2), "ipv6"),
		asm.JNE.Imm(asm.R3, onWire(0x0800, 2), "pass"),
		asm.LoadMem(asm.R3, regData, packet.EthernetLen, asm.Byte),
		asm.JNE.Imm(asm.R3, 4<<4|packet.IPv4Len/4, "pass"),
		asm.LoadMem(asm.R3, regData, packet.EthernetLen+packet.IPv4FlagsOff, asm.Half),
		asm.And.Imm(asm.R3, onWire(packet.IPv4MF|packet.IPv4OffsetMask, 2)),
		asm.JNE.Imm(asm.R3, 0, "pass"),
		asm.LoadMem(asm.R3, regData, packet.EthernetLen+packet.IPv4Proto, asm.Byte),
	)
	p = append(p, upper(match, ip4End, packet.ProtoICMP, packet.ICMPv4EchoRequest, packet.ICMPv4EchoReply, "4")...)
	ipv6 := within(ip6End, "pass")
	ipv6[0] = ipv6[0].WithSymbol("ipv6")
	p = append(p, ipv6...)
	p = append(p, asm.LoadMem(asm.R3, regData, packet.EthernetLen+packet.IPv6NextHeader, asm.Byte))
	p = append(p, upper(match, ip6End, packet.ProtoICMPv6, packet.ICMPv6EchoRequest, packet.ICMPv6EchoReply, "6")...)
	return append(p, verdicts(sockets, passed)...)
}

// within jumps elsewhere unless the frame has so many octets.
func within(octets int32, otherwise string) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R2, regData),
		asm.Add.Imm(asm.R2, octets),
		asm.JGT.Reg(asm.R2, regEnd, otherwise),
	}
}

// upper looks at the upper layer at l4, whose protocol is in R3.
func upper(match Match, l4 int32, icmp, request, reply int32, suffix string) asm.Instructions {
	p := asm.Instructions{
		asm.JEq.Imm(asm.R3, packet.ProtoUDP, "udp"+suffix),
		asm.JEq.Imm(asm.R3, packet.ProtoTCP, "tcp"+suffix),
		asm.JNE.Imm(asm.R3, icmp, "pass"),
	}
	p = append(p, within(l4+packet.ICMPLen, "pass")...)
	p = append(p,
		asm.LoadMem(asm.R3, regData, int16(l4), asm.Byte),
		asm.JEq.Imm(asm.R3, request, "udp"+suffix),
		asm.JNE.Imm(asm.R3, reply, "pass"),
	)
	p = append(p, payload(match, l4+packet.UDPLen, "udp"+suffix)...)
	return append(p, payload(match, l4+packet.TCPLen, "tcp"+suffix)...)
}

// payload takes a packet whose upper layer's header ends at the offset.
func payload(match Match, at int32, symbol string) asm.Instructions {
	octets := at
	if match == MatchStamped {
		octets += 4
	}
	p := within(octets, "pass")
	p[0] = p[0].WithSymbol(symbol)
	if match == MatchStamped {
		p = append(p,
			asm.LoadMem(asm.R3, regData, int16(at), asm.Word),
			asm.LoadImm(asm.R4, int64(uint32(onWire(traffic.Magic, 4))), asm.DWord),
			asm.JNE.Reg(asm.R3, asm.R4, "pass"),
		)
	}
	return append(p, asm.Ja.Label("ours"))
}

// verdicts ends the program. Without a socket on the queue the kernel gets the
// packet (the flags of bpf_redirect_map say what then).
func verdicts(sockets, passed int) asm.Instructions {
	const xdpPass = 2
	return asm.Instructions{
		asm.LoadMem(asm.R2, regContext, mdQueue, asm.Word).WithSymbol("ours"),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Imm(asm.R3, xdpPass),
		asm.FnRedirectMap.Call(),
		asm.Return(),

		asm.StoreImm(asm.RFP, -4, 0, asm.Word).WithSymbol("pass"),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, passed),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "uncounted"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, xdpPass).WithSymbol("uncounted"),
		asm.Return(),
	}
}
