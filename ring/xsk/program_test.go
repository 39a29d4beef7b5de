package xsk

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/asavie/xdp"

	"handoff64/ring"
)

// TestProgramOfTheCaller: the program that Config.Program makes decides what
// the sockets get, and goes with Close.
func TestProgramOfTheCaller(t *testing.T) {
	w := newWires(t, 2)
	cfg := w.config(ModeNative)
	cfg.IPv4, cfg.Workers = cfg.IPv6, 2
	cfg.Filter = FilterConfig{} // which would be refused
	var asked []int
	cfg.Program = func(queues int) (*xdp.Program, error) {
		asked = append(asked, queues)
		return xdp.NewProgram(queues) // gives all to the sockets
	}
	d := openDevice(t, cfg)
	if len(asked) != 1 || asked[0] != 2 {
		t.Errorf("asked for programs of %v queues", asked)
	}
	if w.programOn("six0") == 0 {
		t.Fatal("no program is attached")
	}
	frame := ethernet(testMAC, 0x88b5, bytes.Repeat([]byte{7}, 50)) // no business of the translator's
	w.six.send(frame)
	descs := make([]ring.Desc, 8)
	found := false
	for deadline := time.Now().Add(patience); !found; {
		if time.Now().After(deadline) {
			t.Fatal("the frame did not come")
		}
		for _, wk := range d.Workers() {
			for _, p := range wk.IPv6 {
				n := p.Recv(descs)
				for _, desc := range descs[:n] {
					found = found || bytes.Equal(d.UMEM().Packet(desc), frame)
					wk.Frames.Push(desc.Addr)
				}
			}
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if id := w.programOn("six0"); id != 0 {
		t.Errorf("program %d is still attached", id)
	}
}

func TestProgramThatFails(t *testing.T) {
	w := newWires(t, 1)
	cfg := w.config(ModeNative)
	cfg.Program = func(int) (*xdp.Program, error) { return nil, errors.New("no program today") }
	d, err := Open(cfg)
	if err == nil {
		d.Close()
		t.Fatal("opened without a program")
	}
	if !strings.Contains(err.Error(), "no program today") || !strings.Contains(err.Error(), `"six0"`) {
		t.Errorf("the error is %q", err)
	}
}
