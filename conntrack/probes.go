package conntrack

// maxProbes is how many connections one call of Expire moves to TRANS.
const maxProbes = 64

// linger deals with an established connection whose lifetime has ended (RFC
// 6146 §3.5.2.2, "ESTABLISHED"): it is not removed but moves to TRANS, where it
// stays for the transitory lifetime, and is to be probed. It returns false for
// a session over a handoff server's entry: such are a cache, which the next
// packet fills again. old is the state word that was judged.
//
// A packet may come at this moment. Should it have seen ESTABLISHED, it leaves
// TRANS standing; the next one, or the answer to the probe, corrects that.
func (s *Shard) linger(i, old uint32, now Tick) bool {
	a := &s.index64.slots[i]
	var w words
	a.load(&w)
	if w.origin() == OriginHandoff {
		return false
	}
	if word := stateWord(old>>8, StateTrans); a.state.CompareAndSwap(old, word) {
		mirrorState(a, &s.index46.slots[w.peer()], word)
		s.probes = append(s.probes, w.session())
	}
	a.touch(now) // TRANS lasts from here on
	return true
}

// Probes are the connections that the last call of Expire moved to TRANS. The
// worker sends each client a segment that only a living connection answers.
// Valid until the next call.
func (s *Shard) Probes() []Session { return s.probes }
