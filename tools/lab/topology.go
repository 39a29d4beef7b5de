package lab

import (
	"errors"
	"fmt"
	"net/netip"
)

// Addresses that do not depend on the options.
var (
	// Pool6 is where clients find the IPv4 Internet.
	Pool6 = netip.MustParsePrefix("64:ff9b::/96")
	// Pool4 is the translator's address on the IPv4 side. It lies within the
	// subnet of the nat64 host's IPv4 link, so whoever wants it asks by ARP.
	Pool4 = netip.MustParseAddr("192.0.2.64")
	// Nat64IPv4 is the nat64 host's own address.
	Nat64IPv4 = netip.MustParseAddr("192.0.2.1")
	// R4IPv4 is what r4 answers with to those on the translator's side.
	R4IPv4 = netip.MustParseAddr("192.0.2.254")
	// R6IPv6 is r6's address on the translator's side.
	R6IPv6 = netip.MustParseAddr("2001:db8:64::2")

	// SecondPool6 and SecondPool4 are what a second translator has. The
	// prefix of a packet decides which of the two it takes.
	SecondPool6 = netip.MustParsePrefix("2001:db8:65:64::/96")
	SecondPool4 = netip.MustParseAddr("198.18.0.64")
)

// SecondNat64 is the name of the second translating host.
const SecondNat64 = "nat64b"

// Names of the nat64 host's interfaces.
const (
	IPv6Interface = "eth6"
	IPv4Interface = "eth4"
)

// Options says what network to build. The zero value is the plain network of
// three hosts, one queue each, without a router.
type Options struct {
	Name    string // prefix of the namespaces; default "nat64lab"
	Queues  int    // RX and TX queues of every veth end; default 1
	Routers bool   // r6 and r4 between the hosts and the translator
	Clients int    // default 1; 2 needs Routers
	Servers int    // default 1; 2 and 3 need Routers
	Nat64s  int    // default 1; 2 needs Routers
	MTU6    int    // of the links to the clients; default 1500
	MTU4    int    // of the links to the servers; default 1500

	// FullMSS makes the hosts announce the TCP segment size of a 1500-octet
	// link whatever their link's MTU is, as hosts further away from a small
	// link do. Only then has TCP a path MTU to discover.
	FullMSS bool
}

// DefaultName is the lab's name if nobody gives it one.
const DefaultName = "nat64lab"

// maxName leaves room for the host's name within NAME_MAX and, with the
// socket's, within the 108 octets of a Unix socket address.
const maxName = 60

// withDefaults fills in what was left out and refuses what cannot be built.
func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	o.Queues, o.Clients, o.Servers, o.Nat64s = max(o.Queues, 1), max(o.Clients, 1), max(o.Servers, 1), max(o.Nat64s, 1)
	if o.MTU6 == 0 {
		o.MTU6 = 1500
	}
	if o.MTU4 == 0 {
		o.MTU4 = 1500
	}
	if err := checkName(o.Name); err != nil {
		return o, err
	}
	switch {
	case o.Queues > 64:
		return o, fmt.Errorf("%d queues: a lab has 1 to 64", o.Queues)
	case o.Clients > 2 || o.Servers > 3 || o.Nat64s > 2:
		return o, errors.New("a lab has one or two clients, one to three servers and one or two NAT64s")
	case (o.Clients > 1 || o.Servers > 1 || o.Nat64s > 1) && !o.Routers:
		return o, errors.New("a second client, server or NAT64 needs the routers, which connect it")
	case o.MTU6 < 1280 || o.MTU6 > 1500:
		return o, fmt.Errorf("IPv6 MTU %d: choose 1280 (RFC 8200 §5) to 1500", o.MTU6)
	case o.MTU4 < 576 || o.MTU4 > 1500:
		return o, fmt.Errorf("IPv4 MTU %d: choose 576 to 1500", o.MTU4)
	}
	return o, nil
}

// Check says what about the options cannot be built, without building it.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// checkName keeps names to what is harmless as a file name.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("lab name %q: use 1 to %d characters", name, maxName)
	}
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("lab name %q: use letters, digits, - and _ only", name)
		}
	}
	return nil
}

// end is one end of a veth pair.
type end struct {
	host, ifname string
	addr         netip.Prefix
}

// link is a veth pair.
type link struct {
	a, b end
	mtu  int
}

// route is a default route unless it says where to; but for the prefix of a
// second translator, routers and nat64 hosts know the rest from their
// interfaces.
type route struct {
	host   string
	to     netip.Prefix // zero: everything else
	via    netip.Addr
	advMSS int // 0 leaves it to the kernel
}

// topology is all that build makes. It is plain data, so that a test can look
// at a network without making it.
type topology struct {
	hosts  []string
	links  []link
	routes []route
}

