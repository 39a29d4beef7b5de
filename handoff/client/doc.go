// Package client tells programs on an IPv4-only host who their clients are. Behind
// a NAT64 all of them share its address; handoffd, on the same host, knows which of
// them has which port.
//
//	c, err := client.Dial(ctx, client.DefaultSocket)
//	…
//	who, err := c.Lookup(ctx, netip.MustParseAddrPort("192.0.2.7:3719"))
//	// [2001:db8::17]:53186
//
// A server that logs, limits or refuses by the address of its connections needs
// one line: it listens on c.Listener(l, log) in place of l. The folder example has
// one.
//
//	client ─ IPv6 ─ NAT64 ─ IPv4 ─► program ── GET /lookup ──► handoffd
//	                  └────── UDP 64064, who it is ──────────────┘
package client
