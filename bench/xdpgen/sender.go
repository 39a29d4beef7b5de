package xdpgen

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Sender sends the frames of a template through an interface. One goroutine
// runs it; Sent may be asked for from any.
type Sender struct {
	frame   []byte
	batch   uint32 // frames that the kernel handles together; 0: its default
	program *ebpf.Program
	state   *ebpf.Map
	maps    []*ebpf.Map // state among them
}

// SenderConfig says what to send, through which interface of the network
// namespace that Run is called in, and how fast.
type SenderConfig struct {
	Ifindex  int
	Template Template
	Stamped  bool          // each frame carries the time when it was made, which costs some 20 ns
	Every    time.Duration // from one frame to the next; 0: as fast as it can
	Clump    int           // so many frames leave together, a power of two; 0: 1
	Seed     uint64        // of the order of the flows
}

// NewSender loads the program.
func NewSender(cfg SenderConfig) (*Sender, error) {
	cfg.Clump = cmp.Or(cfg.Clump, 1)
	if cfg.Clump < 1 || cfg.Clump > 64 || cfg.Clump&(cfg.Clump-1) != 0 {
		return nil, fmt.Errorf("xdpgen: clumps of %d, want a power of two up to 64", cfg.Clump)
	}
	if cfg.Every < 0 || cfg.Every*time.Duration(cfg.Clump) > time.Second {
		return nil, fmt.Errorf("xdpgen: %d frames every %v, want one a second at least", cfg.Clump, cfg.Every)
	}
	frame, patches, records, err := cfg.Template.compile()
	if err != nil {
		return nil, err
	}
	s := &Sender{frame: frame}
	if cfg.Every > 0 {
		s.batch = uint32(cfg.Clump)
	}
	if err := s.load(cfg, patches, records); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// state is the program's memory between two frames; its offsets are those of
// the words here.
type state struct {
	Random, Made, Next uint64 // generator; frames made; when the next is due, ns
}

const (
	randomAt = 0
	madeAt   = 8
	nextAt   = 16
)

func (s *Sender) load(cfg SenderConfig, patches []patch, records []byte) error {
	table, err := s.newMap("xdpgen_flows", records)
	if err != nil {
		return err
	}
	memory := binary.NativeEndian.AppendUint64(nil, cfg.Seed)
	if s.state, err = s.newMap("xdpgen_state", append(memory, make([]byte, 16)...)); err != nil {
		return err
	}
	b := senderProgram{
		frame: s.frame, patches: patches, flows: len(records) / recordLen, table: table.FD(), state: s.state.FD(),
		ifindex: cfg.Ifindex, stamped: cfg.Stamped, every: cfg.Every, clump: cfg.Clump,
	}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "xdpgen_send", Type: ebpf.XDP, Instructions: b.assemble(), License: "Apache-2.0"})
	if err != nil {
		return fmt.Errorf("xdpgen: load the sending program: %w", err)
	}
	return nil
}

// newMap makes an array map whose one value is content: the program reaches it
// without a lookup.
func (s *Sender) newMap(name string, content []byte) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(content)), MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("xdpgen: make a map of %d octets: %w", len(content), err)
	}
	s.maps = append(s.maps, m)
	if err := m.Put(uint32(0), content); err != nil {
		return nil, fmt.Errorf("xdpgen: fill a map: %w", err)
	}
	return m, nil
}

// Run sends until ctx ends, from a thread of its own in the network namespace
// that the calling thread is in. The CPU also decides the receive queue of a veth
// peer: queue number = CPU number modulo queues. nice is the thread's; 19
// leaves the CPU to others.
func (s *Sender) Run(ctx context.Context, cpu, nice int) (err error) {
	runtime.LockOSThread() // not unlocked: the pinned thread ends with its goroutine
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("xdpgen: pin to CPU %d: %w", cpu, err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice); err != nil {
		return fmt.Errorf("xdpgen: nice %d: %w", nice, err)
	}
	stop := s.interruptAt(ctx, unix.Gettid())
	defer stop()
	// One call sends for hours, because its beginning and end take the kernel some
	// 25 ms. A signal ends it, and then the ebpf package, which would begin it
	// again, calls Reset.
	run := &ebpf.RunOptions{
		Data: s.frame, Repeat: math.MaxUint32, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, BatchSize: s.batch,
		//lint:ignore SA1019 there is no other way out of the package's loop
		Reset: func() {
			if ctx.Err() != nil {
				panic(interrupted{})
			}
		},
	}
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(interrupted); !ok {
				panic(p)
			}
			err = nil
		}
	}()
	for ctx.Err() == nil {
		if _, err := s.program.Run(run); err != nil {
			return fmt.Errorf("xdpgen: send: %w", err)
		}
	}
	return nil
}

