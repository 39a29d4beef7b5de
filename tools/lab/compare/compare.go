package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/bench/xdpgen"
)

// Run compares. It needs root, and takes about three minutes with the defaults
// on two CPUs, during which nothing else should run.
func Run(ctx context.Context, o Options) (Results, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Results{}, err
	}
	r := &run{options: o, throughput: map[key][]float64{}, p50: map[key][]float64{}, p99: map[key][]float64{}, delays: map[key]xdpgen.Delays{}}
	for _, q := range o.Queues {
		if err := r.inBed(ctx, q); err != nil {
			return Results{}, err
		}
	}
	return r.results()
}

// key is one measurement; its order in run.order is that of the results.
type key struct {
	device, poll string
	Case
}

// run is the comparison underway.
type run struct {
	options              Options
	throughput, p50, p99 map[key][]float64
	delays               map[key]xdpgen.Delays // of all rounds
	order                []key
	notes                []string
}

// inBed measures all devices with so many queues, in one network.
func (r *run) inBed(ctx context.Context, queues int) (err error) {
	b, err := newBed(r.options, queues, queues)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.lab.Down()) }()
	all := r.chosen(queues)
	for round := range r.options.Rounds {
		// Every second round goes the other way: what drifts hits all alike.
		if round > 0 {
			slices.Reverse(all)
		}
		for _, d := range all {
			if err := r.measure(ctx, b, d); err != nil {
				return fmt.Errorf("%s, %d queues: %w", d.name, queues, err)
			}
		}
	}
	return nil
}

// chosen are the devices that run with so many queues, in the order of the
// table.
func (r *run) chosen(queues int) (all []device) {
	for _, d := range devices() {
		wanted := len(r.options.Devices) == 0 || slices.Contains(r.options.Devices, d.name)
		if !wanted || (queues > 1 && d.one) {
			continue
		}
		if d.name == "tayga" {
			if _, err := exec.LookPath("tayga"); err != nil {
				r.note("TAYGA is not installed, and so not measured")
				continue
			}
		}
		all = append(all, d)
	}
	return all
}

func (r *run) note(n string) {
	if !slices.Contains(r.notes, n) {
		r.notes = append(r.notes, n)
	}
}

