//go:build !race

#include "textflag.h"

// func storeWord(p *atomic.Uint64, v uint64)
TEXT ·storeWord(SB), NOSPLIT, $0-16
	MOVQ p+0(FP), DI
	MOVQ v+8(FP), AX
	MOVQ AX, (DI)
	RET

// func storeHalf(p *atomic.Uint32, v uint32)
TEXT ·storeHalf(SB), NOSPLIT, $0-12
	MOVQ p+0(FP), DI
	MOVL v+8(FP), AX
	MOVL AX, (DI)
	RET

// func storeSlot(s *slot, w *words, stampState uint64, seq uint32)
TEXT ·storeSlot(SB), NOSPLIT, $0-28
	MOVQ s+0(FP), DI
	MOVQ w+8(FP), SI
	MOVQ stampState+16(FP), AX
	MOVL seq+24(FP), CX
	MOVL CX, 0(DI)
	MOVL $0, 4(DI)             // hop
	MOVQ 0(SI), R8
	MOVQ 8(SI), R9
	MOVQ 16(SI), R10
	MOVQ 24(SI), R11
	MOVQ 32(SI), R12
	MOVQ R8, 8(DI)
	MOVQ R9, 16(DI)
	MOVQ R10, 24(DI)
	MOVQ R11, 32(DI)
	MOVQ R12, 40(DI)
	MOVQ AX, 48(DI)            // stamp and state
	INCL CX
	MOVL CX, 0(DI)
	RET

// func storeEntry(e *bibEntry, hi, lo, meta uint64)
TEXT ·storeEntry(SB), NOSPLIT, $0-32
	MOVQ e+0(FP), DI
	MOVQ hi+8(FP), R8
	MOVQ lo+16(FP), R9
	MOVQ meta+24(FP), R10
	MOVQ R8, 0(DI)
	MOVQ R9, 8(DI)
	MOVQ $0, 24(DI)            // counts
	MOVQ R10, 16(DI)
	RET
