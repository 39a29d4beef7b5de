package traffic

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"handoff64/tools/lab"
)

// The kernel's own forwarding carries this traffic: the tools have to be right
// before they judge a translator.
//
//	client ── r6 ── nat64          nat64 ── r4 ── server
func routed(t *testing.T, mtu4 int) (*lab.Lab, context.Context) {
	t.Helper()
	if lab.NeedRoot() != nil {
		t.Skip("needs root")
	}
	name := fmt.Sprintf("traffictest-%d-%s", os.Getpid(), strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	l, err := lab.Up(lab.Options{Name: name[:min(len(name), 60)], Routers: true, MTU4: mtu4})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(func() {
		cancel()
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l, ctx
}

func TestStreamIsReproducibleAndNeverRepeats(t *testing.T) {
	const n = 3*blockSize + 17
	a, b := NewStream(n), NewStream(n)
	x, _ := io.ReadAll(a)
	y, _ := io.ReadAll(b)
	if len(x) != n || !bytes.Equal(x, y) || !bytes.Equal(a.Sum(), b.Sum()) {
		t.Fatalf("two streams of %d octets differ: %d and %d octets", n, len(x), len(y))
	}
	if bytes.Equal(x[:blockSize], x[blockSize:2*blockSize]) {
		t.Error("the second block is the first again")
	}
}

func TestWebBothWays(t *testing.T) {
	l, ctx := routed(t, 1500)
	w, err := ServeWeb(l.Host("nat64"), "[::]:80")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, n := range []int64{0, 1, 5 << 20} {
		if got, err := Download(ctx, l.Host("client"), "[2001:db8:64::1]:80", n); err != nil || got.Octets != n {
			t.Errorf("download: %+v, %v", got, err)
		}
		if got, err := Upload(ctx, l.Host("client"), "[2001:db8:64::1]:80", n); err != nil || got.Octets != n {
			t.Errorf("upload: %+v, %v", got, err)
		}
	}
}

func TestUDPExchange(t *testing.T) {
	l, ctx := routed(t, 1500)
	echo, err := EchoUDP(l.Host("server"), "udp4", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Host("nat64").DialContext(ctx, "udp4", "198.51.100.10:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, n := range []int{0, 1, 1472} {
		if err := Exchange(c, make([]byte, n)); err != nil {
			t.Error(err)
		}
	}
	echo.Close()
	if err := Exchange(c, []byte("anybody?")); err == nil {
		t.Error("an exchange with nobody succeeded")
	}
}

func TestPingAndTrace(t *testing.T) {
	l, ctx := routed(t, 1400)
	six, err := NewPinger(l.Host("client"), "ip6", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer six.Close()
	four, err := NewPinger(l.Host("nat64"), "ip4", 77)
	if err != nil {
		t.Fatal(err)
	}
	defer four.Close()

	a, err := six.Ping(ctx, netip.MustParseAddr("2001:db8:64::1"), 1400, 0)
	if err != nil || !a.Reply() || a.HopLimit != 63 {
		t.Errorf("ping through r6: %+v, %v", a, err)
	}
	a, err = four.Ping(ctx, l.Server(), 0, 0)
	if err != nil || !a.Reply() || a.HopLimit != 63 {
		t.Errorf("ping through r4: %+v, %v", a, err)
	}
	a, err = four.Ping(ctx, l.Server(), 1472, 0)
	if err != nil || a.Type != ipv4.ICMPTypeDestinationUnreachable || a.MTU != 1400 {
		t.Errorf("ping that is too big for r4: %+v, %v; want its MTU 1400", a, err)
	}
	hops := six.Trace(ctx, netip.MustParseAddr("2001:db8:64::1"), 5)
	if len(hops) != 2 || hops[0].Type != ipv6.ICMPTypeTimeExceeded || !hops[1].Reply() {
		t.Errorf("trace through r6: %+v", hops)
	}
	if hops := four.Trace(ctx, l.Server(), 5); len(hops) != 2 || hops[0].From != lab.R4IPv4 {
		t.Errorf("trace through r4: %+v", hops)
	}
}

func TestFlowsNoticeEveryWrongOctet(t *testing.T) {
	l, ctx := routed(t, 1500)
	from, to := l.Host("client"), l.Host("nat64")
	start := func(port int, address string) *Flows {
		t.Helper()
		listener, err := to.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		f, err := StartFlows(ctx, from, listener, address, 3)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	await := func(what string, condition func() bool) {
		t.Helper()
		for !condition() {
			if ctx.Err() != nil {
				t.Fatalf("not in time: %s", what)
			}
			time.Sleep(time.Millisecond)
		}
	}
	f := start(9000, "[2001:db8:64::1]:9000")
	await("octets arrive in both directions of all flows", func() bool { return slices.Min(f.Checked()) > 1<<14 })
	f.Hold(true, true)
	await("silence", f.Quiet)
	if err := f.Finish(); err != nil {
		t.Error(err)
	}

	// A relay that changes one bit of one octet, far into the connection.
	relay, err := to.Listen("tcp", "[::]:9001")
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	go corrupt(ctx, to, relay, "[2001:db8:64::1]:9002", 30_000)
	f = start(9002, "[2001:db8:64::1]:9001")
	await("the wrong octet is noticed", func() bool { return f.Err() != nil })
	if err := f.Err(); !strings.Contains(err.Error(), "wrong octets after 2") && !strings.Contains(err.Error(), "wrong octets after 3") {
		t.Error(err)
	}
	if f.Finish() == nil {
		t.Error("all was well in the end")
	}
}

// corrupt relays connections and flips a bit of what goes up.
func corrupt(ctx context.Context, h lab.Host, l net.Listener, address string, at int) {
	for {
		in, err := l.Accept()
		if err != nil {
			return // closed
		}
		out, err := h.DialContext(ctx, "tcp", address)
		if err != nil {
			in.Close()
			return
		}
		go func() {
			_, _ = io.Copy(in, out)
			in.Close()
		}()
		go func() {
			defer out.Close()
			head := make([]byte, at)
			if _, err := io.ReadFull(in, head); err != nil {
				return
			}
			head[at-1] ^= 1
			_, _ = out.Write(head)
			_, _ = io.Copy(out, in)
		}()
	}
}
