package tunnels

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"time"

	"handoff64/tools/lab"
	"handoff64/tools/lab/throughput"
)

// port is where the tools listen.
const port = 5201

// patience bounds what has to happen before a measurement.
const patience = 20 * time.Second

// handoffWay starts nat64d, and handoffd in a mode.
func handoffWay(args ...string) func(context.Context, Options, *lab.Lab) (throughput.Path, int, error) {
	return func(ctx context.Context, o Options, l *lab.Lab) (p throughput.Path, pid int, err error) {
		d, h := l.Daemon(o.Binaries), l.Handoffd("server", o.Binaries)
		h.Args = args
		if err = h.Start(ctx); err == nil {
			err = d.Start(ctx)
		}
		if err != nil {
			return p, 0, err
		}
		p = throughput.Path{
			Name: l.Options.Name, Client: l.Host("client"), Server: l.Host("server"),
			Listen: netip.AddrPortFrom(l.Server(), port), Dial: netip.AddrPortFrom(lab.Embed(l.Server()), port),
		}
		return p, h.PID(), adopted(ctx, h, p)
	}
}

// adopted connects until the NAT64 and the server know each other.
func adopted(ctx context.Context, h *lab.Handoffd, p throughput.Path) error {
	listener, err := p.Server.Listen("tcp4", p.Listen.String())
	if err != nil {
		return err
	}
	defer listener.Close()
	for deadline := time.Now().Add(patience); ; {
		short, cancel := context.WithTimeout(ctx, time.Second)
		c, err := p.Client.DialContext(short, "tcp6", p.Dial.String())
		cancel()
		if err == nil {
			err = c.Close()
		}
		st, serr := h.Status(ctx)
		if serr == nil && st.Entries > 0 {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("handoffd and nat64d do not get to know each other: %w", errors.Join(err, serr, ctx.Err()))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Of the tunnels: the devices' addresses, the clients' network, and the MTU that
// handoffd's device has.
var (
	near   = netip.MustParsePrefix("fd64::1/64")
	far    = netip.MustParsePrefix("fd64::2/64")
	client = netip.MustParsePrefix("2001:db8:1::/64")
)

const (
	tunnelMTU    = 1424
	tunnelPort   = 51820
	tunnelDevice = "tunnel0"
)

// tunnelWay joins the hosts nat64 and server, and has the former's kernel
// forward.
func tunnelWay(kind string) func(context.Context, Options, *lab.Lab) (throughput.Path, int, error) {
	return func(ctx context.Context, o Options, l *lab.Lab) (p throughput.Path, pid int, err error) {
		nat64, server := l.Host("nat64"), l.Host("server")
		if err := nat64.SetSysctl("ipv6/conf/all/forwarding", "1"); err != nil {
			return p, 0, err
		}
		for _, e := range []struct {
			host    lab.Host
			peer    netip.Addr
			address netip.Prefix
		}{{nat64, l.Server(), near}, {server, lab.Nat64IPv4, far}} {
			cmd := exec.Command(o.Nat64lab, "tunnel", "--kind", kind, "--device", tunnelDevice, "--mtu", strconv.Itoa(tunnelMTU),
				"--port", strconv.Itoa(tunnelPort), "--peer", netip.AddrPortFrom(e.peer, tunnelPort).String(), "--first="+strconv.FormatBool(e.host == nat64))
			if err := e.host.Start(cmd); err != nil {
				return p, 0, err
			}
			go cmd.Wait() // it ends with the network
			pid = cmd.Process.Pid
			if err := comesUp(e.host, e.address); err != nil {
				return p, 0, err
			}
		}
		if err := server.AddRoute(client, tunnelDevice); err != nil {
			return p, 0, err
		}
		target := netip.AddrPortFrom(far.Addr(), port)
		return throughput.Path{Name: l.Options.Name, Client: l.Host("client"), Server: server, Listen: target, Dial: target}, pid, nil
	}
}

// comesUp waits for the device, and gives it its address. The server has no IPv6
// otherwise.
func comesUp(h lab.Host, address netip.Prefix) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := errors.Join(h.SetLink(tunnelDevice, true), h.SetSysctl("ipv6/conf/"+tunnelDevice+"/disable_ipv6", "0"), h.AddAddress(tunnelDevice, address))
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
