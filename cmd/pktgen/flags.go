package main

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"handoff64/bench/generator"
	"handoff64/bench/traffic"
	"handoff64/cmd/commandline"
	"handoff64/ring/xsk"
)

// defaultDst is what a NAT64 makes an address of the benchmarking network
// 198.18.0.0/15 of (RFC 2544 §C.2.2).
const defaultDst = "64:ff9b::198.18.0.1"

// portFlags say how an interface is used.
type portFlags struct {
	mode, zeroCopy, busyPoll, cpus string
	frames, ring, threads          int
}

func (p *portFlags) declare(fs *commandline.Flags) {
	fs.StringVar(&p.mode, "mode", "auto", "XDP `mode`: auto, native or generic")
	fs.StringVar(&p.zeroCopy, "zero-copy", "auto", "`auto`, on or off")
	fs.StringVar(&p.busyPoll, "busy-poll", "auto", "`auto`, on or off: drive the NIC's queues from our threads")
	fs.IntVar(&p.frames, "frames", 8192, "`number` of frames for each queue")
	fs.IntVar(&p.ring, "ring", 2048, "entries of each ring, a power of two `number`")
	fs.IntVar(&p.threads, "threads", 0, "`number` of threads that send and receive without pause (default one for each queue, with one CPU left to others)")
	fs.StringVar(&p.cpus, "cpus", "", "`CPU,CPU...` to pin the threads to")
}

// endpoint is an interface with what the flags say.
func (p *portFlags) endpoint(name, namespace string) generator.Endpoint {
	return generator.Endpoint{
		Interface: name, Namespace: namespace, Mode: xsk.Mode(p.mode), ZeroCopy: xsk.Switch(p.zeroCopy), BusyPoll: xsk.Switch(p.busyPoll),
		FramesPerQueue: p.frames, RingSize: p.ring,
	}
}

// check finds what is no value of these flags.
func (p *portFlags) check() ([]int, error) {
	for _, f := range []struct{ name, value, others string }{
		{"mode", p.mode, "native generic"}, {"zero-copy", p.zeroCopy, "on off"}, {"busy-poll", p.busyPoll, "on off"},
	} {
		if f.value != "auto" && !strings.Contains(" "+f.others+" ", " "+f.value+" ") {
			return nil, fmt.Errorf("--%s %q is none of auto %s", f.name, f.value, f.others)
		}
	}
	if p.threads < 0 {
		return nil, fmt.Errorf("--threads %d: give at least 1", p.threads)
	}
	return parseCPUs(p.cpus)
}

func parseCPUs(list string) (cpus []int, err error) {
	if list == "" {
		return nil, nil
	}
	for cpu := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(cpu)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("--cpus: %q is not the number of a CPU", cpu)
		}
		cpus = append(cpus, n)
	}
	return cpus, nil
}

// flowFlags say what is sent.
type flowFlags struct {
	src, dst, srcPorts, dstPorts, protocol string
	srcMAC, dstMAC, imix, rate, order      string
	flows, packets, seed                   uint64
	size                                   int
	duration                               time.Duration
}

func (f *flowFlags) declare(fs *commandline.Flags) {
	f.declareFlows(fs)
	f.declareStream(fs)
}

// declareFlows are the flags that say whose packets are sent.
func (f *flowFlags) declareFlows(fs *commandline.Flags) {
	fs.StringVar(&f.src, "src", "", "source addresses, a `PREFIX` or an address (default the interface's own address)")
	fs.StringVar(&f.dst, "dst", defaultDst, "destination addresses, a `PREFIX` or an address")
	fs.StringVar(&f.srcPorts, "src-ports", "1024-65535", "source ports, of ICMP identifiers: a `RANGE` or a number")
	fs.StringVar(&f.dstPorts, "dst-ports", "9", "destination ports, a `RANGE` or a number")
	fs.Uint64Var(&f.flows, "flows", 1, "`number` of flows: that many combinations of addresses and ports, source ports first; 0: all")
	fs.Uint64Var(&f.seed, "seed", 1, "`number` that chooses the random order")
	fs.StringVar(&f.protocol, "protocol", "udp", "`PROTOCOL`: udp, tcp, tcp-syn or icmp")
	fs.StringVar(&f.srcMAC, "src-mac", "", "source Ethernet address, `MAC` (default the interface's)")
	fs.StringVar(&f.dstMAC, "dst-mac", "", "destination Ethernet address, `MAC` (default the gateway's or neighbour's, by the kernel's route)")
}

// declareStream are the flags that say how they are sent.
func (f *flowFlags) declareStream(fs *commandline.Flags) {
	fs.StringVar(&f.order, "order", "random", "`ORDER` of the flows: random (RFC 4814: each once, then all again) or sequential")
	fs.IntVar(&f.size, "size", 0, "`OCTETS` of a frame, Ethernet header included, check sequence not (default the smallest that holds a stamp: 80 for UDP over IPv6, 60 over IPv4)")
	fs.StringVar(&f.imix, "imix", "", "sizes in a `MIX` instead: simple (7:4:1), letters of RFC 6985 such as aaafg, or shares such as 7x80,4x590,1x1514")
	fs.StringVar(&f.rate, "rate", "max", "packets per second in each direction: max, or a `RATE` such as 250000, 250k or 1.5M")
	fs.DurationVar(&f.duration, "duration", 10*time.Second, "`TIME` to send for; 0: until --packets are sent or SIGINT")
	fs.Uint64Var(&f.packets, "packets", 0, "stop after so many packets, a `number` (default --duration decides)")
}

