package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"handoff64/cmd/nat64d/host"
	"handoff64/dataplane"
	"handoff64/ring"
	"handoff64/ring/tunport"
)

// openTUN makes the way to the host's kernel. Without one nat64d works, too,
// unless the host itself is to use the NAT64: the few packets that would take
// it are dropped.
func (d *daemon) openTUN(t *translator) (*tunport.Device, error) {
	c := tunport.Config{Name: tunName(d.cfg.ControlSocket), UMEM: t.device.UMEM()}
	for _, w := range t.device.Workers() {
		c.Workers = append(c.Workers, w.Frames)
	}
	dev, err := tunport.Open(c)
	if err == nil {
		if err = host.SetUpTUN(d.tunConfig(t)); err == nil {
			return dev, nil
		}
		err = errors.Join(err, dev.Close())
	}
	if d.cfg.LocalTraffic {
		return nil, fmt.Errorf("local_traffic: %w", err)
	}
	d.log.Warn("no way to hand packets back to the kernel: later fragments of the host's own datagrams are dropped as no_kernel_port", "reason", err)
	return nil, nil
}

func (d *daemon) tunConfig(t *translator) host.TUN {
	c := host.TUN{Name: tunName(d.cfg.ControlSocket)}
	if d.cfg.LocalTraffic {
		ipv6, _ := t.device.Info()
		c.MTU, c.Pool6, c.LocalIPv6 = d.tunMTU(t.hops.Load().IPv4.MTU), d.cfg.Pool6, host.LocalIPv6(ipv6.MAC)
	}
	return c
}

// tunMTU is what the host may send through the device, so that it needs no
// Packet Too Big for the link behind it.
func (d *daemon) tunMTU(mtu4 uint32) int {
	if m := uint32(d.settings.now.Load().MTU.IPv4); m != 0 {
		mtu4 = min(mtu4, m)
	}
	return int(dataplane.LocalMTU(mtu4, d.cfg.XDP.FrameSize))
}

// kernelPort is the worker's queue of the TUN device, nil if there is none.
func (t *translator) kernelPort(worker int) ring.Port {
	if t.tun == nil {
		return nil // not a nil *tunport.Port inside the interface
	}
	return t.tun.Ports()[worker]
}

// longestName of an interface (IFNAMSIZ without the zero octet).
const longestName = 15

// tunName derives the device's name from the control socket, of which there is
// one for each instance.
func tunName(controlSocket string) string {
	base := strings.TrimSuffix(filepath.Base(controlSocket), ".sock")
	if base == "nat64d" {
		return "nat64"
	}
	name := "nat64-" + strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '/' || r == ':' || r == '%' || r == '.' {
			return '_'
		}
		return r
	}, base)
	return name[:min(len(name), longestName)]
}
