package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/valyala/fastjson"
)

const (
	maxWorkers  = 64
	maxSessions = 1 << 26
	maxFrames   = 1 << 20
	// maxPortsPerClient is every port and every ICMP identifier of a client.
	maxPortsPerClient = 2 << 16
	// maxFragments is a matter of memory: some 700 octets for each.
	maxFragments = 1 << 16
	maxRing      = 1 << 16
	// maxSocketPath is what struct sockaddr_un has room for, without the zero octet.
	maxSocketPath = 107
)

// schema is every key.
func (p *parser) schema() []field {
	c := p.config
	return []field{
		{"ipv6_interface", interfaceName(&c.IPv6Interface), `give the interface towards the IPv6 clients, such as "eth1"`},
		{"ipv4_interface", interfaceName(&c.IPv4Interface), `give the interface towards the IPv4 servers, such as "eth0"`},
		{"pool6", replace(&c.Pool6, list(1, maxPool6, readPool6)), ""},
		{"pool4", list(1, maxPool4, readPool4), `give the IPv4 addresses to translate to, such as [{"address": "192.0.2.1", "ports": "1024-65535"}]`},
		{"assign_pool4", boolean(&c.AssignPool4), ""},
		{"exclusive", boolean(&c.Exclusive), ""},
		{"workers", object(workerFields(&c.Workers)...), ""},
		{"poll", choice(&c.Poll, "busy", "adaptive"), ""},
		{"xdp", object(xdpFields(&c.XDP)...), ""},
		{"mtu", object(
			field{"ipv6", orInterface(&c.MTU.IPv6, minMTU6, 65535), ""},
			field{"ipv4", orInterface(&c.MTU.IPv4, minMTU4, 65535), ""}), ""},
		{"lowest_ipv6_mtu", integer(&c.LowestIPv6MTU, minMTU6, 65535), ""},
		{"tcp_mss_clamp", mssClamp(&c.TCPMSSClamp), ""},
		{"filtering", choice(&c.Filtering, "endpoint-independent", "address-dependent"), ""},
		{"tcp_incoming", boolean(&c.TCPIncoming), ""},
		{"well_known_prefix", choice(&c.WellKnownPrefix, "permissive", "strict"), ""},
		{"deny_ipv4", replace(&c.DenyIPv4, list(0, 4096, readDeny)), ""},
		{"icmp_error_source", choice(&c.ICMPErrorSource, "router", "destination"), ""},
		{"icmp_source", object(
			field{"ipv6", icmpSource(&c.ICMPSource.IPv6, "IPv6", netip.Addr.Is6), ""},
			field{"ipv4", icmpSource(&c.ICMPSource.IPv4, "IPv4", netip.Addr.Is4), ""}), ""},
		{"udp_zero_checksum", choice(&c.UDPZeroChecksum, "compute", "drop"), ""},
		{"traffic_class", choice(&c.TrafficClass, "copy", "zero"), ""},
		{"port_blocks", object(
			field{"size", blockSize(&c.PortBlocks.Size), ""},
			field{"grace", duration(&c.PortBlocks.Grace), ""}), ""},
		{"static_bib", list(0, 65535, readStatic), ""},
		{"hairpin", boolean(&c.Hairpin), ""},
		{"local_traffic", boolean(&c.LocalTraffic), ""},
		{"timeouts", object(timeoutFields(&c.Timeouts)...), ""},
		{"limits", object(limitFields(&c.Limits)...), ""},
		{"kernel_protocols", list(0, 256, func(p *parser, path string, v *fastjson.Value) {
			if n, ok := p.number(path, v, 0, 255, "give an IP protocol number, "); ok {
				c.KernelProtocols = append(c.KernelProtocols, uint8(n))
				if name := sharedByPorts[n]; name != "" {
					p.warn(path, fmt.Sprintf("%d (%s) changes nothing", n, name), "TCP, UDP and ICMP are shared with the host by ports and identifiers, see pool4 and exclusive")
				}
			}
		}), ""},
		{"handoff", object(handoffFields(&c.Handoff)...), ""},
		{"control_socket", text(&c.ControlSocket,
			"give an absolute path of at most "+strconv.Itoa(maxSocketPath)+" octets, such as \"/run/nat64d.sock\"", isSocketPath), ""},
		{"metrics", text(&c.Metrics, `give address and port, such as "127.0.0.1:9464", or "" for none`, isListenAddress), ""},
		{"log", object(
			field{"level", logLevel(&c.Log.Level), ""},
			field{"format", choice(&c.Log.Format, "text", "json"), ""},
			field{"sessions", boolean(&c.Log.Sessions), ""},
			field{"destinations", boolean(&c.Log.Destinations), ""},
			field{"ipfix", text(&c.Log.IPFIX, `give address and UDP port of a collector, such as "192.0.2.9:4739", or "" for none`, isCollector), ""}), ""},
	}
}

// sharedByPorts are the protocols that kernel_protocols has no bearing on.
var sharedByPorts = map[int]string{1: "ICMP", 6: "TCP", 17: "UDP"}

