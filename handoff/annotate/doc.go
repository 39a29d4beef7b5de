// Package annotate names the real client in lines of other programs' logs: who
// was behind an address and port of a NAT64, or behind an address of the
// server's pool, when the line was written.
//
//	line ─► find address, port, time ─► Index: who had them then ─► line with its client
//	                                      ▲ session log of handoffd, its table
//
// The index grows with the session log; nothing grows with the lines.
package annotate

// By says which question is asked for a line.
type By uint8

const (
	ByTime  By = iota // who had the port when the line was written
	ByTable           // who has it now
)