// interrupted is how Reset ends the ebpf package's loop.
type interrupted struct{}

// interruptAt signals the thread when ctx ends, until the returned function is
// called: a first signal may come before the system call.
func (s *Sender) interruptAt(ctx context.Context, thread int) (stop func()) {
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		for {
			// The runtime ignores SIGURG but for its own purposes. The thread is
			// there until ended is closed.
			_ = unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
			select {
			case <-ended:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return func() { close(ended); wg.Wait() }
}

// Sent is the number of frames made so far; what the interface refused is
// among them.
func (s *Sender) Sent() (uint64, error) {
	var now state
	if err := s.state.Lookup(uint32(0), &now); err != nil {
		return 0, fmt.Errorf("xdpgen: read the sender's count: %w", err)
	}
	return now.Made, nil
}

// Close frees program and maps.
func (s *Sender) Close() error {
	var errs []error
	if s.program != nil {
		errs = append(errs, s.program.Close())
	}
	for _, m := range s.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// senderProgram is what goes into the program.
type senderProgram struct {
	frame        []byte
	patches      []patch
	flows        int
	table, state int // descriptors of the maps
	ifindex      int
	stamped      bool
	every        time.Duration
	clump        int
}

const xdpAborted = 0

// assemble writes the whole header of every frame: whoever had the page before
// (a forwarding kernel, say) may have changed it. Registers: R6 frame, R7 the
// flow's record, R8 the state.
func (b senderProgram) assemble() asm.Instructions {
	l4 := ethernetLen + ipv6Len
	v4 := b.frame[12] == 0x08
	if v4 {
		l4 = ethernetLen + ipv4Len
	}
	head := l4 + udpLen + PayloadMin
	ins := asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 0, asm.Word),
		asm.LoadMem(asm.R2, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R3, asm.R6),
		asm.Add.Imm(asm.R3, int32(head)),
		asm.JGT.Reg(asm.R3, asm.R2, "bad"),
	}
	ins = append(ins, asm.LoadMapValue(asm.R8, b.state, 0))
	if b.every > 0 {
		ins = append(ins, b.await()...)
	}
	ins = append(ins, storeBytes(b.frame[:head])...)
	ins = append(ins, b.chooseFlow()...)
	for _, p := range b.patches {
		size := map[int]asm.Size{2: asm.Half, 4: asm.Word, 8: asm.DWord}[p.len]
		ins = append(ins, asm.LoadMem(asm.R4, asm.R7, int16(p.record), size), asm.StoreMem(asm.R6, int16(p.frame), asm.R4, size))
	}
	if v4 {
		ins = append(ins, headerChecksum()...)
	}
	if b.stamped {
		at := int16(l4 + udpLen)
		ins = append(ins,
			asm.FnKtimeGetNs.Call(),
			asm.StoreMem(asm.R6, at+stampAt, asm.R0, asm.Word),
			asm.Xor.Imm(asm.R0, -1),
			asm.StoreMem(asm.R6, at+unstampAt, asm.R0, asm.Word),
		)
	}
	ins = append(ins,
		asm.LoadImm(asm.R1, int64(b.ifindex), asm.DWord),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpAborted).WithSymbol("bad"),
		asm.Return(),
	)
	if b.every > 0 {
		ins = append(ins, asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("early"), asm.Return())
	}
	return ins
}

// lateness is how far a paced sender may fall behind and still catch up.
const lateness = time.Millisecond

