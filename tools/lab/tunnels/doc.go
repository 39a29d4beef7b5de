// Package tunnels measures what a server that translates for itself costs,
// beside tunnels that carry packets between the same two hosts:
//
//	local-nat, mixed   client ── nat64d ══ UDP, packets and entries ══ handoffd ── TUN ── server
//	plain              client ── kernel ── TUN ══ UDP, packets ══════ TUN ── server
//	WireGuard          client ── kernel ── TUN ══ UDP, encrypted ════ TUN ── server
//
// The tunnels' ends are this package's own program (RunEnd) on the TUN devices
// and sockets of wireguard-go: several packets a system call, with the kernel's
// segmentation and coalescing on both sides.
package tunnels
