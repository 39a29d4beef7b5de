package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// encode writes a configuration out in full, in the words of the file.
func encode(t *testing.T, c *Config) []byte {
	t.Helper()
	type object = map[string]any
	mtu := func(n int) any {
		if n == 0 {
			return "interface"
		}
		return n
	}
	source := object{"ipv6": "interface", "ipv4": "interface"}
	if c.ICMPSource.IPv6.IsValid() {
		source["ipv6"] = c.ICMPSource.IPv6
	}
	if c.ICMPSource.IPv4.IsValid() {
		source["ipv4"] = c.ICMPSource.IPv4
	}
	workers := object{}
	if c.Workers.Count > 0 {
		workers["count"] = c.Workers.Count
	}
	if c.Workers.CPUs != nil {
		workers["cpus"] = c.Workers.CPUs
	}
	pool4, static, deny := []object{}, []object{}, []string{}
	for _, p := range c.Pool4 {
		pool4 = append(pool4, object{"address": p.Prefix, "ports": FormatRanges(p.Ports)})
	}
	for _, s := range c.StaticBIB {
		static = append(static, object{"protocol": s.Protocol, "ipv6": s.Client, "ipv4": s.Mapped})
	}
	for _, d := range c.DenyIPv4 {
		deny = append(deny, d.String())
	}
	protocols := []int{}
	for _, p := range c.KernelProtocols {
		protocols = append(protocols, int(p))
	}
	var mss any = c.TCPMSSClamp
	switch c.TCPMSSClamp {
	case MSSAuto:
		mss = "auto"
	case MSSOff:
		mss = "off"
	}
	b, err := json.MarshalIndent(object{
		"ipv6_interface": c.IPv6Interface, "ipv4_interface": c.IPv4Interface,
		"pool6": c.Pool6, "pool4": pool4, "assign_pool4": c.AssignPool4, "workers": workers, "poll": c.Poll,
		"xdp": object{"mode": c.XDP.Mode, "zero_copy": c.XDP.ZeroCopy, "busy_poll": c.XDP.BusyPoll,
			"frame_size": c.XDP.FrameSize, "frames_per_queue": c.XDP.FramesPerQueue, "ring_size": c.XDP.RingSize},
		"mtu":             object{"ipv6": mtu(c.MTU.IPv6), "ipv4": mtu(c.MTU.IPv4)},
		"lowest_ipv6_mtu": c.LowestIPv6MTU, "tcp_mss_clamp": mss, "filtering": c.Filtering, "tcp_incoming": c.TCPIncoming,
		"well_known_prefix": c.WellKnownPrefix, "deny_ipv4": deny, "icmp_error_source": c.ICMPErrorSource, "icmp_source": source,
		"udp_zero_checksum": c.UDPZeroChecksum, "traffic_class": c.TrafficClass, "static_bib": static,
		"port_blocks": object{"size": c.PortBlocks.Size, "grace": c.PortBlocks.Grace.String()},
		"hairpin":     c.Hairpin, "local_traffic": c.LocalTraffic, "exclusive": c.Exclusive,
		"timeouts": object{"udp": c.Timeouts.UDP.String(), "icmp": c.Timeouts.ICMP.String(),
			"tcp_established": c.Timeouts.TCPEstablished.String(), "tcp_transitory": c.Timeouts.TCPTransitory.String(),
			"tcp_incoming_syn": c.Timeouts.TCPIncomingSYN.String(), "fragment": c.Timeouts.Fragment.String()},
		"limits": object{"sessions": c.Limits.Sessions, "sessions_per_client": c.Limits.SessionsPerClient,
			"ports_per_client": c.Limits.PortsPerClient, "fragments": c.Limits.Fragments,
			"icmp_errors_per_second": c.Limits.ICMPErrorsPerSecond},
		"handoff": object{"enabled": c.Handoff.Enabled, "server_port": c.Handoff.ServerPort, "client_port": c.Handoff.ClientPort,
			"key_file": c.Handoff.KeyFile, "key_rotation": c.Handoff.KeyRotation.String(), "cache_entries": c.Handoff.CacheEntries,
			"batch_delay": c.Handoff.BatchDelay.String(), "stranger_packets_per_second": c.Handoff.StrangerPacketsPerSecond},
		"kernel_protocols": protocols,
		"control_socket":   c.ControlSocket, "metrics": c.Metrics,
		"log": object{"level": strings.ToLower(c.Log.Level.String()), "format": c.Log.Format, "sessions": c.Log.Sessions,
			"destinations": c.Log.Destinations, "ipfix": c.Log.IPFIX},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzParse: nothing panics, a refusal always says why, on one line for each
// problem, and what is accepted means the same when it is written out in full
// and read again.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/broken/*.json", "testdata/good/*.json"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("no seeds in %s (%v)", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, problems := parse("f", data, fourCPUs)
		if (c == nil) != (len(problems) > 0) {
			t.Fatalf("configuration %v with %d problems", c, len(problems))
		}
		for _, p := range problems {
			if p.Line < 1 || p.What == "" || strings.ContainsAny(p.Error(), "\r\n") {
				t.Errorf("unreadable problem %q", p.Error())
			}
		}
		if c == nil {
			return
		}
		full := encode(t, c)
		again, problems := parse("f", full, fourCPUs)
		if again == nil {
			t.Fatalf("%s\nwritten out as\n%s\nis refused:\n%s", data, full, messages(problems))
		}
		c.Warnings, again.Warnings = nil, nil // their lines differ
		if !reflect.DeepEqual(c, again) {
			t.Errorf("%s\nfirst  %+v\nsecond %+v", data, c, again)
		}
	})
}
