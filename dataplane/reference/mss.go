package reference

import (
	"bytes"
	"encoding/binary"
)

// ClampMSS is the slow twin of the fast one: it takes the options apart into a
// list, lowers in the list, puts them together again and sums anew.
func ClampMSS(u []byte, most uint16) []byte {
	header := int(u[12]>>4) * 4
	rest, out := u[20:header], bytes.Clone(u[:20])
	for len(rest) > 0 && rest[0] != 0 {
		n := 1
		if rest[0] != 1 {
			if len(rest) < 2 || rest[1] < 2 || int(rest[1]) > len(rest) {
				break
			}
			n = int(rest[1])
		}
		opt := bytes.Clone(rest[:n])
		if opt[0] == 2 && n == 4 && binary.BigEndian.Uint16(opt[2:]) > most {
			binary.BigEndian.PutUint16(opt[2:], most)
		}
		out, rest = append(out, opt...), rest[n:]
	}
	out = append(append(out, rest...), u[header:]...)
	if !bytes.Equal(out, u) {
		ck := int(^binary.BigEndian.Uint16(u[16:])) + Sum(out[20:header]) + 2*0xffff - Sum(u[20:header])
		ck = ck&0xffff + ck>>16
		ck = ck&0xffff + ck>>16
		binary.BigEndian.PutUint16(out[16:], ^uint16(ck))
	}
	return out
}
