package packet

import (
	"encoding/binary"
	"math/bits"
)

// Sums are kept as uint64 while they grow: any value that is congruent to the
// sum of the 16-bit words modulo 65535, so that they can be added with plain
// arithmetic and folded once at the end.

// Sum adds the 16-bit big-endian words of b to initial (RFC 1071). An odd last
// octet counts as the upper half of a word. The words are added eight octets
// at a time in little-endian order, and the result swapped once: the ones'
// complement sum does not depend on the byte order (RFC 1071 §2 (B)).
func Sum(b []byte, initial uint64) uint64 {
	var acc, carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[0:8]), 0)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:16]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:24]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:32]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[32:40]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[40:48]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[48:56]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[56:64]), carry)
		acc += carry // cannot overflow again: a sum that carried is at most 2^64-2
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	var tail uint64
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		tail += uint64(b[0])
	}
	acc, carry = bits.Add64(acc, tail, 0)
	acc += carry
	return initial + uint64(bits.ReverseBytes16(Fold(acc)))
}

// Fold reduces a sum to 16 bits. It is zero only for a sum of zero.
func Fold(sum uint64) uint16 {
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>32 + sum&0xffffffff
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	return uint16(sum)
}

// UpdateChecksum is equation 3 of RFC 1624: HC' = ~(~HC + ~m + m'), with delta
// standing for ~m + m' as Delta makes it.
func UpdateChecksum(old, delta uint16) uint16 {
	s := uint32(^old) + uint32(delta)
	return ^uint16(s + s>>16)
}

// Delta is the difference between two sums, for UpdateChecksum: what was
// summed in from is taken out, what was summed in to is put in.
func Delta(from, to uint64) uint16 {
	return Fold(uint64(Fold(to)) + uint64(^Fold(from)))
}

// SumAddr6 is the sum of an IPv6 address.
func SumAddr6(hi, lo uint64) uint64 {
	return hi>>32 + hi&0xffffffff + lo>>32 + lo&0xffffffff
}

// Pseudo6 is the sum of the IPv6 pseudo-header (RFC 8200 §8.1).
func Pseudo6(srcHi, srcLo, dstHi, dstLo uint64, upperLen uint32, proto uint8) uint64 {
	return SumAddr6(srcHi, srcLo) + SumAddr6(dstHi, dstLo) + uint64(upperLen) + uint64(proto)
}

// Pseudo4 is the sum of the IPv4 pseudo-header (RFC 9293 §3.1, RFC 768).
func Pseudo4(src, dst uint32, upperLen uint16, proto uint8) uint64 {
	return uint64(src) + uint64(dst) + uint64(upperLen) + uint64(proto)
}
