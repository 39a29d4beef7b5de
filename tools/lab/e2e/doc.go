// Package e2e tests nat64d from outside: real TCP, UDP and ICMP between an
// IPv6-only client and an IPv4-only server, over veth pairs and network
// namespaces, with the kernels' own protocol stacks at both ends.
//
//	plain():  client ───────────────── nat64 ───────────────── server
//	          2001:db8:1::10     eth6  nat64d  eth4          192.0.2.10
//	                             pool4 192.0.2.64
//
//	routed(): client  ─┐                                       ┌─ server
//	          2001:db8:1::10 r6 ── eth6 nat64 eth4 ── r4   198.51.100.10
//	          client2 ─┘     64::2                .254         └─ server2
//	          2001:db8:2::10                                 203.0.113.10
//
// The tests of handoff (handoff_*_test.go) run handoffd in the servers' hosts.
// Their long forms are behind flags, see handoff_test.go and `make soak`.
//
// Where a test says judged, Wireshark looks at every link, too (judge_test.go).
//
// Whatever a test is about, every test also fails when nat64d's counters do
// not add up, when a packet that it sent has a wrong checksum, when it does
// not stop cleanly, or when it leaves anything behind.
package e2e
