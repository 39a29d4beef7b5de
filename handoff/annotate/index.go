package annotate

import (
	"math"
	"net/netip"
	"slices"
	"sort"

	"handoff64/handoff/server"
)

// forever ends a span that has not ended yet.
const forever = math.MaxInt64

// span is the time in which a client had a port. Times are microseconds since
// 1970, both ends included.
type span struct {
	client     [16]byte
	from, to   int64
	clientPort uint16
	server     [4]byte // our own address; zero where the log does not say it
}

// same says whether two spans may be of the same entry.
func (s *span) same(o *span) bool {
	return s.client == o.client && s.clientPort == o.clientPort && s.alike(o)
}

// alike says whether two spans may be in the table of the same address of ours.
func (s *span) alike(o *span) bool {
	return s.server == o.server || s.server == [4]byte{} || o.server == [4]byte{}
}

// history is all that is known of one port, in the order of from. overlaps says
// that some began before an earlier one ended: several addresses of ours were
// asked, each of which has a table of its own.
type history struct {
	spans    []span
	overlaps bool
}

// key is an address and a port; port 0 stands for clients that have the whole
// address.
type key uint64

func keyOf(address [4]byte, port uint16) key {
	return key(address[0])<<40 | key(address[1])<<32 | key(address[2])<<24 | key(address[3])<<16 | key(port)
}

// Index knows who had which port when. Used by one goroutine.
type Index struct {
	ports     map[key]*history
	addresses map[[4]byte]*timeline // those of NAT64s and of the pool
	spans     int
	end       int64 // from when on nothing is known, as handoffd did not run
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	return &Index{ports: map[key]*history{}, addresses: map[[4]byte]*timeline{}, end: forever}
}

// Spans is the number of times that are known in which a client had a port.
func (x *Index) Spans() int { return x.spans }

// Event takes in a line of the session log. Lines come in their order. Where one
// says which of our addresses was asked, a client that follows another there has
// taken its place, also if the line that says so is lost. A text log does not say
// it: there the other may be at another of our addresses.
func (x *Index) Event(e *server.Event) {
	if e.Kind == server.Initialized {
		x.address(e.NAT64)
		return
	}
	s := span{client: e.Client, from: e.Time, to: forever, clientPort: e.ClientPort, server: e.Server}
	h := x.history(e.Address, e.MappedPort)
	for i := len(h.spans) - 1; i >= 0; i-- {
		if o := &h.spans[i]; o.to == forever && (o.same(&s) || e.Kind == server.Created && o.server == s.server && s.server != [4]byte{}) {
			if e.Kind == server.Created && o.same(&s) {
				return // a line may stand there twice
			}
			o.to = max(o.from, e.Time)
			break
		}
		if !h.overlaps {
			break
		}
	}
	if e.Kind == server.Created {
		x.add(h, s)
	}
}

// Row takes in an entry of the table, which the log may or may not tell of.
func (x *Index) Row(r *server.Row) {
	s := span{client: r.Client.As16(), from: r.Created.UnixMicro(), to: forever, clientPort: r.ClientPort}
	if r.Server.Is4() {
		s.server = r.Server.As4()
	}
	x.address(r.NAT64.As4())
	h := x.history(r.Address.As4(), r.MappedPort)
	for i := range h.spans {
		if o := &h.spans[i]; o.to == forever && o.same(&s) {
			o.from = min(o.from, s.from)
			return
		}
	}
	x.add(h, s)
}

// history finds or makes what is known of a port.
func (x *Index) history(address [4]byte, port uint16) *history {
	k := keyOf(address, port)
	h := x.ports[k]
	if h == nil {
		h = &history{}
		x.ports[k] = h
		t := x.address(address)
		t.ports = append(t.ports, h)
	}
	x.address(address).fresh = false
	return h
}

func (x *Index) address(a [4]byte) *timeline {
	t := x.addresses[a]
	if t == nil {
		t = &timeline{}
		x.addresses[a] = t
	}
	return t
}

// add puts a span at its place.
func (x *Index) add(h *history, s span) {
	i := h.after(s.from)
	h.overlaps = h.overlaps || i > 0 && h.spans[i-1].to > s.from || i < len(h.spans)
	h.spans = slices.Insert(h.spans, i, s)
	x.spans++
}

// after is the index of the first span that begins later than t.
func (h *history) after(t int64) int {
	return sort.Search(len(h.spans), func(i int) bool { return h.spans[i].from > t })
}

// each calls do for the spans that have any moment of from to to, last first,
// until it returns false.
func (h *history) each(from, to int64, do func(*span) bool) {
	if h == nil {
		return
	}
	for i := h.after(to) - 1; i >= 0; i-- {
		s := &h.spans[i]
		if s.to >= from {
			if !do(s) {
				return
			}
		} else if !h.overlaps {
			return
		}
	}
}

// Moment is a time as exactly as a log has it: from its first to its last
// microsecond since 1970.
type Moment struct{ From, To int64 }

// Verdict is what is known of a line's address.
type Verdict uint8

const (
	Unknown   Verdict = iota // a NAT64's or the pool's, and nobody known behind it then
	Found                    // one client
	Ambiguous                // several clients, and nothing says which of them
	Direct                   // nobody's but the client's own
)

// Find says who was behind an address and port. clients are appended to dst:
// one if Found, and those that it may have been if Ambiguous.
func (x *Index) Find(address [4]byte, port uint16, at Moment, dst []netip.AddrPort) (Verdict, []netip.AddrPort) {
	if x.addresses[address] == nil {
		return Direct, dst
	}
	begin := len(dst)
	collect := func(s *span) bool {
		c := netip.AddrPortFrom(netip.AddrFrom16(s.client), s.clientPort)
		if s.clientPort == 0 { // the whole address: the port is the client's own
			c = netip.AddrPortFrom(c.Addr(), port)
		}
		if !slices.Contains(dst[begin:], c) {
			dst = append(dst, c)
		}
		return len(dst)-begin < mostNamed
	}
	if at.From > x.end {
		return Unknown, dst
	}
	x.ports[keyOf(address, port)].each(at.From, at.To, collect)
	x.ports[keyOf(address, 0)].each(at.From, at.To, collect)
	return verdict(len(dst) - begin), dst
}

// mostNamed bounds how many clients an ambiguous line names.
const mostNamed = 4

func verdict(clients int) Verdict {
	switch clients {
	case 0:
		return Unknown
	case 1:
		return Found
	}
	return Ambiguous
}

// endAll is called before the table is read anew without a log: what it still
// has goes on, the rest has ended by now.
func (x *Index) endAll(now int64) {
	for _, h := range x.ports {
		for i := range h.spans {
			if h.spans[i].to == forever {
				h.spans[i].to = max(h.spans[i].from, now)
			}
		}
	}
	for _, t := range x.addresses {
		t.fresh = false
	}
}
