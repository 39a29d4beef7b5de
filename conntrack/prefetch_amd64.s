#include "textflag.h"

// func prefetchLines(lines []unsafe.Pointer)
TEXT ·prefetchLines(SB), NOSPLIT, $0-24
	MOVQ  lines_base+0(FP), BX
	MOVQ  lines_len+8(FP), CX
	TESTQ CX, CX
	JEQ   done

loop:
	MOVQ       (BX), AX
	PREFETCHT0 (AX)
	ADDQ       $8, BX
	DECQ       CX
	JNE        loop

done:
	RET

// func prefetchOne(line unsafe.Pointer)
TEXT ·prefetchOne(SB), NOSPLIT, $0-8
	MOVQ       line+0(FP), AX
	PREFETCHT0 (AX)
	RET