// measure starts a device and makes one run of each of its measurements.
func (r *run) measure(ctx context.Context, b *bed, d device) error {
	polls := []string{r.options.Poll}
	if d.multi && b.queues == 1 && !r.options.NoLatency {
		// Latency with both ways to wait. Two busy workers would leave the
		// senders no CPU.
		polls = append(polls, map[string]string{"adaptive": "busy", "busy": "adaptive"}[r.options.Poll])
	}
	for i, poll := range polls {
		if err := r.measureStarted(ctx, b, d, poll, i == 0); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) measureStarted(ctx context.Context, b *bed, d device, poll string, throughput bool) (err error) {
	stop, err := d.start(ctx, b, poll)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	streams, err := r.streams(ctx, b, d)
	if err != nil {
		return err
	}
	for _, direction := range r.options.Directions {
		if throughput {
			for _, place := range r.places(b) {
				if err := r.throughputs(ctx, b, d, place, direction, streams[direction]); err != nil {
					return err
				}
			}
		}
		if d.light && b.queues == 1 && !r.options.NoLatency {
			if err := r.latency(ctx, b, key{d.name, poll, b.caseOf(1, slices.Min(r.options.Frames), direction, onDevice)}, streams[direction][:1]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bed) caseOf(flows, frame int, direction, counter string) Case {
	return Case{Queues: b.queues, Workers: b.workers, Flows: flows, Frame: frame, Direction: direction, Counter: counter}
}

// Whose CPU the far end's receiving, with the counter, is on.
const (
	onDevice = "device"
	onSender = "sender"
)

// places are where the counter is put, one after the other.
func (r *run) places(b *bed) []string {
	if b.queues > 1 {
		return []string{onDevice}
	}
	return r.options.Counters
}

// streams are the flows of each direction, and all sessions of them exist.
func (r *run) streams(ctx context.Context, b *bed, d device) (map[string][]xdpgen.Flow, error) {
	n := slices.Max(r.options.Flows)
	all := map[string][]xdpgen.Flow{"64": d.flows64(b, n)}
	if d.flows46 != nil {
		all["46"] = d.flows46(b, n)
		return all, nil
	}
	origins, err := b.learn(ctx, all["64"])
	all["46"] = b.flows46(origins)
	return all, err
}

// learnTimeout bounds the wait for the last of all flows, which come in random
// order.
const learnTimeout = 20 * time.Second

// learn sends the flows until it knows where the device lets each of them come
// from.
func (b *bed) learn(ctx context.Context, flows []xdpgen.Flow) (origins []netip.AddrPort, err error) {
	counter, err := b.counter(b.server, xdpgen.CounterConfig{Origins: len(flows)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, counter.Close()) }()
	// Slow enough for whoever makes sessions.
	s, err := b.send(ctx, "64", flows, 80, pace{pps: 200_000, clump: 1, single: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for deadline := time.Now().Add(learnTimeout); ; {
		time.Sleep(50 * time.Millisecond)
		if origins, err = counter.Origins(); err != nil {
			return nil, err
		}
		missing := 0
		for _, o := range origins {
			if !o.IsValid() {
				missing++
			}
		}
		if missing == 0 {
			return origins, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("%d of %d flows did not come through in %v", missing, len(flows), learnTimeout), ctx.Err())
		}
	}
}

// slice is what a run's window is cut into: the median of the slices' rates is
// not moved by what else the machine does for a moment.
const slice = 40 * time.Millisecond

// silence is how long nothing may arrive.
const silence = 10 * time.Second

// warmUp is how long a stream runs before it is measured.
const warmUp = 150 * time.Millisecond

// throughputs measures one direction with all numbers of flows and sizes.
func (r *run) throughputs(ctx context.Context, b *bed, d device, place, direction string, flows []xdpgen.Flow) (err error) {
	_, _, far := b.side(direction)
	// A thread needs NAPI, which veth has with an XDP program (or with GRO, whose
	// work for IPv6 is dearer than for IPv4). XDP copies each skb first, so that
	// the device's CPU is better off with tcx, which sees it as it is.
	counter, err := b.counter(far, xdpgen.CounterConfig{AtTC: place == onDevice})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, counter.Close()) }()
	if place == onSender {
		if err := far.host.ReceiveOn(far.name, senderCPU); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, far.host.ReceiveOn(far.name, -1)) }()
	}
	for _, n := range r.flowsOf(d) {
		for _, frame := range r.options.Frames {
			mpps, err := r.forwarded(ctx, b, counter, direction, flows[:n], frame)
			if err != nil {
				return err
			}
			k := key{d.name, r.options.Poll, b.caseOf(n, frame, direction, place)}
			r.keep(k)
			r.throughput[k] = append(r.throughput[k], mpps)
			r.options.Log.Info("throughput", "device", d.name, "case", k.Case.String(), "Mpps", fmt.Sprintf("%.3f", mpps))
		}
	}
	return nil
}

// flowsOf is the numbers of flows that a device is measured with: all for those
// that are compared closely.
func (r *run) flowsOf(d device) []int {
	if d.multi {
		return r.options.Flows
	}
	return []int{slices.Max(r.options.Flows)}
}

// forwarded is how many million packets a second arrive when more are sent than
// the device can carry.
func (r *run) forwarded(ctx context.Context, b *bed, c *xdpgen.Counter, direction string, flows []xdpgen.Flow, frame int) (mpps float64, err error) {
	s, err := b.send(ctx, direction, flows, frame, pace{pps: r.options.OfferedPPS, clump: 32})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	time.Sleep(warmUp)
	first, _, err := c.Counts()
	if err != nil {
		return 0, err
	}
	var rates []float64
	start := time.Now()
	for last, before := start, first; ; {
		time.Sleep(slice)
		now, _, err := c.Counts()
		if err != nil {
			return 0, err
		}
		at := time.Now()
		rates = append(rates, float64(now-before)/at.Sub(last).Seconds()/1e6)
		before, last = now, at
		switch elapsed := at.Sub(start); {
		case now > first && elapsed >= r.options.Window:
			if mpps = SpreadOf(rates).Median; mpps == 0 { // others had the CPU most of the time
				mpps = float64(now-first) / elapsed.Seconds() / 1e6
			}
			return mpps, nil
		case elapsed > silence:
			return 0, fmt.Errorf("%s, %d flows of %d octets: nothing arrives", direction, len(flows), frame)
		}
	}
}

// latency measures the delays of a slow stream.
func (r *run) latency(ctx context.Context, b *bed, k key, flows []xdpgen.Flow) (err error) {
	s, err := b.send(ctx, k.Direction, flows, k.Frame, pace{pps: r.options.LightPPS, clump: 1, stamped: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	time.Sleep(warmUp)
	_, _, far := b.side(k.Direction)
	counter, err := b.counter(far, xdpgen.CounterConfig{Delays: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, counter.Close()) }()
	want := uint64(r.options.Window.Seconds() * float64(r.options.LightPPS))
	var delays xdpgen.Delays
	for deadline := time.Now().Add(silence); delays.Total() < want; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: only %d of %d packets arrived in %v", k.Case, delays.Total(), want, silence)
		}
		time.Sleep(r.options.Window)
		if delays, err = counter.Delays(); err != nil {
			return err
		}
	}
	r.keep(k)
	us := func(q float64) float64 { return float64(delays.Quantile(q)) / 1e3 }
	r.p50[k], r.p99[k] = append(r.p50[k], us(0.5)), append(r.p99[k], us(0.99))
	r.delays[k] = r.delays[k].Plus(delays)
	r.options.Log.Info("latency", "device", k.device, "poll", k.poll, "case", k.Case.String(), "p50 µs", us(0.5), "p99 µs", us(0.99))
	return nil
}

func (r *run) keep(k key) {
	if !slices.Contains(r.order, k) {
		r.order = append(r.order, k)
	}
}

// results puts everything together.
func (r *run) results() (Results, error) {
	out := Results{Poll: r.options.Poll, CPU: CPUModel(), Notes: r.notes}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return out, fmt.Errorf("ask for the kernel's release: %w", err)
	}
	out.Kernel = unix.ByteSliceToString(u.Release[:])
	for _, k := range r.order {
		if runs := r.throughput[k]; len(runs) > 0 {
			out.Throughput = append(out.Throughput, Throughput{k.device, k.Case, SpreadOf(runs)})
		}
		if runs := r.p50[k]; len(runs) > 0 {
			out.Latency = append(out.Latency, Latency{k.device, k.Case, k.poll, r.options.LightPPS, SpreadOf(runs), SpreadOf(r.p99[k]), curve(r.delays[k])})
		}
	}
	out.rate()
	return out, nil
}

// CPUModel is what the kernel calls the CPU, "" if it does not say.
func CPUModel() string {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(content) {
		if name, value, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
