// Package lab builds small networks out of namespaces and veth pairs, with a
// NAT64 in the middle, and runs things in them. It needs root and a Linux
// kernel, but no program such as ip or ethtool: everything goes over netlink.
//
// The plain network has three hosts:
//
//	client ────────────────── nat64 ────────────────── server
//	eth0                  eth6     eth4                   eth0
//	2001:db8:1::10  2001:db8:1::1  192.0.2.1        192.0.2.10
//	IPv6 only              pool4: 192.0.2.64         IPv4 only
//
// With routers on both sides (their forwarding is the kernel's):
//
//	client ───── r6 ───────────── nat64 ───────────── r4 ───── server
//	2001:db8:1::10  ::1     2001:db8:64::1  192.0.2.1  .1    198.51.100.10
//	client2 ─────┘  64::2      192.0.2.64   192.0.2.254 └───── server2
//	2001:db8:2::10                                         203.0.113.10
//
// A third server is 198.18.3.10. A second translator, nat64b, stands beside the
// first, between r6 (2001:db8:65::/64) and r4 (198.18.0.0/24); its pool6 is
// 2001:db8:65:64::/96, its pool4 198.18.0.64. Any host can run a handoffd.
//
// A lab named NAME consists of the namespaces NAME-client, NAME-nat64, … in
// /run/netns, where `ip netns` finds them too, and of a folder
// /run/nat64lab/NAME with the configuration, log, socket and keys of nat64d, and
// the state of handoffd.
// Down takes all of it away again, whether or not the process that made the
// lab still exists.
package lab
