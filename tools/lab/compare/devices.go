package compare

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"handoff64/bench/xdpgen"
	"handoff64/tools/lab"
)

// device is something that carries packets between the two interfaces.
type device struct {
	name    string
	one     bool // serves one queue only
	multi   bool // has a worker for each queue
	light   bool // its latency is measured
	start   func(ctx context.Context, b *bed, poll string) (stop func() error, err error)
	flows64 func(b *bed, n int) []xdpgen.Flow
	// flows46 is nil if the flows' other direction has to be learnt.
	flows46 func(b *bed, n int) []xdpgen.Flow
}

func devices() []device {
	translated := func(prefix netip.Prefix) func(*bed, int) []xdpgen.Flow {
		return func(b *bed, n int) []xdpgen.Flow { return flows64(n, lab.EmbedIn(prefix, b.lab.Server())) }
	}
	return []device{
		{name: "forward", multi: true, light: true, start: startForward, flows64: translated(lab.Pool6), flows46: (*bed).plainFlows46},
		{name: "nat64d", multi: true, light: true, start: startNat64d, flows64: translated(lab.Pool6)},
		{name: "asavie", one: true, light: true, start: startAsavie, flows64: translated(lab.Pool6), flows46: (*bed).plainFlows46},
		{name: "tayga", light: true, start: startTayga, flows64: translated(taygaPrefix)},
		{name: "kernel", light: true, start: startKernel, flows46: (*bed).plainFlows46,
			flows64: func(b *bed, n int) []xdpgen.Flow { return flows64(n, plainServer6) }},
	}
}

// cpus are the device's: the second one, or with several workers the first ones.
func (b *bed) cpus() []int {
	if b.workers == 1 {
		return []int{deviceCPU}
	}
	all := make([]int, b.workers)
	for i := range all {
		all[i] = i
	}
	return all
}

// With one queue, senderCPU has sender and counter, deviceCPU the device.
const (
	senderCPU = 0
	deviceCPU = 1
)

func startNat64d(ctx context.Context, b *bed, poll string) (func() error, error) {
	d := b.lab.Daemon(b.options.Binaries)
	d.Config["workers"] = map[string]any{"count": b.workers, "cpus": b.cpus()}
	d.Config["poll"] = poll
	xdp := map[string]any{"busy_poll": b.options.BusyPoll}
	if b.options.Ring > 0 {
		xdp["ring_size"] = b.options.Ring
	}
	if b.options.PerQueue > 0 {
		xdp["frames_per_queue"] = b.options.PerQueue
	}
	d.Config["xdp"] = xdp
	// Sessions of the run before would be taken up again.
	if err := os.RemoveAll(d.Tables()); err != nil {
		return nil, fmt.Errorf("nat64d: %w", err)
	}
	if err := d.Start(ctx); err != nil {
		return nil, err
	}
	return d.Stop, nil
}

func startForward(_ context.Context, b *bed, poll string) (func() error, error) {
	var cpus []string
	for _, cpu := range b.cpus() {
		cpus = append(cpus, strconv.Itoa(cpu))
	}
	args := []string{"--workers", strconv.Itoa(b.workers), "--cpus", strings.Join(cpus, ","), "--poll", poll, "--busy-poll", b.options.BusyPoll}
	if b.options.Ring > 0 {
		args = append(args, "--ring", strconv.Itoa(b.options.Ring))
	}
	if b.options.PerQueue > 0 {
		args = append(args, "--frames", strconv.Itoa(b.options.PerQueue))
	}
	return b.startPktgen(args...)
}

func startAsavie(_ context.Context, b *bed, _ string) (func() error, error) {
	return b.startPktgen("--sockets", "asavie", "--cpus", strconv.Itoa(deviceCPU))
}

// startPktgen runs pktgen forward and waits until it is ready.
func (b *bed) startPktgen(args ...string) (func() error, error) {
	hops := net.HardwareAddr(b.client.mac[:]).String() + "," + net.HardwareAddr(b.server.mac[:]).String()
	cmd := exec.Command(b.options.Pktgen, append([]string{"forward", "--interfaces", b.eth6.name + "," + b.eth4.name, "--next-hops", hops}, args...)...)
	said, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("pktgen: %w", err)
	}
	if err := b.eth6.host.Start(cmd); err != nil {
		return nil, err
	}
	var before strings.Builder
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if lines.Text() == "ready" {
			go func() { _, _ = io.Copy(io.Discard, said) }()
			return func() error { return terminate(cmd) }, nil
		}
		fmt.Fprintln(&before, lines.Text())
	}
	return nil, errors.Join(fmt.Errorf("pktgen forward ended before it was ready: %s", strings.TrimSpace(before.String())), cmd.Wait())
}

// terminate stops a program that ends cleanly with SIGTERM.
func terminate(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", cmd.Path, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s after SIGTERM: %w", cmd.Path, err)
	}
	return nil
}

// startKernel lets the kernel forward.
func startKernel(_ context.Context, b *bed, _ string) (func() error, error) {
	return b.forward(b.eth6.name)
}

// taygaDevice is the name of its TUN device.
const taygaDevice = "tayga"

