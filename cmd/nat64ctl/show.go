package main

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"handoff64/cmd/nat64d/control"
)

func writeStatus(out *bufio.Writer, s *control.Status) error {
	state := "not ready"
	if s.Ready {
		state = "ready"
	}
	fmt.Fprintf(out, "nat64d %s, up %s, %s\n\n", s.Version, span(s.UptimeS), state)

	t := newTable(out, "SIDE", "INTERFACE", "XDP", "ZERO COPY", ">QUEUES")
	for _, side := range []struct {
		name string
		i    control.Interface
	}{{"IPv6", s.Interfaces.IPv6}, {"IPv4", s.Interfaces.IPv4}} {
		t.row(side.name, side.i.Name, side.i.XDPMode, yesNo(side.i.ZeroCopy), strconv.Itoa(side.i.Queues))
	}
	t.close()
	out.WriteByte('\n')

	t = newTable(out, ">WORKER", ">CPU", ">QUEUE")
	for i, w := range s.Workers {
		cpu := "any"
		if w.CPU >= 0 {
			cpu = strconv.Itoa(w.CPU)
		}
		t.row(strconv.Itoa(i), cpu, strconv.Itoa(w.Queue))
	}
	t.close()
	out.WriteByte('\n')

	t = newTable(out, "", "")
	for i, p := range s.Pool6 {
		t.row(label("pool6", i), p.String())
	}
	for i, p := range s.Pool4 {
		t.row(label("pool4", i), p.Address+" ports "+p.Ports)
	}
	t.row("sessions", fmt.Sprintf("%s of %s (%s)", count(uint64(s.Sessions.Used)), count(uint64(s.Sessions.Capacity)),
		percent(s.Sessions.Used, s.Sessions.Capacity)))
	t.row("mappings", count(uint64(s.BIB.Used)))
	if l := s.Clients; l.SessionLimit > 0 || l.PortLimit > 0 {
		t.row("clients", fmt.Sprintf("%s, each %s sessions and %s ports", count(uint64(l.Counted)), limit(l.SessionLimit), limit(l.PortLimit)))
	}
	if s.PortBlocks.Size > 0 {
		t.row("port blocks", fmt.Sprintf("%s of %d ports", count(uint64(s.PortBlocks.Assigned)), s.PortBlocks.Size))
	}
	handoff := "off"
	if s.Handoff.Enabled {
		handoff = fmt.Sprintf("%s servers, %s cached entries", count(uint64(s.Handoff.Servers)), count(uint64(s.Handoff.CachedEntries)))
	}
	t.row("handoff", handoff)
	if n := len(s.Differs); n > 0 {
		t.row("configuration", fmt.Sprintf("%d not as in the file: %s (nat64ctl set)", n, strings.Join(s.Differs, ", ")))
	}
	return t.close()
}

// limit says what 0 means.
func limit(n int) string {
	if n == 0 {
		return "any number of"
	}
	return "at most " + count(uint64(n))
}

// label names only the first line of a list.
func label(name string, i int) string {
	if i > 0 {
		return ""
	}
	return name
}

func writeStats(out *bufio.Writer, s *control.Stats) error {
	t := newTable(out, "", ">PACKETS", ">BYTES")
	for _, row := range []struct {
		name string
		c    control.Counter
	}{
		{"received on IPv6", s.RX.IPv6}, {"received on IPv4", s.RX.IPv4},
		{"sent on IPv6", s.TX.IPv6}, {"sent on IPv4", s.TX.IPv4},
	} {
		t.row(row.name, count(row.c.Packets), octets(row.c.Bytes))
	}
	t.row("", "", "")
	dropped := sum(s.Drops)
	for _, row := range []struct {
		name string
		n    uint64
	}{
		{"translated IPv6 to IPv4", s.Translated.V6ToV4}, {"translated IPv4 to IPv6", s.Translated.V4ToV6},
		{"translated hairpin", s.Translated.Hairpin}, {"passed to the kernel, IPv6", s.Passed.IPv6},
		{"passed to the kernel, IPv4", s.Passed.IPv4}, {"generated", s.Generated}, {"parked", s.Parked}, {"dropped", dropped},
	} {
		t.row(row.name, count(row.n), "")
	}
	t.row("", "", "")
	t.row("", "SESSIONS", "")
	t.row("created", count(s.Sessions.Created), "")
	t.row("expired", count(s.Sessions.Expired), "")
	if h := &s.Handoff; *h != (control.HandoffCounts{}) {
		t.row("", "", "")
		t.row("", "HANDOFF", "")
		for _, row := range []struct {
			name string
			n    uint64
		}{
			{"entries told to servers", h.Notifications}, {"packets for servers, IPv6", h.Queries},
			{"packets for servers, IPv4", h.Tunnelled}, {"answers of servers", h.Replies},
			{"refused at the control port", h.Invalid}, {"entries cached", h.EntriesCached}, {"entries purged", h.EntriesPurged},
		} {
			t.row(row.name, count(row.n), "")
		}
	}
	writeLosses(t, s)
	err := t.close()
	if dropped > 0 {
		_, werr := out.WriteString("\nnat64ctl drops says why packets were dropped.\n")
		err = errors.Join(err, werr)
	}
	return err
}