// await drops frames until a clump is due.
func (b senderProgram) await() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R3, asm.R8, madeAt, asm.DWord),
		asm.And.Imm(asm.R3, int32(b.clump-1)),
		asm.JNE.Imm(asm.R3, 0, "go"),
		asm.FnKtimeGetNs.Call(),
		asm.LoadMem(asm.R3, asm.R8, nextAt, asm.DWord),
		asm.JGT.Reg(asm.R3, asm.R0, "early"),
		asm.Mov.Reg(asm.R4, asm.R0),
		asm.Sub.Reg(asm.R4, asm.R3),
		asm.JLT.Imm(asm.R4, int32(lateness), "due"),
		asm.Mov.Reg(asm.R3, asm.R0),
		asm.Add.Imm(asm.R3, int32(b.every)*int32(b.clump)).WithSymbol("due"),
		asm.StoreMem(asm.R8, nextAt, asm.R3, asm.DWord),
		asm.Mov.Imm(asm.R3, 0).WithSymbol("go"),
	}
}

// storeBytes writes constants at R6.
func storeBytes(content []byte) (ins asm.Instructions) {
	at := int16(0)
	for ; len(content) >= 8; content, at = content[8:], at+8 {
		ins = append(ins, asm.LoadImm(asm.R4, int64(binary.NativeEndian.Uint64(content)), asm.DWord), asm.StoreMem(asm.R6, at, asm.R4, asm.DWord))
	}
	for ; len(content) > 0; content, at = content[1:], at+1 {
		ins = append(ins, asm.StoreImm(asm.R6, at, int64(content[0]), asm.Byte))
	}
	return ins
}

// chooseFlow leaves a random flow's record in R7: the upper half of a 64-bit
// linear congruential generator (Knuth's constants), scaled to the number of
// flows. RFC 4814 §4 asks for such an order.
func (b senderProgram) chooseFlow() asm.Instructions {
	return asm.Instructions{
		asm.LoadMem(asm.R3, asm.R8, madeAt, asm.DWord),
		asm.Add.Imm(asm.R3, 1),
		asm.StoreMem(asm.R8, madeAt, asm.R3, asm.DWord),
		asm.LoadMem(asm.R3, asm.R8, randomAt, asm.DWord),
		asm.LoadImm(asm.R4, 6364136223846793005, asm.DWord),
		asm.Mul.Reg(asm.R3, asm.R4),
		asm.LoadImm(asm.R4, 1442695040888963407, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R4),
		asm.StoreMem(asm.R8, randomAt, asm.R3, asm.DWord),
		asm.RSh.Imm(asm.R3, 32),
		asm.Mul.Imm(asm.R3, int32(b.flows)),
		asm.RSh.Imm(asm.R3, 32),
		asm.JGE.Imm(asm.R3, int32(b.flows), "bad"), // never; the verifier wants to see it
		asm.Mul.Imm(asm.R3, recordLen),
		asm.LoadMapValue(asm.R7, b.table, 0),
		asm.Add.Reg(asm.R7, asm.R3),
	}
}

// headerChecksum writes the IPv4 header's (RFC 791 §3.1) over the ten 16-bit words
// there, the checksum's own being zero.
func headerChecksum() asm.Instructions {
	ins := asm.Instructions{asm.Mov.Imm(asm.R4, 0)}
	for at := int16(ethernetLen); at < ethernetLen+ipv4Len; at += 4 {
		ins = append(ins, asm.LoadMem(asm.R5, asm.R6, at, asm.Word), asm.Add.Reg(asm.R4, asm.R5))
	}
	for _, width := range []int32{32, 16, 16} {
		ins = append(ins, asm.Mov.Reg(asm.R5, asm.R4), asm.RSh.Imm(asm.R5, width))
		if width == 32 {
			ins = append(ins, asm.LSh.Imm(asm.R4, 32), asm.RSh.Imm(asm.R4, 32))
		} else {
			ins = append(ins, asm.And.Imm(asm.R4, 0xffff))
		}
		ins = append(ins, asm.Add.Reg(asm.R4, asm.R5))
	}
	return append(ins, asm.Xor.Imm(asm.R4, 0xffff), asm.StoreMem(asm.R6, ethernetLen+10, asm.R4, asm.Half))
}
