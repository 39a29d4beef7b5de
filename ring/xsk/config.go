package xsk

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"

	"github.com/asavie/xdp"

	"handoff64/ring"
)

// Mode says where the filter runs.
type Mode string

const (
	ModeAuto    Mode = "auto"    // native, else generic
	ModeNative  Mode = "native"  // in the driver, before the kernel makes an skb
	ModeGeneric Mode = "generic" // on skbs, works with every driver
)

// Switch turns a feature on or off, or on where it works.
type Switch string

const (
	Auto Switch = "auto"
	On   Switch = "on"
	Off  Switch = "off"
)

// Config is what Open needs. Zero values mean the defaults given here.
type Config struct {
	IPv6, IPv4 string // interface names; they may be the same

	Workers        int    // 1; fewer when an interface has fewer queues
	FrameSize      int    // 2048
	FramesPerQueue int    // 8192
	RingSize       int    // 2048, of each of the four rings of a queue
	Mode           Mode   // ModeAuto
	ZeroCopy       Switch // Auto: where both drivers can
	BusyPoll       Switch // Auto: with zero copy; copied packets pass no driver loop of ours

	Filter FilterConfig

	// Program, if not nil, makes the XDP program that takes the filter's place;
	// Filter is then without effect, and SetFilter and its like must not be
	// called. It is asked for a program whose maps have room for so many queues
	// and whose name is ProgramName, so that the next instance recognises what a
	// killed one left behind. Close closes the program and its maps.
	Program func(queues int) (*xdp.Program, error)

	// StateDir is where the number of the attached program is noted, so that a
	// successor without CAP_SYS_ADMIN recognises what a killed instance left
	// behind (reading a foreign program's name takes that capability). With
	// an empty StateDir only the name counts.
	StateDir string

	Log *slog.Logger // slog.Default()
}

func (c Config) withDefaults() Config {
	c.Workers = cmp.Or(c.Workers, 1)
	c.FrameSize = cmp.Or(c.FrameSize, 2048)
	c.FramesPerQueue = cmp.Or(c.FramesPerQueue, 8192)
	c.RingSize = cmp.Or(c.RingSize, 2048)
	c.Mode = cmp.Or(c.Mode, ModeAuto)
	c.ZeroCopy = cmp.Or(c.ZeroCopy, Auto)
	c.BusyPoll = cmp.Or(c.BusyPoll, Auto)
	c.Log = cmp.Or(c.Log, slog.Default())
	return c
}

// minFramesPerQueue leaves each ring a burst to work with.
const minFramesPerQueue = 256

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("xsk: "+format, args...)) }
	if c.IPv6 == "" || c.IPv4 == "" {
		bad("both interfaces must be named, IPv6 is %q and IPv4 %q", c.IPv6, c.IPv4)
	}
	if c.Workers < 1 {
		bad("%d workers, want at least 1", c.Workers)
	}
	if !powerOfTwo(c.FrameSize) || c.FrameSize < 2048 || c.FrameSize > os.Getpagesize() {
		bad("frames of %d octets, want a power of two from 2048 to the page size, %d", c.FrameSize, os.Getpagesize())
	}
	if !powerOfTwo(c.RingSize) {
		bad("rings of %d, want a power of two", c.RingSize)
	}
	if c.FramesPerQueue < minFramesPerQueue {
		bad("%d frames per queue, want at least %d", c.FramesPerQueue, minFramesPerQueue)
	}
	if c.Mode != ModeAuto && c.Mode != ModeNative && c.Mode != ModeGeneric {
		bad("mode %q is none of auto, native and generic", c.Mode)
	}
	for name, s := range map[string]Switch{"zero copy": c.ZeroCopy, "busy poll": c.BusyPoll} {
		if s != Auto && s != On && s != Off {
			bad("%s %q is none of auto, on and off", name, s)
		}
	}
	if c.ZeroCopy == On && c.Mode == ModeGeneric {
		bad("zero copy needs native mode, the mode is generic")
	}
	if err := c.Filter.validate(); err != nil && c.Program == nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func powerOfTwo(n int) bool { return n > 0 && bits.OnesCount(uint(n)) == 1 }

// Worker is what one worker owns: nobody else may touch it while the worker
// runs. The first port of each side is the one to send on: the driver may have
// fewer transmit queues than receive queues.
type Worker struct {
	Frames     *ring.FrameStack
	IPv6, IPv4 []ring.Port // to poll; the same ports if the interfaces are the same
}

// Interface says how one interface is used.
type Interface struct {
	Name     string
	Index    int
	MAC      [6]byte
	Mode     Mode // ModeNative or ModeGeneric
	ZeroCopy bool
	BusyPoll bool
	Queues   int
}
