//go:build amd64 || arm64

package conntrack

import "unsafe"

// prefetchLines is in assembly because the language has no word for it. It
// keeps none of the pointers.
//
//go:noescape
func prefetchLines(lines []unsafe.Pointer)

// prefetchOne is prefetchLines for one.
//
//go:noescape
func prefetchOne(line unsafe.Pointer)
