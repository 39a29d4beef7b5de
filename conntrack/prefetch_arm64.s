#include "textflag.h"

// func prefetchLines(lines []unsafe.Pointer)
TEXT ·prefetchLines(SB), NOSPLIT, $0-24
	MOVD lines_base+0(FP), R0
	MOVD lines_len+8(FP), R1
	CBZ  R1, done

loop:
	MOVD.P 8(R0), R2
	PRFM   (R2), PLDL1KEEP
	SUBS   $1, R1, R1
	BNE    loop

done:
	RET

// func prefetchOne(line unsafe.Pointer)
TEXT ·prefetchOne(SB), NOSPLIT, $0-8
	MOVD line+0(FP), R0
	PRFM (R0), PLDL1KEEP
	RET
