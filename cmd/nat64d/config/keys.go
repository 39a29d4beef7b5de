package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Takes is what a change of a key takes to come into force.
type Takes uint8

const (
	Restart Takes = iota // a restart of nat64d, which sessions survive
	Reload               // nat64ctl reload, or a command of its own
	Live                 // nat64ctl set, or a reload
)

// String is the word for users.
func (t Takes) String() string { return [...]string{"restart", "reload", "live"}[t] }

// key is one key of the configuration that is no object. value is what it holds
// in the notation of the file; nil when leaving the key out is the only way to
// say it.
type key struct {
	path  string
	takes Takes
	value func(*Config) any
}

// keys has a row for every key of the schema, in its order. What makes a key
// live is its row here, and that whoever applies a configuration to a running
// translator (apply.go of nat64d) looks at it.
var keys = []key{
	{"ipv6_interface", Restart, func(c *Config) any { return c.IPv6Interface }},
	{"ipv4_interface", Restart, func(c *Config) any { return c.IPv4Interface }},
	{"pool6", Restart, func(c *Config) any { return texts(c.Pool6) }},
	{"pool4", Restart, func(c *Config) any { return pool4Texts(c.Pool4) }},
	{"assign_pool4", Restart, func(c *Config) any { return c.AssignPool4 }},
	{"exclusive", Live, func(c *Config) any { return c.Exclusive }},
	{"workers.count", Restart, func(c *Config) any { return unless(c.Workers.Count, 0) }},
	{"workers.cpus", Restart, func(c *Config) any { return someOf(c.Workers.CPUs) }},
	{"poll", Restart, func(c *Config) any { return c.Poll }},
	{"xdp.mode", Restart, func(c *Config) any { return c.XDP.Mode }},
	{"xdp.zero_copy", Restart, func(c *Config) any { return c.XDP.ZeroCopy }},
	{"xdp.busy_poll", Restart, func(c *Config) any { return c.XDP.BusyPoll }},
	{"xdp.frame_size", Restart, func(c *Config) any { return c.XDP.FrameSize }},
	{"xdp.frames_per_queue", Restart, func(c *Config) any { return c.XDP.FramesPerQueue }},
	{"xdp.ring_size", Restart, func(c *Config) any { return c.XDP.RingSize }},
	{"mtu.ipv6", Live, func(c *Config) any { return or(c.MTU.IPv6, 0, "interface") }},
	{"mtu.ipv4", Live, func(c *Config) any { return or(c.MTU.IPv4, 0, "interface") }},
	{"lowest_ipv6_mtu", Live, func(c *Config) any { return c.LowestIPv6MTU }},
	{"tcp_mss_clamp", Live, func(c *Config) any {
		if c.TCPMSSClamp == 0 {
			return "off"
		}
		return or(c.TCPMSSClamp, MSSAuto, "auto")
	}},
	{"filtering", Live, func(c *Config) any { return c.Filtering }},
	{"tcp_incoming", Live, func(c *Config) any { return c.TCPIncoming }},
	{"well_known_prefix", Live, func(c *Config) any { return c.WellKnownPrefix }},
	{"deny_ipv4", Live, func(c *Config) any { return texts(c.DenyIPv4) }},
	{"icmp_error_source", Live, func(c *Config) any { return c.ICMPErrorSource }},
	{"icmp_source.ipv6", Live, func(c *Config) any { return or(c.ICMPSource.IPv6, netip.Addr{}, "interface") }},
	{"icmp_source.ipv4", Live, func(c *Config) any { return or(c.ICMPSource.IPv4, netip.Addr{}, "interface") }},
	{"udp_zero_checksum", Live, func(c *Config) any { return c.UDPZeroChecksum }},
	{"traffic_class", Live, func(c *Config) any { return c.TrafficClass }},
	{"port_blocks.size", Restart, func(c *Config) any { return c.PortBlocks.Size }},
	{"port_blocks.grace", Restart, func(c *Config) any { return span(c.PortBlocks.Grace) }},
	{"static_bib", Reload, func(c *Config) any { return staticTexts(c.StaticBIB) }},
	{"hairpin", Live, func(c *Config) any { return c.Hairpin }},
	{"local_traffic", Restart, func(c *Config) any { return c.LocalTraffic }},
	{"timeouts.udp", Live, func(c *Config) any { return span(c.Timeouts.UDP) }},
	{"timeouts.icmp", Live, func(c *Config) any { return span(c.Timeouts.ICMP) }},
	{"timeouts.tcp_established", Live, func(c *Config) any { return span(c.Timeouts.TCPEstablished) }},
	{"timeouts.tcp_transitory", Live, func(c *Config) any { return span(c.Timeouts.TCPTransitory) }},
	{"timeouts.tcp_incoming_syn", Live, func(c *Config) any { return span(c.Timeouts.TCPIncomingSYN) }},
	{"timeouts.fragment", Live, func(c *Config) any { return span(c.Timeouts.Fragment) }},
	{"limits.sessions", Restart, func(c *Config) any { return c.Limits.Sessions }},
	{"limits.sessions_per_client", Live, func(c *Config) any { return c.Limits.SessionsPerClient }},
	{"limits.ports_per_client", Live, func(c *Config) any { return c.Limits.PortsPerClient }},
	{"limits.fragments", Restart, func(c *Config) any { return c.Limits.Fragments }},
	{"limits.icmp_errors_per_second", Live, func(c *Config) any { return c.Limits.ICMPErrorsPerSecond }},
	{"kernel_protocols", Live, func(c *Config) any { return numbers(c.KernelProtocols) }},
	{"handoff.enabled", Restart, func(c *Config) any { return c.Handoff.Enabled }},
	{"handoff.server_port", Restart, func(c *Config) any { return c.Handoff.ServerPort }},
	{"handoff.client_port", Restart, func(c *Config) any { return c.Handoff.ClientPort }},
	{"handoff.key_file", Restart, func(c *Config) any { return c.Handoff.KeyFile }},
	{"handoff.key_rotation", Restart, func(c *Config) any { return span(c.Handoff.KeyRotation) }},
	{"handoff.cache_entries", Restart, func(c *Config) any { return c.Handoff.CacheEntries }},
	{"handoff.batch_delay", Live, func(c *Config) any { return span(c.Handoff.BatchDelay) }},
	{"handoff.stranger_packets_per_second", Live, func(c *Config) any { return c.Handoff.StrangerPacketsPerSecond }},
	{"control_socket", Restart, func(c *Config) any { return c.ControlSocket }},
	{"metrics", Restart, func(c *Config) any { return c.Metrics }},
	{"log.level", Live, func(c *Config) any { return levelWord(c.Log.Level) }},
	{"log.format", Restart, func(c *Config) any { return c.Log.Format }},
	{"log.sessions", Live, func(c *Config) any { return c.Log.Sessions }},
	{"log.destinations", Live, func(c *Config) any { return c.Log.Destinations }},
	{"log.ipfix", Restart, func(c *Config) any { return c.Log.IPFIX }},
}

