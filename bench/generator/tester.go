package generator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"handoff64/bench/traffic"
	"handoff64/bench/trial"
)

// Config is what a Tester needs. Zero values are the defaults given here.
type Config struct {
	// Initiator sends Flows; Responder receives them and answers. They may be
	// one interface. Without a Responder nothing is received.
	Initiator, Responder Endpoint

	// Flows are the initiator's: those of a NAT64's client, say, to its prefix.
	Flows traffic.Flows

	// Links are the Ethernet addresses of what each side sends. Zero parts are
	// asked of the kernel: its route and the neighbour on it, and the
	// interface's own address.
	InitiatorLink, ResponderLink traffic.Link

	Threads int           // as many as there are queues, but one CPU is left to others
	CPUs    []int         // for the threads in turn; none: wherever
	Seed    uint64        // of the order of the flows
	Wait    time.Duration // for late packets: 2 s (RFC 2544 §23)
	Verify  bool          // check the checksums of all that is received

	// Progress, if not nil, is called once a second while packets are sent.
	Progress func(Progress)
}

// defaultWait is RFC 2544 §23's.
const defaultWait = 2 * time.Second

// Tester is a generator on one or two interfaces. It is used by one goroutine.
type Tester struct {
	cfg      Config
	clock    clock
	stations []*station // one or two; the last is the responder's
	product  *traffic.Product
	trial    uint8

	connections uint64        // the first so many flows are used
	table       traffic.Table // what the responder knows of them
	responder6  bool          // family on the responder's side
	responder   traffic.Link
}

var _ trial.Device = (*Tester)(nil)

// Open takes stamped packets of the interfaces from now on.
func Open(cfg Config) (*Tester, error) {
	if err := cfg.Flows.Validate(); err != nil {
		return nil, fmt.Errorf("generator: %w", err)
	}
	cfg.Wait = cmp.Or(cfg.Wait, defaultWait)
	t := &Tester{cfg: cfg, product: traffic.NewProduct(cfg.Flows), connections: cfg.Flows.Len(), trial: uint8(time.Now().UnixNano())}
	if err := t.open(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Tester) open() (err error) {
	if t.clock, err = newClock(); err != nil {
		return err
	}
	if t.cfg.InitiatorLink, err = completeLink(&t.cfg.Initiator, t.cfg.InitiatorLink, t.cfg.Flows.Dst.Addr()); err != nil {
		return err
	}
	for _, e := range []Endpoint{t.cfg.Initiator, t.cfg.Responder} {
		if e.Interface == "" || len(t.stations) > 0 && e.Interface == t.cfg.Initiator.Interface && e.Namespace == t.cfg.Initiator.Namespace {
			continue
		}
		s, err := openStation(e)
		if err != nil {
			return err
		}
		t.stations = append(t.stations, s)
	}
	return nil
}

// completeLink finds what is not given of the addresses of packets to dst.
func completeLink(e *Endpoint, given traffic.Link, dst netip.Addr) (traffic.Link, error) {
	none := [6]byte{}
	if given.Dst != none && given.Src != none {
		return given, nil
	}
	if given.Dst != none {
		src, err := e.mac()
		return traffic.Link{Dst: given.Dst, Src: src}, err
	}
	found, err := e.Link(dst)
	if given.Src != none {
		found.Src = given.Src
	}
	return found, err
}

// Close gives the interfaces back.
func (t *Tester) Close() error {
	var errs []error
	for _, s := range t.stations {
		errs = append(errs, s.close())
	}
	t.stations = nil
	return errors.Join(errs...)
}

// sends is the station that sends in a direction, receives the one that
// receives, or nil.
func (t *Tester) sends(d trial.Direction) *station {
	if d == trial.ToInitiator {
		return t.stations[len(t.stations)-1]
	}
	return t.stations[0]
}

func (t *Tester) receives(d trial.Direction) *station {
	switch {
	case t.cfg.Responder.Interface == "":
		return nil
	case d == trial.ToInitiator:
		return t.stations[0]
	}
	return t.stations[len(t.stations)-1]
}

// MinSize is the smallest frame on the initiator's side: that which leaves
// room for a stamp on both sides of a NAT64.
func (t *Tester) MinSize() int {
	return traffic.MinFrame(t.cfg.Flows.Protocol, t.cfg.Flows.Src.Addr().Is6())
}

// Connections is how many flows are in use: those of the last Fill, else all.
func (t *Tester) Connections() uint64 { return t.connections }

// Validate has the responder send one frame for each connection that it knows,
// at rate frames/s (RFC 9693 §4.6). Of TCP, these open the connection.
func (t *Tester) Validate(ctx context.Context, rate float64) (trial.Outcome, error) {
	r, err := t.Run(ctx, Run{
		Direction: trial.ToInitiator, Rate: rate, Packets: t.table.Len(), Protocol: t.cfg.Flows.Protocol.Opening().Answer(),
	})
	if err != nil {
		return trial.Outcome{}, err
	}
	return r.Outcome(), nil
}

// Trial implements trial.Device. Every frame is stamped; with Tags, the delays
// of all are in the outcome.
func (t *Tester) Trial(ctx context.Context, p trial.Plan) (trial.Outcome, error) {
	r, err := t.Run(ctx, Run{Direction: p.Direction, Rate: p.Rate, Duration: p.Duration, Sizes: traffic.Sizes{p.Size}, LatencyAfter: p.TagAfter})
	if err != nil {
		return trial.Outcome{}, err
	}
	out := r.Outcome()
	if p.Tags == 0 {
		out.Latency = nil
	}
	return out, nil
}

// threads is how many threads serve so many lanes.
func (t *Tester) threads(lanes int) int {
	if t.cfg.Threads > 0 {
		return min(t.cfg.Threads, lanes)
	}
	return min(lanes, max(1, runtime.NumCPU()-1))
}
