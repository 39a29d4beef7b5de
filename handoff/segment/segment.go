// Package segment lets many UDP datagrams cross the border to the kernel as one
// message: UDP_SEGMENT has it cut what is sent, UDP_GRO hands over what was
// received joined (udp(7)). The datagrams of a message have one size, but for
// the last one, which may be shorter.
package segment

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	// Most is how many datagrams a message may have (UDP_MAX_SEGMENTS), and
	// MostOctets how many octets they may have together.
	Most       = 64
	MostOctets = 65000

	// A control message has a header of 16 octets on the 64-bit systems that this
	// program runs on, and is padded to 8.
	header = 16
	// Space is what Append needs, and what Size finds takes no more.
	Space = header + 8
)

// Joins says whether a datagram of size octets can join a message that has n
// already, the first of first octets and the last of last.
func Joins(n, first, last, size int) bool {
	return n < Most && last == first && size <= first && (n+1)*first <= MostOctets
}

// Append appends the control message that has the kernel cut a message into
// datagrams of size octets.
func Append(oob []byte, size int) []byte {
	oob = binary.NativeEndian.AppendUint64(oob, header+2)
	oob = binary.NativeEndian.AppendUint32(oob, unix.SOL_UDP)
	oob = binary.NativeEndian.AppendUint32(oob, unix.UDP_SEGMENT)
	oob = binary.NativeEndian.AppendUint16(oob, uint16(size))
	return append(oob, 0, 0, 0, 0, 0, 0)
}

// Size is the size of the datagrams of a message that was received, or 0: it is
// one datagram.
func Size(oob []byte) int {
	for len(oob) >= header {
		n := int(binary.NativeEndian.Uint64(oob))
		if n < header || n > len(oob) {
			return 0
		}
		level, typ := binary.NativeEndian.Uint32(oob[8:]), binary.NativeEndian.Uint32(oob[12:])
		if level == unix.SOL_UDP && typ == unix.UDP_GRO && n >= header+4 {
			return int(int32(binary.NativeEndian.Uint32(oob[header:])))
		}
		oob = oob[min((n+7)&^7, len(oob)):]
	}
	return 0
}

// Next cuts the next datagram off a message whose datagrams have size octets.
func Next(message []byte, size int) (datagram, rest []byte) {
	if size <= 0 || size >= len(message) {
		return message, nil
	}
	return message[:size:size], message[size:]
}
