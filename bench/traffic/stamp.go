package traffic

import (
	"encoding/binary"

	"handoff64/dataplane/packet"
)

// StampLen is the octets of a stamp. With it, the smallest UDP frames are those
// that RFC 8219 §4.2 begins with: 60 octets of IPv4 and 80 of IPv6, not counting
// the frame check sequence.
const StampLen = 18

// Magic is what a stamp begins with, big endian.
const Magic = 0x68360464

// Offsets within a stamp: numbers are big endian.
//
//	 0  magic
//	 4  trial
//	 5  stream
//	 6  sequence   5 octets
//	11  time       5 octets
//	16  check      makes the ones' complement sum of all 0xffff
const (
	stampTrial  = 4
	stampStream = 5
	stampNumber = 6
	stampCheck  = 16
)

// Stamp is what one frame says about itself.
type Stamp struct {
	Trial    uint8  // counts trials, so that a late packet is not taken for one of the next
	Stream   uint8  // of the sender; each has a sequence of its own
	Sequence uint64 // 40 bits, counted from 0
	Time     uint64 // when it was sent: the low 40 bits of nanoseconds of a monotonic clock
}

// mask40 is what a stamp holds of numbers.
const mask40 = 1<<40 - 1

// Put writes the stamp to b[:StampLen].
func (s Stamp) Put(b []byte) {
	_ = b[StampLen-1]
	seq, now := s.Sequence&mask40, s.Time&mask40
	head := uint64(s.Trial)<<8 | uint64(s.Stream)
	top, low := seq>>24, seq<<40|now
	binary.BigEndian.PutUint32(b, Magic)
	binary.BigEndian.PutUint16(b[stampTrial:], uint16(head))
	binary.BigEndian.PutUint16(b[stampNumber:], uint16(top))
	binary.BigEndian.PutUint64(b[stampNumber+2:], low)
	binary.BigEndian.PutUint16(b[stampCheck:], ^packet.Fold(Magic+head+top+low>>32+low&0xffffffff))
}

// StampSum is what a stamp adds to a checksum, whatever it says.
const StampSum = 0xffff

// Verdict says what a receiver found where a stamp may be.
type Verdict uint8

const (
	Stamped Verdict = iota
	Foreign         // there is no stamp
	Damaged         // there is the beginning of one, and the rest does not fit
)

// ReadStamp reads the stamp that payload begins with.
func ReadStamp(payload []byte) (Stamp, Verdict) {
	if len(payload) < 4 || binary.BigEndian.Uint32(payload) != Magic {
		return Stamp{}, Foreign
	}
	if len(payload) < StampLen {
		return Stamp{}, Damaged
	}
	head := uint64(binary.BigEndian.Uint16(payload[stampTrial:]))
	top := uint64(binary.BigEndian.Uint16(payload[stampNumber:]))
	low := binary.BigEndian.Uint64(payload[stampNumber+2:])
	check := uint64(binary.BigEndian.Uint16(payload[stampCheck:]))
	if packet.Fold(Magic+head+top+low>>32+low&0xffffffff+check) != StampSum {
		return Stamp{}, Damaged
	}
	return Stamp{Trial: uint8(head >> 8), Stream: uint8(head), Sequence: top<<24 | low>>40, Time: low & mask40}, Stamped
}

// Since is the time from the stamp's to now, both nanoseconds of the same
// clock. It is negative when the stamp lies ahead, which with the same clock it
// never does, and right as long as the two are less than nine minutes apart.
func (s Stamp) Since(now uint64) int64 {
	d := (now - s.Time) & mask40
	return int64(d<<24) >> 24
}
