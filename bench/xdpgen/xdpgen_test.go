package xdpgen

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for BPF programs")
	}
}

func flows6(n int) (all []Flow) {
	for i := range n {
		src := netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%x", 1+i%7))
		all = append(all, Flow{netip.AddrPortFrom(src, uint16(1024+i)), netip.MustParseAddrPort("[64:ff9b::192.0.2.10]:443")})
	}
	return all
}

func flows4(n int) (all []Flow) {
	for i := range n {
		dst := netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 5)})
		all = append(all, Flow{netip.MustParseAddrPort("192.0.2.10:443"), netip.AddrPortFrom(dst, uint16(60000-i))})
	}
	return all
}

// TestFrames runs the program on one frame after the other and takes apart what
// it makes: every flow occurs, all else is as in the template, both checksums hold.
func TestFrames(t *testing.T) {
	needsRoot(t)
	for _, stamped := range []bool{false, true} {
		for name, flows := range map[string][]Flow{"one6": flows6(1), "many6": flows6(100), "one4": flows4(1), "many4": flows4(100)} {
			t.Run(fmt.Sprintf("%s/stamped=%v", name, stamped), func(t *testing.T) {
				s, err := NewSender(SenderConfig{
					Ifindex: 1, Stamped: stamped, Seed: 7,
					Template: Template{To: [6]byte{2, 1, 1, 1, 1, 1}, From: [6]byte{2, 2, 2, 2, 2, 2}, Flows: flows, Payload: 21},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				seen := map[Flow]int{}
				// What the page held before must not show.
				dirty := bytes.Repeat([]byte{0xa5}, len(s.frame))
				copy(dirty[len(dirty)-3:], s.frame[len(s.frame)-3:])
				for range 50 * len(flows) {
					verdict, out, err := s.program.Test(dirty)
					if err != nil {
						t.Fatal(err)
					}
					if verdict != 4 {
						t.Fatalf("verdict %d, want 4 (XDP_REDIRECT)", verdict)
					}
					seen[checkFrame(t, out, stamped)]++
				}
				if len(seen) != len(flows) {
					t.Errorf("%d flows occurred, want %d", len(seen), len(flows))
				}
				for _, f := range flows {
					if seen[f] == 0 || (len(flows) > 1 && seen[f] > 150) {
						t.Errorf("flow %v occurred %d times of %d", f, seen[f], 50*len(flows))
					}
				}
			})
		}
	}
}

// checkFrame takes a frame apart with a parser of somebody else's, compares it
// with what that would have written, checksums included, and returns its flow.
func checkFrame(t *testing.T, frame []byte, stamped bool) Flow {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	udp, ok := p.TransportLayer().(*layers.UDP)
	if !ok || p.ErrorLayer() != nil {
		t.Fatalf("frame %x is no UDP packet", frame)
	}
	if err := udp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
		t.Fatal(err)
	}
	out := gopacket.NewSerializeBuffer()
	err := gopacket.SerializePacket(out, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), frame) {
		t.Fatalf("frame\n%x should be\n%x", frame, out.Bytes())
	}
	payload := udp.Payload
	if zero := bytes.Equal(payload[stampAt:stampAt+4], make([]byte, 4)); zero == stamped {
		t.Fatalf("stamped is %v, the payload %x", stamped, payload)
	}
	src, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw())
	dst, _ := netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Dst().Raw())
	return Flow{netip.AddrPortFrom(src, uint16(udp.SrcPort)), netip.AddrPortFrom(dst, uint16(udp.DstPort))}
}

