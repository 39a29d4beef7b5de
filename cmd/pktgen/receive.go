package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"handoff64/bench/generator"
	"handoff64/cmd/commandline"
)

const receiveHelp = `Receives stamped packets (those of pktgen send) until SIGINT, --duration or --packets, and counts loss, duplication and
reordering by their numbers. All other packets are left to the kernel. What is lost behind the last packet that came does not
show: only measure knows how many were sent.

Examples:
  pktgen receive --interface eth1 --duration 12s --json
  pktgen receive --interface eth1 --match ip         # count TCP, UDP and pings of anybody, which then do not reach the kernel`

// receiveFlags are those of receive.
type receiveFlags struct {
	*commandline.Flags
	portFlags
	name, namespace, match string
	duration               time.Duration
	packets                uint64
	verify, latency, json  bool
}

func runReceive(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := &receiveFlags{Flags: newFlags("receive", receiveHelp, "receive --interface IF [FLAGS]", stdout, stderr)}
	fs.StringVar(&fs.name, "interface", "", "interface `IF` to receive on")
	fs.StringVar(&fs.namespace, "netns", "", "network `NAMESPACE` of the interface: a name below /run/netns or a path")
	fs.StringVar(&fs.match, "match", string(generator.MatchStamped), "which `PACKETS` to take: stamped, or ip (all TCP, UDP and pings without options and fragments)")
	fs.DurationVar(&fs.duration, "duration", 0, "`TIME` to receive for (default until SIGINT)")
	fs.Uint64Var(&fs.packets, "packets", 0, "stop after so many stamped packets, a `number` (default never)")
	fs.BoolVar(&fs.verify, "verify", false, "check the checksums of stamped packets")
	fs.BoolVar(&fs.latency, "latency", false, "report delays: the sender runs on this machine, whose clock the stamps show")
	fs.BoolVar(&fs.json, "json", false, "print the result as one JSON object")
	fs.portFlags.declare(fs.Flags)
	if code, ok := fs.Read(args); !ok {
		return code
	}
	if fs.name == "" {
		return fs.Misuse("--interface IF is missing")
	}
	if fs.match != string(generator.MatchStamped) && fs.match != string(generator.MatchIP) {
		return fs.Misuse(fmt.Sprintf("--match %q is neither stamped nor ip", fs.match))
	}
	cpus, err := fs.check()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	e := fs.endpoint(fs.name, fs.namespace)
	e.Match = generator.Match(fs.match)
	r, err := generator.Receive(ctx, generator.ReceiveConfig{
		Endpoint: e, Threads: fs.threads, CPUs: cpus, Verify: fs.verify, Duration: fs.duration, Packets: fs.packets, Progress: progressOn(stderr),
	})
	if err != nil {
		return fs.Fail(err)
	}
	if err := fs.print(r); err != nil {
		return fs.Fail(err)
	}
	return commandline.OK
}

// receptionJSON is the result as --json has it.
type receptionJSON struct {
	Seconds       float64                    `json:"seconds"`
	Received      uint64                     `json:"received"`
	Octets        uint64                     `json:"received_octets"`
	Lost          uint64                     `json:"lost"`
	Duplicated    uint64                     `json:"duplicated"`
	Reordered     uint64                     `json:"reordered"`
	BadChecksum   uint64                     `json:"bad_checksum"`
	Damaged       uint64                     `json:"damaged"`
	Foreign       uint64                     `json:"foreign"`
	ForeignOctets uint64                     `json:"foreign_octets"`
	Rate          float64                    `json:"rate_pps"`
	Latency       *latencyJSON               `json:"latency_us,omitempty"`
	NoLatency     *uint64                    `json:"without_latency,omitempty"`
	Interface     generator.EndpointCounters `json:"interface"`
}

func (fs *receiveFlags) print(r *generator.Reception) error {
	j := receptionJSON{
		Seconds: r.Elapsed.Seconds(), Received: r.Received, Octets: r.Octets, Lost: r.Lost, Duplicated: r.Duplicated, Reordered: r.Reordered,
		BadChecksum: r.BadChecksum, Damaged: r.Damaged, Foreign: r.Foreign, ForeignOctets: r.ForeignOctets, Rate: r.Rate(), Interface: r.Endpoint,
	}
	if fs.latency {
		j.Latency, j.NoLatency = latencyOf(r.Latency), &r.NoLatency
	}
	if fs.json {
		if err := json.NewEncoder(fs.Stdout).Encode(j); err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
		return nil
	}
	t := tabwriter.NewWriter(fs.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "received\t%d in %v, %.4g Mpps between the first and the last\n", r.Received, r.Elapsed.Round(time.Millisecond), r.Rate()/1e6)
	fmt.Fprintf(t, "missing\t%d between packets that came; duplicated %d, reordered %d, damaged %d, wrong checksums %d\n", r.Lost, r.Duplicated, r.Reordered, r.Damaged, r.BadChecksum)
	if r.Foreign > 0 {
		fmt.Fprintf(t, "others\t%d packets without a stamp, %d octets\n", r.Foreign, r.ForeignOctets)
	}
	printLatency(t, "delay", j.Latency)
	t.Flush()
	printEndpoint(fs.Stdout, r.Endpoint)
	return nil
}