// parseFlows reads the flags that make flows. Without --src the endpoint's own
// address is the source.
func (f *flowFlags) parseFlows(e generator.Endpoint) (flows traffic.Flows, err error) {
	if flows.Protocol, err = traffic.ParseProtocol(f.protocol); err != nil {
		return flows, fmt.Errorf("--protocol: %w", err)
	}
	if flows.SrcPorts, err = traffic.ParsePorts(f.srcPorts); err != nil {
		return flows, fmt.Errorf("--src-ports: %w", err)
	}
	if flows.DstPorts, err = traffic.ParsePorts(f.dstPorts); err != nil {
		return flows, fmt.Errorf("--dst-ports: %w", err)
	}
	if flows.Dst, err = parsePrefix(f.dst); err != nil {
		return flows, fmt.Errorf("--dst: %w", err)
	}
	flows.Count = f.flows
	if f.src != "" {
		if flows.Src, err = parsePrefix(f.src); err != nil {
			return flows, fmt.Errorf("--src: %w", err)
		}
		return flows, flows.Validate()
	}
	addr, err := e.Source(flows.Dst.Addr().Is6())
	if err != nil {
		return flows, fmt.Errorf("--src: %w", err)
	}
	flows.Src = netip.PrefixFrom(addr, addr.BitLen())
	return flows, flows.Validate()
}

// parsePrefix reads a prefix, or an address as the prefix of that alone.
func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return p, fmt.Errorf("%q is no prefix: give one such as 2001:db8::/64", text)
		}
		return p, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix", text)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// parseSizes reads --size and --imix; least is the smallest frame that can be.
func (f *flowFlags) parseSizes(least int) (traffic.Sizes, error) {
	switch {
	case f.imix != "" && f.size != 0:
		return nil, fmt.Errorf("--size %d and --imix %s: give one of them", f.size, f.imix)
	case f.imix != "":
		sizes, err := traffic.ParseIMIX(f.imix)
		if err != nil {
			return nil, fmt.Errorf("--imix: %w", err)
		}
		return sizes.AtLeast(least), nil
	case f.size == 0:
		return traffic.Sizes{least}, nil
	case f.size < least || f.size > traffic.MaxFrame:
		return nil, fmt.Errorf("--size %d: frames of these flows have %d to %d octets", f.size, least, traffic.MaxFrame)
	}
	return traffic.Sizes{f.size}, nil
}

// parseRate reads packets per second; 0 means as many as possible.
func parseRate(text string) (float64, error) {
	if text == "max" {
		return 0, nil
	}
	number, factor := text, 1.0
	for suffix, f := range map[string]float64{"k": 1e3, "M": 1e6} {
		if n, ok := strings.CutSuffix(text, suffix); ok {
			number, factor = n, f
		}
	}
	rate, err := strconv.ParseFloat(number, 64)
	if err != nil || rate <= 0 || math.IsInf(rate, 0) || math.IsNaN(rate) {
		return 0, fmt.Errorf("%q is neither max nor packets per second such as 250000, 250k or 1.5M", text)
	}
	return rate * factor, nil
}

// parseMAC reads an Ethernet address; nothing makes none.
func parseMAC(name, text string) (mac [6]byte, err error) {
	if text == "" {
		return mac, nil
	}
	m, err := net.ParseMAC(text)
	if err != nil || len(m) != 6 {
		return mac, fmt.Errorf("--%s: %q is not an Ethernet address", name, text)
	}
	return [6]byte(m), nil
}

// link are the Ethernet addresses that were given.
func (f *flowFlags) link() (l traffic.Link, err error) {
	if l.Src, err = parseMAC("src-mac", f.srcMAC); err != nil {
		return l, err
	}
	l.Dst, err = parseMAC("dst-mac", f.dstMAC)
	return l, err
}

// stream is the rest of the flags.
func (f *flowFlags) stream(least int) (r generator.Run, err error) {
	if r.Rate, err = parseRate(f.rate); err != nil {
		return r, fmt.Errorf("--rate: %w", err)
	}
	if r.Sizes, err = f.parseSizes(least); err != nil {
		return r, err
	}
	if f.order != "random" && f.order != "sequential" {
		return r, fmt.Errorf("--order %q is neither random nor sequential", f.order)
	}
	if f.duration < 0 {
		return r, fmt.Errorf("--duration %v: give a time such as 10s", f.duration)
	}
	r.Duration, r.Packets, r.InOrder = f.duration, f.packets, f.order == "sequential"
	return r, nil
}
