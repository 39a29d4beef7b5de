// Package server is the handoff server: it runs on an IPv4-only host, keeps the
// authoritative connection table of every NAT64 that speaks to it
// (draft-dupont-6man-nat64handoff-00), and logs who was behind which mapped port.
// This is its minimal mode: TCP and UDP, and no privileges.
//
//	         reader                                            committer
//	NAT64 ─→ socket ─ burst ─→ handler ─→ batch ───────────→ store (bbolt), one transaction
//	                           │  ▲         changes, answers    │ then
//	                           ▼  │                             ▼
//	                          table ←── sock_diag             log, flushed to disk
//	                                                            │ then
//	NAT64 ←─────────────── sendmmsg ←───────────────────────────┘
//
// The table in memory serves all look-ups; the store is its copy on disk and is
// read only at the start. Answers wait until what they say is durable; while the
// disk works on one group of batches, the reader fills the next.
//
// The reader's goroutine owns handler and table while it holds Server.mu, which
// the control socket takes to look into the table. A batch belongs to whoever
// took it from a channel last. Counters are atomic.
package server
