// Package server is the handoff server: it runs on an IPv4-only host, keeps the
// authoritative connection table of every NAT64 that speaks to it
// (draft-dupont-6man-nat64handoff-00), and logs who was behind which mapped port.
// In minimal mode it gives packets back to the NAT64 and needs no privileges; in
// the modes local-nat and mixed it translates them for the local programs itself
// (local.go, mixed.go).
//
//	         reader                                            committer
//	NAT64 ─→ socket ─ burst ─→ handler ─→ batch ───────────→ store (bbolt), one transaction
//	                           │  ▲         changes, answers    │ then
//	                           ▼  │                             ▼
//	                          table ←── sock_diag             log, flushed to disk
//	                                                            │ then
//	NAT64 ←─────────────── sendmmsg ←───────────────────────────┘
//
//	                       │ translated, its address durable      │ translated, durable now
//	local program ←─ TUN ←─┴──────────────────────────────────────┘
//	local program ─→ TUN ─→ answers.go ─→ sendmmsg ─→ NAT64
//
// The table in memory serves all look-ups; the store is its copy on disk and is
// read only at the start. Answers wait until what they say is durable; while the
// disk works on one group of batches, the reader fills the next.
//
// Packets of local programs go their own way in a third goroutine (answers.go),
// because nothing about them changes the table.
//
// The reader's goroutine owns handler and table while it holds Server.mu, which
// the control socket takes to look into the table. A batch belongs to whoever
// took it from a channel last. Counters are atomic.
package server
