package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	api "handoff64/handoff/client"
	"handoff64/handoff/server"
)

const entriesUsage = `  handoffd entries [--state-dir DIR] [--nat64 ADDRESS] [--json]

Lines: NAT64 and mapped port, client, own address that was asked, prefix, time of creation (UTC).
--json prints one object a line.
`

const lookupUsage = `  handoffd lookup ADDRESS:PORT [--at TIME] [--state-dir DIR] [--json]

--at  a time in the past: RFC 3339, or as the log has it ("2019-03-18 10:06:28.436754", UTC).
      It is answered from the table and from the log, with those that it was rotated to.
Prints the client and exits with 0, or with 1 when nobody is there. Several lines: several of
this host's addresses were asked, which is then named behind the client. --json prints an array.
`

const statusUsage = `  handoffd status [--state-dir DIR] [--json]
`

// errNobody: the port is not mapped.
var errNobody = errors.New("nobody")

// view parses a command's flags and opens the table. A nil view without an error
// means that there is nothing left to do.
func (c *command) view(p *program, fs *flag.FlagSet, args []string) (server.View, []string, error) {
	stateDir := fs.String("state-dir", server.DefaultStateDir, "")
	words, done, err := c.parse(p, fs, args)
	if err != nil || done {
		return nil, nil, err
	}
	if c.name != "lookup" {
		if err := c.noWords(words); err != nil {
			return nil, nil, err
		}
	} else if len(words) != 1 {
		return nil, nil, usagef("lookup takes one ADDRESS:PORT (see handoffd lookup --help)")
	} else if _, err := mappedAddress(words[0]); err != nil {
		return nil, nil, err
	}
	v, err := server.OpenView(p.ctx, *stateDir)
	return v, words, err
}

func showEntries(p *program, c *command, args []string) (err error) {
	fs := flag.NewFlagSet("entries", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "")
	var f server.Filter
	fs.TextVar(&f.NAT64, "nat64", netip.Addr{}, "")
	v, _, err := c.view(p, fs, args)
	if err != nil || v == nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	out := bufio.NewWriter(p.stdout)
	line := func(r *server.Row) error {
		_, err := fmt.Fprintf(out, "%-21v %-47v %-15v %v %s\n",
			netip.AddrPortFrom(r.Address, r.MappedPort), netip.AddrPortFrom(r.Client, r.ClientPort), r.Server, r.Prefix,
			r.Created.Format(server.TimeLayout))
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(out)
		line = func(r *server.Row) error { return enc.Encode(r) }
	}
	if err := v.Entries(p.ctx, f, line); err != nil {
		return err
	}
	return out.Flush()
}

func lookup(p *program, c *command, args []string) (err error) {
	fs := flag.NewFlagSet("lookup", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "")
	var when time.Time
	fs.Func("at", "", func(s string) (err error) { when, err = server.ParseTime(s); return err })
	v, words, err := c.view(p, fs, args)
	if err != nil || v == nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	at, err := mappedAddress(words[0])
	if err != nil {
		return err
	}
	var found []server.Holder
	if when.IsZero() {
		found, err = server.Lookup(p.ctx, v, at)
	} else {
		found, err = server.LookupAt(p.ctx, v, at, when)
	}
	if err != nil {
		return err
	}
	if *asJSON {
		err := json.NewEncoder(p.stdout).Encode(server.Answer(api.Query{Address: at, At: when}, found).Clients)
		if err != nil || len(found) > 0 {
			return err
		}
	}
	if len(found) == 0 {
		if when.IsZero() {
			return fmt.Errorf("%w is behind %v", errNobody, at)
		}
		return fmt.Errorf("%w is known to have been behind %v at %v", errNobody, at, when.UTC().Format(server.TimeLayout))
	}
	return printHolders(p.stdout, found)
}

// mappedAddress reads what lookup is asked for.
func mappedAddress(word string) (netip.AddrPort, error) {
	at, err := netip.ParseAddrPort(word)
	if err != nil || !at.Addr().Is4() {
		return at, usagef("%q is not an IPv4 address and a port; give one such as 192.0.2.7:3719", word)
	}
	return at, nil
}

func printHolders(w io.Writer, found []server.Holder) error {
	for _, h := range found {
		suffix := ""
		if len(found) > 1 && h.Server.IsValid() {
			suffix = " towards " + h.Server.String()
		}
		if _, err := fmt.Fprintf(w, "%v%s\n", netip.AddrPortFrom(h.Client, h.ClientPort), suffix); err != nil {
			return err
		}
	}
	return nil
}

func showStatus(p *program, c *command, args []string) (err error) {
	fs := flag.NewFlagSet("status", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "")
	v, _, err := c.view(p, fs, args)
	if err != nil || v == nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	st, err := v.Status(p.ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		return json.NewEncoder(p.stdout).Encode(st)
	}
	out := bufio.NewWriter(p.stdout)
	printStatus(out, &st)
	return out.Flush()
}

// printStatus leaves errors to the writer, which keeps the first.
func printStatus(w *bufio.Writer, st *server.Status) {
	if st.Ready {
		fmt.Fprintf(w, "ready, %s, listening on %s for %v\n", st.Mode, st.Listen, time.Duration(st.UptimeS)*time.Second)
	} else {
		fmt.Fprintf(w, "not running or not ready; this is the table as it stands\n")
	}
	if st.LookupSocket != "" || st.HTTP != "" {
		fmt.Fprintf(w, "look-ups %s\n", strings.TrimSpace(st.LookupSocket+" "+st.HTTP))
	}
	fmt.Fprintf(w, "log %s\n%d entries of %d NAT64s\n", st.Log, st.Entries, st.NAT64s)
	for _, n := range st.Channels {
		fmt.Fprintf(w, "  %v towards %v: %d entries\n", netip.AddrPortFrom(n.NAT64, n.Port), n.Server, n.Entries)
	}
	k := &st.Counters
	fmt.Fprintf(w, "datagrams %d received, %d sent, %d not sent\n", k.Received, k.Sent, k.SendErrors)
	fmt.Fprintf(w, "entries %d created, %d deleted, %d refused among others\n", k.Created, k.Deleted, k.EntriesRefused)
	fmt.Fprintf(w, "packets %d refused beside entries that were not\n", k.PacketsRefused)
	fmt.Fprintf(w, "NAT64s %d authenticated, %d tokens rotated\n", k.Authenticated, k.Rotations)
	printCounts(w, "accepted", k.Accepted)
	printCounts(w, "refused", k.Refused)
}

func printCounts(w *bufio.Writer, title string, counts map[string]uint64) {
	fmt.Fprintln(w, title)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if counts[name] > 0 {
			fmt.Fprintf(w, "  %-22s %d\n", name, counts[name])
		}
	}
}
