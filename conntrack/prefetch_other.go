//go:build !amd64 && !arm64

package conntrack

import "unsafe"

// prefetchLines does nothing where its instruction is not known here: lookups
// are right without it, only slower.
func prefetchLines([]unsafe.Pointer) {}

// prefetchOne does nothing either.
func prefetchOne(unsafe.Pointer) {}
