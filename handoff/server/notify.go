package server

import "handoff64/handoff/wire"

// receiveGroups takes a payload in the multi-entry format (draft §7).
func (h *handler) receiveGroups(d *datagram) outcome {
	g := &h.groups
	if s := wire.DecodeGroups(d.data, g); s != wire.OK {
		return refusedFormat(s)
	}
	var e wire.Entry
	ahead := *g
	first, _ := ahead.Next(&e)
	c, o := h.authenticate(d, &credentials{token: g.Token, rotation: g.Rotation, authenticator: first})
	if c == nil {
		return o
	}
	return h.notifyAll(d, c, g)
}

// notifyAll stores and echoes every entry, or none if one of them is not such as
// a NAT64 may send. For want of room single ones are refused, too.
func (h *handler) notifyAll(d *datagram, c *channel, g *wire.Groups) outcome {
	var e wire.Entry
	for check := *g; ; {
		if _, ok := check.Next(&e); !ok {
			break
		}
		if o := h.checkEntry(d, &e); o != accepted {
			return o
		}
	}
	last, stored := accepted, 0
	for {
		auth, ok := g.Next(&e)
		if !ok {
			break
		}
		if o := h.notify(d, c, auth, &e); o.refused() {
			last = o
			h.counts.entriesRefused.Add(1)
			continue
		}
		stored++
	}
	if stored == 0 {
		return last
	}
	return notified
}

// notify stores an entry of the NAT64's making and echoes it in format (c), one
// echo a payload: the acknowledgement that ends its retries.
func (h *handler) notify(d *datagram, c *channel, auth []byte, e *wire.Entry) outcome {
	if o := h.checkEntry(d, e); o != accepted {
		return o
	}
	k := tuple{prefix: e.Prefix, client: e.Client, port: e.ClientPort}
	i, o := h.table.learn(c, k, e.MappedPort, h.now, &h.out.changes)
	if o != accepted {
		return o
	}
	h.knowEntryAuthenticator(c, i, auth)
	h.sendEntry(d, c, i, auth, nil)
	return notified
}

// checkEntry says whether the table may hold an entry.
func (h *handler) checkEntry(d *datagram, e *wire.Entry) outcome {
	if !h.table.usable(e.MappedPort, d.fromPort) {
		return refusedMappedPort
	}
	if !unicast6(e.Client) || e.ClientPort == 0 {
		return refusedClient
	}
	return accepted
}
