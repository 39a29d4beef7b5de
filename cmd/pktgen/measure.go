package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"handoff64/bench/generator"
	"handoff64/bench/traffic"
	"handoff64/bench/trial"
	"handoff64/cmd/commandline"
)

const flowsHelp = `
Flows are every combination of the source and destination addresses and ports, or the first --flows of them. A frame carries
a stamp (sender, number, time), by which it is known when it arrives; all other packets are left to the kernel. SIGINT ends
sending, and the result so far is printed.`

const sendExamples = `
Examples:
  pktgen send --interface eth1 --dst 2001:db8:2::1 --flows 1000 --size 80 --rate 1M --duration 10s
  pktgen send --interface eth1 --imix simple --flows 65536`

const measureExamples = `
What the far side sends in return (--direction return or both) answers the flows that it received in a first phase, in which
each flow is sent once: so a NAT64 may lie between, whose mappings only show in what it translates. Sizes are those on the
--tx side; IPv4 frames behind a NAT64 are 20 octets smaller.

Examples:
  # a NAT64 between two namespaces
  nat64lab up --name m
  pktgen measure --tx eth0 --tx-netns m-client --rx eth0 --rx-netns m-server \
      --dst 64:ff9b::192.0.2.10 --flows 10000 --rate 200k --direction both
  nat64lab down --name m

  # two interfaces of this machine, cabled to a device whose routes lead back to us
  pktgen measure --tx eth2 --rx eth3 --src 2001:db8:1::10 --dst 64:ff9b::198.18.0.2 --dst-mac 02:00:00:00:00:01 \
      --return-mac 02:00:00:00:00:02 --flows 60000 --rate 5M --imix simple --json`

// sendFlags are those of send and, with others, of measure.
type sendFlags struct {
	*commandline.Flags
	portFlags
	flowFlags
	tx, txNamespace string
	json            bool
}

func (fs *sendFlags) declare() {
	fs.flowFlags.declare(fs.Flags)
	fs.portFlags.declare(fs.Flags)
	fs.BoolVar(&fs.json, "json", false, "print the result as one JSON object")
}

// config makes a tester's configuration of the flags, all but the responder.
func (fs *sendFlags) config() (c generator.Config, err error) {
	if c.CPUs, err = fs.portFlags.check(); err != nil {
		return c, err
	}
	if c.InitiatorLink, err = fs.link(); err != nil {
		return c, err
	}
	c.Threads, c.Seed = fs.threads, fs.seed
	c.Initiator = fs.endpoint(fs.tx, fs.txNamespace)
	c.Flows, err = fs.parseFlows(c.Initiator)
	return c, err
}

func (fs *sendFlags) least(c *generator.Config) int {
	return traffic.MinFrame(c.Flows.Protocol, c.Flows.Src.Addr().Is6())
}

// runSend sends and receives nothing.
func runSend(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := &sendFlags{Flags: newFlags("send", "Sends stamped frames on one interface."+flowsHelp+"\n"+sendExamples, "send --interface IF [FLAGS]", stdout, stderr)}
	fs.StringVar(&fs.tx, "interface", "", "interface `IF` to send on")
	fs.StringVar(&fs.txNamespace, "netns", "", "network `NAMESPACE` of the interface: a name below /run/netns or a path")
	fs.declare()
	if code, ok := fs.Read(args); !ok {
		return code
	}
	if fs.tx == "" {
		return fs.Misuse("--interface IF is missing")
	}
	c, err := fs.config()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	run, err := fs.stream(fs.least(&c))
	if err != nil {
		return fs.Misuse(err.Error())
	}
	c.Progress = progressOn(stderr)
	return fs.measure(ctx, c, run, 0)
}

// measureFlags are those of measure.
type measureFlags struct {
	sendFlags
	rx, rxNamespace, returnMAC, direction, learnRate string
	wait                                             time.Duration
	verify                                           bool
}

func newMeasureFlags(stdout, stderr io.Writer) *measureFlags {
	fs := &measureFlags{sendFlags: sendFlags{Flags: newFlags("measure",
		"Sends stamped frames on one interface, receives them on another (or the same), and reports loss, duplication, reordering\nand delay."+flowsHelp+"\n"+measureExamples,
		"measure --tx IF --rx IF [FLAGS]", stdout, stderr)}}
	fs.declareEnds()
	fs.declareWays("forward")
	fs.BoolVar(&fs.verify, "verify", false, "check the checksums of all that is received")
	fs.declare()
	return fs
}

