package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// TraceEvent is the way of one packet through the translator.
type TraceEvent struct {
	Time     time.Time   `json:"time"`
	Worker   int         `json:"worker"`
	Packet   uint64      `json:"packet"` // its number on this worker
	Protocol string      `json:"protocol"`
	Client   string      `json:"client,omitempty"` // the ends, as far as they are known
	Server   string      `json:"server,omitempty"`
	Mapped   string      `json:"mapped,omitempty"`
	Outcome  string      `json:"outcome"`          // "translated", "dropped", "parked", …
	Reason   string      `json:"reason,omitempty"` // of a drop
	Steps    []TraceStep `json:"steps"`
}

// TraceStep is what one step did.
type TraceStep struct {
	Step string `json:"step"`
	Text string `json:"text"`
}

// TraceEnd is the last line of a trace.
type TraceEnd struct {
	Missed *uint64 `json:"missed"` // packets that the filter chose and that there was no room for
}

// Frame is a packet as it came in or leaves.
type Frame struct {
	Time    time.Time
	Side    int  // 0: the IPv6 interface, 1: the IPv4 interface
	Out     bool // it leaves
	Worker  int
	Packet  uint64 // number on this worker; a frame that leaves has that of what came in
	Octets  []byte // valid during the call
	Wire    int    // octets that the frame has
	Comment string // why it was dropped
}

// Sink takes what a tap shows. Its functions are called by one goroutine; those
// that return false end the tap.
type Sink[T any] struct {
	Started func(interfaces [2]string) bool // the workers look on
	Each    func(T) bool
	Rest    func() bool // nothing more is there for the moment
}

// taps are the traces and captures under way, by the number that their readers
// end them by. Safe for concurrent use.
type taps struct {
	mu   sync.Mutex
	last uint64
	ends map[uint64]context.CancelFunc
	shut bool
}

// tapHeader tells the reader the number of its tap.
const tapHeader = "Nat64-Tap"

// missedTrailer tells the reader at the end how many packets it did not get.
const missedTrailer = "Nat64-Missed"

func (t *taps) add(end context.CancelFunc) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shut {
		end()
	}
	if t.ends == nil {
		t.ends = map[uint64]context.CancelFunc{}
	}
	t.last++
	t.ends[t.last] = end
	return t.last
}

// end lets a tap show what it has and end.
func (t *taps) end(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	f, ok := t.ends[id]
	if ok {
		f()
		delete(t.ends, id)
	}
	return ok
}

// shutDown ends all of them, and every one that comes.
func (t *taps) shutDown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shut = true
	for _, end := range t.ends {
		end()
	}
}

// register adds the requests about taps.
func (t *taps) register(mux *http.ServeMux, d Daemon) {
	mux.HandleFunc("GET /v1/trace", t.serve(d, t.trace))
	mux.HandleFunc("GET /v1/capture", t.serve(d, t.capture))
	mux.HandleFunc("POST /v1/tap/{id}/end", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
		if err != nil || !t.end(id) {
			writeError(w, http.StatusNotFound, fmt.Errorf("there is no trace or capture %q", r.PathValue("id")))
			return
		}
		writeJSON(w, struct{}{})
	})
}

// tapWriter writes a stream that must not wait for its buffer to fill.
type tapWriter struct {
	buf     *bufio.Writer
	ctrl    *http.ResponseController
	started bool
	err     error
}

func (o *tapWriter) rest() bool {
	if o.err == nil {
		o.err = o.ctrl.SetWriteDeadline(time.Now().Add(stallTimeout))
	}
	if o.err == nil {
		o.err = o.buf.Flush()
	}
	if o.err == nil {
		o.err = o.ctrl.Flush()
	}
	return o.err == nil
}

type serveTap func(ctx context.Context, d Daemon, f PacketFilter, octets int, o *tapWriter) (missed uint64, err error)

