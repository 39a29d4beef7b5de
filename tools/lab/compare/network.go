package compare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"handoff64/bench/xdpgen"
	"handoff64/tools/lab"
)

// station is one end of a veth pair.
type station struct {
	host  lab.Host
	name  string
	index int
	mac   [6]byte
}

// bed is the network that devices are measured in. Its devices come and go,
// its stations stay.
type bed struct {
	options        Options
	lab            *lab.Lab
	queues         int
	workers        int
	client, server station // the far ends
	eth6, eth4     station // the device's
}

// clientNet is where the flows' clients are, behind the station "client".
var (
	clientNet   = netip.MustParsePrefix("2001:db8:2::/64")
	clientCount = 16
	firstPort   = 1024

	// What the other devices use in place of the lab's pools. TAYGA refuses
	// documentation addresses inside the well-known prefix.
	taygaPrefix  = netip.MustParsePrefix("2001:db8:64::/96")
	plainServer6 = netip.MustParseAddr("2001:db8:4::10")
	plainClients = netip.MustParsePrefix("192.168.255.0/24") // what tayga maps clients to; with the kernel, the clients themselves
)

func newBed(o Options, queues, workers int) (*bed, error) {
	l, err := lab.Up(lab.Options{Name: o.Name, Queues: queues})
	if err != nil {
		return nil, err
	}
	b := &bed{options: o, lab: l, queues: queues, workers: workers}
	for _, s := range []struct {
		into       *station
		host, link string
	}{
		{&b.client, "client", "eth0"}, {&b.server, "server", "eth0"},
		{&b.eth6, "nat64", lab.IPv6Interface}, {&b.eth4, "nat64", lab.IPv4Interface},
	} {
		if *s.into, err = b.station(s.host, s.link); err != nil {
			return nil, errors.Join(err, l.Down())
		}
	}
	if err := b.routes(); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	return b, nil
}

func (b *bed) station(host, name string) (station, error) {
	s := station{host: b.lab.Host(host), name: name}
	err := s.host.Enter(func() error {
		l, err := net.InterfaceByName(name)
		if err != nil {
			return fmt.Errorf("interface %s: %w", name, err)
		}
		s.index, s.mac = l.Index, [6]byte(l.HardwareAddr)
		return nil
	})
	return s, err
}

// routes leads the device's host to the clients, and to the servers that the
// kernel alone forwards to.
func (b *bed) routes() error {
	return b.eth6.host.Enter(func() error {
		add := func(index int, to netip.Prefix, via netip.Addr) error {
			dst := &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), to.Addr().BitLen())}
			r := &netlink.Route{LinkIndex: index, Dst: dst}
			if via.IsValid() {
				r.Gw = via.AsSlice()
			}
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("route to %v: %w", to, err)
			}
			return nil
		}
		if err := add(b.eth6.index, clientNet, b.lab.Client()); err != nil {
			return err
		}
		if err := add(b.eth4.index, netip.PrefixFrom(plainServer6, 64).Masked(), netip.Addr{}); err != nil {
			return err
		}
		// The server's host speaks no IPv6.
		neighbour := &netlink.Neigh{LinkIndex: b.eth4.index, State: netlink.NUD_PERMANENT, IP: plainServer6.AsSlice(), HardwareAddr: b.server.mac[:]}
		if err := netlink.NeighSet(neighbour); err != nil {
			return fmt.Errorf("neighbour %v: %w", plainServer6, err)
		}
		return nil
	})
}

// side says where packets of a direction are sent and where they arrive.
func (b *bed) side(direction string) (from, device, to station) {
	if direction == "64" {
		return b.client, b.eth6, b.server
	}
	return b.server, b.eth4, b.client
}

// flows64 are from the clients to one address.
func flows64(n int, server netip.Addr) []xdpgen.Flow {
	flows := make([]xdpgen.Flow, n)
	for i := range flows {
		client := clientNet.Addr().As16()
		client[15] = byte(1 + i%clientCount)
		flows[i] = xdpgen.Flow{
			Src: netip.AddrPortFrom(netip.AddrFrom16(client), uint16(firstPort+i)),
			Dst: netip.AddrPortFrom(server, serverPort),
		}
	}
	return flows
}

const serverPort = 443

// flows46 are from the server to where the flows of the other direction come
// from.
func (b *bed) flows46(origins []netip.AddrPort) []xdpgen.Flow {
	flows := make([]xdpgen.Flow, len(origins))
	for i, o := range origins {
		flows[i] = xdpgen.Flow{Src: netip.AddrPortFrom(b.lab.Server(), serverPort), Dst: o}
	}
	return flows
}

// plainFlows46 are the flows that need no translation.
func (b *bed) plainFlows46(n int) []xdpgen.Flow {
	origins := make([]netip.AddrPort, n)
	for i := range origins {
		a := plainClients.Addr().As4()
		a[3] = byte(1 + i%clientCount)
		origins[i] = netip.AddrPortFrom(netip.AddrFrom4(a), uint16(firstPort+i))
	}
	return b.flows46(origins)
}

// counter attaches one to a station.
func (b *bed) counter(at station, cfg xdpgen.CounterConfig) (c *xdpgen.Counter, err error) {
	err = at.host.Enter(func() error {
		c, err = xdpgen.NewCounter(at.index, cfg)
		return err
	})
	return c, err
}

// leastNice makes senders leave their CPU to whoever else wants it.
const leastNice = 19

// sending is a stream that is underway.
type sending struct {
	senders []*xdpgen.Sender
	cancel  context.CancelFunc
	ended   chan error
}

// pace is how fast to send.
type pace struct {
	pps     int  // from all CPUs together
	clump   int  // frames that a CPU sends together
	stamped bool // for the counter to see how long they took
	single  bool // from one CPU, so that the numbers in the packets are those of the flows
}

// send starts a stream of the flows from as many CPUs as there are queues. Each
// flow has one CPU, and so one queue, as with RSS.
func (b *bed) send(ctx context.Context, direction string, flows []xdpgen.Flow, frame int, p pace) (*sending, error) {
	from, device, _ := b.side(direction)
	const headers6 = 14 + 40 + 8
	count := min(b.queues, len(flows))
	if p.single {
		count = 1
	}
	nice := leastNice
	if p.stamped {
		nice = 0 // it has to keep its rate
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &sending{cancel: cancel, ended: make(chan error, count)}
	for cpu := range count {
		sender, err := xdpgen.NewSender(xdpgen.SenderConfig{
			Ifindex: from.index, Stamped: p.stamped, Clump: p.clump, Seed: uint64(cpu),
			Every:    time.Duration(count) * time.Second / time.Duration(p.pps),
			Template: xdpgen.Template{To: device.mac, From: from.mac, Flows: share(flows, cpu, count), Payload: frame - headers6},
		})
		if err != nil {
			return nil, errors.Join(err, s.stop())
		}
		s.senders = append(s.senders, sender)
		go func() { s.ended <- from.host.Enter(func() error { return sender.Run(ctx, cpu, nice) }) }()
	}
	return s, nil
}

// share is every count-th flow, beginning with the one at index first.
func share(flows []xdpgen.Flow, first, count int) (part []xdpgen.Flow) {
	for i := first; i < len(flows); i += count {
		part = append(part, flows[i])
	}
	return part
}

// stop ends the stream.
func (s *sending) stop() error {
	s.cancel()
	var errs []error
	for _, sender := range s.senders {
		errs = append(errs, <-s.ended)
		errs = append(errs, sender.Close())
	}
	return errors.Join(errs...)
}
