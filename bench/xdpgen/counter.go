package xdpgen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Counter counts the measured packets that an interface receives and drops
// them; all else goes on to the kernel. Any goroutine may read it.
type Counter struct {
	link    link.Link
	program *ebpf.Program
	counts  *ebpf.Map // per CPU: packets, octets
	delays  *ebpf.Map // array of 64-bit counts
	origins *ebpf.Map // records of originLen octets
	flows   int
}

// CounterConfig says what to note beside the number of packets, and where.
type CounterConfig struct {
	// AtTC counts where the kernel has made an skb and before it looks into it
	// (tcx ingress, Linux 6.6), instead of in XDP. For packets that were sent
	// as skbs that is cheaper: on veth, XDP copies each of them first.
	AtTC bool

	Delays  bool // how long each packet took, from its stamp on
	Origins int  // where packets of flows 0 to Origins-1 come from (IPv4)
}

const (
	// Delays are counted in steps of 100 ns up to 3.3 ms; the last step has all
	// that took longer.
	delayStep  = 100 * time.Nanosecond
	delaySteps = 1 << 15

	originLen = 8 // address and port as in the packet, two octets not zero if there was a packet
)

// NewCounter attaches a counter to the interface with this index in the calling
// thread's network namespace; in XDP, that is in native mode.
func NewCounter(ifindex int, cfg CounterConfig) (*Counter, error) {
	c := &Counter{flows: max(cfg.Origins, 1)}
	if err := c.open(ifindex, cfg); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Counter) open(ifindex int, cfg CounterConfig) error {
	for _, m := range []struct {
		into *(*ebpf.Map)
		spec ebpf.MapSpec
	}{
		{&c.counts, ebpf.MapSpec{Name: "xdpgen_counts", Type: ebpf.PerCPUArray, ValueSize: 16}},
		{&c.delays, ebpf.MapSpec{Name: "xdpgen_delays", Type: ebpf.Array, ValueSize: 8 * delaySteps}},
		{&c.origins, ebpf.MapSpec{Name: "xdpgen_origins", Type: ebpf.Array, ValueSize: uint32(originLen * c.flows)}},
	} {
		m.spec.KeySize, m.spec.MaxEntries = 4, 1
		var err error
		if *m.into, err = ebpf.NewMap(&m.spec); err != nil {
			return fmt.Errorf("xdpgen: make the map %s: %w", m.spec.Name, err)
		}
	}
	spec := &ebpf.ProgramSpec{Name: "xdpgen_count", Type: ebpf.XDP, Instructions: c.assemble(cfg), License: "Apache-2.0"}
	if cfg.AtTC {
		spec.Type = ebpf.SchedCLS
	}
	var err error
	if c.program, err = ebpf.NewProgram(spec); err != nil {
		return fmt.Errorf("xdpgen: load the counting program: %w", err)
	}
	if cfg.AtTC {
		c.link, err = link.AttachTCX(link.TCXOptions{Program: c.program, Interface: ifindex, Attach: ebpf.AttachTCXIngress})
	} else {
		c.link, err = link.AttachXDP(link.XDPOptions{Program: c.program, Interface: ifindex, Flags: link.XDPDriverMode})
	}
	if err != nil {
		return fmt.Errorf("xdpgen: attach the counter to interface %d: %w", ifindex, err)
	}
	return nil
}

// Verdicts of XDP and of tcx, and where their contexts have the frame.
const (
	xdpDrop = 1
	xdpPass = 2
	tcxPass = 0
	tcxDrop = 2

	xdpData = 0  // struct xdp_md
	tcxData = 76 // struct __sk_buff
)

// assemble: R6 is the frame, R7 its end, R8 its UDP payload.
func (c *Counter) assemble(cfg CounterConfig) asm.Instructions {
	data, drop, pass := int16(xdpData), int32(xdpDrop), int32(xdpPass)
	if cfg.AtTC {
		data, drop, pass = tcxData, tcxDrop, tcxPass
	}
	ins := asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, data, asm.Word),
		asm.LoadMem(asm.R7, asm.R1, data+4, asm.Word),
		asm.Mov.Reg(asm.R8, asm.R6),
		asm.Add.Imm(asm.R8, ethernetLen+ipv4Len+udpLen),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.Add.Imm(asm.R2, PayloadMin),
		asm.JGT.Reg(asm.R2, asm.R7, "pass"),
		asm.LoadMem(asm.R3, asm.R6, 12, asm.Half),
		asm.HostTo(asm.BE, asm.R3, asm.Half),
		asm.JEq.Imm(asm.R3, 0x0800, "payload"),
		asm.JNE.Imm(asm.R3, 0x86dd, "pass"),
		asm.Add.Imm(asm.R8, ipv6Len-ipv4Len),
		asm.Mov.Reg(asm.R2, asm.R8).WithSymbol("payload"),
		asm.Add.Imm(asm.R2, PayloadMin),
		asm.JGT.Reg(asm.R2, asm.R7, "pass"),
		asm.LoadMem(asm.R4, asm.R8, markAt, asm.Word),
		asm.HostTo(asm.BE, asm.R4, asm.Word),
		asm.JNE.Imm32(asm.R4, mark, "pass"),
	}
	if cfg.Origins > 0 {
		ins = append(ins, c.noteOrigin()...)
	}
	if cfg.Delays {
		ins = append(ins, c.noteDelay()...)
	}
	return append(ins,
		asm.StoreImm(asm.R10, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, c.counts.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Sub.Reg(asm.R7, asm.R6),
		asm.LoadMem(asm.R1, asm.R0, 8, asm.DWord),
		asm.Add.Reg(asm.R1, asm.R7),
		asm.StoreMem(asm.R0, 8, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, drop),
		asm.Return(),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
	)
}