// declareEnds are the flags about both sides of the device.
func (fs *measureFlags) declareEnds() {
	fs.StringVar(&fs.tx, "tx", "", "interface `IF` of the near side, which begins all flows")
	fs.StringVar(&fs.txNamespace, "tx-netns", "", "network `NAMESPACE` of --tx: a name below /run/netns or a path")
	fs.StringVar(&fs.rx, "rx", "", "interface `IF` of the far side")
	fs.StringVar(&fs.rxNamespace, "rx-netns", "", "network `NAMESPACE` of --rx")
	fs.StringVar(&fs.returnMAC, "return-mac", "", "destination Ethernet address of what --rx sends, `MAC` (default by the kernel's route)")
	fs.DurationVar(&fs.wait, "wait", 2*time.Second, "`TIME` to wait for late packets, if any are missing (RFC 2544 section 23)")
}

// declareWays are the flags about the directions and how the flows are opened.
func (fs *measureFlags) declareWays(direction string) {
	fs.StringVar(&fs.direction, "direction", direction, "`DIRECTION` to measure: forward (or 6to4) from --tx to --rx, return (or 4to6), or both")
	fs.StringVar(&fs.learnRate, "learn-rate", "50k", "`RATE` of the first phase, in which each flow is sent once")
}

var directions = map[string]trial.Direction{
	"forward": trial.ToResponder, "6to4": trial.ToResponder, "return": trial.ToInitiator, "4to6": trial.ToInitiator, "both": trial.Both,
}

// runMeasure sends, receives and compares.
func runMeasure(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := newMeasureFlags(stdout, stderr)
	if code, ok := fs.Read(args); !ok {
		return code
	}
	c, run, learn, err := fs.plan()
	if err != nil {
		return fs.Misuse(err.Error())
	}
	c.Progress = progressOn(stderr)
	return fs.measure(ctx, c, run, learn)
}

// plan is what the flags ask for. learn is the rate of the first phase, 0 if
// there is none.
func (fs *measureFlags) plan() (c generator.Config, run generator.Run, learn float64, err error) {
	direction, learn, err := fs.ways()
	if err != nil {
		return c, run, 0, err
	}
	if c, err = fs.ends(); err != nil {
		return c, run, 0, err
	}
	if run, err = fs.stream(fs.least(&c)); err != nil {
		return c, run, 0, err
	}
	run.Direction = direction
	if direction == trial.ToResponder && c.Flows.Protocol != traffic.TCP {
		learn = 0
	}
	return c, run, learn, nil
}

// ends is what the flags say of both sides.
func (fs *measureFlags) ends() (c generator.Config, err error) {
	if fs.tx == "" || fs.rx == "" {
		return c, errors.New("--tx IF and --rx IF are needed; they may be the same")
	}
	if c, err = fs.config(); err != nil {
		return c, err
	}
	c.Responder, c.Wait, c.Verify = fs.endpoint(fs.rx, fs.rxNamespace), fs.wait, fs.verify
	c.ResponderLink.Dst, err = parseMAC("return-mac", fs.returnMAC)
	return c, err
}

// ways is what the flags say of directions and of the first phase.
func (fs *measureFlags) ways() (d trial.Direction, learn float64, err error) {
	d, ok := directions[fs.direction]
	if !ok {
		return d, 0, fmt.Errorf("--direction %q is none of forward, return, both", fs.direction)
	}
	if learn, err = parseRate(fs.learnRate); err == nil && learn == 0 {
		err = errors.New("give a rate, at which nothing is lost")
	}
	if err != nil {
		return d, 0, fmt.Errorf("--learn-rate: %w", err)
	}
	return d, learn, nil
}

// measure does what was asked for and prints what came of it.
func (fs *sendFlags) measure(ctx context.Context, c generator.Config, run generator.Run, learn float64) int {
	tester, err := generator.Open(c)
	if err != nil {
		return fs.Fail(err)
	}
	r, err := learnAndRun(ctx, tester, run, learn, c.Flows)
	if err = errors.Join(err, tester.Close()); err != nil {
		return fs.Fail(err)
	}
	if err := printResult(fs.Stdout, r, fs.json, run.Sizes); err != nil {
		return fs.Fail(err)
	}
	return commandline.OK
}

// learnAndRun opens the flows where that is needed, then measures.
func learnAndRun(ctx context.Context, tester *generator.Tester, run generator.Run, learn float64, flows traffic.Flows) (*generator.Result, error) {
	if learn > 0 {
		if err := learnAll(ctx, tester, learn, flows); err != nil {
			return nil, err
		}
	}
	return tester.Run(ctx, run)
}

// learnAll is the first phase: the far side gets to know every flow.
func learnAll(ctx context.Context, tester *generator.Tester, learn float64, flows traffic.Flows) error {
	missing, err := tester.Learn(ctx, learn)
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return errors.New("interrupted in the first phase: nothing is measured yet")
	case missing > 0:
		return fmt.Errorf("first phase: %d of %d flows did not get through at %.0f packets/s: is the device up, do its routes lead to both sides, is --learn-rate too high?", missing, flows.Len(), learn)
	}
	return nil
}
