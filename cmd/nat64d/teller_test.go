package main

import (
	"net/netip"
	"strings"
	"testing"

	"handoff64/cmd/nat64d/control"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/packet"
	"handoff64/dataplane/xlat"
)

// ping is an echo request from a client, as the workers record it.
func ping() dataplane.Sight {
	return dataplane.Sight{
		Side: dataplane.IPv6, Dir: dataplane.V6ToV4, EtherType: 0x86dd, Left: dataplane.LeftSent, Reached: dataplane.StepTX,
		Packet: packet.Parsed{
			L3: 14, End: 14 + 104, Kind: packet.KindEchoRequest, Proto: 58, TTL: 64, SrcPort: 77, DstPort: 77,
			SrcHi: 0x20010db8_00000000, SrcLo: 0xa, DstHi: 0x0064ff9b_00000000, DstLo: 0xc633640a,
		},
		HasSession: true, Proto: conntrack.ICMP, Client: conntrack.Addr6{Hi: 0x20010db8_00000000, Lo: 0xa}, ClientPort: 77,
		Server: 0xc633640a, Mapped: 0xc0000201, MappedPort: 4321, Eth: [12]byte{2, 0, 0, 0, 0, 1}, Out: 84,
	}
}

func TestTeller(t *testing.T) {
	prefix, err := xlat.ParsePrefix(netip.MustParsePrefix("64:ff9b::/96"))
	if err != nil {
		t.Fatal(err)
	}
	w := teller{rules: &dataplane.Rules{Pool6: []xlat.Prefix{prefix}}, names: [2]string{"six", "four"}}
	for name, tc := range map[string]struct {
		change func(*dataplane.Sight)
		want   string
	}{
		"opened": {func(*dataplane.Sight) {}, `icmp translated
parse: in on six: IPv6, 104 octets, icmp echo request 2001:db8::a > 64:ff9b::c633:640a, identifier 77, hop limit 64
classify: 64:ff9b::c633:640a is in pool6: the server is 198.51.100.10
lookup: no session; opened icmp [2001:db8::a]:77 <-> 192.0.2.1:4321 with 198.51.100.10
translate: IPv6 to IPv4
tx: 84 octets out on four to 02:00:00:00:00:01`},
		"known": {func(s *dataplane.Sight) { s.Known = true }, `icmp translated
parse: in on six: IPv6, 104 octets, icmp echo request 2001:db8::a > 64:ff9b::c633:640a, identifier 77, hop limit 64
classify: 64:ff9b::c633:640a is in pool6: the server is 198.51.100.10
lookup: session found: icmp [2001:db8::a]:77 <-> 192.0.2.1:4321 with 198.51.100.10
translate: IPv6 to IPv4
tx: 84 octets out on four to 02:00:00:00:00:01`},
		"refused": {func(s *dataplane.Sight) {
			s.Reached, s.Left, s.Reason, s.HasSession, s.Mapped = dataplane.StepLookup, dataplane.LeftDropped, dataplane.DropDenied, false, 0
			s.Answered, s.Answer = true, [2]uint8{1, 1}
		}, `icmp dropped denied_destination
parse: in on six: IPv6, 104 octets, icmp echo request 2001:db8::a > 64:ff9b::c633:640a, identifier 77, hop limit 64
classify: 64:ff9b::c633:640a is in pool6: the server is 198.51.100.10
lookup: dropped: denied_destination: The IPv4 destination is on the deny_ipv4 list, or can never be a host. (RFC 6052 §5.1); answered with ICMP type 1 code 1`},
		"parked": {func(s *dataplane.Sight) { s.Reached, s.Left = dataplane.StepTranslate, dataplane.LeftParked }, `icmp parked
parse: in on six: IPv6, 104 octets, icmp echo request 2001:db8::a > 64:ff9b::c633:640a, identifier 77, hop limit 64
classify: 64:ff9b::c633:640a is in pool6: the server is 198.51.100.10
lookup: no session; opened icmp [2001:db8::a]:77 <-> 192.0.2.1:4321 with 198.51.100.10
translate: IPv6 to IPv4; waits for its next hop, which the kernel resolves`},
		"not IP": {func(s *dataplane.Sight) {
			*s = dataplane.Sight{EtherType: 0x88cc, Left: dataplane.LeftDropped, Reason: dataplane.DropNotIP}
		}, `protocol 0 dropped not_ip
parse: dropped: not_ip: The frame holds neither IPv4 nor IPv6 (or is VLAN-tagged). (RFC 894, RFC 2464)`},
		"TCP from IPv4": {func(s *dataplane.Sight) {
			s.Side, s.Dir, s.EtherType = dataplane.IPv4, dataplane.V4ToV6, 0x0800
			s.Packet = packet.Parsed{L3: 14, End: 54, Kind: packet.KindTCP, Proto: 6, TCPFlags: 0x12, TTL: 60, SrcPort: 80, DstPort: 4321, Src4: 0xc633640a, Dst4: 0xc0000201}
			s.Proto, s.ServerPort, s.State, s.Known = conntrack.TCP, 80, conntrack.StateEstablished, true
		}, `tcp translated
parse: in on four: IPv4, 40 octets, tcp 198.51.100.10:80 > 192.0.2.1:4321 [S.], TTL 60
classify: 192.0.2.1 is a pool4 address
lookup: session found: tcp [2001:db8::a]:77 <-> 192.0.2.1:4321 with 198.51.100.10:80, ESTABLISHED
translate: IPv4 to IPv6
tx: 84 octets out on six to 02:00:00:00:00:01`},
		"given away": {func(s *dataplane.Sight) {
			s.Reached, s.Left, s.HasSession = dataplane.StepLookup, dataplane.LeftGiven, false
		},
			`icmp given to another worker
parse: in on six: IPv6, 104 octets, icmp echo request 2001:db8::a > 64:ff9b::c633:640a, identifier 77, hop limit 64
classify: 64:ff9b::c633:640a is in pool6: the server is 198.51.100.10
lookup: no session; given to another worker`},
	} {
		s := ping()
		tc.change(&s)
		if got := told(w.event(&s)); got != tc.want {
			t.Errorf("%s:\ngot:\n%s\nwant:\n%s", name, got, tc.want)
		}
	}
}