// Value is a key with what it holds, in the notation of the file; nil when only
// leaving the key out says it.
type Value struct {
	Path  string
	Takes Takes
	Value any
}

// Values are all keys of the configuration, in the order of the handbook.
func (c *Config) Values() []Value {
	out := make([]Value, len(keys))
	for i, k := range keys {
		out[i] = Value{k.path, k.takes, k.value(c)}
	}
	return out
}

// Changed are the keys that hold something else in c than in before, with what
// they hold in c.
func (c *Config) Changed(before *Config) (out []Value) {
	for i, v := range c.Values() {
		if !reflect.DeepEqual(v.Value, keys[i].value(before)) {
			out = append(out, v)
		}
	}
	return out
}

// lookUp finds a key by its path. The error says what would be right.
func lookUp(path string) (key, error) {
	if i := slices.IndexFunc(keys, func(k key) bool { return k.path == path }); i >= 0 {
		return keys[i], nil
	}
	var below, all []string
	for _, k := range keys {
		all = append(all, k.path)
		if strings.HasPrefix(k.path, path+".") {
			below = append(below, k.path)
		}
	}
	if len(below) > 0 {
		return key{}, fmt.Errorf("%s is an object; set one of its keys: %s", path, strings.Join(below, ", "))
	}
	return key{}, fmt.Errorf("%s: unknown key; the nearest known key is %q", clip(path), nearest(path, all))
}

// or is v, or the word that stands for a certain value of it.
func or[T comparable](v, special T, word string) any {
	if v == special {
		return word
	}
	if s, ok := any(v).(fmt.Stringer); ok {
		return s.String()
	}
	return v
}

// unless is v, or nil for the value that only a missing key means.
func unless[T comparable](v, missing T) any {
	if v == missing {
		return nil
	}
	return v
}

func someOf[T any](list []T) any {
	if len(list) == 0 {
		return nil
	}
	return list
}

// texts writes a list the way the file has it. It is never nil: an empty list
// is not the default.
func texts(list []netip.Prefix) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.String()
	}
	return out
}

// numbers keeps octets from becoming base64.
func numbers(list []uint8) []int {
	out := make([]int, len(list))
	for i, n := range list {
		out[i] = int(n)
	}
	return out
}

type pool4Text struct {
	Address string `json:"address"`
	Ports   string `json:"ports"`
}

func pool4Texts(list []Pool4) []pool4Text {
	out := make([]pool4Text, len(list))
	for i, p := range list {
		out[i] = pool4Text{show4(p.Prefix), FormatRanges(p.Ports)}
	}
	return out
}

type staticText struct {
	Protocol string `json:"protocol"`
	IPv6     string `json:"ipv6"`
	IPv4     string `json:"ipv4"`
}

func staticTexts(list []StaticBIB) []staticText {
	out := make([]staticText, len(list))
	for i, s := range list {
		out[i] = staticText{s.Protocol, s.Client.String(), s.Mapped.String()}
	}
	return out
}

// span writes a duration as people do: 2h4m, not 2h4m0s.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func levelWord(l slog.Level) string { return strings.ToLower(l.String()) }
