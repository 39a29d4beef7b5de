package ring

import "fmt"

// Place is somewhere frames can be, with the addresses found there. An
// address may be any within its frame.
type Place struct {
	Name   string
	Frames []uint64
}

// Census checks the first invariant of this package: every frame of the UMEM
// is in exactly one of the places. The error names the first frame that is in
// two places, or says how many are in none. It is for moments of rest: a
// frame on its way inside the kernel is in no place that can be seen.
func Census(u *UMEM, places ...Place) error {
	const none = -1
	seen := make([]int, u.Frames())
	for i := range seen {
		seen[i] = none
	}
	for i, p := range places {
		for _, addr := range p.Frames {
			f := addr / uint64(u.FrameSize)
			if f >= uint64(len(seen)) {
				return fmt.Errorf("ring: %s holds address %#x, outside the UMEM of %d frames", p.Name, addr, len(seen))
			}
			if seen[f] != none {
				return fmt.Errorf("ring: frame %d is in %s and in %s", f, places[seen[f]].Name, p.Name)
			}
			seen[f] = i
		}
	}
	lost, first := 0, 0
	for f, i := range seen {
		if i != none {
			continue
		}
		if lost == 0 {
			first = f
		}
		lost++
	}
	if lost > 0 {
		return fmt.Errorf("ring: %d of %d frames are nowhere, the first is frame %d", lost, len(seen), first)
	}
	return nil
}
