package server

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"handoff64/dataplane/packet"
	"handoff64/handoff/tundev"
	"handoff64/handoff/wire"
)

// TestServeLocal: the whole way over real sockets and a device in memory, with
// changes of the mode meanwhile, and a restart that keeps a client's address.
func TestServeLocal(t *testing.T) {
	f := newFakeNAT64(t)
	cfg := testConfig(t, f)
	cfg.Mode = LocalNAT
	var mem *memoryDevice
	cfg.openDevice = func(c tundev.Config) (device, error) {
		if c.Name != DefaultDevice || c.Pool != DefaultPool || c.Address != netip.MustParseAddr("100.64.0.1") || c.MTU < leastMTU {
			t.Errorf("the device is to be %+v", c)
		}
		mem = newMemoryDevice()
		return mem, nil
	}
	r := start(t, cfg)
	server := r.at("127.0.0.3")
	f.authenticate(server)
	own := server.Addr().As4()
	delivery := func() []byte {
		t.Helper()
		for range 2000 {
			if w := mem.take(); len(w) > 0 {
				return w[0]
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatal("nothing is delivered")
		return nil
	}
	ask := from6(ip6(clientAddr, embed(wellKnown, own), 47, numbers(40)))
	f.send(server, ask)
	address := addr4(delivery()[packet.IPv4Src:])
	mem.in <- ip4(own, address, 47, numbers(9))
	p := f.answer(server)
	if form, _ := p.ToNAT64(); form != wire.FormIPv6 || string(p.Packet[40:]) != string(numbers(9)) || addr6(p.Packet[24:40]) != clientAddr {
		t.Fatalf("the answer is %+v", p)
	}
	ctx := context.Background()
	found, err := LookupAt(ctx, viewOf(t, cfg), netip.AddrPortFrom(netip4(address), 99), time.Now())
	if err != nil || len(found) != 1 || found[0].Client != netip6(clientAddr) || found[0].ClientPort != 99 {
		t.Errorf("behind %v is %v (%v)", netip4(address), found, err)
	}

	var changes sync.WaitGroup
	changes.Go(func() {
		for i := range 30 {
			if err := ChangeMode(ctx, cfg.StateDir, Mode(i%3)); err != nil {
				t.Error(err)
			}
		}
		if err := ChangeMode(ctx, cfg.StateDir, LocalNAT); err != nil {
			t.Error(err)
		}
	})
	for range 200 {
		f.send(server, ask)
		select {
		case mem.in <- ip4(own, address, 47, numbers(9)):
		default:
		}
	}
	changes.Wait()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, cfg)
	server = netip.AddrPortFrom(server.Addr(), r.Port())
	f.send(server, ask)
	if again := addr4(delivery()[packet.IPv4Src:]); again != address {
		t.Errorf("after a restart the client has %v, before %v", netip4(again), netip4(address))
	}
	st, err := viewOf(t, cfg).Status(ctx)
	if err != nil || st.Mode != "local-nat" || st.Leases == 0 || st.Counters.Local.Delivered == 0 {
		t.Errorf("%+v (%v)", st, err)
	}
}

// TestModeNeedsDevice: without one there is minimal mode and no other.
func TestModeNeedsDevice(t *testing.T) {
	f := newFakeNAT64(t)
	cfg := testConfig(t, f)
	cfg.openDevice = nil
	r := start(t, cfg)
	for m, want := range map[Mode]error{Minimal: nil, LocalNAT: errNoDevice, Mixed: errNoDevice} {
		if err := r.SetMode(m); !errors.Is(err, want) {
			t.Errorf("%v: %v", m, err)
		}
	}
	cfg = testConfig(t, f)
	cfg.Mode = Mixed
	cfg.openDevice = func(tundev.Config) (device, error) { return newMemoryDevice(), nil }
	r = start(t, cfg)
	if err := r.SetMode(LocalNAT); !errors.Is(err, errNoPool) {
		t.Errorf("without a route to the pool: %v", err)
	}
	cfg = testConfig(t, f)
	cfg.ModeChanges = true
	cfg.openDevice = func(tundev.Config) (device, error) { return newMemoryDevice(), nil }
	r = start(t, cfg)
	for _, m := range []Mode{LocalNAT, Mixed, Minimal} {
		if err := r.SetMode(m); err != nil || r.mode() != m {
			t.Errorf("%v: %v", m, err)
		}
	}
}

func viewOf(t *testing.T, cfg Config) View {
	t.Helper()
	v, err := OpenView(context.Background(), cfg.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}