func TestTemplateRefuses(t *testing.T) {
	far := flows6(2)
	far[1].Src = netip.MustParseAddrPort("[2001:db8:9::1]:1")
	for name, tt := range map[string]Template{
		"no flows":          {Payload: 18},
		"too short":         {Flows: flows6(1), Payload: 17},
		"two families":      {Flows: append(flows6(1), flows4(1)...), Payload: 18},
		"two IPv6 networks": {Flows: far, Payload: 18},
	} {
		if _, _, _, err := tt.compile(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestSendAndCount sends over a veth pair: all that the pair carries is
// counted, delays and origins are noted, what is not ours passes.
func TestSendAndCount(t *testing.T) {
	needsRoot(t)
	for _, tt := range []struct {
		name  string
		atTC  bool
		clump int
	}{{"xdp", false, 1}, {"tcx", true, 16}} {
		t.Run(tt.name, func(t *testing.T) { sendAndCount(t, tt.atTC, tt.clump) })
	}
}

func sendAndCount(t *testing.T, atTC bool, clump int) {
	a, b := vethPair(t)
	if atTC {
		passAll(t, b.Index)
	}
	const flows = 50
	counter, err := NewCounter(b.Index, CounterConfig{AtTC: atTC, Delays: true, Origins: flows})
	if err != nil {
		t.Fatal(err)
	}
	defer counter.Close()
	reversed := flows4(flows)
	for i, f := range reversed {
		reversed[i] = Flow{f.Dst, f.Src}
	}
	s, err := NewSender(SenderConfig{
		Ifindex: a.Index, Stamped: true, Every: 20 * time.Microsecond, Clump: clump, Seed: 1,
		Template: Template{To: [6]byte(b.HardwareAddr), From: [6]byte(a.HardwareAddr), Flows: reversed, Payload: PayloadMin},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ns, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- s.Run(ctx, 0, 0)
	}()
	for packets := uint64(0); packets < 50*flows && err == nil; time.Sleep(time.Millisecond) {
		select {
		case err = <-done:
			t.Fatalf("the sender ended: %v", err)
		default:
		}
		packets, _, err = counter.Counts()
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	checkCounts(t, s, counter, reversed)
}

func checkCounts(t *testing.T, s *Sender, counter *Counter, flows []Flow) {
	t.Helper()
	packets, octets, err := counter.Counts()
	if err != nil {
		t.Fatal(err)
	}
	sent, err := s.Sent()
	if err != nil {
		t.Fatal(err)
	}
	// The pair's queue is empty whenever a frame comes.
	if packets != sent || octets != packets*uint64(len(s.frame)) {
		t.Errorf("counted %d packets of %d octets, sent %d of %d each", packets, octets, sent, len(s.frame))
	}
	delays, err := counter.Delays()
	if err != nil {
		t.Fatal(err)
	}
	if delays.Total() != packets || delays.Quantile(0.5) == 0 || delays.Quantile(0.5) > delays.Quantile(0.99) {
		t.Errorf("%d delays of %d packets, p50 %v, p99 %v", delays.Total(), packets, delays.Quantile(0.5), delays.Quantile(0.99))
	}
	origins, err := counter.Origins()
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range flows {
		if origins[i] != f.Src {
			t.Errorf("flow %d came from %v, want %v", i, origins[i], f.Src)
		}
	}
}

// passAll attaches an XDP program that passes everything: a veth end without
// one takes no frames from XDP.
func passAll(t *testing.T, ifindex int) {
	t.Helper()
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, xdpPass), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: link.XDPDriverMode})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); program.Close() })
}

func TestQuantile(t *testing.T) {
	d := make(Delays, delaySteps)
	d[0], d[9], d[99] = 50, 49, 1
	for q, want := range map[float64]time.Duration{0: delayStep, 0.49: delayStep, 0.5: 10 * delayStep, 0.98: 10 * delayStep, 0.99: 100 * delayStep} {
		if got := d.Quantile(q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got := make(Delays, delaySteps).Quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}

// vethPair makes a pair in a namespace of the test's own and keeps the test in it.
func vethPair(t *testing.T) (a, b *netlink.LinkAttrs) {
	t.Helper()
	runtime.LockOSThread() // not unlocked: the thread ends with the test's goroutine, and the namespace with it
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}); err != nil {
		t.Fatal(err)
	}
	for name, into := range map[string]**netlink.LinkAttrs{"a": &a, "b": &b} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		*into = l.Attrs()
	}
	return a, b
}
