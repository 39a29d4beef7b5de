package main

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// segment6 and segment4 are TCP segments of the client and of the server.
func segment6(t *testing.T, seg *layers.TCP) []byte {
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: client, DstIP: server6}
	seg.SetNetworkLayerForChecksum(ip)
	return serialize(t, &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeIPv6}, ip, seg)
}

func segment4(t *testing.T, seg *layers.TCP) []byte {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: server4, DstIP: net.IPv4(192, 0, 2, 1)}
	seg.SetNetworkLayerForChecksum(ip)
	return serialize(t, &layers.Ethernet{SrcMAC: mac, DstMAC: mac, EthernetType: layers.EthernetTypeIPv4}, ip, seg)
}

// timed are the packets of a file and when they were sent, counted from the
// first packet of the captures.
func timed(t *testing.T, file []byte) (at []time.Duration, all []gopacket.Packet) {
	t.Helper()
	r, err := pcapgo.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	for {
		_, info, err := r.ReadPacketData()
		if err != nil {
			return at, packets(t, file)
		}
		at = append(at, info.Timestamp.Sub(start))
	}
}

// What timers send is sent when it is due, however long no packet comes: the
// probe of an idle connection after 2 h 4 min, and the answer to a SYN that
// nobody awaits after 6 s, also when the captures end before.
func TestReplayLivesThroughPauses(t *testing.T) {
	syn := segment6(t, &layers.TCP{SrcPort: 40000, DstPort: 80, SYN: true, Seq: 1})
	_, _, out4 := runReplay(t, capture{{0, syn}}, capture{})
	port := packets(t, out4)[0].TransportLayer().(*layers.TCP).SrcPort
	synAck := segment4(t, &layers.TCP{SrcPort: 80, DstPort: port, SYN: true, ACK: true, Seq: 1, Ack: 2})
	late := segment4(t, &layers.TCP{SrcPort: 80, DstPort: port, ACK: true, Seq: 2, Ack: 2})
	stray := segment4(t, &layers.TCP{SrcPort: 80, DstPort: 2000, SYN: true, Seq: 1})
	const established, transitory = 7440 * time.Second, 240 * time.Second
	for name, tc := range map[string]struct {
		late    time.Duration
		reaches bool
	}{
		"before the probe": {established - time.Second, true},
		"after the probe":  {established + transitory - 5*time.Second, true},
		"too late":         {established + transitory + 5*time.Second, false},
		"years later":      {20 * 365 * 24 * time.Hour, false},
	} {
		_, out6, out4 := runReplay(t, capture{{0, syn}}, capture{{time.Second, synAck}, {tc.late, late}, {tc.late, stray}})
		at, sent := timed(t, out6)
		var probes, arrived int
		for i, p := range sent {
			switch seg := p.TransportLayer().(*layers.TCP); {
			case at[i] == tc.late:
				arrived++
			case at[i] == time.Second: // the SYN and ACK
			case seg.Seq == 0 && seg.Ack == 0 && seg.ACK:
				if probes++; at[i] < established+time.Second || at[i] > established+3*time.Second {
					t.Errorf("%s: probe after %s", name, at[i])
				}
			default:
				t.Errorf("%s: %s after %s", name, p, at[i])
			}
		}
		if wantProbes := tc.late > established; (probes == 1) != wantProbes || (arrived == 1) != tc.reaches {
			t.Errorf("%s: %d probes, %d late segments at the client, want one: %t, %t", name, probes, arrived, wantProbes, tc.reaches)
		}
		at, sent = timed(t, out4)
		last := len(sent) - 1
		if sent[last].Layer(layers.LayerTypeICMPv4) == nil || at[last] < tc.late+6*time.Second || at[last] > tc.late+7*time.Second {
			t.Errorf("%s: the last packet towards IPv4, %s after the stray SYN, is %s", name, at[last]-tc.late, sent[last])
		}
	}
}