// noteOrigin keeps the IPv4 source of the flow. R3 has the EtherType.
func (c *Counter) noteOrigin() asm.Instructions {
	return asm.Instructions{
		asm.JNE.Imm(asm.R3, 0x0800, "no-origin"),
		asm.LoadMem(asm.R4, asm.R8, flowAt, asm.Half),
		asm.HostTo(asm.BE, asm.R4, asm.Half),
		asm.JGE.Imm(asm.R4, int32(c.flows), "no-origin"),
		asm.Mul.Imm(asm.R4, originLen),
		asm.LoadMapValue(asm.R5, c.origins.FD(), 0),
		asm.Add.Reg(asm.R5, asm.R4),
		asm.LoadMem(asm.R4, asm.R6, ethernetLen+12, asm.Word),
		asm.StoreMem(asm.R5, 0, asm.R4, asm.Word),
		asm.LoadMem(asm.R4, asm.R6, ethernetLen+ipv4Len, asm.Half),
		asm.StoreMem(asm.R5, 4, asm.R4, asm.Half),
		asm.StoreImm(asm.R5, 6, 1, asm.Half),
		asm.Mov.Imm(asm.R5, 0).WithSymbol("no-origin"),
	}
}

func (c *Counter) noteDelay() asm.Instructions {
	return asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R1, asm.R8, stampAt, asm.Word),
		asm.Sub.Reg32(asm.R0, asm.R1), // both wrap at 2³² ns, 4.3 s
		asm.Div.Imm32(asm.R0, int32(delayStep)),
		asm.JLT.Imm(asm.R0, delaySteps, "step"),
		asm.Mov.Imm(asm.R0, delaySteps-1),
		asm.LSh.Imm(asm.R0, 3).WithSymbol("step"),
		asm.LoadMapValue(asm.R1, c.delays.FD(), 0),
		asm.Add.Reg(asm.R1, asm.R0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
	}
}

// Counts are the packets and the octets of their frames so far.
func (c *Counter) Counts() (packets, octets uint64, err error) {
	var perCPU [][2]uint64
	if err := c.counts.Lookup(uint32(0), &perCPU); err != nil {
		return 0, 0, fmt.Errorf("xdpgen: read the counter: %w", err)
	}
	for _, n := range perCPU {
		packets, octets = packets+n[0], octets+n[1]
	}
	return packets, octets, nil
}

// Delays are the counted delays so far.
func (c *Counter) Delays() (Delays, error) {
	raw := make([]byte, 8*delaySteps)
	if err := c.delays.Lookup(uint32(0), &raw); err != nil {
		return nil, fmt.Errorf("xdpgen: read the delays: %w", err)
	}
	d := make(Delays, delaySteps)
	for i := range d {
		d[i] = binary.NativeEndian.Uint64(raw[8*i:])
	}
	return d, nil
}

// Origins are where the packets of each flow came from; the zero AddrPort for
// those of which none came.
func (c *Counter) Origins() ([]netip.AddrPort, error) {
	raw := make([]byte, originLen*c.flows)
	if err := c.origins.Lookup(uint32(0), &raw); err != nil {
		return nil, fmt.Errorf("xdpgen: read the flows' origins: %w", err)
	}
	all := make([]netip.AddrPort, c.flows)
	for i := range all {
		if b := raw[originLen*i:][:originLen]; b[6] != 0 || b[7] != 0 {
			all[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[4:]))
		}
	}
	return all, nil
}

// Close detaches the counter.
func (c *Counter) Close() error {
	var errs []error
	if c.link != nil {
		errs = append(errs, c.link.Close())
	}
	if c.program != nil {
		errs = append(errs, c.program.Close())
	}
	for _, m := range []*ebpf.Map{c.counts, c.delays, c.origins} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Delays is how many packets took how long, in steps of 100 ns.
type Delays []uint64

// Plus counts others as well. Nothing counted may be nil.
func (d Delays) Plus(o Delays) Delays {
	sum := make(Delays, max(len(d), len(o)))
	copy(sum, d)
	for i, n := range o {
		sum[i] += n
	}
	return sum
}

// Total is the number of packets.
func (d Delays) Total() (n uint64) {
	for _, c := range d {
		n += c
	}
	return n
}

// Quantile is the delay that the share q of all packets did not exceed, to the
// next 100 ns; 0 without packets.
func (d Delays) Quantile(q float64) time.Duration {
	left := uint64(q * float64(d.Total()))
	for i, c := range d {
		if c > 0 && left < c {
			return time.Duration(i+1) * delayStep
		}
		left -= min(left, c)
	}
	return 0
}
