//go:build race

package handoff

// poolAllocs: under the race detector sync.Pool drops some of what it is given
// on purpose, and x/net keeps the headers of a batch in one.
const poolAllocs = 1
