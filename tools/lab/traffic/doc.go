// Package traffic holds the programs that people run to try a network out, as
// functions that work inside the hosts of a lab: an HTTP server and client
// that compare checksums, a UDP echo, ping and traceroute.
package traffic
