package dataplane

import (
	"errors"
	"sync"
	"sync/atomic"

	"handoff64/conntrack"
	"handoff64/dataplane/packet"
	"handoff64/ring"
)

// A tap shows somebody outside what workers do with packets: nat64ctl trace and
// capture. A worker without taps pays for it with a comparison per burst and
// step. With taps it copies (tapped.go): a record for each packet that a tap's
// filter chooses, and its octets, into rings of the tap's own. It allocates
// nothing and waits for nobody; what finds no room is counted as missed. All text
// is made by whoever reads the rings.
//
//	worker ─ records ─→ Tap.Drain          one record for each sight
//	       ←─ free ──── places for octets that have been read

// SightKind says what a Sight tells of.
type SightKind uint8

const (
	// SightWay is a packet's way through the steps, from where it came to how it
	// left. Its octets are those that came from the interface, if it did.
	SightWay SightKind = iota
	// SightOut is a packet that leaves: what another became, a fragment of that,
	// or an ICMP error about it. Its octets are those that are sent.
	SightOut
)

// Left says how a packet left the steps.
type Left uint8

const (
	LeftKept    Left = iota // a fragment that is held for its datagram
	LeftSent                // translated and given to its interface
	LeftTurned              // translated once, comes round as an IPv4 packet (hairpin)
	LeftDropped             // for Sight.Reason
	LeftParked              // waits for its next hop
	LeftGiven               // to the worker that owns its client
	LeftServer              // to the handoff worker, for a server
	LeftKernel              // to the host's kernel
	LeftPieces              // sent as fragments
)

// Came says where a packet came from.
type Came uint8

const (
	CameIn      = Came(viaPort)       // from an interface, or from the worker that took it in
	CameKernel  = Came(viaKernel)     // from the host itself
	CameHairpin = Came(viaHairpin)    // translated once already
	CameServer  = Came(viaServer)     // back from a handoff server
	CameDone    = Came(viaServerDone) // back from a handoff server, translated
)

// Step is how far a packet came.
type Step uint8

const (
	StepParse Step = iota
	StepClassify
	StepLookup
	StepTranslate
	StepTX
)

// Sight is what a tap sees of one packet: plain data without a pointer, filled in
// by the worker. Fields are valid for SightWay as far as Reached says; SightOut
// has Time, Serial, Kind, Worker, Side and the octets.
type Sight struct {
	Time   int64  // nanoseconds since 1970, of the burst
	Serial uint64 // of the packet on its worker; what came of it has the same
	Kind   SightKind
	Worker uint8
	Side   Family // the interface of the octets

	Came      Came
	Waited    bool // it was parked before
	Reached   Step // the last step that it came to
	Left      Left
	Reason    DropReason
	Dir       Direction // as it came
	EtherType uint16
	Packet    packet.Parsed
	IsError   bool // an ICMP error: the session is that of the packet which it quotes

	Known      bool // lookup: its session was there before it
	HasSession bool // lookup: it has one now
	Mapping    bool // lookup, without a session: somebody is mapped to its destination
	Origin     conntrack.Origin
	State      conntrack.TCPState
	Pool6      uint8
	Proto      conntrack.Proto
	Client     conntrack.Addr6
	ClientPort uint16
	Server     uint32
	ServerPort uint16
	Mapped     uint32
	MappedPort uint16

	Answered bool // with an ICMP error
	Answer   [2]uint8
	Eth      [12]byte // tx
	ToHost   bool     // tx: it leaves to the host itself
	Out      uint32   // tx: octets of the IP packet that leaves

	place  uint32 // of the octets
	Octets uint32 // how many of them there are
	Wire   uint32 // how many the frame has
}

// TapConfig is what Taps.Open makes a tap of.
type TapConfig struct {
	Filter  TapFilter
	Octets  int  // of each packet, Ethernet header included; 0: records only
	Sent    bool // SightOut as well
	Records int  // room for so many in each worker's ring
}

// Tap is one listener. Drain and Missed are for one goroutine.
type Tap struct {
	config TapConfig
	queues []*tapQueue
	batch  [64]Sight
}

// tapQueue is what lies between one worker and one tap.
type tapQueue struct {
	records *ring.SPSC[Sight]
	free    *ring.SPSC[uint32]
	octets  []byte
	missed  atomic.Uint64
}

// noPlace is the place of what has no octets.
const noPlace = ^uint32(0)

func newTapQueue(c *TapConfig) *tapQueue {
	q := &tapQueue{records: ring.NewSPSC[Sight](c.Records)}
	if c.Octets == 0 {
		return q
	}
	n := q.records.Cap()
	q.free, q.octets = ring.NewSPSC[uint32](n), make([]byte, n*c.Octets)
	for i := range n {
		q.free.Push(uint32(i))
	}
	return q
}

// Drain calls f for everything that the workers have put there, as far as it was
// there when Drain came by, and says how much that was. octets is valid during f.
func (t *Tap) Drain(f func(s *Sight, octets []byte)) (n int) {
	for _, q := range t.queues {
		for left := q.records.Len(); left > 0; {
			got := q.records.PopBatch(t.batch[:min(left, len(t.batch))])
			for i := range t.batch[:got] {
				s := &t.batch[i]
				if s.place == noPlace {
					f(s, nil)
					continue
				}
				at := int(s.place) * t.config.Octets
				f(s, q.octets[at:at+int(s.Octets)])
				q.free.Push(s.place)
			}
			left -= got
			n += got
		}
	}
	return n
}

// Missed is how many packets the filter chose and no ring had room for.
func (t *Tap) Missed() (n uint64) {
	for _, q := range t.queues {
		n += q.missed.Load()
	}
	return n
}

// Taps opens and closes taps on the workers of one translator. Safe for
// concurrent use.
type Taps struct {
	workers []*Worker
	mu      sync.Mutex
	open    []*Tap
}

// NewTaps is for the workers of one translator.
func NewTaps(workers []*Worker) *Taps { return &Taps{workers: workers} }

// maxTaps bounds what a worker does for listeners.
const maxTaps = 8

// ErrTooManyTaps says that maxTaps are open.
var ErrTooManyTaps = errors.New("too many traces and captures run already")

// Open begins to show packets. Each worker takes it up with its next round.
func (t *Taps) Open(c TapConfig) (*Tap, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) == maxTaps {
		return nil, ErrTooManyTaps
	}
	if len(t.workers) > 0 {
		c.Octets = min(c.Octets, t.workers[0].umem.FrameSize)
	}
	tap := &Tap{config: c}
	for range t.workers {
		tap.queues = append(tap.queues, newTapQueue(&c))
	}
	t.open = append(t.open, tap)
	t.publish()
	return tap, nil
}

// Close ends a tap. What is in its rings may still be drained.
func (t *Taps) Close(tap *Tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, o := range t.open {
		if o == tap {
			t.open = append(t.open[:i:i], t.open[i+1:]...)
			break
		}
	}
	t.publish()
}

// publish gives each worker what is open now.
func (t *Taps) publish() {
	for i, w := range t.workers {
		var set *tapSet
		if len(t.open) > 0 {
			set = newTapSet(t.open, i, w.umem.FrameSize)
		}
		w.pendingTaps.Store(set)
		w.Wake()
	}
}

// Watched says whether the worker has taken up what Open and Close did last.
func (t *Taps) Watched() bool {
	for _, w := range t.workers {
		if w.seenTaps.Load() != w.pendingTaps.Load() {
			return false
		}
	}
	return true
}