// serve runs a tap until its reader ends it or goes away.
func (t *taps) serve(d Daemon, run serveTap) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		octets := maxOctets
		if s := q.Get("octets"); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 1 {
				writeError(w, http.StatusBadRequest, fmt.Errorf("octets: %q is no count", s))
				return
			}
			octets = n
			q.Del("octets")
		}
		f, err := ParsePacketFilter(q)
		if err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		id := t.add(cancel)
		defer t.end(id)
		w.Header().Set(tapHeader, strconv.FormatUint(id, 10))
		w.Header().Set("Trailer", missedTrailer)
		o := &tapWriter{buf: bufio.NewWriterSize(w, 64<<10), ctrl: http.NewResponseController(w)}
		missed, err := run(ctx, d, f, octets, o)
		if err != nil && !o.started {
			w.Header().Del("Trailer")
			answerChange(w)(Changed{}, err)
			return
		}
		if o.rest(); err != nil || o.err != nil {
			panic(http.ErrAbortHandler) // the reader must not take this for the end
		}
		w.Header().Set(missedTrailer, strconv.FormatUint(missed, 10))
		_ = o.ctrl.SetWriteDeadline(time.Time{}) // the connection may serve another request
	}
}

// maxOctets is all of any packet.
const maxOctets = 1 << 16

// trace writes a line for each packet and one more at the end.
func (t *taps) trace(ctx context.Context, d Daemon, f PacketFilter, _ int, o *tapWriter) (uint64, error) {
	enc := json.NewEncoder(o.buf)
	missed, err := d.Trace(ctx, f, Sink[TraceEvent]{
		Started: func([2]string) bool { o.started = true; return o.rest() },
		Each: func(e TraceEvent) bool {
			o.err = enc.Encode(e)
			return o.err == nil
		},
		Rest: o.rest,
	})
	if err == nil && o.err == nil {
		o.err = enc.Encode(TraceEnd{&missed})
	}
	return missed, err
}

// capture writes pcapng, with an interface for each side.
func (t *taps) capture(ctx context.Context, d Daemon, f PacketFilter, octets int, o *tapWriter) (uint64, error) {
	var ng *pcapgo.NgWriter
	missed, err := d.Capture(ctx, f, octets, Sink[Frame]{
		Started: func(names [2]string) bool {
			o.started = true
			ng, o.err = newPcapng(o.buf, names, octets)
			return o.err == nil && o.rest()
		},
		Each: func(p Frame) bool {
			o.err = writeFrame(ng, &p)
			return o.err == nil
		},
		Rest: func() bool {
			if o.err == nil {
				o.err = ng.Flush()
			}
			return o.rest()
		},
	})
	if err == nil && o.err == nil && ng != nil {
		for side := range 2 {
			if e := ng.WriteInterfaceStats(side, pcapgo.NgInterfaceStatistics{
				LastUpdate: time.Now(), PacketsReceived: pcapgo.NgNoValue64, PacketsDropped: missed,
				Comment: "dropped: frames of either interface that there was no room for",
			}); e != nil && o.err == nil {
				o.err = e
			}
		}
		if e := ng.Flush(); o.err == nil {
			o.err = e
		}
	}
	return missed, err
}

func newPcapng(w io.Writer, names [2]string, octets int) (*pcapgo.NgWriter, error) {
	options := pcapgo.DefaultNgWriterOptions
	options.SectionInfo.Application = "nat64d"
	side := func(i int, what string) pcapgo.NgInterface {
		n := pcapgo.DefaultNgInterface
		n.Name, n.Description, n.LinkType, n.SnapLength = names[i], what, layers.LinkTypeEthernet, uint32(octets)
		return n
	}
	ng, err := pcapgo.NewNgWriterInterface(w, side(0, "IPv6 side"), options)
	if err != nil {
		return nil, fmt.Errorf("begin the capture: %w", err)
	}
	if _, err := ng.AddInterface(side(1, "IPv4 side")); err != nil {
		return nil, fmt.Errorf("begin the capture: %w", err)
	}
	return ng, nil
}

func writeFrame(ng *pcapgo.NgWriter, p *Frame) error {
	id, queue := p.Packet, uint32(p.Worker)
	opts := pcapgo.NgPacketOptions{PacketID: &id, Queue: &queue, Flags: &pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}}
	if p.Out {
		opts.Flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	if p.Comment != "" {
		opts.Comments = []string{p.Comment}
	}
	ci := gopacket.CaptureInfo{Timestamp: p.Time, CaptureLength: len(p.Octets), Length: p.Wire, InterfaceIndex: p.Side}
	return ng.WritePacketWithOptions(ci, p.Octets, opts)
}
