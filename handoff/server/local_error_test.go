package server

import (
	"encoding/binary"
	"testing"

	"handoff64/dataplane/packet"
	"handoff64/dataplane/reference"
	"handoff64/handoff/wire"
)

// TestErrorsBothWays: ICMP errors about packets in either direction reach those
// who sent them, with the addresses that these know, in both modes.
func TestErrorsBothWays(t *testing.T) {
	server6 := embed(wellKnown, ownAddr)
	router := addr6{0: 0x20, 1: 1, 15: 0xfe}
	for _, mode := range []Mode{LocalNAT, Mixed} {
		x := known(t, mode)
		request := x.delivered(from6(ip6(clientAddr, server6, 17, udp(53186, 53, "question"))))
		address, port := addr4(request[packet.IPv4Src:]), binary.BigEndian.Uint16(request[20:])
		if mode == LocalNAT && port != 53186 {
			t.Fatalf("port %d", port)
		}

		// A router says that the answer is too big: the program hears it.
		quote := ip6(server6, clientAddr, 17, udp(53, 53186, "answer"))
		got := x.delivered(from6(ip6(router, server6, packet.ProtoICMPv6, icmp(2, 0, 1280, quote))))
		inner := got[28:]
		if err := reference.CheckSums(got); err != nil || got[20] != 3 || got[21] != 4 || binary.BigEndian.Uint16(got[26:]) != 1260 ||
			addr4(got[12:]) != address || addr4(got[16:]) != ownAddr {
			t.Errorf("%v: delivered (%v) %x", mode, err, got)
		}
		if addr4(inner[12:]) != ownAddr || addr4(inner[16:]) != address || binary.BigEndian.Uint16(inner[22:]) != port {
			t.Errorf("%v: it quotes %x", mode, inner)
		}

		// The port is closed: the client hears it.
		unreachable := ip4(ownAddr, address, 1, icmp(3, 3, 0, request))
		var p wire.Payload
		if mode == LocalNAT {
			sent := x.answers().take(unreachable, notLost)
			if s := wire.Decode(sent[0], &p); len(sent) != 1 || s != wire.OK {
				t.Fatal(s)
			}
		} else {
			p = x.answer(x.want(payload{token: goodToken, packet: unreachable}, translated))
		}
		six, quoted := p.Packet, p.Packet[48:]
		if err := reference.CheckSums(six); err != nil || six[40] != 1 || six[41] != 4 || addr6(six[8:24]) != server6 || addr6(six[24:40]) != clientAddr {
			t.Errorf("%v: sent (%v) %x", mode, err, six)
		}
		if addr6(quoted[8:24]) != clientAddr || addr6(quoted[24:40]) != server6 || binary.BigEndian.Uint16(quoted[40:]) != 53186 {
			t.Errorf("%v: it quotes %x", mode, quoted)
		}
	}
}
