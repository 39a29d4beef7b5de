// Package generator sends and receives stamped frames through AF_XDP and counts
// what becomes of them.
//
//	             ┌───────────── Tester ──────────────┐
//	             │ thread: lane, lane …              │
//	near side ═══╪═ lane: receive, send, flush ══════╪═══ far side
//	             └───────────────────────────────────┘
//	        └──────────── device under test ──────────────┘
//
// A lane is one queue of one interface with its frames; a thread serves one or
// more lanes, without sleeping and without allocating. In the forward direction
// the near side sends and the far side receives; what the far side sends in
// return answers the flows that it received before (Learn), so that a NAT64
// may lie between, whose mappings nobody knows beforehand.
//
// What the device's interfaces receive beside that goes to the kernel as usual.
package generator
