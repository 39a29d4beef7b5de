package e2e

import (
	"bufio"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"handoff64/tools/lab"
)

// handoffd is killed at random moments while it gives out entries as fast as
// they come. Whatever a NAT64 was given is on record at the moment of each
// crash: the capture at the server's end of the wire says what that was. It is
// not enough to look in the end, for the NAT64 tells the new instance of much
// that the old one has lost.
func TestHandoffNoEntryIsEverLost(t *testing.T) {
	t.Parallel()
	shorter(t, "handoff.crashes", *handoffCrashes, 200)
	const perSecond = 1000
	w := plain(t, shortTimeouts)
	sink, err := w.server.ListenPacket("udp4", netip.AddrPortFrom(w.Server(), 5000).String())
	w.must(err)
	defer sink.Close() // reads nothing: the clients of this test want no answer
	// Fewer than a NAT64's ports, so that no entry has to make room for another.
	from := tuples(w.moreAddresses(4), 10_000, 50_000)
	captured := w.record(w.server, "eth0")
	h := w.adopted()
	f := w.plainFlows(9000, 2)

	stop, poured := make(chan struct{}), make(chan error, 1)
	sent, given := 0, 0
	go func() {
		var err error
		sent, err = pour(w.client, from, netip.MustParseAddrPort(w.embedded(5000)), perSecond, stop)
		poured <- err
	}()
	for range *handoffCrashes {
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		w.must(h.Kill())
		crash := time.Now()
		all, err := returned(captured(), w.Server())
		w.must(err)
		given += len(all)
		absent := w.absent(h, all)
		captured = w.record(w.server, "eth0")
		w.must(h.Start(w.ctx))
		w.onRecord(h, all, absent, crash)
	}
	w.flowsGoOn(f, bothWays, "after all the crashes")
	close(stop)
	w.must(<-poured)
	w.must(f.Finish())
	captured()
	t.Logf("%d crashes, %d new connections, %d entries given to the NAT64", *handoffCrashes, sent, given)
	if given < 100**handoffCrashes {
		t.Errorf("only %d entries were given out in all: the crashes hit nothing", given)
	}
}

// absent lists which of the entries the table of a server that is dead lacks.
func (w *world) absent(h *lab.Handoffd, all map[entry]bool) (absent []entry) {
	w.t.Helper()
	rows, err := h.Entries(w.ctx)
	w.must(err)
	table := make(map[entry]bool)
	for _, r := range rows {
		table[entry{r.Server, r.NAT64, r.MappedPort, netip.AddrPortFrom(r.Client, r.ClientPort)}] = true
	}
	for e := range all {
		if !table[e] {
			absent = append(absent, e)
		}
	}
	return absent
}

// onRecord expects every entry in the log, written before the crash, and those
// that the table lacked as deleted there.
func (w *world) onRecord(h *lab.Handoffd, all map[entry]bool, absent []entry, crash time.Time) {
	w.t.Helper()
	log := w.logged(h)
	line := func(e entry) history { return log[loggedEntry{netip.AddrPortFrom(e.nat64, e.mapped), e.client}] }
	var unlogged, lost []entry
	for e := range all {
		if l := line(e); l.created.IsZero() || l.created.After(crash) {
			unlogged = append(unlogged, e)
		}
	}
	for _, e := range absent {
		if l := line(e); l.deleted.IsZero() || l.deleted.After(crash) {
			lost = append(lost, e)
		}
	}
	if len(unlogged) > 0 {
		w.t.Errorf("%d entries of %d are not in the log, such as %v", len(unlogged), len(all), fewer(unlogged))
	}
	if len(lost) > 0 {
		w.t.Errorf("%d entries of %d are not in the table, such as %v", len(lost), len(all), fewer(lost))
	}
}

// loggedEntry is what a line of the log names.
type loggedEntry struct{ mapped, client netip.AddrPort }

// history is when an entry was first created, and first deleted.
type history struct{ created, deleted time.Time }

// logged reads the log.
func (w *world) logged(h *lab.Handoffd) map[loggedEntry]history {
	w.t.Helper()
	log := make(map[loggedEntry]history)
	file, err := os.Open(h.EventLog())
	w.must(err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) != 5 {
			continue // of a NAT64, not of an entry
		}
		at, err := time.Parse(time.DateTime, f[0]+" "+f[1])
		w.must(err)
		mapped, err := netip.ParseAddrPort(f[3])
		w.must(err)
		client, err := netip.ParseAddrPort(f[4])
		w.must(err)
		l := log[loggedEntry{mapped, client}]
		switch {
		case f[2] == "Created" && l.created.IsZero():
			l.created = at
		case f[2] == "Deleted" && l.deleted.IsZero():
			l.deleted = at
		}
		log[loggedEntry{mapped, client}] = l
	}
	return log
}
