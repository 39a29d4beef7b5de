package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"handoff64/tools/lab"
)

// lose takes the session tables away that a killed nat64d has left.
func (w *world) lose() {
	w.t.Helper()
	if _, err := os.Stat(w.d.Tables()); err != nil {
		w.t.Fatalf("there are no tables to lose: %v", err)
	}
	w.must(os.RemoveAll(w.d.Tables()))
}

// A translator that is killed and starts again goes on with all connections to
// a handoff server; also when its own memory of them is gone, because the
// server has it.
func TestHandoffNat64dKilled(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for workers := 1; workers <= 2; workers++ {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) { nat64dKilled(t, workers) })
	}
}

func nat64dKilled(t *testing.T, workers int) {
	w := build(t, lab.Options{Queues: workers}, func(config map[string]any) {
		config["workers"] = map[string]any{"count": workers}
	})
	h := w.adopted()
	f := w.plainFlows(9000, 8)
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 8)
	w.flowsGoOn(f, bothWays, "at first")
	for round, lost := range []bool{false, true, true} {
		when := fmt.Sprintf("in round %d, tables lost: %v", round+1, lost)
		w.must(w.d.Kill())
		if lost {
			w.lose()
		}
		w.must(w.d.Start(w.ctx))
		w.flowsGoOn(f, bothWays, when)
		w.unchanged(udp, when)
		if !lost {
			continue
		}
		if s := w.stats(); s.Handoff.Queries == 0 || s.Handoff.EntriesCached == 0 {
			t.Errorf("%s: nothing came back from the server: %+v", when, s.Handoff)
		}
		for name, s := range w.mappings(w.d) {
			if s.Origin != "handoff" {
				t.Errorf("%s: %s is a mapping of origin %s", when, name, s.Origin)
			}
		}
	}
	w.inTable(h, w.mappings(w.d))
	w.must(f.Finish())
}

// What comes first after the loss may also come from the server: then it is
// the IPv4 packet that goes to the server, and comes back with its entry.
func TestHandoffServerSpeaksFirstAfterTheLoss(t *testing.T) {
	t.Parallel()
	w := plain(t)
	w.adopted()
	socket, err := w.server.ListenPacket("udp4", netip.AddrPortFrom(w.Server(), 4000).String())
	w.must(err)
	defer socket.Close()
	c := w.dial(w.client, "udp", 0, w.embedded(4000))
	_, err = c.Write([]byte("hello"))
	w.must(err)
	buf := make([]byte, 100)
	w.must(socket.SetReadDeadline(time.Now().Add(onceWait)))
	_, mapped, err := socket.ReadFrom(buf)
	w.must(err)

	w.must(w.d.Kill())
	w.lose()
	w.must(w.d.Start(w.ctx))
	w.eventually("the server reaches the client", recoveryTime, func() error {
		if _, err := socket.WriteTo([]byte("are you still there?"), mapped); err != nil {
			return err
		}
		if err := c.SetReadDeadline(time.Now().Add(askWait)); err != nil {
			return err
		}
		n, err := c.Read(buf)
		if err == nil && string(buf[:n]) != "are you still there?" {
			err = fmt.Errorf("%q came", buf[:n])
		}
		return err
	})
	if s := w.stats(); s.Handoff.Tunnelled == 0 || s.Handoff.Queries != 0 {
		t.Errorf("the server was asked in another way: %+v", s.Handoff)
	}
}

// Idle connections outlive every timeout of the NAT64: it forgets them, and
// whoever speaks first brings them back.
func TestHandoffIdleBeyondEveryTimeout(t *testing.T) {
	t.Parallel()
	w := plain(t, shortTimeouts)
	w.adopted()
	f := w.plainFlows(9000, 4)
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 4)
	for _, first := range []int{upwards, downwards, bothWays} {
		w.flowsGoOn(f, bothWays, "before the pause")
		f.Hold(true, true)
		w.eventually("nothing is left at the NAT64", time.Minute, func() error {
			status, err := w.d.Status(w.ctx)
			if err == nil && (!f.Quiet() || status.Sessions.Used+status.Handoff.CachedEntries > 0) {
				err = fmt.Errorf("quiet: %v, %d sessions, %d entries", f.Quiet(), status.Sessions.Used, status.Handoff.CachedEntries)
			}
			return err
		})
		f.Hold(first&upwards == 0, first&downwards == 0)
		w.flowsGoOn(f, first, fmt.Sprintf("after the pause, directions %b first", first))
		w.unchanged(udp, "after the pause")
		f.Hold(false, false)
	}
	w.must(f.Finish())
}

// Tokens whose key is long gone when somebody speaks again are no obstacle: the
// server asks anew whether the NAT64 is who it was.
func TestHandoffSilenceLongerThanAllKeys(t *testing.T) {
	t.Parallel()
	w := plain(t, shortTimeouts, handoffSet("key_rotation", "1s"))
	w.adopted()
	f := w.plainFlows(9000, 4)
	for _, first := range []int{upwards, downwards} {
		w.flowsGoOn(f, bothWays, "before the silence")
		f.Hold(true, true)
		rotations := strings.Count(w.d.Log(), "keys rotated")
		w.eventually("all keys of before are gone", time.Minute, func() error {
			if n := strings.Count(w.d.Log(), "keys rotated") - rotations; n < 10 {
				return fmt.Errorf("%d rotations", n)
			}
			return nil
		})
		f.Hold(first&upwards == 0, first&downwards == 0)
		w.flowsGoOn(f, first, fmt.Sprintf("after the silence, directions %b first", first))
		f.Hold(false, false)
	}
	w.must(f.Finish())
}

// handoffd killed and restarted is no more than a pause for new connections,
// and nothing at all for those that exist.
func TestHandoffServerKilled(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.adopted()
	f := w.plainFlows(9000, 4)
	udp := w.observers(netip.AddrPortFrom(w.Server(), 7), 4)
	before := w.mappings(w.d)
	for range 3 {
		w.must(h.Kill())
		w.flowsGoOn(f, bothWays, "while handoffd is dead")
		w.unchanged(udp, "while handoffd is dead")
		w.must(h.Start(w.ctx))
		w.becomes(w.d, w.Server(), "handoff")
		w.flowsGoOn(f, bothWays, "with a new handoffd")
	}
	// Its table is that of before, and it serves it: the NAT64 forgets all.
	w.inTable(h, before)
	w.must(w.d.Kill())
	w.lose()
	w.must(w.d.Start(w.ctx))
	w.flowsGoOn(f, bothWays, "from the restored table")
	w.unchanged(udp, "from the restored table")
	w.must(f.Finish())
}

// Both are killed at the same time: what handoffd had written is enough.
func TestHandoffBothKilled(t *testing.T) {
	t.Parallel()
	w := plain(t)
	h := w.adopted()
	f := w.plainFlows(9000, 4)
	w.flowsGoOn(f, bothWays, "at first")
	w.must(errors.Join(w.d.Kill(), h.Kill()))
	w.lose()
	w.must(h.Start(w.ctx))
	w.must(w.d.Start(w.ctx))
	w.flowsGoOn(f, bothWays, "after both were killed")
	w.inTable(h, w.mappings(w.d))
	w.must(f.Finish())
}
