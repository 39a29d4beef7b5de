package generator

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"handoff64/bench/traffic"
)

// captureRig runs the program on frames. There is no socket, so bpf_redirect_map
// does what it is told for that case; the count of what was passed tells the
// verdicts apart.
type captureRig struct {
	t       *testing.T
	capture capture
	program *ebpf.Program
}

// check gives the program a frame and says whether the verdict is right.
func (r *captureRig) check(name string, frame []byte, ours bool) {
	r.t.Helper()
	before, err := r.capture.foreign()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, _, err := r.program.Test(frame); err != nil {
		r.t.Fatal(err)
	}
	after, err := r.capture.foreign()
	if err != nil {
		r.t.Fatal(err)
	}
	if got := after == before; got != ours {
		r.t.Errorf("%s, %s: ours = %v, want %v", r.capture.match, name, got, ours)
	}
}

// variants are a frame and what is like it.
func (r *captureRig) variants(protocol traffic.Protocol, ipv6 bool) {
	r.t.Helper()
	frame, name := captureFrame(r.t, protocol, ipv6), fmt.Sprintf("%v, IPv6=%v", protocol, ipv6)
	payload := traffic.MinFrame(protocol, ipv6) - traffic.StampLen
	changed := func(at int, to byte) []byte {
		f := slices.Clone(frame)
		f[at] = to
		return f
	}
	all := r.capture.match == MatchIP
	r.check(name, frame, true)
	r.check(name+", other content", changed(len(frame)-1, 0xff), true)
	r.check(name+", no magic", changed(payload+1, 0xff), all)
	r.check(name+", cut off", frame[:payload+2], all)
	r.check(name+", another EtherType", changed(12, 0x55), false)
	if !ipv6 {
		r.check(name+", IPv4 options", changed(14, 0x46), false)
		r.check(name+", a later fragment", changed(21, 7), false)
		r.check(name+", a first fragment", changed(20, 0x20), false)
	}
}

func captureFrame(t *testing.T, p traffic.Protocol, ipv6 bool) []byte {
	t.Helper()
	b, err := traffic.NewBuilder(p, ipv6, traffic.Link{Dst: farMAC, Src: nearMAC}, traffic.Sizes{100})
	if err != nil {
		t.Fatal(err)
	}
	c := wireConfig(p, ipv6)
	room := make([]byte, traffic.MaxFrame)
	return room[:b.Build(room, 0, traffic.NewProduct(c.Flows).Tuple(7), traffic.Stamp{Sequence: 3})]
}

// TestCapture: which frames go to the socket and which to the kernel.
func TestCapture(t *testing.T) {
	needsRoot(t)
	for _, match := range []Match{MatchStamped, MatchIP} {
		r := &captureRig{t: t, capture: capture{match: match}}
		p, err := r.capture.load(1)
		if err != nil {
			t.Fatal(err)
		}
		r.program = p.Program
		for protocol := traffic.UDP; protocol <= traffic.EchoReply; protocol++ {
			r.variants(protocol, true)
			r.variants(protocol, false)
		}
		solicitation := captureFrame(t, traffic.Echo, true)
		solicitation[54] = 135
		r.check("neighbour solicitation", solicitation, false)
		r.check("ARP", append(slices.Clone(solicitation[:12]), append([]byte{8, 6}, make([]byte, 46)...)...), false)
		if err := errors.Join(p.Close(), r.capture.close()); err != nil {
			t.Error(err)
		}
	}
}