// writeLosses adds what is not part of the sum above: losses outside the
// workers, and the log of sessions. Parts without any are left out.
func writeLosses(t *table, s *control.Stats) {
	if s.Lost != (control.PerSide{}) || s.TUN.Lost > 0 {
		t.row("", "", "")
		t.row("", "LOST BEFORE THE WORKERS", "")
		t.row("on IPv6", count(s.Lost.IPv6), "")
		t.row("on IPv4", count(s.Lost.IPv4), "")
		t.row("from the host itself", count(s.TUN.Lost), "")
	}
	if s.TUN.Errors > 0 {
		t.row("", "", "")
		t.row("errors of the TUN device", count(s.TUN.Errors), "")
	}
	if s.Log != (control.LogCounts{}) {
		t.row("", "", "")
		t.row("", "LOG OF SESSIONS", "")
		t.row("written", count(s.Log.Written), "")
		t.row("lost", count(s.Log.Lost), "")
	}
}

func sum(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

func writeDrops(out *bufio.Writer, rows []control.DropReason) error {
	if len(rows) == 0 {
		_, err := out.WriteString("nothing was dropped\n")
		return err
	}
	t := newTable(out, "REASON", ">COUNT", "STEP", "MEANING")
	for _, d := range rows {
		meaning := d.Sentence
		if d.Section != "" {
			meaning += " (" + d.Section + ")"
		}
		t.row(d.Name, count(d.Count), d.Step, meaning)
	}
	return t.close()
}

// sessionTable prints sessions as they arrive. Used by one goroutine.
type sessionTable struct{ *table }

func newSessionTable(out *bufio.Writer) sessionTable {
	return sessionTable{newTable(out, "PROTO", "CLIENT", "MAPPED", "SERVER", "STATE", "ORIGIN", ">IDLE", ">EXPIRES")}
}

func (t sessionTable) add(s control.Session) error {
	server := s.Server4.String()
	if s.Protocol == "icmp" {
		server = s.Server4.Addr().String()
	}
	return t.row(s.Protocol, endpoint(s.Client), endpoint(s.Mapped), server, s.State, s.Origin, span(s.IdleS), span(s.ExpiresS))
}

func (t sessionTable) close() error { return t.closeCounted("session", "sessions") }

// closeCounted ends a table with how many rows it had.
func (t *table) closeCounted(one, many string) error {
	t.print()
	name := many
	if t.n == 1 {
		name = one
	}
	_, err := fmt.Fprintf(t.out, "%s %s\n", count(uint64(t.n)), name)
	return errors.Join(t.err, err)
}

func endpoint(a netip.AddrPort) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// serverTable prints handoff servers as they arrive. Used by one goroutine.
type serverTable struct{ *table }

func newServerTable(out *bufio.Writer) serverTable {
	return serverTable{newTable(out, "SERVER", "STATE", ">ENTRIES", ">HEARD")}
}

func (t serverTable) add(s control.HandoffServer) error {
	heard := "never"
	if s.LastHeardS != nil {
		heard = span(*s.LastHeardS) + " ago"
	}
	return t.row(s.Server.String(), s.State, count(uint64(s.Entries)), heard)
}

func (t serverTable) close() error { return t.closeCounted("server", "servers") }

// bibTable prints mappings as they arrive. Used by one goroutine.
type bibTable struct{ *table }

func newBIBTable(out *bufio.Writer) bibTable {
	return bibTable{newTable(out, "PROTO", "CLIENT", "MAPPED", "KIND", ">SESSIONS")}
}

func (t bibTable) add(e control.BIBEntry) error {
	kind := "dynamic"
	if e.Static {
		kind = "static"
	}
	return t.row(strings.ToLower(e.Protocol), endpoint(e.Client), endpoint(e.Mapped), kind, count(uint64(e.Sessions)))
}

func (t bibTable) close() error { return t.closeCounted("mapping", "mappings") }
