package host

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func TestRanges(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "8080": "8080", "8080,9000-9010": "8080,9000-9010", "9000-9010,8080,9005-9020": "8080,9000-9020",
		"1-2,3-4,6": "1-4,6", "65535,1": "1,65535", "0-65535,80": "0-65535",
	} {
		rs, err := parseRanges(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if got := formatRanges(mergeRanges(rs)); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"x", "5-4", "70000", "1,,2", "-1"} {
		if _, err := parseRanges(in); err == nil {
			t.Errorf("%q was accepted", in)
		}
	}
}

// inNamespace runs the test in a network namespace of its own with a veth
// interface "four" that has 192.0.2.1/24.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread() // not unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "four"}, PeerName: "peer"}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}
	for _, err := range []error{netlink.LinkAdd(link), netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func config(t *testing.T, ports ...[2]uint16) Config {
	pool := []netip.Prefix{netip.MustParsePrefix("192.0.2.64/31")}
	return Config{
		UndoFile: filepath.Join(t.TempDir(), "undo"), IPv4Interface: "four", Assign: pool, Pool4: pool, Ports: ports,
		Log: slog.New(slog.DiscardHandler),
	}
}

func addresses(t *testing.T) (all []string) {
	t.Helper()
	link, err := netlink.LinkByName("four")
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		all = append(all, a.IPNet.String())
	}
	slices.Sort(all)
	return all
}

func reserved(t *testing.T) string {
	t.Helper()
	s, err := readTrimmed(reservedFile)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func expect(t *testing.T, when string, addrs []string, ports string) {
	t.Helper()
	if got := addresses(t); !slices.Equal(got, addrs) {
		t.Errorf("%s: addresses %v, want %v", when, got, addrs)
	}
	if got := reserved(t); got != ports {
		t.Errorf("%s: reserved ports %q, want %q", when, got, ports)
	}
}

var (
	before = []string{"192.0.2.1/24"}
	during = []string{"192.0.2.1/24", "192.0.2.64/32", "192.0.2.65/32"}
)

func TestApplyAndRevert(t *testing.T) {
	inNamespace(t)
	if err := writeReserved("8080"); err != nil {
		t.Fatal(err)
	}
	ch, err := Apply(config(t, [2]uint16{1024, 40000}))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "running", during, "1024-40000")
	if err := ch.Revert(); err != nil {
		t.Fatal(err)
	}
	expect(t, "stopped", before, "8080")
	if _, err := os.Stat(ch.file); !os.IsNotExist(err) {
		t.Errorf("the undo file is still there: %v", err)
	}
}

// What a killed instance left is taken over and given back, also when the
// configuration has changed in between.
func TestTakeOver(t *testing.T) {
	inNamespace(t)
	c := config(t, [2]uint16{1024, 40000})
	killed, err := Apply(c)
	if err != nil {
		t.Fatal(err)
	}
	killed.held.Close() // what the kernel does when a process dies
	c.Assign = []netip.Prefix{netip.MustParsePrefix("192.0.2.65/32")}
	c.Pool4, c.Ports = c.Assign, [][2]uint16{{2000, 3000}}
	ch, err := Apply(c)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "running", []string{"192.0.2.1/24", "192.0.2.65/32"}, "2000-3000")
	if err := ch.Revert(); err != nil {
		t.Fatal(err)
	}
	expect(t, "stopped", before, "")
}

// What the killed instance reserved, and the next one does not, is given back
// at once.
func TestTakeOverReservesNoMore(t *testing.T) {
	inNamespace(t)
	c := config(t, [2]uint16{1024, 40000})
	killed, err := Apply(c)
	if err != nil {
		t.Fatal(err)
	}
	killed.held.Close()
	c.Ports = [][2]uint16{{1024, 65535}}
	ch, err := Apply(c)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "running", during, "")
	if err := ch.Revert(); err != nil {
		t.Fatal(err)
	}
	expect(t, "stopped", before, "")
}

// A second instance with the control socket of a living one must not take that
// one's addresses and settings away, neither when it starts nor when it fails.
func TestLivingInstanceKeepsItsOwn(t *testing.T) {
	inNamespace(t)
	c := config(t, [2]uint16{1024, 40000})
	first, err := Apply(c)
	if err != nil {
		t.Fatal(err)
	}
	other := c
	other.Assign, other.Pool4, other.Ports = nil, nil, nil
	if _, err := Apply(other); err == nil || !strings.Contains(err.Error(), "control_socket") {
		t.Errorf("a second instance started: %v", err)
	}
	expect(t, "after the second one's failure", during, "1024-40000")
	if err := first.Revert(); err != nil {
		t.Fatal(err)
	}
	expect(t, "stopped", before, "")
	second, err := Apply(other)
	if err != nil {
		t.Fatalf("once the first one is gone: %v", err)
	}
	if err := second.Revert(); err != nil {
		t.Fatal(err)
	}
}

// An address that the host had before stays the host's.
func TestForeignAddressStays(t *testing.T) {
	inNamespace(t)
	link, err := netlink.LinkByName("four")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, address(netip.MustParseAddr("192.0.2.64"))); err != nil {
		t.Fatal(err)
	}
	ch, err := Apply(config(t, [2]uint16{1024, 40000}))
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Revert(); err != nil {
		t.Fatal(err)
	}
	expect(t, "stopped", []string{"192.0.2.1/24", "192.0.2.64/32"}, "")
}

// The host keeps ephemeral ports for its other addresses, of which it has some
// even without another IPv4 address: IPv6 and loopback.
func TestPortsAreLeftToTheHost(t *testing.T) {
	inNamespace(t)
	link, err := netlink.LinkByName("four")
	if err != nil {
		t.Fatal(err)
	}
	for _, addrs := range [][]string{before, nil} {
		var said strings.Builder
		c := config(t, [2]uint16{1024, 65535})
		c.Log = slog.New(slog.NewTextHandler(&said, nil))
		ch, err := Apply(c)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "running", slices.Concat(addrs, during[1:]), "")
		if !strings.Contains(said.String(), "not reserving") {
			t.Errorf("nothing was said about it: %q", said.String())
		}
		if err := ch.Revert(); err != nil {
			t.Fatal(err)
		}
		if addrs != nil {
			own := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}
			if err := netlink.AddrDel(link, own); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestFailureIsUndone(t *testing.T) {
	inNamespace(t)
	c := config(t, [2]uint16{1024, 40000})
	if err := os.WriteFile(c.UndoFile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Apply(c); err == nil || !strings.Contains(err.Error(), c.UndoFile) {
		t.Errorf("a broken undo file: %v", err)
	}
	c.UndoFile = filepath.Join(t.TempDir(), "undo")
	c.IPv4Interface = "none"
	if _, err := Apply(c); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("an interface that is not there: %v", err)
	}
	expect(t, "afterwards", before, "")
}

// A killed instance's file names an interface that is gone by now.
func TestLeftOverOfAVanishedInterface(t *testing.T) {
	inNamespace(t)
	c := config(t)
	old, err := json.Marshal(undo{Interface: "gone", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.70")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.UndoFile, old, 0o600); err != nil {
		t.Fatal(err)
	}
	ch, err := Apply(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Revert(); err != nil {
		t.Fatal(err)
	}
	expect(t, "stopped", before, "")
}
