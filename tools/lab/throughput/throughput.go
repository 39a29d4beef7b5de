// Package throughput measures bulk TCP through nat64d beside the same machine's
// plain kernel forwarding over the same kind of links, and prints a table.
//
//	nat64d:  client ── veth ── nat64 (nat64d)            ── veth ── server
//	kernel:  client ── veth ── nat64 (net.ipv4.ip_forward) ── veth ── server
//
// Both have checksum and segmentation offloads off, so that every packet is
// one of at most 1500 octets with a finished checksum, as on a wire.
package throughput

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"handoff64/tools/lab"
)

// Options says what to measure.
type Options struct {
	Lab      lab.Options // without routers
	Binaries lab.Binaries
	Out      io.Writer
	Seconds  int // of each run
	Runs     int // of each measurement; the median counts
}

// Path is one way from the client to the server.
type Path struct {
	Name           string
	Client, Server lab.Host
	Listen, Dial   netip.AddrPort // of the server, as each of the two knows it
}

// Row is one line of the table: medians in 10⁶ bit/s of TCP payload, with the
// smallest and largest of the runs.
type Row struct {
	Path, Tool, Direction string
	Median, Min, Max      float64
}

// Run measures everything and prints the table.
func Run(ctx context.Context, o Options) error {
	rows, err := Measure(ctx, o)
	if err != nil {
		return err
	}
	fmt.Fprintf(o.Out, "| path | tool | direction | median Mbit/s | min | max |\n|---|---|---|---:|---:|---:|\n")
	for _, r := range rows {
		fmt.Fprintf(o.Out, "| %s | %s | %s | %.0f | %.0f | %.0f |\n", r.Path, r.Tool, r.Direction, r.Median, r.Min, r.Max)
	}
	fmt.Fprintf(o.Out, "\nTCP payload, %d runs of %d s each, %d queue(s), veth with offloads off.\n", o.Runs, o.Seconds, max(o.Lab.Queues, 1))
	return nil
}

