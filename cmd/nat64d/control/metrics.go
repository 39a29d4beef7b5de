package control

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metricsHandler serves /metrics from a registry of its own.
func metricsHandler(d Daemon, log *slog.Logger) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(d), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}))
	return mux
}

// collector reads the daemon's counters whenever it is scraped, so that they
// cost nothing in between. Safe for concurrent use.
type collector struct {
	daemon Daemon
	desc   map[string]*prometheus.Desc
}

// metricRows is every metric of the translator: name, labels, what it says.
var metricRows = [...]struct{ name, labels, help string }{
	{"nat64_build_info", "version", "Always 1; the label carries the version."},
	{"nat64_uptime_seconds", "", "Time since the translator started."},
	{"nat64_ready", "", "1 when packets are translated."},
	{"nat64_rx_packets_total", "side", "Packets that reached the workers."},
	{"nat64_rx_bytes_total", "side", "Octets that reached the workers."},
	{"nat64_tx_packets_total", "side", "Packets sent by the workers."},
	{"nat64_tx_bytes_total", "side", "Octets sent by the workers."},
	{"nat64_translated_packets_total", "direction", "Packets translated; hairpinned ones count as hairpin only."},
	{"nat64_passed_packets_total", "side", "Packets handed on to the kernel."},
	{"nat64_lost_packets_total", "side", "Packets for the translator that the kernel had no room for in the workers' rings."},
	{"nat64_tun_lost_packets_total", "", "Packets of the host's for its own NAT64 that found the queue of the TUN device full."},
	{"nat64_tun_errors_total", "", "Reads and writes on the TUN device that the kernel refused."},
	{"nat64_generated_packets_total", "", "Packets the translator made itself: ICMP errors, extra fragments."},
	{"nat64_parked_packets", "", "Packets that wait for something to be learned."},
	{"nat64_dropped_packets_total", "reason", "Packets dropped, each under exactly one reason."},
	{"nat64_sessions", "", "Sessions in the table."},
	{"nat64_sessions_capacity", "", "Sessions the table has room for."},
	{"nat64_sessions_created_total", "", "Sessions created."},
	{"nat64_sessions_expired_total", "", "Sessions that timed out."},
	{"nat64_bib_entries", "", "Mappings in the BIB."},
	{"nat64_clients", "", "Clients with something that counts against their limits."},
	{"nat64_port_blocks", "", "Port blocks that clients have."},
	{"nat64_log_records_total", "", "Lines and IPFIX records about sessions and port blocks that were written."},
	{"nat64_log_lost_total", "", "Lines and IPFIX records about sessions and port blocks that were lost."},
	{"nat64_handoff_servers", "", "Servers that speak handoff."},
	{"nat64_handoff_entries", "", "Entries of servers in the cache."},
	{"nat64_handoff_notifications_total", "", "Entries told to servers."},
	{"nat64_handoff_queries_total", "", "IPv6 packets sent to servers to decide."},
	{"nat64_handoff_tunnelled_total", "", "IPv4 packets sent to servers."},
	{"nat64_handoff_replies_total", "", "Valid control packets from servers."},
	{"nat64_handoff_invalid_total", "", "Datagrams to the control port that were refused."},
	{"nat64_handoff_entries_cached_total", "", "Entries of servers taken into the cache."},
	{"nat64_handoff_entries_purged_total", "", "Entries of servers forgotten."},
}

func newCollector(d Daemon) *collector {
	c := &collector{daemon: d, desc: map[string]*prometheus.Desc{}}
	for _, r := range metricRows {
		var labels []string
		if r.labels != "" {
			labels = strings.Split(r.labels, ",")
		}
		c.desc[r.name] = prometheus.NewDesc(r.name, r.help, labels, nil)
	}
	return c
}

// Describe is part of prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.desc {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(name string, v float64, labels ...string) {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(name, "_total") {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(c.desc[name], kind, v, labels...)
	}
	collectStatus(c.daemon.Status(), send)
	collectStats(c.daemon.Stats(), send)
}

type sendFunc func(name string, v float64, labels ...string)

func collectStatus(s Status, send sendFunc) {
	ready := 0.0
	if s.Ready {
		ready = 1
	}
	send("nat64_build_info", 1, strings.ToValidUTF8(s.Version, "?"))
	send("nat64_uptime_seconds", s.UptimeS)
	send("nat64_ready", ready)
	send("nat64_sessions", float64(s.Sessions.Used))
	send("nat64_sessions_capacity", float64(s.Sessions.Capacity))
	send("nat64_bib_entries", float64(s.BIB.Used))
	send("nat64_clients", float64(s.Clients.Counted))
	send("nat64_port_blocks", float64(s.PortBlocks.Assigned))
	send("nat64_handoff_servers", float64(s.Handoff.Servers))
	send("nat64_handoff_entries", float64(s.Handoff.CachedEntries))
}

func collectStats(s Stats, send sendFunc) {
	traffic := func(dir string, t Traffic) {
		send("nat64_"+dir+"_packets_total", float64(t.IPv6.Packets), "ipv6")
		send("nat64_"+dir+"_packets_total", float64(t.IPv4.Packets), "ipv4")
		send("nat64_"+dir+"_bytes_total", float64(t.IPv6.Bytes), "ipv6")
		send("nat64_"+dir+"_bytes_total", float64(t.IPv4.Bytes), "ipv4")
	}
	traffic("rx", s.RX)
	traffic("tx", s.TX)
	send("nat64_translated_packets_total", float64(s.Translated.V6ToV4), "v6_to_v4")
	send("nat64_translated_packets_total", float64(s.Translated.V4ToV6), "v4_to_v6")
	send("nat64_translated_packets_total", float64(s.Translated.Hairpin), "hairpin")
	send("nat64_passed_packets_total", float64(s.Passed.IPv6), "ipv6")
	send("nat64_passed_packets_total", float64(s.Passed.IPv4), "ipv4")
	send("nat64_lost_packets_total", float64(s.Lost.IPv6), "ipv6")
	send("nat64_lost_packets_total", float64(s.Lost.IPv4), "ipv4")
	send("nat64_tun_lost_packets_total", float64(s.TUN.Lost))
	send("nat64_tun_errors_total", float64(s.TUN.Errors))
	send("nat64_generated_packets_total", float64(s.Generated))
	send("nat64_parked_packets", float64(s.Parked))
	for reason, n := range s.Drops {
		send("nat64_dropped_packets_total", float64(n), reason)
	}
	send("nat64_log_records_total", float64(s.Log.Written))
	send("nat64_log_lost_total", float64(s.Log.Lost))
	send("nat64_sessions_created_total", float64(s.Sessions.Created))
	send("nat64_sessions_expired_total", float64(s.Sessions.Expired))
	send("nat64_handoff_notifications_total", float64(s.Handoff.Notifications))
	send("nat64_handoff_queries_total", float64(s.Handoff.Queries))
	send("nat64_handoff_tunnelled_total", float64(s.Handoff.Tunnelled))
	send("nat64_handoff_replies_total", float64(s.Handoff.Replies))
	send("nat64_handoff_invalid_total", float64(s.Handoff.Invalid))
	send("nat64_handoff_entries_cached_total", float64(s.Handoff.EntriesCached))
	send("nat64_handoff_entries_purged_total", float64(s.Handoff.EntriesPurged))
}
