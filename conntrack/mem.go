package conntrack

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of huge pages. Regions of bigRegion and more are worth
// reserved ones, of which they take a whole number.
const (
	hugePage  = 2 << 20
	bigRegion = 8 * hugePage
)

// region is memory outside the Go heap: the collector neither scans nor moves
// it. It is zero when new. The zero region is empty. Reading and writing
// follow the rules of the type laid over it.
type region struct {
	mem []byte
}

// mapAnonymous reserves size octets of zeroed memory. Big regions try reserved
// huge pages first and then ask for transparent ones: a lookup in a big table
// costs a TLB miss otherwise. Small pages still work, so
// neither refusal is an error.
func mapAnonymous(size int) (region, error) {
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if size >= bigRegion {
		if m, err := unix.Mmap(-1, 0, roundUp(size, hugePage), prot, flags|unix.MAP_HUGETLB); err == nil {
			return region{m}, nil
		}
	}
	m, err := unix.Mmap(-1, 0, size, prot, flags)
	if err != nil {
		return region{}, fmt.Errorf("map %d octets of anonymous memory: %w", size, err)
	}
	if size >= hugePage {
		_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	}
	return region{m}, nil
}

// mapSparse reserves address space of which only touched pages take memory.
// Huge pages are asked for when dense is true.
func mapSparse(size int, dense bool) (region, error) {
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return region{}, fmt.Errorf("map %d octets of sparse memory: %w", size, err)
	}
	if dense && size >= hugePage {
		_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	}
	return region{m}, nil
}

// mapFile maps the first size octets of an open file, shared.
func mapFile(fd int, size int, write bool) (region, error) {
	prot := unix.PROT_READ
	if write {
		prot |= unix.PROT_WRITE
	}
	m, err := unix.Mmap(fd, 0, size, prot, unix.MAP_SHARED)
	if err != nil {
		return region{}, fmt.Errorf("map %d octets of the session file: %w", size, err)
	}
	if write {
		_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	}
	return region{m}, nil
}

// unmap gives the memory back. Nothing laid over it may be used afterwards.
func (r *region) unmap() error {
	if r.mem == nil {
		return nil
	}
	err := unix.Munmap(r.mem)
	r.mem = nil
	if err != nil {
		return fmt.Errorf("unmap: %w", err)
	}
	return nil
}

// offHeap is what may lie outside the Go heap: types without pointers, for
// which any content is a valid value.
type offHeap interface {
	slot | bibEntry | portSet | clientSlot | portBlock | tagWord | awayWord | uint32 | uint64
}

// overlay sees n values of T from offset on.
//
// unsafe: it is safe because the memory is
// not the Go heap's, T holds no pointer (the constraint lists every T, and a
// test holds them to it), the range is checked here against the region, and
// the address is aligned: a mapping starts on a page and offsets are multiples
// of 64, which is also checked.
func overlay[T offHeap](r region, offset, n int) []T {
	var t T
	end := offset + n*int(unsafe.Sizeof(t))
	if offset < 0 || n <= 0 || end > len(r.mem) || offset%64 != 0 {
		panic(fmt.Sprintf("conntrack: overlay of [%d,%d) on a region of %d octets", offset, end, len(r.mem)))
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&r.mem[offset])), n)
}

// sizeOf gives the octets that n values of T take.
func sizeOf[T offHeap](n int) int {
	var t T
	return n * int(unsafe.Sizeof(t))
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }
