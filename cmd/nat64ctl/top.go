package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"handoff64/cmd/nat64d/control"
)

const topHelp = `Shows, anew each second: packets and bits per second of each side and direction,
sessions and how fast they come and go, drops by reason, each worker's share, and what
handoff does. q or Ctrl-C ends it.
`

// Control sequences (ECMA-48, and xterm's for the alternate screen).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	endOfLine   = "\x1b[K\r\n"
	clearBelow  = "\x1b[J"
	bold, plain = "\x1b[1m", "\x1b[0m"
)

// ctrlC is what a terminal in raw mode sends for Ctrl-C.
const ctrlC = 3

// top draws until q, Ctrl-C or the end of ctx, and leaves the terminal as it was.
func (r *request) top(ctx context.Context, p *program) (err error) {
	if err := r.noWords("top"); err != nil {
		return err
	}
	if p.json {
		return usagef("top is for people; programs take stats --watch --json")
	}
	out, ok := p.stdout.(*os.File)
	if !ok || !term.IsTerminal(int(out.Fd())) || !term.IsTerminal(int(os.Stdin.Fd())) {
		return usagef("top needs a terminal; stats --watch does without one")
	}
	before, status, err := p.askTop(ctx) // nobody there: say so on an ordinary screen
	if err != nil {
		return err
	}
	was, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return fmt.Errorf("the terminal: %w", err)
	}
	p.out.WriteString(enterScreen)
	defer func() {
		p.out.WriteString(leaveScreen)
		err = errors.Join(err, p.out.Flush(), term.Restore(int(os.Stdin.Fd()), was))
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go quitOnKey(os.Stdin, cancel)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	if err := p.topLoop(ctx, &before, &status, resized, func() (int, int, error) { return term.GetSize(int(out.Fd())) }); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// quitOnKey waits for q or Ctrl-C. It ends with the process: nothing can end a
// read from a terminal.
func quitOnKey(in io.Reader, quit func()) {
	keys := bufio.NewReader(in)
	for {
		b, err := keys.ReadByte()
		if err != nil || b == 'q' || b == 'Q' || b == ctrlC {
			quit()
			return
		}
	}
}

func (p *program) askTop(ctx context.Context) (control.Stats, control.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stats, err := p.client.Stats(ctx)
	if err != nil {
		return stats, control.Status{}, err
	}
	status, err := p.client.Status(ctx)
	return stats, status, err
}

// topLoop draws each second, and when the terminal changes its size.
func (p *program) topLoop(ctx context.Context, before *control.Stats, status *control.Status, resized <-chan os.Signal, size func() (int, int, error)) error {
	now, at, passed := *before, p.now(), time.Second
	for {
		width, height, err := size()
		if err != nil {
			width, height = 80, 24
		}
		p.drawTop(topLines(before, &now, status, passed), width, height)
		if err := p.out.Flush(); err != nil {
			return fmt.Errorf("writing to the terminal: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-resized:
		case <-p.second:
			*before = now
			if now, *status, err = p.askTop(ctx); err != nil {
				return err
			}
			t := p.now()
			passed, at = t.Sub(at), t
		}
	}
}

// drawTop puts lines on the screen, as far as they fit.
func (p *program) drawTop(lines []string, width, height int) {
	p.out.WriteString(home)
	for i, line := range lines {
		if i == height-1 {
			break
		}
		heading := strings.HasPrefix(line, bold)
		line = strings.TrimPrefix(line, bold)
		if utf8.RuneCountInString(line) > width {
			line = string([]rune(line)[:width])
		}
		if heading {
			line = bold + line + plain
		}
		p.out.WriteString(line + endOfLine)
	}
	p.out.WriteString(clearBelow)
}

// rates turns counts into what happens in a second.
type rates struct{ seconds float64 }

// of is how much grew each second. A nat64d that was restarted counts from zero.
func (r rates) of(now, before uint64) float64 {
	if now >= before {
		now -= before
	}
	return float64(now) / max(r.seconds, 1e-3)
}

func (r rates) packets(now, before uint64) string { return perSecond(r.of(now, before)) + "pkt/s" }
func (r rates) bits(now, before uint64) string    { return perSecond(r.of(now, before)*8) + "bit/s" }
func (r rates) plain(now, before uint64) string   { return perSecond(r.of(now, before)) + "/s" }

// perSecond writes a rate with three digits or so, and a decimal prefix.
func perSecond(v float64) string {
	for _, prefix := range []string{"", "k", "M", "G"} {
		switch {
		case v < 10 && prefix != "":
			return fmt.Sprintf("%.2f %s", v, prefix)
		case v < 1000:
			return fmt.Sprintf("%.0f %s", v, prefix)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.1f T", v)
}

// topLines is what the screen shows; headings begin with bold.
func topLines(before, now *control.Stats, status *control.Status, passed time.Duration) []string {
	r := rates{passed.Seconds()}
	lines := []string{
		fmt.Sprintf("%snat64d %s  up %s  sessions %s of %s  mappings %s", bold, status.Version, span(status.UptimeS),
			count(uint64(status.Sessions.Used)), count(uint64(status.Sessions.Capacity)), count(uint64(status.BIB.Used))), "",
		fmt.Sprintf("%s%-10s %16s %16s %16s %16s", bold, "SIDE", "RECEIVED", "", "SENT", ""),
	}
	side := func(name string, rx, rx0, tx, tx0 control.Counter) string {
		return fmt.Sprintf("%-10s %16s %16s %16s %16s", name, r.packets(rx.Packets, rx0.Packets), r.bits(rx.Bytes, rx0.Bytes),
			r.packets(tx.Packets, tx0.Packets), r.bits(tx.Bytes, tx0.Bytes))
	}
	lines = append(lines, side("IPv6", now.RX.IPv6, before.RX.IPv6, now.TX.IPv6, before.TX.IPv6),
		side("IPv4", now.RX.IPv4, before.RX.IPv4, now.TX.IPv4, before.TX.IPv4), "",
		fmt.Sprintf("%s%-14s %14s   %-14s %14s", bold, "TRANSLATED", "", "SESSIONS", ""),
		fmt.Sprintf("%-14s %14s   %-14s %14s", "IPv6 to IPv4", r.packets(now.Translated.V6ToV4, before.Translated.V6ToV4), "created", r.plain(now.Sessions.Created, before.Sessions.Created)),
		fmt.Sprintf("%-14s %14s   %-14s %14s", "IPv4 to IPv6", r.packets(now.Translated.V4ToV6, before.Translated.V4ToV6), "expired", r.plain(now.Sessions.Expired, before.Sessions.Expired)),
		fmt.Sprintf("%-14s %14s   %-14s %14s", "hairpin", r.packets(now.Translated.Hairpin, before.Translated.Hairpin), "generated", r.packets(now.Generated, before.Generated)),
		fmt.Sprintf("%-14s %14s   %-14s %14s", "passed on", r.packets(now.Passed.IPv6+now.Passed.IPv4, before.Passed.IPv6+before.Passed.IPv4), "parked", count(now.Parked)), "")
	lines = append(lines, topWorkers(r, before, now, status)...)
	if h, h0 := now.Handoff, before.Handoff; status.Handoff.Enabled {
		lines = append(lines, fmt.Sprintf("%sHANDOFF  %s servers, %s cached entries", bold, count(uint64(status.Handoff.Servers)), count(uint64(status.Handoff.CachedEntries))),
			fmt.Sprintf("told %s  asked %s  tunnelled %s  answers %s", r.plain(h.Notifications, h0.Notifications), r.plain(h.Queries, h0.Queries),
				r.plain(h.Tunnelled, h0.Tunnelled), r.plain(h.Replies, h0.Replies)),
			fmt.Sprintf("cached %s  purged %s  refused %s", r.plain(h.EntriesCached, h0.EntriesCached), r.plain(h.EntriesPurged, h0.EntriesPurged), r.plain(h.Invalid, h0.Invalid)), "")
	}
	return append(lines, topDrops(r, before, now)...)
}

// topWorkers shows how the load is spread.
func topWorkers(r rates, before, now *control.Stats, status *control.Status) []string {
	lines := []string{fmt.Sprintf("%s%6s %5s %14s %8s %14s", bold, "WORKER", "CPU", "RECEIVED", "SHARE", "DROPPED")}
	grown := func(i int) (received, dropped float64) {
		var was control.WorkerCounts
		if i < len(before.Workers) {
			was = before.Workers[i]
		}
		return r.of(now.Workers[i].Received, was.Received), r.of(now.Workers[i].Dropped, was.Dropped)
	}
	total := 0.0
	for i := range now.Workers {
		received, _ := grown(i)
		total += received
	}
	for i := range now.Workers {
		received, dropped := grown(i)
		cpu := "any"
		if i < len(status.Workers) && status.Workers[i].CPU >= 0 {
			cpu = fmt.Sprint(status.Workers[i].CPU)
		}
		lines = append(lines, fmt.Sprintf("%6d %5s %14s %7.0f%% %14s", i, cpu, perSecond(received)+"pkt/s", 100*received/max(total, 1e-9), perSecond(dropped)+"pkt/s"))
	}
	return append(lines, "")
}

// topDrops shows what is being dropped, the most at present first.
func topDrops(r rates, before, now *control.Stats) []string {
	lines := []string{fmt.Sprintf("%s%-28s %14s %16s", bold, "DROPPED", "", "EVER")}
	reasons := slices.Collect(maps.Keys(now.Drops))
	slices.SortFunc(reasons, func(a, b string) int {
		return cmp.Or(cmp.Compare(r.of(now.Drops[b], before.Drops[b]), r.of(now.Drops[a], before.Drops[a])), cmp.Compare(now.Drops[b], now.Drops[a]), cmp.Compare(a, b))
	})
	for _, reason := range reasons {
		if n := now.Drops[reason]; n > 0 {
			lines = append(lines, fmt.Sprintf("%-28s %14s %16s", reason, r.packets(n, before.Drops[reason]), count(n)))
		}
	}
	if len(lines) == 1 {
		lines = append(lines, "nothing")
	}
	return lines
}
