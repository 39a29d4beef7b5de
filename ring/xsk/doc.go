// Package xsk moves packets through AF_XDP sockets.
//
//	NIC queue ─→ filter (BPF) ──not ours──→ kernel
//	                │ ours
//	                ▼
//	fill ring ─→ kernel ─→ RX ring ─→ Recv      worker      Send ─→ TX ring ─→ kernel
//	   ▲                                                                          │
//	   └───────────────── free stack ◀──────────── Flush ◀──── completion ring ◀──┘
//
// A Device is two interfaces (or one that is both), each of their queues with
// a Socket, all over one UMEM, so that a frame received on one interface is
// sent on the other where it lies. Each Socket belongs to one worker, and so do
// its four rings and the free stack that feeds them. The kernel is the other
// party of each ring; the shared indices are read and written through
// sync/atomic and every side caches the other's.
package xsk
