package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"handoff64/cmd/nat64d/config"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/fixture"
	"handoff64/ring"
	"handoff64/ring/memport"
)

// The cases of dataplane/testdata/cases in two ways: through a worker on ports
// in memory, and through `nat64d replay`. tools/lab/e2e has the third, real
// interfaces.
const casesFolder = "../../dataplane/testdata/cases"

func loadCases(t testing.TB) []*fixture.Case {
	t.Helper()
	all, err := fixture.LoadAll(casesFolder)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// caseConfig is a case's configuration as nat64d reads it.
func caseConfig(t testing.TB, c *fixture.Case) ([]byte, *config.Config) {
	t.Helper()
	text, err := c.JSON(map[string]any{"ipv6_interface": "six", "ipv4_interface": "four"})
	if err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Parse(c.Name, text)
	for _, p := range problems {
		t.Error(p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return text, cfg
}

// TestCases takes every case through a worker on memory ports: octets,
// reasons, counters, the balance and the frames.
func TestCases(t *testing.T) {
	for _, c := range loadCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			runCase(t, t, c)
		})
	}
}

// reporter is told what does not fit: the test, or a test of this test.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Failed() bool
}

func runCase(t *testing.T, report reporter, c *fixture.Case) {
	r := newCaseRig(t, c)
	values := c.NewValues()
	for i := range c.Steps {
		r.step(report, &c.Steps[i], values)
		if report.Failed() {
			break
		}
	}
	r.rest()
}

// caseRig is a translator of one worker on memory ports, made of the same
// parts as that of `nat64d replay`.
type caseRig struct {
	t      *testing.T
	umem   *ring.UMEM
	frames *ring.FrameStack
	ports  [2]*memport.Port
	table  *conntrack.Table
	worker *dataplane.Worker
	now    conntrack.Tick
}

func newCaseRig(t *testing.T, c *fixture.Case) *caseRig {
	t.Helper()
	_, cfg := caseConfig(t, c)
	r := &caseRig{t: t, now: replayStart}
	var err error
	must := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r.umem, r.frames, err = memport.NewUMEM(512, cfg.XDP.FrameSize)
	must()
	r.ports[fixture.Side6] = memport.New("IPv6 side", r.umem, r.frames, 64)
	r.ports[fixture.Side4] = memport.New("IPv4 side", r.umem, r.frames, 64)
	tc := tableFrom(cfg, 1)
	tc.Secret, tc.Now = new([32]byte), r.now
	r.table, _, err = conntrack.New(tc)
	must()
	rules, err := rulesFrom(cfg)
	must()
	r.worker, err = dataplane.NewWorker(dataplane.Config{
		Table: r.table, Shard: r.table.Shard(0), Hops: replayHops(cfg, rules), UMEM: r.umem, Frames: r.frames,
		Ports: [2][]ring.Port{{r.ports[0]}, {r.ports[1]}}, Group: dataplane.NewGroup(1), Rules: rules, Seed: 1,
	})
	must()
	t.Cleanup(func() {
		r.worker.Close()
		r.table.Close()
		r.umem.Close()
	})
	return r
}

// step does what the case says and holds all that follows to it.
func (r *caseRig) step(report reporter, s *fixture.Step, values *fixture.Values) {
	r.t.Helper()
	before := r.counters()
	if s.Send == nil {
		r.wait(s.Wait)
	} else {
		octets, err := values.Fill(s.Send)
		if err != nil {
			report.Errorf("%v", err)
			return
		}
		if !r.ports[s.Side].Inject(asFrame(s.Side, octets)) {
			report.Errorf("line %d: %d octets do not fit a frame", s.Line, len(octets))
		}
		for range 3 {
			r.worker.Poll(r.now)
		}
	}
	for side, want := range s.Expect {
		compareSide(report, s, fixture.Side(side), want, r.ports[side].Drain(), values)
	}
	if err := s.CheckCounts(before, r.counters()); err != nil {
		report.Errorf("line %d: %v", s.Line, err)
	}
}

// wait lets the clock run, a tick at a time, as the worker would live it.
func (r *caseRig) wait(d time.Duration) {
	for range int64(d) * conntrack.TicksPerSecond / int64(time.Second) {
		r.now++
		r.worker.Poll(r.now)
	}
}

