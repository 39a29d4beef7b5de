package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"handoff64/cmd/nat64d/host"
	"handoff64/dataplane/nexthop"
)

// linkInterval is how soon a change of our own interfaces is noticed.
const linkInterval = 200 * time.Millisecond

// followLinks tells the filter when an interface gets another MAC address:
// frames to other addresses are not ours. An interface that is taken away is an
// error: filter and sockets went with it, and one that gets its name later is
// another, which only a new start can take up.
func (d *daemon) followLinks(ctx context.Context, t *translator) error {
	tick := time.NewTicker(linkInterval)
	defer tick.Stop()
	seen, tunMTU := t.hops.Load(), 0
	d.warnOfMTU(seen.IPv6)
	d.warnOfMTU(seen.IPv4)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := t.hops.Load()
		for _, l := range [2][2]nexthop.Link{{seen.IPv6, now.IPv6}, {seen.IPv4, now.IPv4}} {
			if l[1].Gone {
				return fmt.Errorf("interface %s was taken away; start nat64d again once it is back", l[1].Name)
			}
			if l[0].MTU != l[1].MTU {
				d.warnOfMTU(l[1])
			}
			if l[0].MAC == l[1].MAC {
				continue
			}
			if err := t.device.SetMAC(l[1].Index, l[1].MAC); err != nil {
				d.log.Error("the filter does not follow", "interface", l[1].Name, "error", err)
			}
		}
		tunMTU = d.followMTU(t, tunMTU, now.IPv4.MTU)
		seen = now
	}
}

// followMTU gives the TUN device the MTU that fits the IPv4 link, and what the
// configuration says of it, and returns which it has now.
func (d *daemon) followMTU(t *translator, has int, mtu4 uint32) int {
	if !d.cfg.LocalTraffic {
		return has
	}
	want := d.tunMTU(mtu4)
	if has == want {
		return has
	}
	if err := host.SetTUNMTU(t.tun.Name(), want); err != nil {
		d.log.Error("the TUN device does not follow", "error", err)
	}
	return want
}

// warnOfVLANs names VLANs on top of our interfaces, whose frames XDP may not be
// able to tell from untagged ones.
func (d *daemon) warnOfVLANs() {
	for _, name := range slices.Compact([]string{d.cfg.IPv6Interface, d.cfg.IPv4Interface}) {
		vlans, err := host.VLANsOn(name)
		if err != nil {
			d.log.Warn("VLANs on the interface could not be looked for", "interface", name, "error", err)
			continue
		}
		if len(vlans) > 0 {
			d.log.Warn("VLANs on an interface of nat64d: where the device takes tags off, XDP cannot tell their frames from untagged ones; "+
				"turn that off (ethtool -K "+name+" rxvlan off)", "interface", name, "vlans", vlans)
		}
	}
}

// warnOfMTU says when peers may send what fits no frame. The kernel drops that
// without a word to them, so that connections which begin well then hang.
func (d *daemon) warnOfMTU(l nexthop.Link) {
	most := d.cfg.XDP.LargestPacket()
	if int(l.MTU) <= most {
		return
	}
	fix := fmt.Sprintf("lower the MTU of all hosts on the link to %d", most)
	if d.cfg.XDP.FrameSize < 4096 {
		fix = "set xdp.frame_size to 4096, or " + fix
	}
	d.log.Warn("packets that fill the interface's MTU fit no frame and are lost before they are counted; "+fix,
		"interface", l.Name, "mtu", l.MTU, "largest_packet", most)
}
