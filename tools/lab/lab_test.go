package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// number makes the names of this process's labs unique.
var number atomic.Int32

// up builds a lab that goes away with the test.
func up(t *testing.T, o Options) *Lab {
	t.Helper()
	if err := NeedRoot(); err != nil {
		t.Skip("needs root")
	}
	o.Name = fmt.Sprintf("labtest-%d-%d", os.Getpid(), number.Add(1))
	l, err := Up(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// exchange has one host greet another over TCP, and fails if it takes more
// than a few seconds.
func exchange(from, to Host, address string) error {
	l, err := to.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	got, err := io.ReadAll(conn)
	if err != nil {
		return err
	}
	if string(got) != "hello" {
		return fmt.Errorf("got %q", got)
	}
	return nil
}

func TestEveryHostReachesItsNeighbours(t *testing.T) {
	if NeedRoot() != nil {
		t.Skip("needs root") // and not only in the subtests, or this would count as passed
	}
	for name, o := range map[string]Options{
		"plain":  {},
		"routed": {Routers: true, Clients: 2, Servers: 3, Nat64s: 2, Queues: 2},
	} {
		t.Run(name, func(t *testing.T) {
			l := up(t, o)
			for _, k := range l.topology.links {
				if err := exchange(l.Host(k.a.host), l.Host(k.b.host), netip.AddrPortFrom(k.b.addr.Addr(), 7).String()); err != nil {
					t.Errorf("%s to %s: %v", k.a.host, k.b.host, err)
				}
			}
		})
	}
}

func TestRoutersForwardAndNat64DoesNot(t *testing.T) {
	l := up(t, Options{Routers: true, Clients: 2, Servers: 2})
	// Through r6, from a client's link to the translator's, and between the
	// servers, through r4.
	if err := exchange(l.Host("client"), l.Host("nat64"), "[2001:db8:64::1]:7"); err != nil {
		t.Errorf("through r6: %v", err)
	}
	if err := exchange(l.Host("server"), l.Host("server2"), "203.0.113.10:7"); err != nil {
		t.Errorf("through r4: %v", err)
	}
	for _, key := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if value, err := l.Host("nat64").Sysctl(key); err != nil || value != "0" {
			t.Errorf("nat64: %s is %q (%v), want 0", key, value, err)
		}
	}
}

func TestLinksHaveTheirMTUQueuesAndNoOffloads(t *testing.T) {
	l := up(t, Options{Routers: true, MTU4: 1400, MTU6: 1300, Queues: 3})
	for host, want := range map[string]int{"client": 1300, "server": 1400} {
		interfaces, err := l.Host(host).Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		if got := interfaces["eth0"].MTU; got != want {
			t.Errorf("%s: MTU %d, want %d", host, got, want)
		}
	}
	for _, k := range l.topology.links {
		for _, e := range []end{k.a, k.b} {
			var on map[string]bool
			var dev netlink.Link
			err := l.Host(e.host).Enter(func() (err error) {
				if on, err = activeFeatures(e.ifname); err != nil {
					return err
				}
				dev, err = netlink.LinkByName(e.ifname)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(on) == 0 {
				t.Fatalf("%s/%s: no feature is on at all, so reading them failed", e.host, e.ifname)
			}
			for _, feature := range offloads {
				if on[feature] {
					t.Errorf("%s/%s: %s is on", e.host, e.ifname, feature)
				}
			}
			if rx, tx := dev.Attrs().NumRxQueues, dev.Attrs().NumTxQueues; rx != 3 || tx != 3 {
				t.Errorf("%s/%s: %d RX and %d TX queues, want 3 each", e.host, e.ifname, rx, tx)
			}
		}
	}
}

func TestClientsAreIPv6OnlyAndServersIPv4Only(t *testing.T) {
	l := up(t, Options{})
	for host, foreign := range map[string]func(netip.Addr) bool{"client": netip.Addr.Is4, "server": netip.Addr.Is6} {
		interfaces, err := l.Host(host).Interfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range interfaces["eth0"].Addresses {
			if p := netip.MustParsePrefix(a); foreign(p.Addr()) {
				t.Errorf("%s has %s", host, a)
			}
		}
	}
}

func TestEnterReturnsHome(t *testing.T) {
	l := up(t, Options{})
	inside := func() string {
		handle, err := netns.Get()
		if err != nil {
			t.Fatal(err)
		}
		defer handle.Close()
		return handle.UniqueId()
	}
	home := inside()
	boom := errors.New("boom")
	err := l.Host("client").Enter(func() error {
		if inside() == home {
			t.Error("still at home inside Enter")
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("error is %v, want that of the function", err)
	}
	if inside() != home {
		t.Error("not at home after Enter")
	}
}

func TestDownLeavesNothing(t *testing.T) {
	l := up(t, Options{Routers: true, Clients: 2, Servers: 3, Nat64s: 2})
	name := l.Options.Name
	// A program that ignores SIGTERM, as a hanging one would.
	stubborn := exec.Command("/bin/sh", "-c", `trap "" TERM; echo ready; while :; do read line || sleep 1; done`)
	stdout, err := stubborn.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Host("server").Start(stubborn); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stubborn.Wait() }()
	for range 2 { // the second time there is nothing to do
		if err := Down(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err == nil {
		t.Error("the program in the lab ended of its own accord")
	}
	if hosts, err := hostsOf(name); err != nil || len(hosts) != 0 {
		t.Errorf("left over: %v (%v)", hosts, err)
	}
	if _, err := os.Stat(l.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", l.Dir, err)
	}
	if names, err := Names(); err != nil || slices.Contains(names, name) {
		t.Errorf("lab still listed: %v (%v)", names, err)
	}
}

func TestSecondUpIsRefused(t *testing.T) {
	l := up(t, Options{})
	_, err := Up(Options{Name: l.Options.Name})
	if err == nil || !strings.Contains(err.Error(), "is up already") {
		t.Fatalf("error is %v", err)
	}
	if err := exchange(l.Host("client"), l.Host("nat64"), "[2001:db8:1::1]:7"); err != nil {
		t.Errorf("the first lab suffered: %v", err)
	}
}

func TestReapTakesTheLabsOfDeadProcessesOnly(t *testing.T) {
	mine, orphan, kept := up(t, Options{}), up(t, Options{}), up(t, Options{})
	if err := kept.Disown(); err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("/bin/true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	orphan.Owner = gone.Process.Pid
	if err := orphan.writeState(); err != nil {
		t.Fatal(err)
	}
	if err := Reap(fmt.Sprintf("labtest-%d-", os.Getpid())); err != nil {
		t.Fatal(err)
	}
	names, err := Names()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(names, mine.Options.Name) || !slices.Contains(names, kept.Options.Name) || slices.Contains(names, orphan.Options.Name) {
		t.Errorf("left: %v, want %s and %s but not %s", names, mine.Options.Name, kept.Options.Name, orphan.Options.Name)
	}
}

func TestOptionsThatCannotBeBuilt(t *testing.T) {
	for _, tc := range []struct {
		options Options
		want    string
	}{
		{Options{Clients: 2}, "needs the routers"},
		{Options{Nat64s: 2}, "needs the routers"},
		{Options{Routers: true, Servers: 4}, "one to three servers"},
		{Options{Routers: true, Nat64s: 3}, "one or two NAT64s"},
		{Options{Queues: 65}, "1 to 64"},
		{Options{MTU6: 1279}, "RFC 8200"},
		{Options{MTU4: 1501}, "576 to 1500"},
		{Options{Name: "a/b"}, "letters, digits"},
		{Options{Name: strings.Repeat("x", 61)}, "1 to 60 characters"},
	} {
		if _, err := tc.options.withDefaults(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: error is %v, want %q in it", tc.options, err, tc.want)
		}
	}
}

func TestEmbedAndExtract(t *testing.T) {
	v4 := netip.MustParseAddr("198.51.100.10")
	v6 := Embed(v4)
	if v6 != netip.MustParseAddr("64:ff9b::c633:640a") {
		t.Errorf("embedded as %s", v6)
	}
	if back, ok := Extract(v6); !ok || back != v4 {
		t.Errorf("extracted %s, %v", back, ok)
	}
	if _, ok := Extract(netip.MustParseAddr("2001:db8::1")); ok {
		t.Error("an address outside the prefix has an IPv4 address inside")
	}
}

func TestNeighboursAreLearntAgain(t *testing.T) {
	l := up(t, Options{})
	server, nat64 := l.Host("server"), l.Host("nat64")
	if err := exchange(nat64, server, "192.0.2.10:7"); err != nil {
		t.Fatal(err)
	}
	mac, _ := net.ParseMAC("02:00:00:00:00:77")
	if err := server.SetMAC("eth0", mac); err != nil {
		t.Fatal(err)
	}
	if err := nat64.FlushNeighbours(IPv4Interface); err != nil {
		t.Fatal(err)
	}
	if err := exchange(nat64, server, "192.0.2.10:8"); err != nil {
		t.Errorf("after a new MAC address: %v", err)
	}
}
