package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"

	"handoff64/cmd/nat64d/control"
)

const packetFilterHelp = `FILTER is one or more terms, all of which must hold:

  proto=tcp               tcp, udp, icmp or a protocol number; the bare word does as well
  client=2001:db8::1      the IPv6 client: an address, a prefix, or [address]:port
  server=198.51.100.1:80  the server, by its IPv4 address or prefix, or its address inside pool6
  mapped=192.0.2.1:1234   what the client is mapped to; the port may be left out
  port=443                the port (or ICMP identifier) of any of these
  dropped                 only what is dropped; drop=REASON for one of the reasons
  side=ipv6               where it came in: ipv6 or ipv4; the bare word does as well
  count=10                end after so many
`

const traceHelp = `Explains the way of each packet that FILTER chooses, until Ctrl-C: what it is, which
session or mapping it met, what it was translated to, or why it was dropped.

` + packetFilterHelp + `
A packet that was held (a fragment), that waited for a next hop, or that is hairpinned is
shown each time that it takes the steps. What the workers have no room for is left out and
counted. Established traffic is not slowed down while nobody traces.

  nat64ctl trace icmp client=2001:db8::17
  nat64ctl trace dropped count=20
`

const captureHelp = `Writes the packets that FILTER chooses to FILE as pcapng, as they come in and as they
leave, with an interface for each side, until Ctrl-C. FILE "-" is standard output.

` + packetFilterHelp + `
  --octets N   so many octets of each packet (default: all)

With count, each frame counts. A dropped packet has its reason as a comment; frames with
the same packet id (frame.packet_id) are one packet before and after translation, and
the ICMP errors about it. What the workers have no room for is left out and counted.

  nat64ctl capture out.pcapng tcp port=443
  nat64ctl capture - icmp | tshark -r -
`

func (r *request) packetFilter(name string, words []string) (f control.PacketFilter, err error) {
	for _, w := range words {
		if err := f.SetWord(w); err != nil {
			return f, usagef("%v (see nat64ctl %s --help)", err, name)
		}
	}
	return f, nil
}

func (r *request) trace(ctx context.Context, p *program) error {
	f, err := r.packetFilter("trace", r.words)
	if err != nil {
		return err
	}
	if len(r.words) == 0 {
		return usagef("give a FILTER, such as client=2001:db8::1, dropped or count=10 (see nat64ctl trace --help)")
	}
	n := 0
	missed, err := p.client.Trace(ctx, f, func() error { return nil }, func(e control.TraceEvent) error {
		n++
		if p.json {
			if err := p.printJSON(e); err != nil {
				return err
			}
		} else {
			writeTraceEvent(p.out, &e)
		}
		return p.out.Flush()
	})
	if err != nil {
		return err
	}
	return p.sum(n, "packet", missed)
}

// writeTraceEvent prints one packet's way.
func writeTraceEvent(out *bufio.Writer, e *control.TraceEvent) {
	fmt.Fprintf(out, "%s worker %d packet %d: %s %s", e.Time.Local().Format("15:04:05.000000"), e.Worker, e.Packet, e.Protocol, e.Outcome)
	if e.Reason != "" {
		out.WriteString(": " + e.Reason)
	}
	out.WriteByte('\n')
	for _, s := range e.Steps {
		fmt.Fprintf(out, "  %-10s %s\n", s.Step, s.Text)
	}
}

// sum says on stderr what a trace or capture has seen. With --json the packets
// alone go out.
func (p *program) sum(n int, what string, missed uint64) error {
	if n != 1 {
		what += "s"
	}
	_, err := fmt.Fprintf(p.errs, "%s %s", count(uint64(n)), what)
	if missed > 0 {
		fmt.Fprintf(p.errs, "; %s more were missed: narrow the filter", count(missed))
	}
	fmt.Fprintln(p.errs)
	return err
}

func captureFlags(fs *flag.FlagSet, r *request) {
	fs.Func("octets", "", func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return fmt.Errorf("give a number from 1 up")
		}
		r.octets = n
		return nil
	})
}

func (r *request) capture(ctx context.Context, p *program) (err error) {
	if len(r.words) == 0 {
		return usagef("give a FILE, or - for standard output (see nat64ctl capture --help)")
	}
	f, err := r.packetFilter("capture", r.words[1:])
	if err != nil {
		return err
	}
	c := &captured{to: p.out, flush: p.out}
	started := func() error { return nil }
	if name := r.words[0]; name != "-" {
		var file *os.File
		// Not before nat64d has accepted the filter: a mistake costs no file.
		started = func() error {
			file, err = os.Create(name)
			c.to, c.flush = file, nil
			return err
		}
		defer func() {
			if file == nil {
				return
			}
			if cerr := file.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("writing %s: %w", name, cerr)
			}
		}()
	}
	missed, err := p.client.Capture(ctx, f, r.octets, started, c)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.errs, "%s octets", count(uint64(c.n)))
	if missed > 0 {
		fmt.Fprintf(p.errs, "; %s frames were missed: narrow the filter, or give --octets", count(missed))
	}
	fmt.Fprintln(p.errs)
	return err
}

// captured copies to the file, and does not let a pipe's reader wait.
type captured struct {
	to    io.Writer
	flush *bufio.Writer
	n     int64
}

func (c *captured) Write(b []byte) (int, error) {
	n, err := c.to.Write(b)
	c.n += int64(n)
	if err == nil && c.flush != nil {
		err = c.flush.Flush()
	}
	return n, err
}
