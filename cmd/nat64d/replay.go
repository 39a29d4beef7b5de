package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"handoff64/cmd/commandline"
	"handoff64/cmd/nat64d/config"
	"handoff64/conntrack"
	"handoff64/dataplane"
	"handoff64/dataplane/nexthop"
	"handoff64/ring"
	"handoff64/ring/pcapport"
)

// What a replay has instead of interfaces: link addresses, and an MTU where
// the configuration says "interface".
var (
	replayMAC6     = [6]byte{2, 0, 0, 0, 0, 0x64}
	replayMAC4     = [6]byte{2, 0, 0, 0, 0, 0x46}
	replayNeighbor = [6]byte{2, 0, 0, 0, 0, 1}
)

const (
	replayMTU    = 1500
	replayFrames = 4096
	// replayStart is the tick of the first packet.
	replayStart = 1000
)

type replayFiles struct{ in6, in4, out6, out4 string }

func replayCommand(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("replay", "Runs the data path over capture files (pcap or pcapng, Ethernet), in the order of their timestamps.\nThe same input gives the same output, octet for octet. Needs no privileges and no interfaces.",
		"replay --config FILE --ipv6-in PCAP --ipv4-in PCAP --ipv6-out PCAP --ipv4-out PCAP [--drops]", stdout, stderr)
	file := fs.String("config", "", "configuration `FILE` (JSON); its interfaces need not exist")
	var files replayFiles
	names := map[string]*string{"ipv6-in": &files.in6, "ipv4-in": &files.in4, "ipv6-out": &files.out6, "ipv4-out": &files.out4}
	for name, p := range names {
		side := map[bool]string{true: "read what arrives on", false: "write what is sent on"}[name[5:] == "in"]
		fs.StringVar(p, name, "", side+" the "+map[byte]string{'6': "IPv6", '4': "IPv4"}[name[3]]+" interface: a capture `FILE` with Ethernet frames")
	}
	drops := fs.Bool("drops", false, "print how many packets were dropped and why")
	if code, ok := fs.Read(args); !ok {
		return code
	}
	if missing := firstMissing(fs.FlagSet, names); missing != "" {
		return fs.Misuse("--" + missing + " FILE is missing")
	}
	if err := files.distinct(); err != nil {
		return fs.Misuse(err.Error())
	}
	c, ok := loadConfig(*file, stderr)
	if !ok {
		return commandline.Usage
	}
	counters, err := replay(c, files)
	if err != nil {
		fmt.Fprintf(stderr, "nat64d replay: %v\n", err)
		return commandline.Failure
	}
	printReplay(stdout, &counters, *drops)
	return commandline.OK
}

// distinct says whether a file that will be written is one of the others under
// any name: what was captured must not be lost. Devices such as /dev/null may
// be given twice.
func (f replayFiles) distinct() error {
	for i, out := range []string{f.out6, f.out4} {
		written, err := os.Stat(out)
		if err == nil && !written.Mode().IsRegular() {
			continue
		}
		for _, other := range []string{f.in6, f.in4, f.out4}[:3-i] {
			is, otherErr := os.Stat(other)
			if filepath.Clean(out) == filepath.Clean(other) || err == nil && otherErr == nil && os.SameFile(written, is) {
				return fmt.Errorf("%s would be overwritten: give each output a file of its own", other)
			}
		}
	}
	return nil
}

func firstMissing(fs *flag.FlagSet, names map[string]*string) (missing string) {
	fs.VisitAll(func(f *flag.Flag) {
		if p := names[f.Name]; p != nil && *p == "" && missing == "" {
			missing = f.Name
		}
	})
	return missing
}

