package trial

import (
	"testing"
	"time"
)

func TestOutcome(t *testing.T) {
	o := Outcome{Sent: [2]uint64{1000, 500}, Received: [2]uint64{1000, 450}, Elapsed: time.Second / 2}
	if o.Loss() != 0.1 || o.Offered() != 1000 {
		t.Errorf("loss %v of the worse direction, %v frames/s of the slower", o.Loss(), o.Offered())
	}
	o = Outcome{Sent: [2]uint64{0, 500}, Received: [2]uint64{3, 501}, Elapsed: time.Second}
	if o.Loss() != 0 || o.Offered() != 500 {
		t.Errorf("one direction: loss %v, offered %v", o.Loss(), o.Offered())
	}
	if (Outcome{}).Loss() != 0 || (Outcome{}).Offered() != 0 {
		t.Error("nothing sent is no loss")
	}
}

func TestDirections(t *testing.T) {
	for _, d := range []Direction{ToResponder, ToInitiator, Both} {
		if back, err := ParseDirection(d.String()); err != nil || back != d {
			t.Errorf("%v is read as %v, %v", d, back, err)
		}
	}
	if _, err := ParseDirection("up"); err == nil {
		t.Error("accepts a direction that there is not")
	}
}

func TestSummarize(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[(i*37)%100] = float64(i + 1)
	}
	for _, c := range []struct {
		in   []float64
		want Summary
	}{
		{nil, Summary{}},
		{[]float64{7}, Summary{1, 7, 7, 7}},
		{[]float64{3, 1, 2}, Summary{3, 2, 1, 3}},
		{[]float64{4, 1, 2, 3}, Summary{4, 2.5, 1, 4}},
		{hundred, Summary{100, 50.5, 1, 99}},
	} {
		if got := Summarize(c.in); got != c.want {
			t.Errorf("Summarize(%v) = %+v, want %+v", c.in, got, c.want)
		}
	}
}
