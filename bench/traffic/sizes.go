package traffic

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sizes is the lengths of consecutive frames, repeated over and over: octets
// from the Ethernet header to the end of the packet, without the frame check
// sequence that most documents count (their 84 is 80 here).
type Sizes []int

// fcs is the octets of the frame check sequence.
const fcs = 4

// maxCycle bounds how many sizes come before they repeat.
const maxCycle = 256

// genome is RFC 6985 §3.1: a letter for each of the usual sizes, frame check
// sequence included. Its z, the MTU, is not in here, and neither are sizes
// beyond a frame of AF_XDP.
var genome = map[rune]int{'a': 64, 'b': 128, 'c': 256, 'd': 512, 'e': 1024, 'f': 1280, 'g': 1518}

// imixSimple is the mix that is known by its shares of 7:4:1.
const imixSimple = "simple"

// ParseIMIX reads "simple" (7 small, 4 of 594 and 1 of 1518 octets, frame check
// sequence included), a sequence in the letters of RFC 6985, such as
// "aaaaaaafffg", or shares of sizes as "7x60,4x590,1x1514", which are without
// frame check sequence as all other sizes of this package.
func ParseIMIX(text string) (Sizes, error) {
	switch {
	case text == imixSimple:
		return spread([]int{7, 4, 1}, []int{64 - fcs, 594 - fcs, 1518 - fcs}), nil
	case strings.ContainsAny(text, "x,"):
		return parseShares(text)
	case text == "":
		return nil, errors.New("an empty IMIX: give simple, letters of RFC 6985 (a to g) or shares such as 7x80,4x590,1x1514")
	}
	var s Sizes
	for _, letter := range text {
		octets, ok := genome[letter]
		if !ok {
			return nil, fmt.Errorf("IMIX %q: %q is none of the letters a to g of RFC 6985", text, letter)
		}
		s = append(s, octets-fcs)
	}
	if len(s) > maxCycle {
		return nil, fmt.Errorf("IMIX of %d frames: at most %d come before they repeat", len(s), maxCycle)
	}
	return s, nil
}

func parseShares(text string) (Sizes, error) {
	var shares, octets []int
	total := 0
	for part := range strings.SplitSeq(text, ",") {
		many, size, ok := strings.Cut(part, "x")
		n, err := strconv.Atoi(many)
		o, err2 := strconv.Atoi(size)
		if !ok || err != nil || err2 != nil || n < 1 || o < 1 {
			return nil, fmt.Errorf("IMIX share %q: want a number of frames and their octets, such as 7x80", part)
		}
		shares, octets = append(shares, n), append(octets, o)
		if total += n; n > maxCycle || total > maxCycle {
			return nil, fmt.Errorf("IMIX %q: at most %d frames come before they repeat", text, maxCycle)
		}
	}
	return spread(shares, octets), nil
}

// spread deals the sizes out so that each comes in its share and none in a row
// where others could come between.
func spread(shares, octets []int) Sizes {
	total := 0
	for _, n := range shares {
		total += n
	}
	s := make(Sizes, 0, total)
	credit := make([]int, len(shares))
	for range total {
		best := 0
		for i := range credit {
			if credit[i] += shares[i]; credit[i] > credit[best] {
				best = i
			}
		}
		credit[best] -= total
		s = append(s, octets[best])
	}
	return s
}

// AtLeast returns the sizes with those below least raised to it.
func (s Sizes) AtLeast(least int) Sizes {
	out := slices.Clone(s)
	for i := range out {
		out[i] = max(out[i], least)
	}
	return out
}

// Plus returns the sizes with so many octets more (or fewer) each: what a
// translator makes of them.
func (s Sizes) Plus(octets int) Sizes {
	out := slices.Clone(s)
	for i := range out {
		out[i] += octets
	}
	return out
}

// Mean is the mean of the sizes, in octets.
func (s Sizes) Mean() float64 {
	total := 0
	for _, octets := range s {
		total += octets
	}
	return float64(total) / float64(max(len(s), 1))
}

// Max is the largest of the sizes, in octets.
func (s Sizes) Max() int { return slices.Max(s) }
