package server

import (
	"fmt"
	"sync/atomic"
)

// maxGroup bounds how many batches one transaction takes: what it takes longer
// is latency for the first of them.
const maxGroup = 64

// committer makes batches durable and then sends their answers. It commits in
// groups: while the disk is busy with one transaction, the reader fills the next
// batches, and the next transaction takes all of them.
//
// The order is table, log, answers, each waiting for the disk.
//
//   - No answer leaves before both are durable, so whatever a NAT64 was ever
//     given is in both.
//   - The table comes before the log because its transaction is atomic and takes
//     the log's lines with it: after a crash the next start reads from the table
//     which lines the log should have, and completes it. The other way round, a
//     crash would leave lines about entries that never existed, and no way to
//     tell them from true ones.
//   - Batches are committed in the order in which they were filled. So an entry
//     that is found, not created, by a later query is durable before the answer
//     to that query leaves, although the later batch changes nothing.
//
// A failure to write ends the server. The table in memory is ahead of the disk
// then and must not be answered from; and a NAT64 that finds the port closed
// goes back to working without us, which is better for everybody than a server
// that is there and does not answer.
//
// One goroutine runs it.
type committer struct {
	store  *store
	log    *logFile
	send   func(*batch)
	counts *counters
	// committed is the number up to which entries and leases are durable.
	committed *atomic.Uint64

	lines  []byte
	group  []*batch
	reopen chan struct{} // asks for a log rotation; holds one request
}

// run commits what comes in until the channel is closed.
func (c *committer) run(in <-chan *batch, free chan<- *batch) error {
	for {
		select {
		case <-c.reopen:
			if err := c.rotate(); err != nil {
				return err
			}
		case b, ok := <-in:
			if !ok {
				return nil
			}
			c.collect(b, in)
			if err := c.commit(); err != nil {
				return err
			}
			for _, b := range c.group {
				c.committed.Store(b.last)
				c.send(b)
				b.reset()
				free <- b
			}
		}
	}
}

// collect makes a group of b and of what has been filled meanwhile.
func (c *committer) collect(b *batch, in <-chan *batch) {
	c.group = append(c.group[:0], b)
	for len(c.group) < maxGroup {
		select {
		case b, ok := <-in:
			if !ok {
				return
			}
			c.group = append(c.group, b)
		default:
			return
		}
	}
}

// commit makes the group durable.
func (c *committer) commit() error {
	c.lines = c.lines[:0]
	durable := true
	for _, b := range c.group {
		durable = durable && b.empty()
		c.lines = c.log.format(c.lines, b.events)
	}
	if durable {
		return nil
	}
	// Without new lines the old ones stay pending; they are in the log already,
	// which the next start sees.
	var p *pending
	if len(c.lines) > 0 {
		p = c.log.pending(c.lines)
	}
	if err := c.store.apply(c.group, p); err != nil {
		return err
	}
	c.counts.commits.Add(1)
	if len(c.lines) == 0 {
		return nil
	}
	if err := c.log.write(c.lines); err != nil {
		return err
	}
	for _, b := range c.group {
		c.count(b.events)
	}
	return nil
}

func (c *committer) count(events []Event) {
	for i := range events {
		switch events[i].Kind {
		case Created:
			c.counts.created.Add(1)
		case Deleted:
			c.counts.deleted.Add(1)
		}
	}
}

// rotate takes up the log under its name again. What was pending is in the old
// file for certain, and must not be written to the new one.
func (c *committer) rotate() error {
	if err := c.store.setMeta(metaPending, nil); err != nil {
		return fmt.Errorf("rotate the log: %w", err)
	}
	if err := c.log.reopen(); err != nil {
		return fmt.Errorf("rotate the log: %w", err)
	}
	return nil
}