// startTayga runs TAYGA with a fixed address for each client, and the kernel
// leading packets to its device.
func startTayga(_ context.Context, b *bed, _ string) (func() error, error) {
	file, err := b.writeTaygaConfig()
	if err != nil {
		return nil, err
	}
	host := b.eth6.host
	cmd := exec.Command("tayga", "--nodetach", "--config", file)
	if err := host.Start(cmd); err != nil {
		return nil, err
	}
	stopTayga := func() error {
		// TAYGA has no clean end: any signal is one.
		killed := cmd.Process.Kill()
		_ = cmd.Wait()
		return killed
	}
	if err := b.leadToTayga(cmd.Process.Pid); err != nil {
		return nil, errors.Join(err, stopTayga())
	}
	stopKernel, err := b.forward(taygaDevice)
	if err != nil {
		return nil, errors.Join(err, stopTayga())
	}
	return func() error { return errors.Join(stopKernel(), stopTayga()) }, nil
}

func (b *bed) writeTaygaConfig() (string, error) {
	var c strings.Builder
	fmt.Fprintf(&c, "tun-device %s\nipv4-addr 192.168.254.1\nprefix %v\ndata-dir %s\n", taygaDevice, taygaPrefix, b.lab.Dir)
	for _, f := range b.plainFlows46(clientCount) {
		client := clientNet.Addr().As16()
		client[15] = f.Dst.Addr().As4()[3]
		fmt.Fprintf(&c, "map %v %v\n", f.Dst.Addr(), netip.AddrFrom16(client))
	}
	file := filepath.Join(b.lab.Dir, "tayga.conf")
	if err := os.WriteFile(file, []byte(c.String()), 0o644); err != nil {
		return "", fmt.Errorf("tayga: %w", err)
	}
	return file, nil
}

// leadToTayga waits for its device and pins the program to the device's CPU.
func (b *bed) leadToTayga(pid int) error {
	var set unix.CPUSet
	set.Set(deviceCPU)
	if err := unix.SchedSetaffinity(pid, &set); err != nil {
		return fmt.Errorf("pin tayga: %w", err)
	}
	return b.eth6.host.Enter(func() error {
		var tun netlink.Link
		var err error
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if tun, err = netlink.LinkByName(taygaDevice); err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("tayga made no device: %w", err)
			}
		}
		if err := netlink.LinkSetUp(tun); err != nil {
			return fmt.Errorf("tayga's device: %w", err)
		}
		dst := &net.IPNet{IP: taygaPrefix.Addr().AsSlice(), Mask: net.CIDRMask(taygaPrefix.Bits(), 128)}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: tun.Attrs().Index, Dst: dst}); err != nil {
			return fmt.Errorf("route to tayga: %w", err)
		}
		return nil
	})
}

// forward lets the kernel forward, to the flows' IPv4 clients over a device.
func (b *bed) forward(device string) (func() error, error) {
	host := b.eth6.host
	if err := errors.Join(host.SetSysctl("ipv4/ip_forward", "1"), host.SetSysctl("ipv6/conf/all/forwarding", "1"), b.route4(device)); err != nil {
		return nil, err
	}
	pass, err := b.receiveNatively()
	if err != nil {
		return nil, err
	}
	return func() error {
		return errors.Join(pass(), b.unroute4(), host.SetSysctl("ipv4/ip_forward", "0"), host.SetSysctl("ipv6/conf/all/forwarding", "0"))
	}, nil
}

// route4 leads the kernel to the flows' IPv4 clients, over the client's station
// or a device.
func (b *bed) route4(device string) error {
	return b.eth6.host.Enter(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("interface %s: %w", device, err)
		}
		for i := range clientCount {
			ip := plainClients.Addr().As4()
			ip[3] = byte(1 + i)
			if device != b.eth6.name {
				continue
			}
			n := &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip[:], HardwareAddr: b.client.mac[:]}
			if err := netlink.NeighSet(n); err != nil {
				return fmt.Errorf("neighbour %v: %w", ip, err)
			}
		}
		return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: plainNet(), Scope: netlink.SCOPE_LINK})
	})
}

func (b *bed) unroute4() error {
	return b.eth6.host.Enter(func() error { return netlink.RouteDel(&netlink.Route{Dst: plainNet(), Scope: netlink.SCOPE_LINK}) })
}

func plainNet() *net.IPNet {
	return &net.IPNet{IP: plainClients.Addr().AsSlice(), Mask: net.CIDRMask(plainClients.Bits(), 32)}
}

// receiveNatively attaches a program that passes everything: without one, a veth
// takes no frames from XDP senders.
func (b *bed) receiveNatively() (stop func() error, err error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, // XDP_PASS
	})
	if err != nil {
		return nil, fmt.Errorf("load a program that passes all: %w", err)
	}
	var links []link.Link
	stop = func() error {
		errs := []error{program.Close()}
		for _, l := range links {
			errs = append(errs, l.Close())
		}
		return errors.Join(errs...)
	}
	for _, s := range []station{b.eth6, b.eth4} {
		err := s.host.Enter(func() error {
			l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: s.index, Flags: link.XDPDriverMode})
			if err == nil {
				links = append(links, l)
			}
			return err
		})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach to %s: %w", s.name, err), stop())
		}
	}
	return stop, nil
}
