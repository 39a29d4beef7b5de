package xlat

import (
	"encoding/binary"
	"math/bits"

	"handoff64/dataplane/packet"
)

// TCP options (RFC 9293 §3.2).
const (
	tcpOptionEnd = 0
	tcpOptionNOP = 1
	tcpOptionMSS = 2
	tcpMSSLen    = 4
)

// ClampMSS lowers the maximum segment size that the TCP segment u announces to
// most, and says whether it did. The checksum changes by the difference (RFC
// 1624), so it is as right or wrong afterwards as it was. Never raised, never
// added: a segment without the option means the default (RFC 9293 §3.7.1). The
// walk over the options stops at the first one that is malformed, and an MSS
// option of another length than four is none. u holds the whole TCP header, as
// Parse4 and Parse6 ensure.
func ClampMSS(u []byte, most uint16) (lowered bool) {
	end := min(int(u[packet.TCPOffset]>>4)*4, len(u))
	for at := packet.TCPLen; at < end; {
		kind := u[at]
		if kind == tcpOptionEnd {
			break
		}
		if kind == tcpOptionNOP {
			at++
			continue
		}
		if at+2 > end || u[at+1] < 2 || at+int(u[at+1]) > end {
			break
		}
		n := int(u[at+1])
		if kind == tcpOptionMSS && n == tcpMSSLen {
			lowered = lowerMSS(u, at+2, most) || lowered // of several the receiver takes one: none may be larger
		}
		at += n
	}
	return lowered
}

// lowerMSS lowers the value at u[at]. Where that is odd, its octets stand the
// other way round in the words that the checksum adds (RFC 1071 §2 (B)).
func lowerMSS(u []byte, at int, most uint16) bool {
	old := binary.BigEndian.Uint16(u[at:])
	if old <= most {
		return false
	}
	binary.BigEndian.PutUint16(u[at:], most)
	was, is := old, most
	if at%2 != 0 {
		was, is = bits.ReverseBytes16(old), bits.ReverseBytes16(most)
	}
	ck := binary.BigEndian.Uint16(u[packet.TCPChecksum:])
	binary.BigEndian.PutUint16(u[packet.TCPChecksum:], packet.UpdateChecksum(ck, packet.Delta(uint64(was), uint64(is))))
	return true
}
