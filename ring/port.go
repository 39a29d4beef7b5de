// Package ring is the border between the translator and whatever moves its
// packets: one Port per interface queue, frames that never leave one shared
// memory area, and the bounded rings that goroutines pass small records
// through.
//
//	       ┌────────── UMEM: one area for all ports ──────────┐
//	Recv ──┤ frame │ frame │ frame │ frame │ frame │ frame │… ├── Send
//	       └──────────────────────────────────────────────────┘
//	A frame is at any moment in exactly one place: a fill ring, an RX ring,
//	a worker's hands, a TX ring, a completion ring, or a FrameStack.
package ring

// Headroom is the octets in front of a received packet within its frame: what
// XDP_PACKET_HEADROOM gives. Translation from IPv4 to IPv6 grows into it.
const Headroom = 256

// Desc is one packet in the UMEM: Addr is the offset of its first octet (the
// Ethernet header), Len its length in octets. The layout is the kernel's
// struct xdp_desc, so that a burst is copied out of a ring as it lies there.
type Desc struct {
	Addr    uint64
	Len     uint32
	Options uint32
}

// Port is one queue of one interface: AF_XDP (ring/xsk), memory
// (ring/memport) or a capture file (ring/pcapport). A Port and the FrameStack
// it draws from are used by one goroutine, the worker that owns them.
type Port interface {
	// Recv copies up to len(descs) descriptors of received packets into descs
	// and returns how many. Their frames are the caller's from then on: each
	// goes to Send of some Port over the same UMEM, or to FrameStack.Push.
	// Recv also keeps the device supplied with free frames from the stack.
	Recv(descs []Desc) int

	// Send hands descs to the device in order and returns how many it took;
	// the frames of the rest stay with the caller. Nothing is guaranteed to
	// leave before Flush.
	Send(descs []Desc) int

	// Flush tells the device about what was sent since the last Flush, if it
	// wants to be told, and returns completed frames to the stack. A worker
	// calls it once per poll on every port, traffic or not, so that
	// transmission never stalls.
	Flush()

	// PollFD is the descriptor to sleep on for received packets, or -1.
	PollFD() int
}

// Lagging is a Port whose device may leave packets waiting after a Flush: its
// own queue is full, or the link is down. Nothing tells when it can go on, so
// who sleeps while TXPending says yes should Flush again before long.
type Lagging interface {
	TXPending() bool
}

// UMEM is the memory that all frames of a translator lie in. It is off the
// Go heap. Its fields do not change between NewUMEM and Close, so any
// goroutine may use it; what a frame holds belongs to whoever owns the frame.
type UMEM struct {
	Mem       []byte // all frames, one after the other
	FrameSize int    // octets of one frame, a power of two

	mapping []byte // what NewUMEM mapped and Close unmaps; nil for memory of somebody else's
	pages   Pages
}

// Packet returns the octets of d together with all of the frame behind them,
// as a slice whose capacity ends with the frame.
func (u *UMEM) Packet(d Desc) []byte {
	end := (d.Addr | uint64(u.FrameSize-1)) + 1
	return u.Mem[d.Addr : d.Addr+uint64(d.Len) : end]
}

// Frame returns the whole frame that the address lies in.
func (u *UMEM) Frame(addr uint64) []byte {
	base := addr &^ uint64(u.FrameSize-1)
	return u.Mem[base : base+uint64(u.FrameSize) : base+uint64(u.FrameSize)]
}

// FrameStack holds the free frames of one worker, last in first out so that
// the warmest frame is used next. Not safe for concurrent use: its owner is
// one worker.
type FrameStack struct {
	base []uint64 // frame start addresses; its capacity is fixed at creation
	mask uint64
}

// NewFrameStack returns an empty stack that holds at most capacity frames of
// frameSize octets (a power of two).
func NewFrameStack(capacity, frameSize int) *FrameStack {
	return &FrameStack{base: make([]uint64, 0, capacity), mask: ^uint64(frameSize - 1)}
}

// Push returns the frame that addr lies in. The capacity is the number of all
// frames of the UMEM, so there is always room; a frame that comes back twice
// is a broken invariant, which Push reports by panicking once the stack
// overflows.
func (s *FrameStack) Push(addr uint64) {
	n := len(s.base)
	if n == cap(s.base) {
		panic("ring: more frames returned than the UMEM has")
	}
	s.base = s.base[:n+1]
	s.base[n] = addr & s.mask
}

// Pop takes a frame and returns the address of its first octet.
func (s *FrameStack) Pop() (addr uint64, ok bool) {
	n := len(s.base)
	if n == 0 {
		return 0, false
	}
	addr = s.base[n-1]
	s.base = s.base[:n-1]
	return addr, true
}

// Len is the number of free frames.
func (s *FrameStack) Len() int { return len(s.base) }

// Frames is the stack's content, for tests that count every frame.
func (s *FrameStack) Frames() []uint64 { return s.base }
