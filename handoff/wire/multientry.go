package wire

import "bytes"

// MultiEntry builds a payload in the multi-entry format (draft §7) in a buffer
// of its own: token, rotation, identifier, then groups. Owned by one goroutine;
// the zero value is not ready before Reset.
type MultiEntry struct {
	buf     [MaxMultiEntry]byte
	n       int // octets in use
	entries int
	// authStart and authEnd delimit the data of the open group's authenticator.
	authStart, authEnd int
}

// Reset begins a payload. A nil rotation leaves that message out.
func (p *MultiEntry) Reset(token, rotation []byte) {
	b := AppendToken(p.buf[:0], token)
	if rotation != nil {
		b = AppendRotation(b, rotation)
	}
	b = AppendIdentifier(b)
	p.n, p.entries = len(b), 0
	p.authStart, p.authEnd = 0, 0
}

// AddEntry adds an entry to the open group if that has this authenticator, else
// to a new group. It returns false, and adds nothing, when the payload would
// get longer than MaxMultiEntry. Entries of one client should come in a row:
// each change of client costs an authenticator.
func (p *MultiEntry) AddEntry(authenticator []byte, e *Entry) bool {
	newGroup := p.entries == 0 || !bytes.Equal(p.buf[p.authStart:p.authEnd], authenticator)
	need := headerLen + entryLen
	if newGroup {
		need += headerLen + len(authenticator)
	}
	if need > MaxMultiEntry-p.n {
		return false
	}
	b := p.buf[:p.n]
	if newGroup {
		b = AppendAuthenticator(b, authenticator)
		p.authStart, p.authEnd = p.n+headerLen, len(b)
	}
	p.n = len(AppendEntry(b, e))
	p.entries++
	return true
}

// Entries is the number of entries added since Reset. With none the payload
// must not be sent (draft §5).
func (p *MultiEntry) Entries() int { return p.entries }

// Bytes is the payload. It is valid until the next Reset, and grows with
// AddEntry.
func (p *MultiEntry) Bytes() []byte { return p.buf[:p.n] }