// replay runs the worker over captures. Secrets and the clock come from the
// configuration and the packets alone, so the same input gives the same
// output, octet for octet.
func replay(c *config.Config, files replayFiles) (counters dataplane.Counters, err error) {
	closeAll := func(f func() error) { err = errors.Join(err, f()) }
	umem, err := ring.NewUMEM(replayFrames, c.XDP.FrameSize)
	if err != nil {
		return counters, err
	}
	defer closeAll(umem.Close)
	frames := ring.NewFrameStack(replayFrames, c.XDP.FrameSize)
	for i := range replayFrames {
		frames.Push(uint64(i * c.XDP.FrameSize))
	}
	port6, close6, err := openCapture(umem, frames, files.in6, files.out6)
	if err != nil {
		return counters, err
	}
	defer closeAll(close6)
	port4, close4, err := openCapture(umem, frames, files.in4, files.out4)
	if err != nil {
		return counters, err
	}
	defer closeAll(close4)
	cfg := tableFrom(c, 1)
	cfg.Secret, cfg.Now = new([32]byte), replayStart
	table, _, err := conntrack.New(cfg)
	if err != nil {
		return counters, err
	}
	defer closeAll(table.Close)
	rules, err := rulesFrom(c)
	if err != nil {
		return counters, err
	}
	rules.Host = dataplane.HostRules{} // there is no host here: all that is in the captures is the NAT64's
	hops := replayHops(c, rules)
	w, err := dataplane.NewWorker(dataplane.Config{
		Table: table, Shard: table.Shard(0), Hops: hops, UMEM: umem, Frames: frames,
		Ports: [2][]ring.Port{{port6}, {port4}}, Group: dataplane.NewGroup(1), Rules: rules, Seed: 1, Fragments: c.Limits.Fragments,
	})
	if err != nil {
		return counters, err
	}
	defer closeAll(w.Close)
	t := &c.Timeouts
	f := feeder{worker: w, ports: []*pcapport.Port{port6, port4}}
	f.longest = int64((max(t.UDP, t.ICMP, t.TCPEstablished, t.TCPIncomingSYN, t.Fragment) + t.TCPTransitory + time.Minute) / tickTime)
	f.run(int64(max(t.Fragment, t.TCPIncomingSYN) / tickTime))
	return w.Counters(), errors.Join(port6.Err(), port4.Err())
}

func openCapture(umem *ring.UMEM, frames *ring.FrameStack, in, out string) (*pcapport.Port, func() error, error) {
	r, err := pcapport.Open(in)
	if err != nil {
		return nil, nil, err
	}
	w, err := pcapport.Create(out)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return pcapport.New(umem, frames, r, w), func() error { return errors.Join(r.Close(), w.Close()) }, nil
}

// replayHops sends everything to one neighbour on each side. ICMP errors of
// our own come from icmp_source, else from the first pool4 address, on the
// IPv6 side inside the first pool6 prefix.
func replayHops(c *config.Config, rules *dataplane.Rules) *nexthop.Table {
	own := addr4(c.Pool4[0].Prefix.Addr())
	link6 := nexthop.Link{Index: 1, Name: c.IPv6Interface, MAC: replayMAC6, MTU: replayMTU, Up: true}
	link6.Addr6Hi, link6.Addr6Lo = rules.Pool6[0].Embed(own)
	link4 := nexthop.Link{Index: 2, Name: c.IPv4Interface, MAC: replayMAC4, MTU: replayMTU, Up: true, Addr4: own}
	if m := c.MTU.IPv6; m != 0 {
		link6.MTU = uint32(m)
	}
	if m := c.MTU.IPv4; m != 0 {
		link4.MTU = uint32(m)
	}
	hop := nexthop.Hop{State: nexthop.Resolved}
	copy(hop.Eth[:], replayNeighbor[:])
	return nexthop.NewStatic(link6, link4, hop, hop)
}

func printReplay(out io.Writer, c *dataplane.Counters, drops bool) {
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	total := uint64(0)
	for _, n := range c.Drops {
		total += n
	}
	rows := []struct {
		name string
		n    uint64
	}{
		{"received on IPv6", c.RxPackets[dataplane.IPv6]}, {"received on IPv4", c.RxPackets[dataplane.IPv4]},
		{"translated IPv6 to IPv4", c.Translated[dataplane.V6ToV4]}, {"translated IPv4 to IPv6", c.Translated[dataplane.V4ToV6]},
		{"translated hairpin", c.Translated[dataplane.Hairpin]}, {"passed on, IPv6", c.Passed[dataplane.IPv6]}, {"passed on, IPv4", c.Passed[dataplane.IPv4]},
		{"generated", c.Generated}, {"parked", c.Parked}, {"dropped", total},
	}
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%d\t\n", r.name, r.n)
	}
	t.Flush()
	if !drops {
		return
	}
	dataplane.EachReason(func(r dataplane.DropReason, row dataplane.Reason) {
		if n := c.Drops[r]; n > 0 {
			fmt.Fprintf(out, "%s %d  %s\n", row.Name, n, row.Sentence)
		}
	})
}
