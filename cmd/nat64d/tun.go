package main

import (
	"errors"
	"path/filepath"
	"strings"

	"handoff64/cmd/nat64d/host"
	"handoff64/ring"
	"handoff64/ring/tunport"
)

// openTUN makes the way to the host's kernel. Without one nat64d works, too:
// the few packets that would take it are dropped.
func (d *daemon) openTUN(t *translator) *tunport.Device {
	c := tunport.Config{Name: tunName(d.cfg.ControlSocket), UMEM: t.device.UMEM()}
	for _, w := range t.device.Workers() {
		c.Workers = append(c.Workers, w.Frames)
	}
	dev, err := tunport.Open(c)
	if err == nil {
		if err = host.SetUpTUN(c.Name); err == nil {
			return dev
		}
		err = errors.Join(err, dev.Close())
	}
	d.log.Warn("no way to hand packets back to the kernel: later fragments of the host's own datagrams are dropped as no_kernel_port", "reason", err)
	return nil
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
