package wire

// Groups is a payload in the multi-entry format (draft §7): one identifier, one
// token, then groups of one authenticator and the entries that it is valid for.
// The slices are parts of the decoded octets. Owned by one goroutine.
type Groups struct {
	Token []byte
	// Rotation is nil when absent.
	Rotation []byte

	r    Reader
	auth []byte
}

// IsMultiEntry says whether the UDP payload b is to be read with DecodeGroups:
// it holds a second authenticator or a second entry, which no other format has.
// With one of each both formats are the same, and Decode reads it.
func IsMultiEntry(b []byte) bool {
	r := NewReader(b)
	var m Message
	authenticators, entries := 0, 0
	for r.Next(&m) {
		switch m.Type {
		case TypeAuthenticator:
			authenticators++
		case TypeEntry:
			entries++
		}
	}
	return r.Status() == OK && (authenticators > 1 || entries > 1)
}

// DecodeGroups checks the whole payload b before *g yields the first entry, so
// that nobody acts on half of one. Identifier, token and rotation may stand
// anywhere (draft §4: any order), also inside a group; hints, no-ops and unknown
// types are skipped.
func DecodeGroups(b []byte, g *Groups) Status {
	*g = Groups{r: NewReader(b)}
	if len(b) > MaxMultiEntry {
		return TooLong
	}
	var c groupCheck
	r := NewReader(b)
	var m Message
	for r.Next(&m) {
		if s := c.take(&m, g); s != OK {
			return s
		}
	}
	if s := r.Status(); s != OK {
		return s
	}
	return c.end()
}

// groupCheck is what DecodeGroups has seen so far.
type groupCheck struct {
	seen         uint16 // bit t: a message of type t
	emptyGroup   bool   // the latest authenticator has no entry yet
	entries      int
	authenticate bool // there was an authenticator
}

func (c *groupCheck) take(m *Message, g *Groups) Status {
	if m.PacketVersion != 0 {
		return PacketAmongGroups
	}
	switch m.Type {
	case TypeIdentifier, TypeToken, TypeRotation:
		if c.seen>>m.Type&1 != 0 {
			return Duplicate
		}
		c.seen |= 1 << m.Type
		if m.Type == TypeToken {
			g.Token = m.Data
		} else if m.Type == TypeRotation {
			g.Rotation = m.Data
		}
	case TypeAuthenticator:
		if c.emptyGroup {
			return EmptyGroup
		}
		c.emptyGroup, c.authenticate = true, true
	case TypeEntry:
		if !c.authenticate {
			return EntryOutsideGroup
		}
		c.emptyGroup = false
		c.entries++
	}
	return OK
}

func (c *groupCheck) end() Status {
	switch {
	case c.seen>>TypeToken&1 == 0:
		return NoToken
	case c.seen>>TypeIdentifier&1 == 0:
		return NoIdentifier
	case c.emptyGroup:
		return EmptyGroup
	case c.entries == 0:
		return NoContent
	}
	return OK
}

// Next sets *e to the next entry and returns the authenticator of its group, or
// false behind the last one. Only after DecodeGroups returned OK.
func (g *Groups) Next(e *Entry) (authenticator []byte, ok bool) {
	var m Message
	for g.r.Next(&m) {
		switch m.Type {
		case TypeAuthenticator:
			g.auth = m.Data
		case TypeEntry:
			e.read(m.Data)
			return g.auth, true
		}
	}
	return nil, false
}