func told(e control.TraceEvent) string {
	lines := []string{strings.TrimSpace(e.Protocol + " " + e.Outcome + " " + e.Reason)}
	for _, s := range e.Steps {
		lines = append(lines, s.Step+": "+s.Text)
	}
	return strings.Join(lines, "\n")
}

// Every way to leave, at every step, has words.
func TestTellerHasWords(t *testing.T) {
	w := teller{rules: &dataplane.Rules{}, names: [2]string{"six", "four"}}
	for left := dataplane.LeftKept; left <= dataplane.LeftPieces; left++ {
		for reached := dataplane.StepParse; reached <= dataplane.StepTX; reached++ {
			s := ping()
			s.Left, s.Reached = left, reached
			e := w.event(&s)
			if e.Outcome == "" || len(e.Steps) == 0 || e.Steps[len(e.Steps)-1].Text == "" || len(e.Steps) != int(reached)+1 {
				t.Errorf("left %d at step %d: %+v", left, reached, e)
			}
		}
	}
}

func TestTapFilterInTheTermsOfWorkers(t *testing.T) {
	prefix, err := xlat.ParsePrefix(netip.MustParsePrefix("64:ff9b::/96"))
	if err != nil {
		t.Fatal(err)
	}
	tr := &translator{rules: &dataplane.Rules{Pool6: []xlat.Prefix{prefix}}}
	for words, want := range map[string]dataplane.TapFilter{
		"":                            {},
		"icmp":                        {Proto: 1},
		"tcp port=80":                 {Proto: 6, Port: 80},
		"client=2001:db8::a":          {Client: conntrack.Addr6{Hi: 0x20010db8_00000000, Lo: 10}, ClientBits: 128},
		"client=2001:db8::/32":        {Client: conntrack.Addr6{Hi: 0x20010db8_00000000}, ClientBits: 32},
		"client=[2001:db8::a]:9":      {Client: conntrack.Addr6{Hi: 0x20010db8_00000000, Lo: 10}, ClientBits: 128, ClientPort: 9},
		"server=198.51.100.10:80":     {Server: 0xc633640a, ServerBits: 32, ServerPort: 80},
		"server=198.51.100.0/24":      {Server: 0xc6336400, ServerBits: 24},
		"server=64:ff9b::198.51.1.10": {Server: 0xc633010a, ServerBits: 32},
		"mapped=192.0.2.1:99":         {Mapped: 0xc0000201, HasMapped: true, MappedPort: 99},
		"dropped":                     {Dropped: true},
		"drop=no_route ipv4":          {Dropped: true, Reason: dataplane.DropNoRoute, Side: dataplane.IPv4, HasSide: true},
	} {
		var f control.PacketFilter
		for _, w := range strings.Fields(words) {
			if err := f.SetWord(w); err != nil {
				t.Errorf("%s: %v", words, err)
			}
		}
		again, err := control.ParsePacketFilter(f.Query()) // what nat64d gets of it
		if err != nil {
			t.Errorf("%s: %v", words, err)
		}
		if got, err := tr.tapFilter(&again); err != nil || got != want {
			t.Errorf("%s: %+v, want %+v (%v)", words, got, want, err)
		}
	}
	for words, want := range map[string]string{
		"drop=no_rout":       `"no_rout" is no drop reason`,
		"server=2001:db8::1": "is no address inside pool6",
	} {
		var f control.PacketFilter
		if err := f.SetWord(words); err != nil {
			t.Fatal(err)
		}
		if _, err := tr.tapFilter(&f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", words, err)
		}
	}
}
