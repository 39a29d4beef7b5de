//go:build !race

package handoff

// poolAllocs is what sending may allocate: nothing.
const poolAllocs = 0