// plan lays out the network of the options.
func plan(o Options) topology {
	if o.Routers {
		return planRouted(o)
	}
	return topology{
		hosts: []string{"client", "nat64", "server"},
		links: []link{
			{a: at("client", "eth0", "2001:db8:1::10/64"), b: at("nat64", IPv6Interface, "2001:db8:1::1/64"), mtu: o.MTU6},
			{a: at("nat64", IPv4Interface, "192.0.2.1/24"), b: at("server", "eth0", "192.0.2.10/24"), mtu: o.MTU4},
		},
		routes: []route{
			{host: "client", via: netip.MustParseAddr("2001:db8:1::1"), advMSS: o.advMSS(true)},
			{host: "server", via: Nat64IPv4, advMSS: o.advMSS(false)},
		},
	}
}

// planRouted is plan with a router on each side and up to two hosts behind it.
func planRouted(o Options) topology {
	t := topology{
		hosts: []string{"nat64", "r6", "r4"},
		links: []link{
			{a: at("r6", "nat64", "2001:db8:64::2/64"), b: at("nat64", IPv6Interface, "2001:db8:64::1/64"), mtu: 1500},
			{a: at("nat64", IPv4Interface, "192.0.2.1/24"), b: at("r4", "nat64", "192.0.2.254/24"), mtu: 1500},
		},
		routes: []route{
			{host: "r6", via: netip.MustParseAddr("2001:db8:64::1")},
			{host: "nat64", via: R6IPv6},
			{host: "nat64", via: R4IPv4},
			{host: "r4", via: Nat64IPv4},
		},
	}
	clients := []struct{ name, addr, router string }{
		{"client", "2001:db8:1::10/64", "2001:db8:1::1/64"},
		{"client2", "2001:db8:2::10/64", "2001:db8:2::1/64"},
	}
	servers := []struct{ name, addr, router string }{
		{"server", "198.51.100.10/24", "198.51.100.1/24"},
		{"server2", "203.0.113.10/24", "203.0.113.1/24"},
		{"server3", "198.18.3.10/24", "198.18.3.1/24"},
	}
	if o.Nat64s > 1 {
		t.addSecondNat64()
	}
	for _, c := range clients[:o.Clients] {
		t.hosts = append(t.hosts, c.name)
		t.links = append(t.links, link{a: at(c.name, "eth0", c.addr), b: at("r6", c.name, c.router), mtu: o.MTU6})
		t.routes = append(t.routes, route{host: c.name, via: netip.MustParsePrefix(c.router).Addr(), advMSS: o.advMSS(true)})
	}
	for _, s := range servers[:o.Servers] {
		t.hosts = append(t.hosts, s.name)
		t.links = append(t.links, link{a: at("r4", s.name, s.router), b: at(s.name, "eth0", s.addr), mtu: o.MTU4})
		t.routes = append(t.routes, route{host: s.name, via: netip.MustParsePrefix(s.router).Addr(), advMSS: o.advMSS(false)})
	}
	return t
}

// addSecondNat64 puts a translator with a prefix and an address of its own
// beside the first.
func (t *topology) addSecondNat64() {
	own := netip.MustParseAddr("2001:db8:65::1")
	t.hosts = append(t.hosts, SecondNat64)
	t.links = append(t.links,
		link{a: at("r6", SecondNat64, "2001:db8:65::2/64"), b: at(SecondNat64, IPv6Interface, "2001:db8:65::1/64"), mtu: 1500},
		link{a: at(SecondNat64, IPv4Interface, "198.18.0.1/24"), b: at("r4", SecondNat64, "198.18.0.254/24"), mtu: 1500},
	)
	t.routes = append(t.routes,
		route{host: "r6", to: SecondPool6, via: own},
		route{host: SecondNat64, via: netip.MustParseAddr("2001:db8:65::2")},
		route{host: SecondNat64, via: netip.MustParseAddr("198.18.0.254")},
	)
}

func at(host, ifname, addr string) end {
	return end{host: host, ifname: ifname, addr: netip.MustParsePrefix(addr)}
}

// advMSS is the segment size to announce: 1500 octets less the IP and TCP
// headers, or 0 for the kernel's choice.
func (o Options) advMSS(ipv6 bool) int {
	switch {
	case !o.FullMSS:
		return 0
	case ipv6:
		return 1440
	}
	return 1460
}

// Embed is the IPv6 address under which clients reach an IPv4 address: RFC
// 6052 §2.2 with the /96 prefix of the lab.
func Embed(v4 netip.Addr) netip.Addr { return EmbedIn(Pool6, v4) }

// EmbedIn is Embed with another /96 prefix.
func EmbedIn(pool6 netip.Prefix, v4 netip.Addr) netip.Addr {
	b := pool6.Addr().As16()
	a := v4.As4()
	copy(b[12:], a[:])
	return netip.AddrFrom16(b)
}

// Extract is the IPv4 address inside an address of Pool6, if it is one.
func Extract(v6 netip.Addr) (netip.Addr, bool) {
	if !Pool6.Contains(v6) {
		return netip.Addr{}, false
	}
	b := v6.As16()
	return netip.AddrFrom4([4]byte(b[12:])), true
}
