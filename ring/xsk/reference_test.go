package xsk

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// reference says which frames are ours, slowly and straight from the
// configuration: no tries, no bitmaps, no maps of the kernel.
type reference struct {
	cfg            FilterConfig
	mac            [6]byte
	serve6, serve4 bool
}

func newReference(cfg FilterConfig, mac [6]byte, serve6, serve4 bool) *reference {
	return &reference{cfg: cfg, mac: mac, serve6: serve6, serve4: serve4}
}

func (r *reference) ours(frame []byte) bool {
	if len(frame) < 14 || [6]byte(frame) != r.mac {
		return false
	}
	ip := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x86dd:
		return r.serve6 && len(ip) >= 40 && ip[0]>>4 == 6 && slices.ContainsFunc(r.cfg.Pool6, func(p netip.Prefix) bool {
			return p.Contains(netip.AddrFrom16([16]byte(ip[24:])))
		})
	case 0x0800:
		return r.serve4 && r.ipv4(ip)
	}
	return false
}

func (r *reference) ipv4(ip []byte) bool {
	hdr, l4, ok := splitIPv4(ip)
	if !ok || !r.inPool4(netip.AddrFrom4([4]byte(hdr[16:]))) {
		return false
	}
	if binary.BigEndian.Uint16(hdr[6:])&0x3fff != 0 {
		return true // the worker finds out whose it is
	}
	return r.transport(hdr, l4)
}

// splitIPv4 cuts a packet into header and what follows, by the lengths that it
// gives and no further than there are octets.
func splitIPv4(ip []byte) (hdr, rest []byte, ok bool) {
	if len(ip) < 20 || ip[0]>>4 != 4 {
		return nil, nil, false
	}
	hdrLen, total := int(ip[0]&0xf)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if hdrLen < 20 || total < hdrLen {
		return nil, nil, false
	}
	end := min(total, len(ip))
	return ip[:20], ip[min(hdrLen, end):end], true
}

func (r *reference) transport(hdr, l4 []byte) bool {
	dst := netip.AddrFrom4([4]byte(hdr[16:]))
	if r.cfg.Exclusive {
		return !r.hosts(hdr[9], l4)
	}
	switch hdr[9] {
	case 6, 17:
		return len(l4) >= 4 && r.mapped(dst, Proto(hdr[9]), binary.BigEndian.Uint16(l4[2:]))
	case 1:
		if len(l4) < 8 {
			return false
		}
		id := binary.BigEndian.Uint16(l4[4:])
		switch l4[0] {
		case 0:
			return r.mapped(dst, ICMP, id)
		case 8:
			return r.static(dst, ICMP, id)
		case 3, 4, 11, 12:
			return r.quoted(l4[8:])
		}
		return false
	}
	return r.other(hdr[9])
}

// hosts says what is the host's of a packet to an exclusive address: the control
// port's datagrams, errors about them, and the protocols kept for it.
func (r *reference) hosts(proto uint8, l4 []byte) bool {
	control := func(port []byte) bool {
		return r.cfg.ControlPort != 0 && binary.BigEndian.Uint16(port) == r.cfg.ControlPort
	}
	switch {
	case proto == 6:
		return false
	case proto == 17:
		return len(l4) >= 4 && control(l4[2:])
	case proto != 1:
		return slices.Contains(r.cfg.KernelProtocols, proto)
	case len(l4) < 8+20 || !slices.Contains([]byte{3, 4, 11, 12}, l4[0]):
		return false
	}
	quote := l4[8:]
	hdrLen := int(quote[0]&0xf) * 4
	if quote[0]>>4 != 4 || hdrLen < 20 || len(quote) < hdrLen+8 || binary.BigEndian.Uint16(quote[6:])&0x1fff != 0 {
		return false
	}
	switch quote[9] {
	case 6, 1:
		return false
	case 17:
		return control(quote[hdrLen:])
	}
	return slices.Contains(r.cfg.KernelProtocols, quote[9])
}

// other says whether a protocol without ports is ours.
func (r *reference) other(proto uint8) bool {
	return r.cfg.OtherProtocols && !slices.Contains(r.cfg.KernelProtocols, proto)
}

func (r *reference) quoted(quote []byte) bool {
	if len(quote) < 20 || quote[0]>>4 != 4 {
		return false
	}
	hdrLen := int(quote[0]&0xf) * 4 // the quoted total length may exceed the quote
	if hdrLen < 20 || len(quote) < hdrLen+8 || binary.BigEndian.Uint16(quote[6:])&0x1fff != 0 {
		return false
	}
	src, l4 := netip.AddrFrom4([4]byte(quote[12:])), quote[hdrLen:]
	switch quote[9] {
	case 6, 17:
		return r.mapped(src, Proto(quote[9]), binary.BigEndian.Uint16(l4))
	case 1:
		return (l4[0] == 0 || l4[0] == 8) && r.mapped(src, ICMP, binary.BigEndian.Uint16(l4[4:]))
	}
	return r.other(quote[9]) && r.inPool4(src)
}

func (r *reference) inPool4(addr netip.Addr) bool {
	return slices.ContainsFunc(r.cfg.Pool4, func(p Pool4) bool { return p.Prefix.Contains(addr) }) ||
		slices.ContainsFunc(r.cfg.Statics, func(s Static) bool { return s.Addr.Addr() == addr })
}

func (r *reference) mapped(addr netip.Addr, proto Proto, port uint16) bool {
	for _, p := range r.cfg.Pool4 {
		ranges := map[Proto][]PortRange{TCP: p.TCP, UDP: p.UDP, ICMP: p.ICMP}[proto]
		in := func(r PortRange) bool { return r.First <= port && port <= r.Last }
		if p.Prefix.Contains(addr) && slices.ContainsFunc(ranges, in) {
			return true
		}
	}
	return r.static(addr, proto, port)
}

func (r *reference) static(addr netip.Addr, proto Proto, port uint16) bool {
	return slices.Contains(r.cfg.Statics, Static{proto, netip.AddrPortFrom(addr, port)})
}
