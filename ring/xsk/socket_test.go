package xsk

import (
	"strings"
	"testing"

	"handoff64/ring"
)

// TestBudgetsBoundEachRing: whatever the traffic, no socket takes so many
// frames that another one of the same worker finds none.
func TestBudgetsBoundEachRing(t *testing.T) {
	w := newWires(t, 1)
	cfg := w.config(ModeAuto)
	cfg.FramesPerQueue, cfg.RingSize = 1024, 2048 // rings that could swallow all
	d := openDevice(t, cfg)
	free := d.Workers()[0].Frames
	for _, s := range d.Sockets() {
		if s.rxHeld != s.rxBudget || s.rxBudget+s.txBudget > cfg.FramesPerQueue {
			t.Errorf("%s holds %d frames to receive, may hold %d and %d to send, of %d", s.link, s.rxHeld, s.rxBudget, s.txBudget, cfg.FramesPerQueue)
		}
		s.Recv(make([]ring.Desc, 64)) // does not take more
	}
	if want := 2 * (1024 - 512); free.Len() != want {
		t.Errorf("%d frames are free, want %d", free.Len(), want)
	}
	if err := d.Census(); err != nil {
		t.Error(err)
	}
}

func TestSendRefusesBrokenDescriptors(t *testing.T) {
	s := &Socket{umem: &ring.UMEM{FrameSize: 2048}, txBudget: 8}
	for _, d := range []ring.Desc{{Addr: 2048 + 256}, {Addr: 2048 + 256, Len: 1793}} {
		func() {
			defer func() {
				if r := recover(); r == nil || !strings.Contains(r.(string), "leaves its frame") {
					t.Errorf("%+v: panic %v", d, r)
				}
			}()
			s.Send([]ring.Desc{d})
		}()
	}
}

func TestPollDoesNotAllocate(t *testing.T) {
	w := newWires(t, 1)
	d := openDevice(t, w.config(ModeNative))
	wk := d.Workers()[0]
	descs := make([]ring.Desc, 64)
	n := testing.AllocsPerRun(200, func() {
		w.six.send(sample6)
		for range 2 {
			k := wk.IPv6[0].Recv(descs)
			wk.IPv4[0].Send(descs[:k])
			wk.IPv6[0].Flush()
			wk.IPv4[0].Flush()
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per poll", n)
	}
}

var sample6 = numbered6(1)

func TestConfigValidation(t *testing.T) {
	good := Config{IPv6: "a", IPv4: "b"}
	for _, tt := range []struct {
		change func(*Config)
		want   string // part of the error, "" for none
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.FrameSize = 4096 }, ""},
		{func(c *Config) { c.IPv4 = "" }, "both interfaces must be named"},
		{func(c *Config) { c.Workers = -1 }, "-1 workers"},
		{func(c *Config) { c.FrameSize = 3000 }, "frames of 3000 octets"},
		{func(c *Config) { c.FrameSize = 1024 }, "frames of 1024 octets"},
		{func(c *Config) { c.FrameSize = 1 << 20 }, "page size"},
		{func(c *Config) { c.RingSize = 1000 }, "rings of 1000"},
		{func(c *Config) { c.FramesPerQueue = 100 }, "100 frames per queue"},
		{func(c *Config) { c.Mode = "fast" }, `mode "fast"`},
		{func(c *Config) { c.ZeroCopy = "yes" }, `zero copy "yes"`},
		{func(c *Config) { c.BusyPoll = "yes" }, `busy poll "yes"`},
		{func(c *Config) { c.Mode, c.ZeroCopy = ModeGeneric, On }, "zero copy needs native mode"},
		{func(c *Config) { c.Filter.Pool6 = make6(17) }, "17 pool6 prefixes"},
	} {
		c := good
		tt.change(&c)
		err := c.withDefaults().validate()
		if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("got error %v, want %q", err, tt.want)
		}
	}
}
