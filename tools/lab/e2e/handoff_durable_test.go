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
// they come. Whatever a NAT64 was given is on record: the capture at the
// server's end of the wire says what that was.
func TestHandoffNoEntryIsEverLost(t *testing.T) {
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
	sent := 0
	go func() {
		var err error
		sent, err = pour(w.client, from, netip.MustParseAddrPort(w.embedded(5000)), perSecond, stop)
		poured <- err
	}()
	for range *handoffCrashes {
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		w.must(h.Kill())
		w.must(h.Start(w.ctx))
	}
	w.flowsGoOn(f, bothWays, "after all the crashes")
	close(stop)
	w.must(<-poured)
	w.must(f.Finish())
	w.must(h.Kill())
	all, err := returned(captured(), w.Server())
	w.must(err)
	t.Logf("%d crashes, %d new connections, %d entries given to the NAT64", *handoffCrashes, sent, len(all))
	if len(all) < 100**handoffCrashes {
		t.Errorf("only %d entries were given out in all: the crashes hit nothing", len(all))
	}
	w.onRecord(h, all)
	w.must(h.Start(w.ctx))
	w.onRecord(h, all)
}

// onRecord expects every entry in the log, and in the table unless the log
// says that it was deleted later.
func (w *world) onRecord(h *lab.Handoffd, all map[entry]bool) {
	w.t.Helper()
	created, deleted := w.logged(h)
	rows, err := h.Entries(w.ctx)
	w.must(err)
	table := make(map[entry]bool)
	for _, r := range rows {
		table[entry{r.Server, r.NAT64, r.MappedPort, netip.AddrPortFrom(r.Client, r.ClientPort)}] = true
	}
	var unlogged, lost []entry
	for e := range all {
		line := loggedEntry{netip.AddrPortFrom(e.nat64, e.mapped), e.client}
		if created[line] == 0 {
			unlogged = append(unlogged, e)
		}
		if !table[e] && deleted[line] < created[line] {
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

// loggedEntry is what a line of the log says of an entry.
type loggedEntry struct{ mapped, client netip.AddrPort }

// logged counts the lines of each entry in the log.
func (w *world) logged(h *lab.Handoffd) (created, deleted map[loggedEntry]int) {
	w.t.Helper()
	created, deleted = make(map[loggedEntry]int), make(map[loggedEntry]int)
	file, err := os.Open(h.EventLog())
	w.must(err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) != 5 {
			continue
		}
		mapped, err := netip.ParseAddrPort(f[3])
		w.must(err)
		client, err := netip.ParseAddrPort(f[4])
		w.must(err)
		switch f[2] {
		case "Created":
			created[loggedEntry{mapped, client}]++
		case "Deleted":
			deleted[loggedEntry{mapped, client}]++
		}
	}
	return created, deleted
}