// rest checks that every packet is accounted for and every frame is somewhere.
func (r *caseRig) rest() {
	r.t.Helper()
	c := r.worker.Counters()
	if diff, ok := c.Balanced(); !ok {
		r.t.Errorf("received + generated - (translated + passed + parked + dropped) = %d: %+v", diff, c)
	}
	if c.Parked > 0 {
		if free := r.frames.Len(); free+int(c.Parked) != r.umem.Frames() {
			r.t.Errorf("%d frames are free and %d packets wait inside, of %d", free, c.Parked, r.umem.Frames())
		}
		return
	}
	places := append(r.ports[0].Places(), r.ports[1].Places()...)
	if err := ring.Census(r.umem, append(places, ring.Place{Name: "free", Frames: r.frames.Frames()})...); err != nil {
		r.t.Error(err)
	}
}

// asFrame puts an Ethernet header in front, from the neighbour to the NAT64.
func asFrame(side fixture.Side, packet []byte) []byte {
	f := append(append([]byte{}, replayMAC6[:]...), append(replayNeighbor[:], 0x86, 0xdd)...)
	if side == fixture.Side4 {
		f = append(append([]byte{}, replayMAC4[:]...), append(replayNeighbor[:], 0x08, 0x00)...)
	}
	return append(f, packet...)
}

// compareSide holds what left on one side to what the case expects there.
func compareSide(report reporter, s *fixture.Step, side fixture.Side, want []*fixture.Packet, frames [][]byte, values *fixture.Values) {
	report.Helper()
	var got [][]byte
	for _, f := range frames {
		if string(f[:14]) != string(answerFrame(side)) {
			report.Errorf("line %d: the Ethernet header on side %s is % x, want % x", s.Line, side, f[:14], answerFrame(side))
		}
		got = append(got, f[14:])
	}
	if err := values.CheckSide(side, want, got); err != nil {
		report.Errorf("line %d: %v", s.Line, err)
	}
}

// answerFrame is the Ethernet header of what leaves.
func answerFrame(side fixture.Side) []byte {
	f := asFrame(side, nil)
	return append(append(append([]byte{}, f[6:12]...), f[:6]...), f[12:]...)
}

// counters are what nat64ctl stats would say, by their paths.
func (r *caseRig) counters() map[string]uint64 {
	c, stats := r.worker.Counters(), r.table.Stats()
	flat, err := fixture.Paths(statsOf(&c, &stats))
	if err != nil {
		r.t.Fatal(err)
	}
	return flat
}

// heard collects complaints.
type heard []string

func (h *heard) Helper()                           {}
func (h *heard) Errorf(format string, args ...any) { *h = append(*h, fmt.Sprintf(format, args...)) }
func (h *heard) Failed() bool                      { return len(*h) > 0 }

// TestCasesCanFail: every expectation that a case loses or gets wrong is a complaint.
func TestCasesCanFail(t *testing.T) {
	load := func() *fixture.Case {
		text, err := os.ReadFile(filepath.Join(casesFolder, "rfc6146/udp-session.case"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := fixture.ParseCase(text)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var none heard
	if runCase(t, &none, load()); none.Failed() {
		t.Fatal(none)
	}
	for what, spoil := range map[string]func(c *fixture.Case){
		"an octet":          func(c *fixture.Case) { c.Steps[1].Expect[fixture.Side6][0].Octets[7]++ },
		"a checksum":        func(c *fixture.Case) { c.Steps[0].Expect[fixture.Side4][0].Octets[26]++ },
		"no packet":         func(c *fixture.Case) { c.Steps[0].Expect[fixture.Side4] = nil },
		"another packet":    func(c *fixture.Case) { c.Steps[2].Expect[fixture.Side4] = c.Steps[3].Expect[fixture.Side4] },
		"the other side":    func(c *fixture.Case) { c.Steps[1].Expect[0], c.Steps[1].Expect[1] = nil, c.Steps[1].Expect[0] },
		"no drop":           func(c *fixture.Case) { delete(c.Steps[3].Drops, "no_mapping") },
		"another drop":      func(c *fixture.Case) { c.Steps[0].Drops["ttl"] = 1 },
		"an unknown reason": func(c *fixture.Case) { c.Steps[0].Drops["weather"] = 1 },
		"a count":           func(c *fixture.Case) { c.Steps[0].Counts["sessions.created"] = 2 },
		"less time":         func(c *fixture.Case) { c.Steps[2].Wait /= 2 },
	} {
		c := load()
		spoil(c)
		var complaints heard
		if runCase(t, &complaints, c); !complaints.Failed() {
			t.Errorf("%s: nobody complains", what)
		}
	}
}
