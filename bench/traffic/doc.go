// Package traffic says what a packet generator sends, as plain data and octets:
//
//	Flows ── which addresses and ports ──┐
//	Permutation ── in which order ───────┤
//	Sizes ── how long ───────────────────┼─→ Builder ─→ frame ─→ wire ─→ Parse ─→ ReadStamp
//	Stamp ── sender, number and time ────┘
//
// Nothing here knows interfaces or clocks. A frame carries its stamp at the
// beginning of what UDP, TCP or an ICMP echo carries, where a translator leaves
// it alone. The stamp's sum is always the same (it ends with a word that makes
// it so), so the transport checksum depends on flow and size only.
package traffic
