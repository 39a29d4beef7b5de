// Package natlog writes down what happens to sessions and port blocks:
//
//	worker ── dataplane.Log (rings) ──► Writer ──► one line an event (slog)
//	                                       └─────► IPFIX records for a collector (RFC 8158)
//
// Workers never wait for it. What finds a ring full, or no collector, is
// counted as lost.
package natlog

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/xlat"
)

// Config is what a Writer is made of.
type Config struct {
	Logs      []*dataplane.Log // of each worker
	Lines     slog.Handler     // where lines go
	Pool6     []xlat.Prefix
	Collector string // host:port of an IPFIX collector; "" for none. Sessions then go there and make no lines
}

// Writer empties the workers' rings. Run is for one goroutine; Destinations,
// Written and Lost are for any.
type Writer struct {
	c            Config
	ipfix        *exporter // nil without a collector
	destinations atomic.Bool
	written      atomic.Uint64
	batch        [256]conntrack.Event
}

// New returns a writer that names the servers of sessions.
func New(c Config) (*Writer, error) {
	w := &Writer{c: c}
	w.destinations.Store(true)
	if c.Collector != "" {
		var err error
		if w.ipfix, err = newExporter(c.Collector, slog.New(c.Lines)); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// Destinations says whether the servers of sessions are written down. RFC 6888
// REQ-12 would rather have them left out.
func (w *Writer) Destinations(on bool) { w.destinations.Store(on) }

// Written counts lines, and records that were sent.
func (w *Writer) Written() uint64 {
	if w.ipfix != nil {
		return w.written.Load() + w.ipfix.sent.Load()
	}
	return w.written.Load()
}

// Lost counts the lines and records that there should be and are not.
func (w *Writer) Lost() (n uint64) {
	for _, l := range w.c.Logs {
		n += l.Lost()
	}
	if w.ipfix != nil {
		n += w.ipfix.lost.Load()
	}
	return n
}

// pause is how long events may wait. Rings are made for it (dataplane.NewLog).
const pause = 20 * time.Millisecond

// Run writes until ctx ends, and then what is left. The workers have stopped
// before that.
func (w *Writer) Run(ctx context.Context) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		for w.turn() {
		}
		if w.ipfix != nil {
			w.ipfix.flush()
		}
		select {
		case <-ctx.Done():
			for w.turn() { // what came since
			}
			if w.ipfix != nil {
				w.ipfix.flush()
				w.ipfix.close()
			}
			return
		case <-tick.C:
		}
	}
}

// turn takes a batch from each ring, blocks first, and says whether there was
// anything.
func (w *Writer) turn() (some bool) {
	for _, l := range w.c.Logs {
		n := l.Blocks.PopBatch(w.batch[:])
		w.write(w.batch[:n])
		m := l.Sessions.PopBatch(w.batch[:])
		w.write(w.batch[:m])
		some = some || n+m > 0
	}
	return some
}

func (w *Writer) write(events []conntrack.Event) {
	for i := range events {
		e := &events[i]
		session := e.Kind == conntrack.SessionCreated || e.Kind == conntrack.SessionEnded
		if w.ipfix != nil {
			w.ipfix.add(e, w.server6(e), w.destinations.Load())
		}
		if w.ipfix == nil || !session {
			w.line(e)
			w.written.Add(1)
		}
	}
}

// Kept writes a line for each port block that sessions of an earlier process
// have: their assignment is in the log of that process. Before Run.
func (w *Writer) Kept(t *conntrack.Table, now time.Time) {
	t.Blocks(func(b conntrack.BlockInfo) bool {
		w.put(now, "port block kept", slog.String("client", addr6(b.Client).String()), slog.String("address", addr4(b.Addr).String()),
			slog.String("ports", ports(b.First, b.Last)))
		return true
	})
}

// line writes an event as text. Times are UTC.
func (w *Writer) line(e *conntrack.Event) {
	at := time.UnixMilli(e.At)
	var attrs []slog.Attr
	text := func(key, value string) { attrs = append(attrs, slog.String(key, value)) }
	switch e.Kind {
	case conntrack.BlockAssigned, conntrack.BlockReturned:
		text("client", addr6(e.Client).String())
		text("address", addr4(e.Mapped).String())
		text("ports", ports(e.MappedPort, e.MappedLast))
	default:
		text("protocol", e.Proto.String())
		text("client", netip.AddrPortFrom(addr6(e.Client), e.ClientPort).String())
		text("mapped", netip.AddrPortFrom(addr4(e.Mapped), e.MappedPort).String())
		if w.destinations.Load() {
			text("server6", netip.AddrPortFrom(w.server6(e), e.ServerPort).String())
			text("server4", netip.AddrPortFrom(addr4(e.Server), e.ServerPort).String())
		}
		text("origin", e.Origin.String())
	}
	if e.Lasted > 0 {
		lasted := time.Duration(e.Lasted) * time.Second / conntrack.TicksPerSecond
		text("since", at.Add(-lasted).UTC().Format(time.RFC3339Nano))
		attrs = append(attrs, slog.Float64("lasted_s", lasted.Seconds()))
	}
	w.put(at, messages[e.Kind], attrs...)
}

var messages = [...]string{
	conntrack.SessionCreated: "session created", conntrack.SessionEnded: "session ended",
	conntrack.BlockAssigned: "port block assigned", conntrack.BlockReturned: "port block returned",
}

// put hands a line to the handler whatever the level of the log is: it was
// asked for by a key of its own.
func (w *Writer) put(at time.Time, message string, attrs ...slog.Attr) {
	r := slog.NewRecord(at.UTC(), slog.LevelInfo, message, 0)
	r.AddAttrs(attrs...)
	_ = w.c.Lines.Handle(context.Background(), r) // there is nobody to tell
}

// server6 is the server as the client addressed it.
func (w *Writer) server6(e *conntrack.Event) netip.Addr {
	if int(e.Pool6) >= len(w.c.Pool6) {
		return netip.IPv6Unspecified()
	}
	hi, lo := w.c.Pool6[e.Pool6].Embed(e.Server)
	return addr6(conntrack.Addr6{Hi: hi, Lo: lo})
}

func ports(first, last uint16) string {
	return strconv.Itoa(int(first)) + "-" + strconv.Itoa(int(last))
}

func addr4(a uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], a)
	return netip.AddrFrom4(b)
}

func addr6(a conntrack.Addr6) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return netip.AddrFrom16(b)
}