func timeoutFields(t *Timeouts) []field {
	return []field{
		{"udp", duration(&t.UDP), ""},
		{"icmp", duration(&t.ICMP), ""},
		{"tcp_established", duration(&t.TCPEstablished), ""},
		{"tcp_transitory", duration(&t.TCPTransitory), ""},
		{"tcp_incoming_syn", duration(&t.TCPIncomingSYN), ""},
		{"fragment", duration(&t.Fragment), ""},
	}
}

func limitFields(l *Limits) []field {
	return []field{
		{"sessions", integer(&l.Sessions, 1, maxSessions), ""},
		{"sessions_per_client", integer(&l.SessionsPerClient, 0, maxSessions), ""},
		{"ports_per_client", integer(&l.PortsPerClient, 0, maxPortsPerClient), ""},
		{"fragments", integer(&l.Fragments, 1, maxFragments), ""},
		{"icmp_errors_per_second", integer(&l.ICMPErrorsPerSecond, 0, 1000000), ""},
	}
}

func workerFields(w *Workers) []field {
	return []field{
		{"count", integer(&w.Count, 1, maxWorkers), ""},
		{"cpus", list(1, maxWorkers, func(p *parser, path string, v *fastjson.Value) {
			if n, ok := p.number(path, v, 0, 8191, "give the number of a CPU, "); ok {
				w.CPUs = append(w.CPUs, n)
				p.checkCPU(path, n)
			}
		}), ""},
	}
}

func handoffFields(h *Handoff) []field {
	return []field{
		{"enabled", boolean(&h.Enabled), ""},
		{"server_port", integer(&h.ServerPort, 1, 65535), ""},
		{"client_port", integer(&h.ClientPort, 1, 65535), ""},
		{"key_file", text(&h.KeyFile, `give an absolute path, such as "/var/lib/nat64d/handoff.keys"`, filepath.IsAbs), ""},
		{"key_rotation", duration(&h.KeyRotation), ""},
		{"cache_entries", integer(&h.CacheEntries, 1, maxSessions), ""},
		{"batch_delay", shortDuration(&h.BatchDelay), ""},
		{"stranger_packets_per_second", integer(&h.StrangerPacketsPerSecond, 0, 1000000), ""},
	}
}

func xdpFields(x *XDP) []field {
	return []field{
		{"mode", choice(&x.Mode, "auto", "native", "generic"), ""},
		{"zero_copy", choice(&x.ZeroCopy, "auto", "on", "off"), ""},
		{"busy_poll", choice(&x.BusyPoll, "auto", "on", "off"), ""},
		{"frame_size", func(p *parser, path string, v *fastjson.Value) {
			if n, err := v.Int(); err != nil || n != 2048 && n != 4096 {
				p.problem(path, describe(v)+" is not a frame size", "give 2048 or 4096")
				return
			}
			x.FrameSize = v.GetInt()
		}, ""},
		{"frames_per_queue", powerOfTwo(&x.FramesPerQueue, 256, maxFrames), ""},
		{"ring_size", powerOfTwo(&x.RingSize, 64, maxRing), ""},
	}
}

// replace empties the default list before the given one is read.
func replace[T any](dst *[]T, read reader) reader {
	return func(p *parser, path string, v *fastjson.Value) {
		*dst = nil
		read(p, path, v)
	}
}

var nameOfInterface = regexp.MustCompile(`^[^\s/:]{1,15}$`)

// interfaceName reads what the kernel's dev_valid_name accepts.
func interfaceName(dst *string) reader {
	return text(dst, "give the name of a network interface: 1 to 15 characters without space, slash or colon",
		func(s string) bool { return nameOfInterface.MatchString(s) && len(s) <= 15 && s != "." && s != ".." })
}

func isSocketPath(s string) bool {
	return filepath.IsAbs(s) && len(s) <= maxSocketPath && !strings.ContainsRune(s, 0) && !strings.HasSuffix(s, "/")
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9.-]*$`)

// isListenAddress accepts host:port, where host may be an address, a name or
// nothing (all addresses), and "" for no listener at all.
func isListenAddress(s string) bool {
	if s == "" {
		return true
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, notAddr := netip.ParseAddr(host)
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && (notAddr == nil || hostName.MatchString(host))
}

func logLevel(dst *slog.Level) reader {
	levels := []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}
	words := []string{"debug", "info", "warn", "error"}
	return func(p *parser, path string, v *fastjson.Value) {
		word := ""
		choice(&word, words...)(p, path, v)
		for i, w := range words {
			if w == word {
				*dst = levels[i]
			}
		}
	}
}

// icmpSource reads "interface" or an address of the family.
func icmpSource(dst *netip.Addr, family string, is func(netip.Addr) bool) reader {
	hint := `give "interface" or an ` + family + ` address of this host`
	return func(p *parser, path string, v *fastjson.Value) {
		s, ok := p.str(path, v, hint)
		if !ok || s == "interface" {
			return
		}
		a, err := netip.ParseAddr(s)
		if err != nil || !is(a) || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
			p.problem(path, describe(v)+" is no usable "+family+" address", hint)
			return
		}
		*dst = a
	}
}
