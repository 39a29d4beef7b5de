package generator

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"handoff64/bench/traffic"
)

// writeCapture writes frames with the given times, microseconds from some
// moment.
func writeCapture(t *testing.T, frames [][]byte, micros []int) string {
	t.Helper()
	var buf bytes.Buffer
	w := pcapgo.NewWriter(&buf)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		at := time.Unix(1_600_000_000, 0).Add(time.Duration(micros[i]) * time.Microsecond)
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(f), Length: len(f)}, f); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "in.pcap")
	if err := os.WriteFile(name, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// numbered are frames of 60 octets and more, of no protocol, with a number at
// the end.
func numbered(n int) (frames [][]byte) {
	for i := range n {
		f := append([]byte("DSTDSTSRCSRC\x88\xb5"), make([]byte, 42+i%100)...)
		frames = append(frames, binary.BigEndian.AppendUint32(f, uint32(i)))
	}
	return frames
}

// TestTimetable drives a replay by a clock of the test's: each frame is due at
// its recorded time, in every round and at every speed, and not earlier.
func TestTimetable(t *testing.T) {
	rec, err := LoadRecording(writeCapture(t, numbered(4), []int{0, 100, 100, 900}), traffic.Link{})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Len() != 4 || rec.Duration() != 900*time.Microsecond {
		t.Fatalf("%d frames over %v", rec.Len(), rec.Duration())
	}
	// A round lasts 900 µs and a mean gap of 300 µs.
	due := []int64{0, 100, 100, 900, 1200, 1300, 1300, 2100, 2400}
	for _, speed := range []float64{1, 0.5, 10} {
		table := newTimetable(rec, speed)
		sent := uint64(0)
		for now := int64(0); now < int64(2_450_000/speed); now += 700 {
			n := table.count(sent, now)
			for range n {
				want := int64(float64(due[sent]*1000) / speed)
				if now < want || now-want >= 700 {
					t.Errorf("speed %v: frame %d is sent at %d ns, want %d", speed, sent, now, want)
				}
				sent++
			}
		}
		if sent != uint64(len(due)) {
			t.Errorf("speed %v: %d frames were sent, want %d", speed, sent, len(due))
		}
	}
}

// TestTimetableBursts: a thousand frames of one moment leave in bursts.
func TestTimetableBursts(t *testing.T) {
	rec := &Recording{}
	for _, f := range numbered(1000) {
		rec.add(f, 0, traffic.Link{})
	}
	table := newTimetable(rec, 1)
	if n := table.count(0, 0); n != maxBurst {
		t.Errorf("%d at once", n)
	}
}

func TestLoadRecording(t *testing.T) {
	frames := numbered(300)
	rec, err := LoadRecording(writeCapture(t, frames, make([]int, 300)), traffic.Link{Dst: farMAC})
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		want := append(append([]byte(nil), farMAC[:]...), f[6:]...)
		if !bytes.Equal(rec.frame(i), want) {
			t.Fatalf("frame %d is %x, want %x", i, rec.frame(i), want)
		}
	}
	for want, frames := range map[string][][]byte{
		"holds no packets": {}, "packet 2: 1793 octets": {make([]byte, 60), make([]byte, 1793)}, "packet 1: 13 octets": {make([]byte, 13)},
	} {
		if _, err := LoadRecording(writeCapture(t, frames, make([]int, 9)), traffic.Link{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := LoadRecording("/nowhere.pcap", traffic.Link{}); err == nil {
		t.Error("a file that is not there was loaded")
	}
}

// TestReplay: what arrives is what was recorded, in order, all rounds of it, at
// recorded times and at a rate.
func TestReplay(t *testing.T) {
	newWire(t, 1)
	const count, rounds = 200, 3
	frames, micros := numbered(count), make([]int, count)
	for i := range micros {
		micros[i] = i * 100
	}
	rec, err := LoadRecording(writeCapture(t, frames, micros), traffic.Link{})
	if err != nil {
		t.Fatal(err)
	}
	tap := packetSocket(t, "far")
	for name, cfg := range map[string]ReplayConfig{"recorded": {Speed: 2}, "rate": {Rate: 20_000}} {
		cfg.Endpoint, cfg.Recording, cfg.Rounds = Endpoint{Interface: "near"}, rec, rounds
		r, err := Replay(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		// Twice as fast as 100 µs apart; the last frame of the last round ends it.
		if least := 50 * time.Microsecond * (count*rounds - 1); r.Sent != count*rounds || r.Elapsed < least-50*time.Microsecond {
			t.Errorf("%s: %+v, want at least %v", name, r, least)
		}
		for got := uint64(0); got < r.Sent; {
			buf := make([]byte, 4096)
			n, from, err := unix.Recvfrom(tap, buf, 0)
			if err != nil {
				t.Fatalf("%s: %d of %d frames came: %v", name, got, r.Sent, err)
			}
			if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING || !bytes.Equal(buf[12:14], []byte{0x88, 0xb5}) {
				continue
			}
			if want := frames[got%count]; !bytes.Equal(buf[:n], want) {
				t.Fatalf("%s: frame %d came as %x, want %x", name, got, buf[:n], want)
			}
			got++
		}
	}
}

// TestReceive: what a sender elsewhere sends is counted, also when it begins
// anew, and nothing is lost between.
func TestReceive(t *testing.T) {
	newWire(t, 1)
	// A packet socket would see the frames, too: XDP takes them before.
	c := wireConfig(traffic.UDP, true)
	c.Responder = Endpoint{}
	done := make(chan error, 1)
	var got *Reception
	ready, namespace := make(chan struct{}), ownNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		var err error
		got, err = Receive(ctx, ReceiveConfig{
			Endpoint: Endpoint{Interface: "far", Namespace: namespace}, Packets: 5000, Verify: true, Threads: 1,
			Progress: func(Progress) {
				select {
				case ready <- struct{}{}:
				default:
				}
			},
		})
		done <- err
	}()
	select {
	case <-ready: // it receives since a second
	case err := <-done:
		t.Fatal(err)
	}
	tester := openTester(t, c)
	for _, packets := range []uint64{2000, 3000} {
		if _, err := tester.Run(t.Context(), Run{Rate: 20_000, Packets: packets}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got.Received != 5000 || got.Octets != 5000*80 || got.Lost+got.Duplicated+got.Reordered+got.BadChecksum+got.Damaged+got.Foreign != 0 || got.Latency.TotalCount() != 5000 || got.NoLatency != 0 {
		t.Errorf("received %+v", got)
	}
	if got.Rate() < 100 {
		t.Errorf("a rate of %v", got.Rate())
	}
}
