// Package benchmark runs what can be measured on this machine, keeps the results
// as JSON, and shows them as tables, plots and in the documentation.
//
//	group ─► results, a JSON file each ─► tables ─► terminal, docs/benchmarks.md
//	                                   └► plots (SVG)
//
// memory and sessions are Go benchmarks of a whole worker between ports in
// memory; devices compares nat64d with others over veth; rfc runs the procedures
// of RFC 8219 and RFC 9693 on nat64d over veth; tunnels compares handoffd's
// translating modes with tunnels.
package benchmark
