package compare

import (
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"time"

	"handoff64/tools/lab"
)

// Options says what to compare. Zero values mean the defaults given here.
type Options struct {
	Name     string       // of the lab; "nat64cmp"
	Binaries lab.Binaries // nat64d and nat64ctl
	Pktgen   string       // path of the program

	Devices    []string // all that can run here
	Directions []string // "64", "46"
	Counters   []string // "device", "sender": whose CPU the counter is on, with one queue
	Queues     []int    // 1, 2; as many workers
	Flows      []int    // 1, 10000
	Frames     []int    // 80, 1400: octets on the IPv6 side
	Rounds     int      // 3: runs of each measurement, over which devices take turns
	Poll       string   // "adaptive": of throughput; latency is measured with both
	Window     time.Duration
	OfferedPPS int // 2000000: packets a second that are sent, to measure throughput
	LightPPS   int // 10000: rate at which latency is measured; 0 with NoLatency
	NoLatency  bool
	BusyPoll   string // of forward and nat64d: "auto", on or off
	Ring       int    // of forward and nat64d; 0: what they take by themselves
	PerQueue   int    // frames for each queue, the same

	Log *slog.Logger // of progress; nil: none
}

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = "nat64cmp"
	}
	if len(o.Directions) == 0 {
		o.Directions = []string{"64", "46"}
	}
	if len(o.Counters) == 0 {
		o.Counters = []string{onDevice, onSender}
	}
	if len(o.Queues) == 0 {
		o.Queues = []int{1, 2}
	}
	if len(o.Flows) == 0 {
		o.Flows = []int{1, 10000}
	}
	if len(o.Frames) == 0 {
		o.Frames = []int{80, 1400}
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.Poll == "" {
		o.Poll = "adaptive"
	}
	if o.BusyPoll == "" {
		o.BusyPoll = "auto"
	}
	if o.Window == 0 {
		o.Window = 400 * time.Millisecond
	}
	if o.OfferedPPS == 0 {
		o.OfferedPPS = 2_000_000
	}
	if o.LightPPS == 0 {
		o.LightPPS = 10000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, o.check()
}

// Check says what is wrong with the options.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// check refuses what cannot be measured.
func (o Options) check() error {
	if cpus := runtime.NumCPU(); cpus < 2 || slices.Max(o.Queues) > cpus {
		return fmt.Errorf("%d CPUs: the sender needs one, the device another, and each queue one", cpus)
	}
	for _, d := range o.Devices {
		if !slices.ContainsFunc(devices(), func(have device) bool { return have.name == d }) {
			return fmt.Errorf("device %q is none of those that can be measured", d)
		}
	}
	for _, d := range o.Directions {
		if d != "64" && d != "46" {
			return fmt.Errorf("direction %q is neither 64 nor 46", d)
		}
	}
	for _, c := range o.Counters {
		if c != onDevice && c != onSender {
			return fmt.Errorf("counter on CPU of %q, which is neither device nor sender", c)
		}
	}
	if o.Poll != "adaptive" && o.Poll != "busy" {
		return fmt.Errorf("poll %q is neither adaptive nor busy", o.Poll)
	}
	if slices.Min(o.Frames) < 80 || slices.Max(o.Frames) > 1514 || slices.Min(o.Flows) < 1 || slices.Max(o.Flows) > maxFlows {
		return fmt.Errorf("frames of %v octets, %v flows: want 80 to 1514 octets and 1 to %d flows", o.Frames, o.Flows, maxFlows)
	}
	return nil
}

// maxFlows leaves ports above firstPort to all of them.
const maxFlows = 60000
