package pcapport_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"handoff64/ring"
	"handoff64/ring/memport"
	"handoff64/ring/pcapport"
)

var start = time.Date(2024, 3, 1, 12, 0, 0, 123456000, time.UTC)

type packet struct {
	after time.Duration
	data  []byte
}

func numbered(n int) []byte {
	b := make([]byte, 60)
	binary.BigEndian.PutUint32(b, uint32(n))
	return b
}

// classic writes a pcap file the plain way, in any byte order and resolution.
func classic(order binary.ByteOrder, nanos bool, packets ...packet) []byte {
	magic, unit := uint32(0xa1b2c3d4), time.Microsecond
	if nanos {
		magic, unit = 0xa1b23c4d, time.Nanosecond
	}
	var b bytes.Buffer
	put := func(words ...uint32) {
		for _, w := range words {
			var o [4]byte
			order.PutUint32(o[:], w)
			b.Write(o[:])
		}
	}
	put(magic)
	var version [4]byte
	order.PutUint16(version[:], 2)
	order.PutUint16(version[2:], 4)
	b.Write(version[:])
	put(0, 0, 65535, 1)
	for _, p := range packets {
		at := start.Add(p.after)
		put(uint32(at.Unix()), uint32(at.Nanosecond()/int(unit)), uint32(len(p.data)), uint32(len(p.data)))
		b.Write(p.data)
	}
	return b.Bytes()
}

