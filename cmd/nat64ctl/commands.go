package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"handoff64/cmd/nat64d/control"
)

// answerTimeout bounds a question with a short answer.
const answerTimeout = 10 * time.Second

// request is what the user gave to one command.
type request struct {
	words   []string
	watch   bool
	all     bool
	handoff bool
	octets  int
	filter  control.SessionFilter
}

// command is one row of the table of commands.
type command struct {
	name    string
	usage   string // behind the name
	summary string
	text    string // for its --help
	flags   func(*flag.FlagSet, *request)
	run     func(*request, context.Context, *program) error
}

func commands() []command {
	return []command{
		{
			name: "status", summary: "what runs, on which interfaces, with how much room left",
			text: "Shows version, interfaces, workers, pools and how full the tables are.\n",
			run:  (*request).status,
		},
		{
			name: "stats", usage: "[--watch]", summary: "packet and session counters",
			text: "Shows the counters since nat64d started. They add up:\n" +
				"received + generated = translated + passed to the kernel + parked + dropped.\n\n" +
				"  --watch   a line each second with what happened in it, until Ctrl-C\n",
			flags: func(fs *flag.FlagSet, r *request) { fs.BoolVar(&r.watch, "watch", false, "") },
			run:   (*request).stats,
		},
		{
			name: "drops", usage: "[--all]", summary: "why packets were dropped",
			text: "Shows each reason that a packet was dropped for, most frequent first, with the step of\n" +
				"the packet path that dropped it, what it means and where that is written.\n\n" +
				"  --all   also the reasons that never occurred\n",
			flags: func(fs *flag.FlagSet, r *request) { fs.BoolVar(&r.all, "all", false, "") },
			run:   (*request).drops,
		},
		{
			name: "sessions", usage: "[FILTERS]", summary: "the session table", text: sessionsHelp,
			flags: filterFlags, run: (*request).sessions,
		},
		{
			name: "bib", usage: "list | add PROTOCOL CLIENT MAPPED | remove PROTOCOL MAPPED", summary: "the mappings", text: bibHelp,
			run: (*request).bib,
		},
		{name: "servers", summary: "the handoff servers", text: serversHelp, run: (*request).servers},
		{
			name: "flush", usage: "[--handoff]", summary: "end sessions, or forget what handoff servers gave", text: flushHelp,
			flags: func(fs *flag.FlagSet, r *request) { fs.BoolVar(&r.handoff, "handoff", false, "") },
			run:   (*request).flush,
		},
		{
			name: "set", usage: "[KEY [VALUE]] [--all]", summary: "change a key of the configuration, or show what differs from the file", text: setHelp,
			flags: func(fs *flag.FlagSet, r *request) { fs.BoolVar(&r.all, "all", false, "") },
			run:   (*request).set,
		},
		{name: "trace", usage: "FILTER", summary: "explain the way of packets, one by one", text: traceHelp, run: (*request).trace},
		{
			name: "capture", usage: "FILE [FILTER] [--octets N]", summary: "write packets to a file, before and after translation", text: captureHelp,
			flags: captureFlags, run: (*request).capture,
		},
		{name: "top", summary: "what happens now, on the whole screen", text: topHelp, run: (*request).top},
		{name: "reload", summary: "read the configuration file anew", text: reloadHelp, run: (*request).reload},
	}
}

const serversHelp = `Shows the IPv4 hosts that the handoff protocol has to do with:

  handoff   has the connection table and is asked for entries
  down      had it, but its port is closed now
  unknown   was told of connections and never answered
`

const flushHelp = `Ends every session. Connections break, unless a handoff server has their entries.

  --handoff   only what handoff servers gave: nothing breaks, they are asked again
`

const sessionsHelp = `Shows the sessions that match every filter:

  proto=tcp               tcp, udp or icmp; the bare word does as well
  client=2001:db8::1      the IPv6 client: an address or a prefix
  mapped=192.0.2.1:1234   what it is mapped to; the port may be left out
  server=198.51.100.1:80  the server, by its IPv4 or IPv6 address; the port may be left out
  state=ESTABLISHED       as shown, in either case
  origin=nat64            nat64, handoff or static
  limit=100               no more than so many

Each may be written --proto tcp as well.

  nat64ctl sessions tcp client=2001:db8::/64 limit=20
`

const bibHelp = `list      shows every mapping
add       makes a static mapping of PROTOCOL (tcp, udp or icmp) until nat64d stops
remove    takes a static mapping away

For icmp, identifiers stand in the place of ports.

  nat64ctl bib add tcp [2001:db8::5]:80 192.0.2.1:8080
  nat64ctl bib remove tcp 192.0.2.1:8080
`

func commandNames() string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return strings.Join(names, ", ")
}

const optionsHelp = `
Options:
  --socket PATH   the control socket of nat64d (` + defaultSocket + `)
  --json          for programs: one JSON object; for lists, trace and --watch one a line
`

func helpText() string {
	var b strings.Builder
	b.WriteString("nat64ctl looks into a running nat64d and steers it.\n\n")
	b.WriteString("Usage: nat64ctl [--socket PATH] [--json] COMMAND\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-10s%s\n", c.name, c.summary)
	}
	b.WriteString(optionsHelp)
	b.WriteString("  --version       print the version\n\nnat64ctl COMMAND --help says more about a command.\n")
	return b.String()
}

func (c *command) help() string {
	usage := c.name
	if c.usage != "" {
		usage += " " + c.usage
	}
	return fmt.Sprintf("Usage: nat64ctl [--socket PATH] [--json] %s\n\n%s%s", usage, c.text, optionsHelp)
}

