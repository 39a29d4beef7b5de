// Package xdpgen sends and counts packets inside the kernel, so that what is
// measured is the device between the two and not the generator: an XDP program
// run on live frames (BPF_PROG_TEST_RUN, Linux 5.18) fills in a frame and
// redirects it to an interface; another one, on an interface at the far end,
// counts what comes and drops it. On veth one CPU sends some six to ten million
// packets a second this way.
//
//	Sender ─redirect─► veth ══ veth ─► device under test ─► veth ══ veth ─► Counter
//
// The receive side of the device's veth (NAPI, its XDP program) runs on the
// sender's CPU, the Counter on the CPU that the device sends from.
//
// What a frame of either must hold is laid down in payload.go. The programs are
// assembled here, instruction by instruction: they are short, and depend on the
// frame.
package xdpgen
