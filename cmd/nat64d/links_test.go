package main

import (
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"handoff64/cmd/nat64d/config"
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
	d := &daemon{cfg: &config.Config{XDP: config.XDP{FrameSize: 2048}}, log: log}
	ended := make(chan error, 1)
	go func() { ended <- d.followLinks(t.Context(), &translator{hops: hops}) }()
	if err := netlink.LinkDel(pair); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "was taken away") {
		t.Errorf("ended with %v", err)
	}
}

func TestWarnsOfPacketsThatFitNoFrame(t *testing.T) {
	for _, c := range []struct {
		frame int
		mtu   uint32
		want  string
	}{
		{2048, 1500, ""}, {2048, 1774, ""}, {2048, 1775, "xdp.frame_size to 4096"}, {2048, 9000, "largest_packet=1774"},
		{4096, 3822, ""}, {4096, 9000, "to 3822"},
	} {
		var said strings.Builder
		d := &daemon{cfg: &config.Config{XDP: config.XDP{FrameSize: c.frame}}, log: slog.New(slog.NewTextHandler(&said, nil))}
		d.warnOfMTU(nexthop.Link{Name: "four", MTU: c.mtu})
		if !strings.Contains(said.String(), c.want) || (c.want == "") != (said.Len() == 0) {
			t.Errorf("frames of %d, MTU %d: said %q, want %q", c.frame, c.mtu, said.String(), c.want)
		}
	}
}
