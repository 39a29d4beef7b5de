package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/asavie/xdp"

	"handoff64/bench/asavie"
	"handoff64/bench/forward"
	"handoff64/cmd/commandline"
	"handoff64/ring/xsk"
)

// forwardFlags is what `pktgen forward` was asked for.
type forwardFlags struct {
	*commandline.Flags
	interfaces, nextHops, cpus, poll string
	mode, zeroCopy, busyPoll         string
	sockets                          string
	workers, ring, frames, queue     int
	json                             bool
}

func newForwardFlags(stdout, stderr io.Writer) *forwardFlags {
	fs := &forwardFlags{Flags: newFlags("forward",
		"Forwards every IP packet between two interfaces and does nothing else to it, with the rings, bursts and sleeps of nat64d,\nuntil SIGINT or SIGTERM. What nat64d is slower than this is what its translation costs.",
		"forward --interfaces A,B [FLAGS]", stdout, stderr)}
	fs.StringVar(&fs.interfaces, "interfaces", "", "the two interfaces, `A,B`")
	fs.StringVar(&fs.nextHops, "next-hops", "", "Ethernet addresses that get what leaves through A and B, `MAC,MAC`; without them the two addresses of a frame are swapped")
	fs.IntVar(&fs.workers, "workers", 1, "`number` of workers; no more run than either interface has queues")
	fs.StringVar(&fs.cpus, "cpus", "", "`CPU,CPU...` to pin the workers to")
	fs.StringVar(&fs.poll, "poll", "adaptive", "`adaptive` sleeps when nothing comes, busy spins")
	fs.StringVar(&fs.mode, "mode", "auto", "XDP `mode`: auto, native or generic")
	fs.StringVar(&fs.zeroCopy, "zero-copy", "auto", "`auto`, on or off")
	fs.StringVar(&fs.busyPoll, "busy-poll", "auto", "`auto`, on or off: drive the NIC's queues from the workers")
	fs.IntVar(&fs.ring, "ring", 2048, "entries of each ring, a power of two `number`")
	fs.IntVar(&fs.frames, "frames", 8192, "`number` of frames for each queue")
	fs.StringVar(&fs.sockets, "sockets", "own", "`own`, or asavie: github.com/asavie/xdp's Socket in place of ours, which serves one queue, copies each frame, and always sleeps")
	fs.IntVar(&fs.queue, "queue", 0, "with --sockets asavie: the `queue` to serve")
	fs.BoolVar(&fs.json, "json", false, "print the counters at the end as JSON")
	return fs
}

// runForward forwards until ctx ends, then prints what it did.
func runForward(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newForwardFlags(stdout, stderr)
	if code, ok := fs.Read(args); !ok {
		return code
	}
	cfg, err := fs.config()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	var result forward.Counters
	if fs.sockets == "asavie" {
		result, err = fs.forwardAsavie(ctx, cfg)
	} else {
		result, err = fs.forwardOwn(ctx, cfg)
	}
	if err != nil {
		return fs.Fail(err)
	}
	if err := fs.print(result); err != nil {
		return fs.Fail(err)
	}
	return commandline.OK
}

// config checks the flags that the packages do not.
func (fs *forwardFlags) config() (forward.Config, error) {
	cfg := forward.Config{
		Workers: fs.workers, Busy: fs.poll == "busy", FramesPerQueue: fs.frames, RingSize: fs.ring,
		Mode: xsk.Mode(fs.mode), ZeroCopy: xsk.Switch(fs.zeroCopy), BusyPoll: xsk.Switch(fs.busyPoll),
		Log: slog.New(slog.NewTextHandler(fs.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	names := strings.Split(fs.interfaces, ",")
	if len(names) != 2 || names[0] == "" || names[1] == "" {
		return cfg, fmt.Errorf("--interfaces %q: give two, A,B", fs.interfaces)
	}
	cfg.Interfaces = [2]string(names)
	if fs.poll != "busy" && fs.poll != "adaptive" {
		return cfg, fmt.Errorf("--poll %q is neither adaptive nor busy", fs.poll)
	}
	if fs.sockets != "own" && fs.sockets != "asavie" {
		return cfg, fmt.Errorf("--sockets %q is neither own nor asavie", fs.sockets)
	}
	if fs.nextHops != "" {
		hops := strings.Split(fs.nextHops, ",")
		if len(hops) != 2 {
			return cfg, fmt.Errorf("--next-hops %q: give two, MAC,MAC", fs.nextHops)
		}
		for i, hop := range hops {
			mac, err := net.ParseMAC(hop)
			if err != nil || len(mac) != 6 {
				return cfg, fmt.Errorf("--next-hops: %q is not an Ethernet address", hop)
			}
			cfg.NextHop[i] = (*[6]byte)(mac)
		}
	}
	if fs.sockets == "asavie" && fs.nextHops == "" {
		return cfg, errors.New("--sockets asavie needs --next-hops")
	}
	if fs.cpus == "" {
		return cfg, nil
	}
	for cpu := range strings.SplitSeq(fs.cpus, ",") {
		n, err := strconv.Atoi(cpu)
		if err != nil || n < 0 {
			return cfg, fmt.Errorf("--cpus: %q is not the number of a CPU", cpu)
		}
		cfg.CPUs = append(cfg.CPUs, n)
	}
	return cfg, nil
}

// isSet says whether a flag was given.
func (fs *forwardFlags) isSet(name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// ready tells whoever waits for it that packets flow.
func (fs *forwardFlags) ready() { fmt.Fprintln(fs.Stderr, "ready") }

func (fs *forwardFlags) forwardOwn(ctx context.Context, cfg forward.Config) (n forward.Counters, err error) {
	f, err := forward.Open(cfg)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fs.ready()
	err = f.Run(ctx)
	return f.Counters(), err
}

// forwardAsavie cannot say what was received: what its sockets had no room for
// is not counted by anybody.
func (fs *forwardFlags) forwardAsavie(ctx context.Context, cfg forward.Config) (n forward.Counters, err error) {
	a := asavie.Config{Interfaces: cfg.Interfaces, NextHop: [2][6]byte{*cfg.NextHop[0], *cfg.NextHop[1]}, Queue: fs.queue, CPU: -1}
	if len(cfg.CPUs) > 0 {
		a.CPU = cfg.CPUs[0]
	}
	if fs.isSet("ring") || fs.isSet("frames") {
		a.Options = &xdp.SocketOptions{
			NumFrames: fs.frames, FrameSize: 2048, FillRingNumDescs: fs.ring, CompletionRingNumDescs: fs.ring,
			RxRingNumDescs: fs.ring, TxRingNumDescs: fs.ring,
		}
	}
	f, err := asavie.Open(a)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	fs.ready()
	err = f.Run(ctx)
	return forward.Counters{Received: f.Sent(), Sent: f.Sent()}, err
}

// print writes the counters.
func (fs *forwardFlags) print(n forward.Counters) error {
	if fs.json {
		if err := json.NewEncoder(fs.Stdout).Encode(n); err != nil {
			return fmt.Errorf("print the counters: %w", err)
		}
		return nil
	}
	fmt.Fprintf(fs.Stdout, "received %d, sent %d, lost at full TX rings %d\n", n.Received, n.Sent, n.TXFull)
	return nil
}