func pcapng(t *testing.T, packets ...packet) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		info := gopacket.CaptureInfo{Timestamp: start.Add(p.after), CaptureLength: len(p.data), Length: len(p.data)}
		if err := w.WritePacket(info, p.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newPort(t *testing.T, frames int, in []byte, out io.Writer) (*pcapport.Port, *pcapport.Writer, *ring.UMEM, *ring.FrameStack) {
	t.Helper()
	u, free, err := memport.NewUMEM(frames, 2048)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	r, err := pcapport.NewReader("in.pcap", bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	w, err := pcapport.NewWriter("out.pcap", out)
	if err != nil {
		t.Fatal(err)
	}
	return pcapport.New(u, free, r, w), w, u, free
}

// replay sends everything back out, advancing the clock from packet to packet.
func replay(p *pcapport.Port) (times []time.Time) {
	descs := make([]ring.Desc, 2)
	for t, ok := p.Peek(); ok; t, ok = p.Peek() {
		p.SetNow(t)
		for n := p.Recv(descs); n > 0; n = p.Recv(descs) {
			for range n {
				times = append(times, t)
			}
			p.Send(descs[:n])
			p.Flush()
		}
	}
	return times
}

func TestReplayEveryFormat(t *testing.T) {
	packets := []packet{
		{0, numbered(0)}, {time.Millisecond, numbered(1)}, {time.Millisecond, numbered(2)},
		{time.Millisecond, numbered(3)}, {time.Hour, bytes.Repeat([]byte{7}, 1792)},
	}
	want := classic(binary.LittleEndian, true, packets...)
	binary.LittleEndian.PutUint32(want[16:], 262144) // the snap length we announce
	for name, in := range map[string][]byte{
		"microseconds, little endian": classic(binary.LittleEndian, false, packets...),
		"microseconds, big endian":    classic(binary.BigEndian, false, packets...),
		"nanoseconds, little endian":  classic(binary.LittleEndian, true, packets...),
		"nanoseconds, big endian":     classic(binary.BigEndian, true, packets...),
		"pcapng":                      pcapng(t, packets...),
	} {
		var out bytes.Buffer
		p, w, u, free := newPort(t, 4, in, &out)
		times := replay(p)
		if err := errors.Join(p.Err(), w.Close()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(times) != len(packets) || w.Packets() != len(packets) {
			t.Fatalf("%s: %d packets came and %d left, want %d", name, len(times), w.Packets(), len(packets))
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%s: wrote\n%x\nwant\n%x", name, out.Bytes(), want)
		}
		places := append(p.Places(), ring.Place{Name: "free", Frames: free.Frames()})
		if err := ring.Census(u, places...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOnlyWhatIsDueArrives(t *testing.T) {
	in := classic(binary.LittleEndian, true, packet{0, numbered(0)}, packet{10, numbered(1)}, packet{5, numbered(2)}, packet{20, numbered(3)})
	p, _, u, _ := newPort(t, 8, in, io.Discard)
	descs := make([]ring.Desc, 8)
	if n := p.Recv(descs); n != 0 {
		t.Errorf("%d packets arrived before the clock was set", n)
	}
	for _, step := range []struct{ now, count, first int }{{0, 1, 0}, {9, 0, 0}, {10, 2, 1}, {19, 0, 0}, {1000, 1, 3}, {2000, 0, 0}} {
		p.SetNow(start.Add(time.Duration(step.now)))
		n := p.Recv(descs)
		if n != step.count {
			t.Fatalf("at %d ns %d packets arrived, want %d", step.now, n, step.count)
		}
		if n > 0 && !bytes.Equal(u.Packet(descs[0]), numbered(step.first)) {
			t.Errorf("at %d ns came %x", step.now, u.Packet(descs[0]))
		}
	}
	if _, ok := p.Peek(); ok || p.Err() != nil {
		t.Errorf("after the end: another packet %v, error %v", ok, p.Err())
	}
}

func TestPacketsWaitForFrames(t *testing.T) {
	in := classic(binary.LittleEndian, true, packet{0, numbered(0)}, packet{0, numbered(1)}, packet{0, numbered(2)})
	p, _, u, free := newPort(t, 2, in, io.Discard)
	p.SetNow(start)
	descs := make([]ring.Desc, 8)
	if n := p.Recv(descs); n != 2 {
		t.Fatalf("%d packets in two frames", n)
	}
	free.Push(descs[0].Addr)
	if n := p.Recv(descs[:1]); n != 1 || !bytes.Equal(u.Packet(descs[0]), numbered(2)) {
		t.Errorf("the third packet did not follow")
	}
}

func TestBadPacketsAreNamed(t *testing.T) {
	good := packet{0, numbered(0)}
	whole := classic(binary.LittleEndian, true, good, good)
	truncated := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(truncated[24+16+60+12:], 1500)
	for _, tt := range []struct {
		name string
		in   []byte
		want []string
	}{
		{"cut in the data", whole[:len(whole)-1], []string{"packet 2", "unexpected EOF"}},
		{"cut behind a packet's header", whole[:24+76+16], []string{"packet 2", "unexpected EOF"}},
		{"cut in a packet's header", whole[:24+76+7], []string{"packet 2", "unexpected EOF"}},
		{"captured in part", truncated, []string{"packet 2", "only 60 of 1500 octets"}},
		{"too large", classic(binary.LittleEndian, true, good, packet{0, make([]byte, 1793)}), []string{"packet 2", "1793 octets, a frame holds 1792"}},
		{"empty packet", classic(binary.LittleEndian, true, good, packet{}), []string{"packet 2", "no octets"}},
	} {
		p, _, u, free := newPort(t, 4, tt.in, io.Discard)
		if n := len(replay(p)); n != 1 {
			t.Errorf("%s: %d packets arrived, want the good one", tt.name, n)
		}
		for _, want := range append(tt.want, "in.pcap") {
			if p.Err() == nil || !strings.Contains(p.Err().Error(), want) {
				t.Errorf("%s: error %v does not say %q", tt.name, p.Err(), want)
			}
		}
		if err := ring.Census(u, ring.Place{Name: "free", Frames: free.Frames()}); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestFilesThatAreNoCaptures(t *testing.T) {
	raw := classic(binary.LittleEndian, true)
	raw[20] = 101 // LINKTYPE_RAW
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"empty":    {nil, "no capture file"},
		"text":     {[]byte("this is not a capture file at all"), "no pcap or pcapng file"},
		"cut":      {classic(binary.LittleEndian, true)[:20], "unexpected EOF"},
		"raw IP":   {raw, "want Ethernet"},
		"ng, torn": {[]byte("\x0a\x0d\x0d\x0a\x1c\x00"), "no pcap or pcapng file"},
	} {
		_, err := pcapport.NewReader("file.pcap", bytes.NewReader(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "file.pcap") {
			t.Errorf("%s: error %v, want %q and the file's name", name, err, tt.want)
		}
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteErrorsAreKept(t *testing.T) {
	large := packet{0, make([]byte, 1500)}
	var packets []packet
	for range 100 {
		packets = append(packets, large)
	}
	p, w, _, free := newPort(t, 4, classic(binary.LittleEndian, true, packets...), fullDisk{})
	replay(p)
	if p.Err() == nil || !strings.Contains(p.Err().Error(), "out.pcap, packet ") || !strings.Contains(p.Err().Error(), "disk full") {
		t.Errorf("error is %v", p.Err())
	}
	if err := w.Close(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Close said %v", err)
	}
	if free.Len() != 4 {
		t.Errorf("%d of 4 frames are free", free.Len())
	}
}

func TestFilesOnDisk(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.pcap"), filepath.Join(dir, "out.pcap")
	if err := os.WriteFile(in, classic(binary.LittleEndian, false, packet{0, numbered(1)}), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := pcapport.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	w, err := pcapport.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	u, free, err := memport.NewUMEM(4, 2048)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	p := pcapport.New(u, free, r, w)
	replay(p)
	if err := errors.Join(p.Err(), r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := pcapport.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if n := len(replay(pcapport.New(u, free, again, nil))); n != 1 || r.Packets() != 1 {
		t.Errorf("%d packets in the written file, %d in the read one", n, r.Packets())
	}
	if _, err := pcapport.Open(filepath.Join(dir, "none.pcap")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
	if _, err := pcapport.Create(filepath.Join(dir, "none", "x.pcap")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing folder gives %v", err)
	}
}
