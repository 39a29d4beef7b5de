// Package compare measures nat64d end to end beside other devices, one after
// the other in the same network of namespaces and the same run:
//
//	CPU 0: sender (XDP, in the kernel)       CPU 1: device
//
//	client ══ veth ══► eth6 ─── device under test ─── eth4 ══ veth ══► server
//	                                                                  counter (XDP)
//
//	forward  pktgen forward: AF_XDP, our rings, no translation
//	nat64d   the translator
//	asavie   pktgen forward --sockets asavie: that package's sockets, one UMEM each
//	tayga    TAYGA, a NAT64 over a TUN device (if it is installed)
//	kernel   the kernel's own forwarding of IPv6 and IPv4
//
// Generator and counter run inside the kernel (bench/xdpgen), so that of two CPUs
// one is the device's. What the kernel does for a device runs where it is caused:
// receiving (veth's NAPI, the filter, the copy into the UMEM) on the sender's CPU,
// sending on the device's. What receives at the far end, with the counter, can be
// on either: on the device's CPU it runs inside the device's own system call,
// packet by packet, and frames are given back before that ends; on the sender's,
// in a thread, they come back later, as with a NIC, but the sender gets only
// what is left of its CPU. Kernel forwarding is wholly on the sender's CPU.
//
// With two queues two senders run, with the lowest priority, on both CPUs, and a
// device worker on each: a veth pair chooses the queue by the sender's CPU. There
// the two share each CPU, as they would share a small machine.
//
// What counts are ratios within one run. Sizes are of the frame on the IPv6 side;
// its translation is 20 octets shorter.
package compare
