package xsk

// All unsafe code of this package is in this file: views into memory that the
// kernel shares with us, and system calls whose arguments are structures.

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"handoff64/ring"
)

// atomicWord returns the 32-bit word at offset of a mapped ring. Safe: the
// mapping outlives the ring (Socket.close unmaps last), is not on the Go heap,
// is page aligned, and the kernel's offsets are multiples of four within it.
func atomicWord(mapping []byte, offset uint64) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&mapping[offset]))
}

// descSlots returns the n descriptors of a mapped RX or TX ring. Safe: as
// atomicWord; ring.Desc has the layout of struct xdp_desc and no pointers, and
// the mapping was made long enough for n of them.
func descSlots(mapping []byte, offset uint64, n uint32) []ring.Desc {
	return unsafe.Slice((*ring.Desc)(unsafe.Pointer(&mapping[offset])), n)
}

// addrSlots returns the n addresses of a mapped fill or completion ring. Safe:
// as descSlots.
func addrSlots(mapping []byte, offset uint64, n uint32) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(&mapping[offset])), n)
}

const descBytes = unsafe.Sizeof(ring.Desc{})

// ring.Desc must be struct xdp_desc: a mismatch does not compile.
var _ = [1]struct{}{}[descBytes-unsafe.Sizeof(unix.XDPDesc{})]

// registerUMEM gives the memory to the kernel, which pins it. Safe: mem is
// not on the Go heap, so its address stays, and it is unmapped only after the
// sockets are closed.
func registerUMEM(fd int, u *ring.UMEM) error {
	reg := unix.XDPUmemReg{
		Addr: uint64(uintptr(unsafe.Pointer(&u.Mem[0]))),
		Len:  uint64(len(u.Mem)),
		Size: uint32(u.FrameSize),
	}
	return setsockopt(fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg))
}

func mmapOffsets(fd int) (unix.XDPMmapOffsets, error) {
	var offsets unix.XDPMmapOffsets
	size := uint32(unsafe.Sizeof(offsets))
	err := getsockopt(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&offsets), &size)
	if err == nil && size != uint32(unsafe.Sizeof(offsets)) {
		err = fmt.Errorf("the kernel's answer has %d octets, want %d: needs Linux 5.4", size, unsafe.Sizeof(offsets))
	}
	return offsets, err
}

func xdpStatistics(fd int) (unix.XDPStatistics, error) {
	var stats unix.XDPStatistics // kernels before 5.9 fill less and say so
	size := uint32(unsafe.Sizeof(stats))
	err := getsockopt(fd, unix.XDP_STATISTICS, unsafe.Pointer(&stats), &size)
	return stats, err
}

// boundZeroCopy asks the kernel how the socket was really bound.
func boundZeroCopy(fd int) (bool, error) {
	var options uint32
	size := uint32(unsafe.Sizeof(options))
	err := getsockopt(fd, unix.XDP_OPTIONS, unsafe.Pointer(&options), &size)
	return options&unix.XDP_OPTIONS_ZEROCOPY != 0, err
}

// getsockopt reads a structure. Safe: value points to *size octets of memory
// that the caller keeps alive over the call, and the kernel writes no more.
func getsockopt(fd, option int, value unsafe.Pointer, size *uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option),
		uintptr(value), uintptr(unsafe.Pointer(size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// setsockopt writes a structure. Safe: the kernel only reads size octets of it,
// during the call.
func setsockopt(fd, option int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(option), uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// channels is struct ethtool_channels.
type channels struct {
	cmd                                 uint32
	maxRX, maxTX, maxOther, maxCombined uint32
	rx, tx, other, combined             uint32
}

// ethtoolChannels asks the driver for its queues. Safe: the request has the
// layout of struct ifreq with a pointer in its union, both structures live on
// this stack over the call, and uintptr conversions happen in the call itself.
func ethtoolChannels(fd int, name string) (channels, error) {
	ch := channels{cmd: unix.ETHTOOL_GCHANNELS}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.data = unsafe.Pointer(&ch)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return channels{}, errno
	}
	return ch, nil
}
