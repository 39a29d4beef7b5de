package control_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"handoff64/cmd/nat64d/control"
	"handoff64/cmd/nat64d/control/controltest"
)

func ready() error { return nil }

func traced(n uint64) []control.TraceEvent {
	var all []control.TraceEvent
	for i := range n {
		all = append(all, control.TraceEvent{Time: time.Unix(int64(i), 0).UTC(), Packet: i, Outcome: "translated", Steps: []control.TraceStep{{Step: "parse", Text: "x"}}})
	}
	return all
}

// A trace ends when its reader says so, with everything shown until then and
// the number of what was missed.
func TestTraceEndsWell(t *testing.T) {
	d := controltest.New()
	d.TraceValue, d.Missed = traced(3), 7
	_, path := start(t, d, "")
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	missed, err := control.NewClient(path).Trace(ctx, control.PacketFilter{}, ready, func(e control.TraceEvent) error {
		if e.Packet != uint64(n) || len(e.Steps) != 1 {
			t.Errorf("%+v", e)
		}
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if err != nil || n != 3 || missed != 7 {
		t.Errorf("%d packets, %d missed, %v", n, missed, err)
	}
}

func TestTraceByCount(t *testing.T) {
	d := controltest.New()
	d.TraceValue = traced(5)
	_, path := start(t, d, "")
	var f control.PacketFilter
	if err := f.SetWord("count=2"); err != nil {
		t.Fatal(err)
	}
	n := 0
	if _, err := control.NewClient(path).Trace(t.Context(), f, ready, func(control.TraceEvent) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d packets, %v", n, err)
	}
}

// What the filter cannot mean is told before anything begins.
func TestTraceRefuses(t *testing.T) {
	_, path := start(t, controltest.New(), "")
	var f control.PacketFilter
	if err := f.SetWord("drop=unknown"); err != nil {
		t.Fatal(err)
	}
	var bad control.ConfigError
	_, err := control.NewClient(path).Trace(t.Context(), f, func() error { t.Error("it began"); return nil }, func(control.TraceEvent) error { return nil })
	if !errors.As(err, &bad) {
		t.Errorf("got %v", err)
	}
}

// A reader that goes away without a word ends the trace too, and a nat64d that
// stops ends all of them without waiting.
func TestTraceReaderLeaves(t *testing.T) {
	d := controltest.New()
	d.TraceValue = traced(1)
	path := filepath.Join(t.TempDir(), "s")
	s, err := control.Start(path, "", d, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("enough")
	if _, err := control.NewClient(path).Trace(t.Context(), control.PacketFilter{}, ready, func(control.TraceEvent) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	begun := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := control.NewClient(path).Trace(t.Context(), control.PacketFilter{}, ready, func(control.TraceEvent) error { close(begun); return nil })
		ended <- err
	}()
	<-begun
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the trace of a nat64d that stops: %v", err)
	}
}

func TestCapture(t *testing.T) {
	at := time.Unix(1700000000, 123456789).UTC()
	d := controltest.New()
	d.Missed = 3
	d.FramesValue = []control.Frame{
		{Time: at, Side: 0, Worker: 1, Packet: 9, Octets: bytes.Repeat([]byte{1}, 100), Wire: 100, Comment: "dropped: no_route"},
		{Time: at, Side: 1, Out: true, Worker: 1, Packet: 9, Octets: bytes.Repeat([]byte{2}, 80), Wire: 80},
	}
	_, path := start(t, d, "")
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	w := writerFunc(func(b []byte) (int, error) {
		n, err := out.Write(b)
		if bytes.Contains(out.Bytes(), bytes.Repeat([]byte{2}, 64)) {
			cancel()
		}
		return n, err
	})
	missed, err := control.NewClient(path).Capture(ctx, control.PacketFilter{}, 64, ready, w)
	if err != nil || missed != 3 {
		t.Errorf("%d missed, %v", missed, err)
	}
	r, err := pcapgo.NewNgReader(&out, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range d.FramesValue {
		data, ci, opts, err := r.ReadPacketDataWithOptions()
		if err != nil {
			t.Fatal(err)
		}
		name, _ := r.Interface(ci.InterfaceIndex)
		if !bytes.Equal(data, want.Octets[:64]) || ci.Length != want.Wire || !ci.Timestamp.Equal(at) || name.Name != []string{"eth1", "eth0"}[want.Side] {
			t.Errorf("frame %d: %d octets of %d at %v on %s", i, len(data), ci.Length, ci.Timestamp, name.Name)
		}
		if opts.PacketID == nil || *opts.PacketID != 9 || opts.Flags == nil || (opts.Flags.Direction == pcapgo.NgEpbFlagDirectionOutbound) != want.Out {
			t.Errorf("frame %d: %+v", i, opts)
		}
		if want.Comment != "" && strings.Join(opts.Comments, "") != want.Comment {
			t.Errorf("frame %d: comments %q", i, opts.Comments)
		}
	}
	if _, _, err := r.ReadPacketData(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last frame: %v", err)
	}
	if s, err := r.Interface(0); err != nil || s.Statistics.PacketsDropped != 3 {
		t.Errorf("statistics: %+v, %v", s.Statistics, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
