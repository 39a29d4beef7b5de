package generator

import (
	"errors"
	"fmt"
	"io"
	"time"

	"handoff64/bench/traffic"
	"handoff64/ring/pcapport"
)

// Recording is a capture in memory, to be sent again. Immutable.
type Recording struct {
	octets []byte
	ends   []int   // of each frame within octets
	at     []int64 // nanoseconds from the first frame; never decreasing
}

// maxRecording bounds what is loaded.
const maxRecording = 4 << 30

// LoadRecording reads a capture of Ethernet frames. Addresses of link that are
// not zero replace the frames' own.
func LoadRecording(path string, link traffic.Link) (rec *Recording, err error) {
	in, err := pcapport.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	rec = &Recording{}
	var first time.Time
	for {
		frame, at, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(frame) > traffic.MaxFrame || len(frame) < minEthernet {
			return nil, fmt.Errorf("generator: %s, packet %d: %d octets, frames of AF_XDP have %d to %d here", path, in.Packets(), len(frame), minEthernet, traffic.MaxFrame)
		}
		if len(rec.octets)+len(frame) > maxRecording {
			return nil, fmt.Errorf("generator: %s: more than %d octets do not fit into memory", path, maxRecording)
		}
		if len(rec.ends) == 0 {
			first = at
		}
		rec.add(frame, int64(at.Sub(first)), link)
	}
	if len(rec.ends) == 0 {
		return nil, fmt.Errorf("generator: %s holds no packets", path)
	}
	return rec, nil
}

// minEthernet is an Ethernet header.
const minEthernet = 14

func (r *Recording) add(frame []byte, at int64, link traffic.Link) {
	from := len(r.octets)
	r.octets = append(r.octets, frame...)
	if none := [6]byte{}; link.Dst != none {
		copy(r.octets[from:], link.Dst[:])
	}
	if none := [6]byte{}; link.Src != none {
		copy(r.octets[from+6:], link.Src[:])
	}
	r.ends = append(r.ends, len(r.octets))
	r.at = append(r.at, at)
}

// Len is the number of frames.
func (r *Recording) Len() int { return len(r.ends) }

// Duration is from the first frame to the last.
func (r *Recording) Duration() time.Duration { return time.Duration(r.at[len(r.at)-1]) }

// frame is frame i, which must not be changed.
func (r *Recording) frame(i int) []byte {
	from := 0
	if i > 0 {
		from = r.ends[i-1]
	}
	return r.octets[from:r.ends[i]]
}

// longest is the octets of the longest frame.
func (r *Recording) longest() (most int) {
	for i := range r.ends {
		most = max(most, len(r.frame(i)))
	}
	return most
}

// timetable says when the frames of a recording are due at recorded times,
// round after round. Owned by one goroutine.
type timetable struct {
	at    []int64
	speed float64 // 2 is twice as fast as recorded
	round int64   // from the beginning of one round to that of the next, nanoseconds of the recording
}

// newTimetable returns the timetable of a recording. A new round begins a mean
// gap after the last frame of the one before.
func newTimetable(rec *Recording, speed float64) timetable {
	last := rec.at[len(rec.at)-1]
	gap := int64(0)
	if n := int64(len(rec.at)); n > 1 {
		gap = last / (n - 1)
	}
	return timetable{at: rec.at, speed: speed, round: last + gap}
}

// due is when packet n, counted over all rounds, is due: nanoseconds from the
// start.
func (t *timetable) due(n uint64) int64 {
	frames := uint64(len(t.at))
	return int64(float64(int64(n/frames)*t.round+t.at[n%frames]) / t.speed)
}

// count is how many of at most maxBurst packets from n on are due at a time
// from the start.
func (t *timetable) count(n uint64, elapsed int64) int {
	i := 0
	for i < maxBurst && t.due(n+uint64(i)) <= elapsed {
		i++
	}
	return i
}
