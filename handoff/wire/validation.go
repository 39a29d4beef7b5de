package wire

import (
	"crypto/subtle"
	"encoding/binary"
	"sync"
	"time"
)

// ValidationMACLen is the length of the MAC that a server makes an unknown NAT64
// send back.
const ValidationMACLen = macLen

// validationRest is how long a validation key must not have been used before it
// may be replaced (draft §9).
const validationRest = 30 * time.Second

// ValidationKey makes and checks the MACs with which a server finds out, without
// keeping state, that a NAT64 receives what is sent to its address (draft §9).
// The key is replaced at its first use after 30 s without one; a packet still on
// its way then is checked with the key before for another 30 s. It is never
// written down: after a restart a NAT64 is asked once more. Safe for concurrent
// use. NewValidationKey makes one; the zero value is of no use.
type ValidationKey struct {
	mu                sync.Mutex
	current, previous macKey
	used              time.Time // last use of current for a packet
	until             time.Time // previous is checked before this
}

// NewValidationKey draws the first key.
func NewValidationKey() *ValidationKey {
	return &ValidationKey{current: randomMACKey()}
}

// validationDomain is a type that no message of ours is made from with a MAC, so
// a validation MAC can never be a token or an authenticator.
const validationDomain = 0

func validationMAC(k *macKey, token []byte, nat64 [4]byte, port uint16, mac *[macLen]byte) {
	var from [6]byte
	copy(from[:], nat64[:])
	binary.BigEndian.PutUint16(from[4:], port)
	k.sum(validationDomain, from[:], token, mac)
}

// MAC writes the MAC for a token (at most 510 octets, as every decoded one is)
// that came from a NAT64's address and port.
func (v *ValidationKey) MAC(now time.Time, token []byte, nat64 [4]byte, port uint16, mac *[ValidationMACLen]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.used.IsZero() && now.Sub(v.used) >= validationRest {
		v.previous, v.until = v.current, now.Add(validationRest)
		v.current = randomMACKey()
	}
	if now.After(v.used) {
		v.used = now
	}
	validationMAC(&v.current, token, nat64, port, mac)
}

// Check says whether mac is what MAC gave out for this token, address and port.
func (v *ValidationKey) Check(now time.Time, token []byte, nat64 [4]byte, port uint16, mac []byte) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	var want [macLen]byte
	validationMAC(&v.current, token, nat64, port, &want)
	if subtle.ConstantTimeCompare(want[:], mac) == 1 {
		return true
	}
	if !now.Before(v.until) {
		return false
	}
	validationMAC(&v.previous, token, nat64, port, &want)
	return subtle.ConstantTimeCompare(want[:], mac) == 1
}

const (
	noNextHeader = 59 // RFC 8200 §4.7
	protocolUDP  = 17
	discardPort  = 9 // RFC 863
	udpLen       = 8
	// ipv6FirstOctet is version 6 and the first half of traffic class 0.
	ipv6FirstOctet = 0x60
)

// AppendValidation appends the payload of a validation packet (draft §9), which
// the server sends from its handoff port to the NAT64's UDP port 9: a message
// with which the NAT64 sees that the packet answers one of its own, and an IPv6
// packet without next header that holds the MAC. The message is the
// authenticator that was received or, when there was none, the token: t is
// TypeAuthenticator or TypeToken, data is the message's.
func AppendValidation(dst []byte, t uint8, data []byte, mac *[ValidationMACLen]byte) []byte {
	dst = appendMessage(dst, t, data)
	// Version 6, traffic class and flow label 0, payload length, next header,
	// hop limit 0, and both addresses "::": nobody is to forward or answer it.
	var header [ipv6Len]byte
	header[0] = ipv6FirstOctet
	binary.BigEndian.PutUint16(header[4:], ValidationMACLen)
	header[6] = noNextHeader
	dst = append(dst, header[:]...)
	return append(dst, mac[:]...)
}

// ValidationMAC finds the MAC in a validation packet of ours that a NAT64 has
// sent back: packet is the embedded IPv4 packet as Decode gives it. The packet
// comes back unchanged but for TTL and checksum, so the MAC is looked for only
// where AppendValidation puts it.
func ValidationMAC(packet []byte) (mac []byte, ok bool) {
	n, version, status := PacketLen(packet)
	if status != OK || version != 4 || packet[9] != protocolUDP {
		return nil, false
	}
	// A fragment has no whole payload (RFC 791 §3.1: more fragments, offset).
	if binary.BigEndian.Uint16(packet[6:])&0x3fff != 0 {
		return nil, false
	}
	udp := packet[int(packet[0]&0xf)*4 : n]
	if len(udp) < udpLen || binary.BigEndian.Uint16(udp[2:]) != discardPort {
		return nil, false
	}
	end := int(binary.BigEndian.Uint16(udp[4:]))
	if end < udpLen || end > len(udp) {
		return nil, false
	}
	var p Payload
	if Decode(udp[udpLen:end], &p) != OK || p.PacketVersion != 6 {
		return nil, false
	}
	if p.Packet[6] != noNextHeader || len(p.Packet) != ipv6Len+ValidationMACLen {
		return nil, false
	}
	return p.Packet[ipv6Len:], true
}
