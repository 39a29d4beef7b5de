package rfc8219

import (
	"context"
	"testing"
	"time"

	"handoff64/bench/search"
	"handoff64/bench/trial"
	"handoff64/bench/trial/trialtest"
)

func options() Options {
	return Options{
		Size: 80, Direction: trial.Both, Trial: time.Second,
		Search:  search.Options{High: 1e6, Error: 100},
		Latency: Stream{Duration: 2 * time.Second, TagAfter: time.Second, Tags: 5000, Repetitions: 3},
		PDV:     Stream{Duration: time.Second, Repetitions: 2},
	}
}

func TestThroughput(t *testing.T) {
	for direction, want := range map[trial.Direction]float64{trial.Both: 300_000, trial.ToResponder: 600_000, trial.ToInitiator: 600_000} {
		g := &trialtest.Gateway{Limit: 600_000}
		o := options()
		o.Direction = direction
		f, err := Throughput(context.Background(), g, o)
		if err != nil || f.Rate > want+1 || f.Rate < want-o.Search.Error-1 {
			t.Errorf("%v: found %.0f, want %.0f: %v", direction, f.Rate, want, err)
		}
		for _, p := range g.Trials {
			if p.Size != o.Size || p.Duration != o.Trial || p.Direction != direction || p.Tags != 0 {
				t.Fatalf("a trial was %+v", p)
			}
		}
	}
}

func TestFrameLossRate(t *testing.T) {
	o := options()
	o.Direction = trial.ToResponder
	points, err := FrameLossRate(context.Background(), &trialtest.Gateway{Limit: 750_000}, o)
	if err != nil {
		t.Fatal(err)
	}
	// 100, 90 and 80 % lose frames; 70 and 60 % do not, and end it.
	if len(points) != 5 {
		t.Fatalf("%d points: %+v", len(points), points)
	}
	for i, want := range []float64{0.25, 1 - 750.0/900, 1 - 750.0/800, 0, 0} {
		if got := points[i].Loss; got < want-0.001 || got > want+0.001 {
			t.Errorf("loss at %.0f: %.4f, want %.4f", points[i].Rate, got, want)
		}
	}
	points, err = FrameLossRate(context.Background(), &trialtest.Gateway{Limit: 1}, o)
	if err != nil || len(points) != 10 {
		t.Errorf("a device that always loses: %d points, %v", len(points), err)
	}
}

func TestLatency(t *testing.T) {
	g := &trialtest.Gateway{Limit: 1e6, Delay: 20 * time.Microsecond, Spike: 900 * time.Microsecond}
	l, err := MeasureLatency(context.Background(), g, options(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	near := func(got, want float64) bool { return got > want*0.998 && got < want*1.002 }
	if !near(l.Typical.Median, 20_000) || !near(l.Worst.Median, 20_000) || l.Typical.Repetitions != 3 || l.Tags != 15_000 {
		// One spike in a thousand is just beyond the 99.9th percentile.
		t.Errorf("typical %+v, worst %+v, %d tags", l.Typical, l.Worst, l.Tags)
	}
	if last := l.Curve[len(l.Curve)-1]; last.P != 100 || !near(float64(last.NS), 900_000) {
		t.Errorf("the longest delay is %+v", last)
	}
	if p := g.Trials[0]; p.TagAfter != time.Second || p.Tags != 5000 || p.Rate != 1000 || p.Duration != 2*time.Second {
		t.Errorf("the stream was %+v", p)
	}
}

func TestPDV(t *testing.T) {
	g := &trialtest.Gateway{Limit: 1e6, Delay: 20 * time.Microsecond, Spike: 900 * time.Microsecond}
	o := options()
	p, err := MeasurePDV(context.Background(), g, o, 999)
	if err != nil || p.PDV.Median > 20 { // a thousandth of the delay: the histogram's
		t.Errorf("without a spike among 1998 frames at the 99.9th percentile: %+v, %v", p, err)
	}
	g.Delay, g.Spike = time.Millisecond, 3*time.Millisecond
	h := trial.NewHistogram()
	for i := range 1000 {
		_ = h.RecordValue(int64(time.Millisecond) + int64(i)*1000)
	}
	p, err = MeasurePDV(context.Background(), recorded{h}, o, 999)
	if want := 998_000.0; err != nil || p.PDV.Median < want*0.995 || p.PDV.Median > want*1.005 {
		t.Errorf("PDV of delays from 1 to 2 ms is %.0f ns, want %.0f; %v", p.PDV.Median, want, err)
	}
}

// recorded is a device whose delays are given.
type recorded struct {
	h interface{ TotalCount() int64 }
}

func (r recorded) Trial(context.Context, trial.Plan) (trial.Outcome, error) {
	out := trial.Outcome{Sent: [2]uint64{1}, Received: [2]uint64{1}, Elapsed: time.Second, Latency: trial.NewHistogram()}
	for i := range r.h.TotalCount() {
		_ = out.Latency.RecordValue(int64(time.Millisecond) + i*1000)
	}
	return out, nil
}

func TestNothingArrives(t *testing.T) {
	silent := silentDevice{}
	if _, err := MeasureLatency(context.Background(), silent, options(), 10); err == nil {
		t.Error("a latency of no frame")
	}
	if _, err := MeasurePDV(context.Background(), silent, options(), 10); err == nil {
		t.Error("a PDV of no frame")
	}
}

type silentDevice struct{}

func (silentDevice) Trial(context.Context, trial.Plan) (trial.Outcome, error) {
	return trial.Outcome{Sent: [2]uint64{10}, Elapsed: time.Second, Latency: trial.NewHistogram()}, nil
}

func TestRefusesBadOptions(t *testing.T) {
	g := &trialtest.Gateway{Limit: 1}
	o := options()
	o.Latency.TagAfter = o.Latency.Duration
	if _, err := MeasureLatency(context.Background(), g, o, 1); err == nil {
		t.Error("tags after the end")
	}
	o = options()
	o.Latency.Tags = 0
	if _, err := MeasureLatency(context.Background(), g, o, 1); err == nil {
		t.Error("no tags")
	}
	o.PDV.Repetitions = 0
	if _, err := MeasurePDV(context.Background(), g, o, 1); err == nil {
		t.Error("no repetition")
	}
	if _, err := FrameLossRate(context.Background(), g, Options{}); err == nil {
		t.Error("no maximum rate")
	}
}

func TestDefaultsAreTheRFCs(t *testing.T) {
	o := Default(84, 1e6)
	if o.Trial < time.Minute || o.Latency.Duration < 2*time.Minute || o.Latency.TagAfter != time.Minute || o.Latency.Tags < 500 ||
		o.Latency.Repetitions < 20 || o.PDV.Duration < time.Minute || o.PDV.Repetitions < 20 || o.Search.Loss != 0 || o.Direction != trial.Both {
		t.Errorf("%+v", o)
	}
}
