// Package control is the window into a running nat64d: the types that
// `nat64ctl` prints, an HTTP interface over a Unix socket, the client for it,
// and the Prometheus metrics.
//
//	nat64ctl ── Client ── Unix socket ── Server ── Daemon (implemented by nat64d)
//	Prometheus ───────── TCP /metrics ──┘
//
// Tables are streamed, one JSON object a line, so that a million sessions
// need the memory of one.
package control
