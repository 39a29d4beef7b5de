package conntrack

import "fmt"

// peers counts sessions per (protocol, client, client port, server address). A
// word is a 47-bit fingerprint, whose upper part gives the place, over a 17-bit
// count. Fingerprints are keyed, so nobody can aim at a match; a stranger's
// packet passes by chance once in 2⁴⁷ divided by the number of entries. The
// zero value has no table: it counts nothing and knows nobody. Owned by one
// shard.
type peers struct {
	words []uint64 // fingerprint<<peerShift | sessions; 0 is empty
	mem   region
}

const (
	peerShift = 17
	peerCount = 1<<peerShift - 1
)

// newPeers makes room for n sessions, at a load of at most 0.88.
func newPeers(n int) (peers, error) {
	n += n / 7
	mem, err := mapAnonymous(sizeOf[uint64](n))
	if err != nil {
		return peers{}, fmt.Errorf("filter state of %d sessions: %w", n, err)
	}
	return peers{words: overlay[uint64](mem, 0, n), mem: mem}, nil
}

// peer hashes what the filter asks about; client is the hash of the client's
// transport address. What differs in the protocol alone lies side by side, since
// TCP and UDP are asked for together.
func (h *hasher) peer(client uint64, server uint32, p Proto) uint64 {
	return fold(client^h.s[9], uint64(server)^h.s[8]) ^ p.code()<<peerShift
}

func (p *peers) home(hash uint64) int { return int(scale(hash>>32, uint64(len(p.words)))) }

func (p *peers) after(at int) int {
	if at++; at == len(p.words) {
		return 0
	}
	return at
}

// find gives the place of a hash's word, or the empty place to put it.
func (p *peers) find(hash uint64) int {
	at := p.home(hash)
	for w := p.words[at]; w != 0 && w>>peerShift != hash>>peerShift; w = p.words[at] {
		at = p.after(at)
	}
	return at
}

func (p *peers) has(hash uint64) bool {
	return p.words != nil && p.words[p.find(hash)] != 0
}

// add counts one session. The count cannot overflow: a client's port has one
// session per server port, 2¹⁶ at most (those that differ only in the pool6
// prefix displace one another).
func (p *peers) add(hash uint64) {
	at := p.find(hash)
	if p.words[at] == 0 {
		p.words[at] = hash >> peerShift << peerShift
	}
	p.words[at]++
}

// drop uncounts one session; the last one's word goes, and the gap is closed
// as in forward.remove.
func (p *peers) drop(hash uint64) {
	at := p.find(hash)
	if p.words[at]--; p.words[at]&peerCount != 0 {
		return
	}
	p.words[at] = 0
	for hole := at; ; {
		if at = p.after(at); p.words[at] == 0 {
			return
		}
		if !between(hole, p.home(p.words[at]), at) {
			p.words[hole], p.words[at] = p.words[at], 0
			hole = at
		}
	}
}
