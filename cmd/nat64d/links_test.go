package main

import (
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"handoff64/dataplane/nexthop"
)

// A translator whose interface is taken away must not go on as if it could
// still translate.
func TestVanishedInterfaceEndsTheDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a network namespace")
	}
	runtime.LockOSThread() // not unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "six"}, PeerName: "four"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	four, err := netlink.LinkByName("four")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	hops, err := nexthop.Open(nexthop.Config{IPv6Index: pair.Attrs().Index, IPv4Index: four.Attrs().Index, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer hops.Close()
	d := &daemon{log: log}
	ended := make(chan error, 1)
	go func() { ended <- d.followLinks(t.Context(), &translator{hops: hops}) }()
	if err := netlink.LinkDel(pair); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "was taken away") {
		t.Errorf("ended with %v", err)
	}
}
