package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"handoff64/bench/generator"
	"handoff64/bench/traffic"
	"handoff64/cmd/commandline"
)

const replayHelp = `Sends the frames of a capture file (pcap or pcapng, Ethernet): at the times at which they were recorded, at a rate, or as fast
as possible. All of it is loaded into memory first. Checksums and addresses other than Ethernet's stay as they are.

Examples:
  pktgen replay --interface eth1 --pcap web.pcap --dst-mac 02:00:00:00:00:01
  pktgen replay --interface eth1 --pcap web.pcap --speed 10 --loops 0      # ten times as fast, until SIGINT
  pktgen replay --interface eth1 --pcap web.pcap --rate 1M --loops 100`

// replayFlags are those of replay.
type replayFlags struct {
	*commandline.Flags
	portFlags
	name, namespace, file, rate, srcMAC, dstMAC string
	speed                                       float64
	loops                                       uint64
	json                                        bool
}

func newReplayFlags(stdout, stderr io.Writer) *replayFlags {
	fs := &replayFlags{Flags: newFlags("replay", replayHelp, "replay --interface IF --pcap FILE [FLAGS]", stdout, stderr)}
	fs.StringVar(&fs.name, "interface", "", "interface `IF` to send on")
	fs.StringVar(&fs.namespace, "netns", "", "network `NAMESPACE` of the interface: a name below /run/netns or a path")
	fs.StringVar(&fs.file, "pcap", "", "capture `FILE`")
	fs.Float64Var(&fs.speed, "speed", 1, "`FACTOR` by which to be faster than the recorded times")
	fs.StringVar(&fs.rate, "rate", "", "in place of the recorded times: max, or packets per second, a `RATE` such as 250k or 1.5M")
	fs.Uint64Var(&fs.loops, "loops", 1, "`number` of times to send all; 0: until SIGINT")
	fs.StringVar(&fs.srcMAC, "src-mac", "", "source Ethernet address of all frames, `MAC` (default the recorded ones)")
	fs.StringVar(&fs.dstMAC, "dst-mac", "", "destination Ethernet address of all frames, `MAC` (default the recorded ones)")
	fs.BoolVar(&fs.json, "json", false, "print the result as one JSON object")
	fs.portFlags.declare(fs.Flags)
	return fs
}

func runReplay(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newReplayFlags(stdout, stderr)
	if code, ok := fs.Read(args); !ok {
		return code
	}
	cfg, link, err := fs.config()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	if cfg.Recording, err = generator.LoadRecording(fs.file, link); err != nil {
		return fs.Fail(err)
	}
	cfg.Progress = progressOn(stderr)
	r, err := generator.Replay(ctx, cfg)
	if err != nil {
		return fs.Fail(err)
	}
	if err := fs.print(r, cfg.Recording); err != nil {
		return fs.Fail(err)
	}
	return commandline.OK
}

// config checks the flags.
func (fs *replayFlags) config() (cfg generator.ReplayConfig, link traffic.Link, err error) {
	if fs.name == "" || fs.file == "" {
		return cfg, link, errors.New("--interface IF and --pcap FILE are needed")
	}
	if cfg.CPUs, err = fs.check(); err != nil {
		return cfg, link, err
	}
	if !(fs.speed > 0 && fs.speed <= 1e9) {
		return cfg, link, fmt.Errorf("--speed %v: give a factor above 0", fs.speed)
	}
	if link.Src, err = parseMAC("src-mac", fs.srcMAC); err != nil {
		return cfg, link, err
	}
	if link.Dst, err = parseMAC("dst-mac", fs.dstMAC); err != nil {
		return cfg, link, err
	}
	cfg.Endpoint, cfg.Rounds, cfg.Speed = fs.endpoint(fs.name, fs.namespace), fs.loops, fs.speed
	if fs.rate != "" {
		cfg.Speed = 0
		if cfg.Rate, err = parseRate(fs.rate); err != nil {
			return cfg, link, fmt.Errorf("--rate: %w", err)
		}
	}
	return cfg, link, nil
}

// replayedJSON is the result as --json has it.
type replayedJSON struct {
	Sent        uint64                     `json:"sent"`
	Octets      uint64                     `json:"sent_octets"`
	Loops       float64                    `json:"loops"`
	Seconds     float64                    `json:"seconds"`
	Rate        float64                    `json:"rate_pps"`
	Wanted      float64                    `json:"wanted_pps,omitempty"`
	Missed      uint64                     `json:"missed"`
	RingFull    uint64                     `json:"tx_ring_full"`
	NoFrame     uint64                     `json:"no_frame"`
	Late        *latencyJSON               `json:"late_us,omitempty"`
	Interrupted bool                       `json:"interrupted"`
	Interface   generator.EndpointCounters `json:"interface"`
}

func (fs *replayFlags) print(r *generator.Replayed, rec *generator.Recording) error {
	late := latencyOf(r.Late)
	if fs.json {
		err := json.NewEncoder(fs.Stdout).Encode(replayedJSON{
			Sent: r.Sent, Octets: r.Octets, Loops: r.Rounds, Seconds: r.Elapsed.Seconds(), Rate: r.Rate, Wanted: r.Wanted, Missed: r.Missed,
			RingFull: r.RingFull, NoFrame: r.NoFrame, Late: late, Interrupted: r.Interrupted, Interface: r.Endpoint,
		})
		if err != nil {
			return fmt.Errorf("print the result: %w", err)
		}
		return nil
	}
	t := tabwriter.NewWriter(fs.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "capture\t%d packets over %v\n", rec.Len(), rec.Duration().Round(time.Microsecond))
	fmt.Fprintf(t, "sent\t%d (%.4g times all) in %v, %.4g Mpps, %.4g Gbit/s\n", r.Sent, r.Rounds, r.Elapsed.Round(time.Millisecond), r.Rate/1e6, gigabits(r.Octets, r.Elapsed))
	if r.Wanted > 0 {
		fmt.Fprintf(t, "rate\t%+.4f %% of the wanted %.4g Mpps, %d not sent in time\n", (r.Rate/r.Wanted-1)*100, r.Wanted/1e6, r.Missed)
	}
	printLatency(t, "behind the recorded times", late)
	t.Flush()
	printEndpoint(fs.Stdout, r.Endpoint)
	if r.Interrupted {
		fmt.Fprintln(fs.Stdout, "interrupted: this is the result so far")
	}
	return nil
}
