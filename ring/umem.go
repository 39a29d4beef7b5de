package ring

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// hugePageBytes is what MAP_HUGETLB lengths are rounded up to. It is the
// default huge page of amd64 and of arm64 with 4 KiB pages; where the default
// is larger the kernel refuses the mapping and the next way is taken.
const hugePageBytes = 2 << 20

// Pages says which kind of memory a UMEM got.
type Pages string

const (
	PagesHuge        Pages = "huge"        // MAP_HUGETLB, reserved by the operator
	PagesTransparent Pages = "transparent" // the kernel may make them huge
	PagesPlain       Pages = "plain"
)

// NewUMEM maps memory for the given number of frames: out of reserved huge
// pages when there are enough, else with transparent huge pages, else plain.
// Nothing but a real lack of memory makes it fail.
func NewUMEM(frames, frameSize int) (*UMEM, error) {
	if frames <= 0 || frameSize < 2*Headroom || bits.OnesCount(uint(frameSize)) != 1 {
		return nil, fmt.Errorf("ring: UMEM of %d frames of %d octets: the frame size must be a power of two, at least %d", frames, frameSize, 2*Headroom)
	}
	size := frames * frameSize
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	rounded := (size + hugePageBytes - 1) &^ (hugePageBytes - 1)
	// MAP_POPULATE takes the pages now: the packet path must not meet page faults.
	if m, err := unix.Mmap(-1, 0, rounded, prot, flags|unix.MAP_HUGETLB|unix.MAP_POPULATE); err == nil {
		return &UMEM{Mem: m[:size:size], FrameSize: frameSize, mapping: m, pages: PagesHuge}, nil
	}
	m, err := unix.Mmap(-1, 0, size, prot, flags)
	if err != nil {
		return nil, fmt.Errorf("ring: mmap %d octets for the UMEM: %w", size, err)
	}
	u := &UMEM{Mem: m, FrameSize: frameSize, mapping: m, pages: PagesTransparent}
	if unix.Madvise(m, unix.MADV_HUGEPAGE) != nil {
		u.pages = PagesPlain // a kernel without transparent huge pages says EINVAL
	}
	if err := unix.Madvise(m, unix.MADV_POPULATE_WRITE); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, errors.Join(fmt.Errorf("ring: populate %d octets of UMEM: %w", size, err), u.Close())
	}
	return u, nil
}

// Pages is the kind of memory below u.
func (u *UMEM) Pages() Pages { return u.pages }

// Frames is the number of frames in u.
func (u *UMEM) Frames() int { return len(u.Mem) / u.FrameSize }

// Close unmaps the memory of a UMEM that NewUMEM made; its packets must not be
// touched any more. Closing twice is allowed.
func (u *UMEM) Close() error {
	if u.mapping == nil {
		return nil
	}
	m := u.mapping
	u.mapping, u.Mem = nil, nil
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("ring: munmap the UMEM: %w", err)
	}
	return nil
}