// Measure measures kernel forwarding and nat64d, each in a network of its own.
func Measure(ctx context.Context, o Options) ([]Row, error) {
	name := o.Lab.Name
	if name == "" {
		name = lab.DefaultName
	}
	var rows []Row
	for _, kind := range []struct {
		suffix  string
		prepare func(context.Context, *lab.Lab, Options) (Path, error)
	}{{"-kernel", kernelPath}, {"-nat64d", nat64dPath}} {
		o.Lab.Name, o.Lab.Routers = name+kind.suffix, false
		more, err := measureIn(ctx, o, kind.prepare)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// measureIn builds one network, measures, and takes it down.
func measureIn(ctx context.Context, o Options, prepare func(context.Context, *lab.Lab, Options) (Path, error)) (rows []Row, err error) {
	l, err := lab.Up(o.Lab)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	p, err := prepare(ctx, l, o)
	if err != nil {
		return nil, err
	}
	tools := []struct {
		name string
		run  func(context.Context, Path, int, bool) (Rate, error)
	}{{"built in", Stream}}
	if _, err := exec.LookPath("iperf3"); err == nil {
		tools = append(tools, struct {
			name string
			run  func(context.Context, Path, int, bool) (Rate, error)
		}{"iperf3", Iperf3})
	}
	for _, tool := range tools {
		for _, download := range []bool{true, false} {
			row := Row{Path: p.Name, Tool: tool.name, Direction: "client to server"}
			if download {
				row.Direction = "server to client"
			}
			var runs []float64
			for range o.Runs {
				rate, err := tool.run(ctx, p, o.Seconds, download)
				if err != nil {
					return nil, fmt.Errorf("%s, %s, %s: %w", p.Name, tool.name, row.Direction, err)
				}
				runs = append(runs, rate.Mbps)
			}
			slices.Sort(runs)
			row.Min, row.Median, row.Max = runs[0], runs[len(runs)/2], runs[len(runs)-1]
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// kernelPath lets the nat64 host's kernel forward IPv4 and gives the client an
// IPv4 address.
func kernelPath(_ context.Context, l *lab.Lab, _ Options) (Path, error) {
	client, nat64 := l.Host("client"), l.Host("nat64")
	err := errors.Join(
		nat64.SetSysctl("ipv4/ip_forward", "1"),
		nat64.AddAddress(lab.IPv6Interface, netip.MustParsePrefix("198.51.100.1/24")),
		client.AddAddress("eth0", netip.MustParsePrefix("198.51.100.10/24")),
		client.AddDefaultRoute(netip.MustParseAddr("198.51.100.1")),
	)
	server := netip.AddrPortFrom(l.Server(), 5201)
	return Path{"kernel IPv4 forwarding", client, l.Host("server"), server, server}, err
}

// nat64dPath starts nat64d.
func nat64dPath(ctx context.Context, l *lab.Lab, o Options) (Path, error) {
	d := l.Daemon(o.Binaries)
	d.Config["workers"] = map[string]any{"count": max(o.Lab.Queues, 1)}
	err := d.Start(ctx)
	listen := netip.AddrPortFrom(l.Server(), 5201)
	dial := netip.AddrPortFrom(lab.Embed(l.Server()), 5201)
	return Path{"nat64d", l.Host("client"), l.Host("server"), listen, dial}, err
}

// Rate is what came of a run.
type Rate struct {
	Mbps        float64 // 10⁶ bit/s of TCP payload that the receiver received
	Retransmits int     // segments that were sent again, if the tool counts them
}

// Stream sends over one TCP connection for some seconds.
func Stream(ctx context.Context, p Path, seconds int, download bool) (Rate, error) {
	l, err := p.Server.Listen("tcp", p.Listen.String())
	if err != nil {
		return Rate{}, err
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+20*time.Second)
	defer cancel()
	near, err := p.Client.DialContext(ctx, "tcp", p.Dial.String())
	if err != nil {
		return Rate{}, err
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		return Rate{}, fmt.Errorf("accept: %w", err)
	}
	defer far.Close()
	from, to := near, far
	if download {
		from, to = far, near
	}
	stop := context.AfterFunc(ctx, func() { near.Close(); far.Close() })
	defer stop()
	sent := make(chan error, 1)
	start := time.Now()
	go func() { sent <- send(from, start.Add(time.Duration(seconds)*time.Second)) }()
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{to}, make([]byte, 256<<10))
	elapsed := time.Since(start)
	if err = errors.Join(err, <-sent); err != nil {
		return Rate{}, fmt.Errorf("after %d octets: %w", got, err)
	}
	return Rate{Mbps: float64(got) * 8 / elapsed.Seconds() / 1e6}, nil
}

// send writes until the time has come, then ends its direction.
func send(c net.Conn, until time.Time) error {
	buf := make([]byte, 256<<10)
	for time.Now().Before(until) {
		if _, err := c.Write(buf); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return c.(*net.TCPConn).CloseWrite()
}

// Iperf3 does the same with the program that people compare with.
func Iperf3(ctx context.Context, p Path, seconds int, download bool) (Rate, error) {
	server := exec.CommandContext(ctx, "iperf3", "--server", "--one-off", "--bind", p.Listen.Addr().String())
	if err := p.Server.Start(server); err != nil {
		return Rate{}, err
	}
	defer func() {
		// It has ended after one client; if there was none, it ends here.
		_ = server.Process.Kill()
		_ = server.Wait()
	}()
	args := []string{"--client", p.Dial.Addr().String(), "--time", strconv.Itoa(seconds), "--json"}
	if download {
		args = append(args, "--reverse")
	}
	// The server says nothing when it is ready, and one that does not yet
	// listen refuses the client.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := p.Client.Output(ctx, "iperf3", args...)
		rate, reportErr := readReport(out)
		if err = errors.Join(err, reportErr); err == nil {
			return rate, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return Rate{}, err
		}
	}
}

// readReport takes the receiver's rate out of iperf3's JSON. iperf3 ends with
// exit code 0 after some errors, so what it says counts.
func readReport(out string) (Rate, error) {
	var report struct {
		Error string `json:"error"`
		End   struct {
			Sent struct {
				Retransmits int `json:"retransmits"`
			} `json:"sum_sent"`
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return Rate{}, fmt.Errorf("iperf3 printed %q: %w", out, err)
	}
	if report.Error != "" {
		return Rate{}, fmt.Errorf("iperf3: %s", report.Error)
	}
	if report.End.Received.BitsPerSecond <= 0 {
		return Rate{}, errors.New("iperf3 reports that nothing was received")
	}
	return Rate{report.End.Received.BitsPerSecond / 1e6, report.End.Sent.Retransmits}, nil
}