// noWords refuses words behind a command that takes none.
func (r *request) noWords(name string) error {
	if len(r.words) > 0 {
		return usagef("%s takes no %q (see nat64ctl %s --help)", name, r.words[0], name)
	}
	return nil
}

func (p *program) printJSON(v any) error {
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false) // this is no web page: > stays >
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

func (r *request) status(ctx context.Context, p *program) error {
	if err := r.noWords("status"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	s, err := p.client.Status(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(s)
	}
	return writeStatus(p.out, &s)
}

func (r *request) stats(ctx context.Context, p *program) error {
	if err := r.noWords("stats"); err != nil {
		return err
	}
	if r.watch {
		return p.watch(ctx)
	}
	s, err := p.askStats(ctx)
	if err != nil {
		return err
	}
	if p.json {
		return p.printJSON(s)
	}
	return writeStats(p.out, &s)
}

func (p *program) askStats(ctx context.Context) (control.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return p.client.Stats(ctx)
}

func (r *request) drops(ctx context.Context, p *program) error {
	if err := r.noWords("drops"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	rows, err := p.client.Drops(ctx)
	if err != nil {
		return err
	}
	if !r.all {
		rows = slices.DeleteFunc(rows, func(d control.DropReason) bool { return d.Count == 0 })
	}
	slices.SortStableFunc(rows, func(a, b control.DropReason) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Name, b.Name))
	})
	if p.json {
		return p.printJSON(map[string][]control.DropReason{"drops": rows})
	}
	return writeDrops(p.out, rows)
}

// filterFlags makes each filter a flag too.
func filterFlags(fs *flag.FlagSet, r *request) {
	for _, name := range []string{"proto", "protocol", "client", "mapped", "server", "state", "origin", "limit"} {
		fs.Func(name, "", func(v string) error { return r.filter.Set(name, v) })
	}
}

func (r *request) sessions(ctx context.Context, p *program) error {
	for _, w := range r.words {
		key, value, found := strings.Cut(w, "=")
		if !found {
			key, value = "proto", w
		}
		if err := r.filter.Set(key, value); err != nil {
			return usagef("%v (see nat64ctl sessions --help)", err)
		}
	}
	if p.json {
		return p.client.Sessions(ctx, r.filter, func(s control.Session) error { return p.printJSON(s) })
	}
	t := newSessionTable(p.out)
	if err := p.client.Sessions(ctx, r.filter, t.add); err != nil {
		return err
	}
	return t.close()
}

func (r *request) servers(ctx context.Context, p *program) error {
	if err := r.noWords("servers"); err != nil {
		return err
	}
	if p.json {
		return p.client.Servers(ctx, func(s control.HandoffServer) error { return p.printJSON(s) })
	}
	t := newServerTable(p.out)
	if err := p.client.Servers(ctx, t.add); err != nil {
		return err
	}
	return t.close()
}

func (r *request) flush(ctx context.Context, p *program) error {
	if err := r.noWords("flush"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := p.client.Flush(ctx, r.handoff); err != nil {
		return err
	}
	what := "sessions"
	if r.handoff {
		what = "handoff"
	}
	return p.report(map[string]string{"flushed": what}, "flushed %s\n", what)
}

func (r *request) bib(ctx context.Context, p *program) error {
	verb := ""
	if len(r.words) > 0 {
		verb, r.words = r.words[0], r.words[1:]
	}
	want := map[string]int{"list": 0, "add": 3, "remove": 2}
	n, ok := want[verb]
	if !ok || len(r.words) != n {
		return usagef("give bib list, bib add PROTOCOL CLIENT MAPPED or bib remove PROTOCOL MAPPED (see nat64ctl bib --help)")
	}
	if verb == "list" {
		return p.listBIB(ctx)
	}
	return p.changeBIB(ctx, verb, r.words)
}

func (p *program) listBIB(ctx context.Context) error {
	if p.json {
		return p.client.BIB(ctx, func(e control.BIBEntry) error { return p.printJSON(e) })
	}
	t := newBIBTable(p.out)
	if err := p.client.BIB(ctx, t.add); err != nil {
		return err
	}
	return t.close()
}

// changeBIB adds or removes a static mapping; words are PROTOCOL [CLIENT] MAPPED.
func (p *program) changeBIB(ctx context.Context, verb string, words []string) error {
	proto := strings.ToLower(words[0])
	if !slices.Contains([]string{"tcp", "udp", "icmp"}, proto) {
		return usagef("protocol %q is unknown; give tcp, udp or icmp", words[0])
	}
	mapped, err := netip.ParseAddrPort(words[len(words)-1])
	if err != nil || !mapped.Addr().Is4() {
		return usagef("%q is no IPv4 address and port; give one such as 192.0.2.1:8080", words[len(words)-1])
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	change := map[string]string{"protocol": proto, "mapped": mapped.String()}
	if verb == "remove" {
		if err := p.client.RemoveBIB(ctx, proto, mapped); err != nil {
			return err
		}
		return p.report(change, "removed %s %s\n", proto, mapped)
	}
	client, err := netip.ParseAddrPort(words[1])
	if err != nil || !client.Addr().Is6() {
		return usagef("%q is no IPv6 address and port; give one such as [2001:db8::5]:80", words[1])
	}
	if err := p.client.AddBIB(ctx, proto, client, mapped); err != nil {
		return err
	}
	change["client"] = client.String()
	return p.report(change, "added %s %s for %s\n", proto, mapped, client)
}

// report says what was changed.
func (p *program) report(change map[string]string, format string, args ...any) error {
	if p.json {
		return p.printJSON(change)
	}
	_, err := fmt.Fprintf(p.out, format, args...)
	return err
}
