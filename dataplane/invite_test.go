package dataplane

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"handoff64/conntrack"
)

const (
	mappedB     = "192.0.2.2"
	invitedPort = 5000
)

// syn46 is a SYN of the server to a port of pool4 that is nobody's.
func syn46(t testing.TB, to string, port int) []byte {
	return tcp4(t, serverA, tcpServerPort, to, port, "S")
}

// connects has a client's SYN to the server pass, and tells its mapping.
func (r *rig) connects(client string, port int) (mapped string, mappedPort int) {
	r.t.Helper()
	_, out4 := r.from6(tcp6(r.t, client, port, serverA, tcpServerPort, "S"))
	src, dst, sport, dport := transport(r.t, one(r.t, out4))
	if dst != serverA || dport != tcpServerPort {
		r.t.Fatalf("went to %s:%d", dst, dport)
	}
	return src, sport
}

func short(c *conntrack.Config) { c.Timeouts = tcpTimeouts }

// RFC 6146 §3.5.2.2, "V4 INIT": the stored SYN has no client yet, so the next
// one that opens the connection from its side is meant. Both SYNs meet,
// whichever workers they came to, and nothing is answered.
func TestStoredSYNFindsItsClient(t *testing.T) {
	for workers := 1; workers <= 3; workers++ {
		for from := range workers {
			t.Run(fmt.Sprintf("worker %d of %d", from, workers), func(t *testing.T) {
				r := newRig(t, setup{workers: workers, table: short})
				out6, out4 := r.pass(r.in4[from], [][]byte{syn46(t, mappedA, invitedPort)})
				none(t, append(out6, out4...))
				r.now += 30
				if _, port := r.connects(clientA, 40001); port != invitedPort { // parity does not count
					t.Fatalf("mapped to %d", port)
				}
				if s := r.onlySession(); s.State != conntrack.StateEstablished || s.Lifetime != tcpTimeouts.TCPEstablished {
					t.Errorf("state %v for %d ticks", s.State, s.Lifetime)
				}
				for _, flags := range []string{"S", "SA"} {
					out6, _ = r.pass(r.in4[from], [][]byte{tcp4(t, serverA, tcpServerPort, mappedA, invitedPort, flags)})
					if _, dst, _, dport := transport(t, one(t, out6)); dst != clientA || dport != 40001 {
						t.Errorf("%s to %s:%d", flags, dst, dport)
					}
				}
				out6, out4 = r.until(r.now + 2*tcpTimeouts.TCPIncomingSYN)
				none(t, append(out6, out4...))
				if _, port := r.connects(clientB, 40001); port == invitedPort {
					t.Error("a second client got the same port")
				}
			})
		}
	}
}

// Each client gets one, the oldest that still waits first, wherever it lies.
func TestOldestStoredSYNFirst(t *testing.T) {
	r := newRig(t, setup{workers: 3, table: short})
	ports := []int{5005, 5000, 5009, 5002}
	for i, port := range ports {
		r.pass(r.in4[i*2%3], [][]byte{syn46(t, mappedA, port)})
		r.pass(r.in4[i%3], [][]byte{tcp4(t, elsewhere, tcpServerPort, mappedA, 6000+port, "S"), tcp4(t, serverA, 80, mappedA, 7000+port, "S")})
		r.now += 5
	}
	for i, want := range ports {
		if _, port := r.connects(clientA, 40000+i); port != want {
			t.Errorf("client %d got port %d, want %d", i, port, want)
		}
	}
	if _, port := r.connects(clientB, 40000); port >= 5000 && port < 5010 {
		t.Errorf("nothing waits, and port %d was given", port)
	}
	_, out4 := r.until(r.now + 2*tcpTimeouts.TCPIncomingSYN)
	if got := len(out4); got != 2*len(ports) {
		t.Errorf("%d answers to the other SYNs, want %d", got, 2*len(ports))
	}
}

// Where the client cannot have the port it gets another, or is refused as it
// would have been, and the stored SYN has its six seconds.
func TestStoredSYNOfAnotherClient(t *testing.T) {
	b := conntrack.Static{Proto: conntrack.UDP, ClientPort: 80, Mapped: addr4(mappedA), MappedPort: invitedPort}
	b.Client.Hi, b.Client.Lo = hiLo(clientB)
	connects := func(t *testing.T, r *rig) {
		if addr, port := r.connects(clientA, 40000); addr == mappedA && port == invitedPort {
			t.Error("the client got the port")
		}
	}
	refused := func(reason DropReason) func(*testing.T, *rig) {
		return func(t *testing.T, r *rig) {
			r.from6(udp6(t, clientA, 7, serverA, 7, nil))
			out6, out4 := r.from6(tcp6(t, clientA, 40000, serverA, tcpServerPort, "S"))
			if len(out6) != 1 || len(out4) != 0 || r.drops(reason) != 1 {
				t.Errorf("%d back, %d to the server, %d dropped as %s", len(out6), len(out4), r.drops(reason), reason)
			}
			if st := r.table.Stats(); st.BIB != 1 {
				t.Errorf("%d mappings", st.BIB)
			}
		}
	}
	for _, c := range []struct {
		name  string
		table func(*conntrack.Config)
		run   func(*testing.T, *rig)
	}{
		{"taken meanwhile", func(*conntrack.Config) {}, func(t *testing.T, r *rig) {
			if err := r.table.AddStatic(b); err != nil {
				t.Fatal(err)
			}
			connects(t, r)
		}},
		{"another mapping", func(*conntrack.Config) {}, func(t *testing.T, r *rig) {
			r.from6(udp6(t, clientA, 40000, serverA, 53, nil))
			connects(t, r)
		}},
		{"another server port", func(*conntrack.Config) {}, func(t *testing.T, r *rig) {
			_, out4 := r.from6(tcp6(t, clientA, 40000, serverA, tcpServerPort+1, "S"))
			if _, _, sport, _ := transport(t, one(t, out4)); sport == invitedPort {
				t.Error("the client got the port")
			}
		}},
		{"UDP", func(*conntrack.Config) {}, func(t *testing.T, r *rig) {
			_, out4 := r.from6(udp6(t, clientA, 40000, serverA, tcpServerPort, nil))
			if _, _, sport, _ := transport(t, one(t, out4)); sport == invitedPort {
				t.Error("the client got the port")
			}
		}},
		{"no SYN", func(*conntrack.Config) {}, func(t *testing.T, r *rig) {
			_, out4 := r.from6(tcp6(t, clientA, 40000, serverA, tcpServerPort, "A"))
			none(t, out4)
		}},
		{"reserved", func(c *conntrack.Config) { c.Reserved = []uint16{invitedPort} }, connects},
		{"of no range", func(c *conntrack.Config) { c.Pool4[0].First = invitedPort + 1 }, connects},
		{"limit of ports", func(c *conntrack.Config) { c.PerClient.Ports = 1 }, refused(DropClientPorts)},
		{"limit of sessions", func(c *conntrack.Config) { c.PerClient.Sessions = 1 }, refused(DropClientSessions)},
		{"table full", func(c *conntrack.Config) { c.Sessions = 1 }, refused(DropTableFull)},
		{"other block", func(c *conntrack.Config) { c.PortBlocks.Size = 64 }, func(t *testing.T, r *rig) {
			r.from6(udp6(t, clientA, 7, serverA, 7, nil))
			connects(t, r)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, setup{table: func(cfg *conntrack.Config) {
				short(cfg)
				c.table(cfg)
			}})
			syn := syn46(t, mappedA, invitedPort)
			r.from4(syn)
			start := r.now
			c.run(t, r)
			_, out4 := r.until(start + tcpTimeouts.TCPIncomingSYN - 1)
			none(t, out4)
			_, out4 = r.until(start + tcpTimeouts.TCPIncomingSYN)
			portUnreachable(t, out4, syn)
		})
	}
}

// With several pool4 addresses the SYN has to be to the client's (paired
// pooling, RFC 4787 REQ-2).
func TestStoredSYNToTheClientsAddress(t *testing.T) {
	for _, to := range []string{mappedA, mappedB} {
		r := newRig(t, setup{
			rules: func(rs *Rules) { rs.Pool4 = NewRanges4([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}) },
			table: func(c *conntrack.Config) {
				short(c)
				c.Pool4 = append(c.Pool4, conntrack.Pool4Range{Addr: addr4(mappedB), First: 1024, Last: 65535})
			},
		})
		client := conntrack.Addr6{}
		client.Hi, client.Lo = hiLo(clientA)
		own := r.table.PairedAddress(client) == addr4(to)
		r.from4(syn46(t, to, invitedPort))
		if addr, port := r.connects(clientA, 40000); (addr == to && port == invitedPort) != own {
			t.Errorf("a SYN waits at %s:%d, and the client is mapped to %s:%d", to, invitedPort, addr, port)
		}
	}
}

// Two clients behind the NAT64 meet, too.
func TestHairpinnedSYNFindsItsClient(t *testing.T) {
	r := newRig(t, setup{workers: 2, table: short})
	r.from6(udp6(t, clientA, 5000, serverA, 53, nil))
	mapped := int(r.onlySession().MappedPort)
	out6, _ := r.from6(tcp6(t, clientA, 5000, mappedA, 7777, "S")) // to a port that B has told A
	none(t, out6)
	out6, _ = r.from6(tcp6(t, clientB, 800, mappedA, mapped, "S"))
	if _, dst, sport, dport := transport(t, one(t, out6)); sport != 7777 || dst != clientA || dport != 5000 {
		t.Errorf("B's SYN came from port %d to %s:%d", sport, dst, dport)
	}
	out6, _ = r.from6(tcp6(t, clientA, 5000, mappedA, 7777, "SA"))
	if _, dst, _, dport := transport(t, one(t, out6)); dst != clientB || dport != 800 {
		t.Errorf("A's SYN ACK went to %s:%d", dst, dport)
	}
}

// A store full of SYNs of one sender: its clients get ports however many there
// were before, since those that were overtaken are passed for good; and those
// whose ports are taken are passed inviteSteps at a time, no more.
func TestManyStoredSYNsOfOneSender(t *testing.T) {
	r := newRig(t, setup{table: short, frames: 1024})
	stored := map[int]bool{}
	for port := 2000; r.drops(DropSYNStoreFull) < 3; port++ {
		before := r.drops(DropSYNStored)
		r.from4(syn46(t, mappedA, port))
		stored[port] = r.drops(DropSYNStored) > before
	}
	for i := range 300 {
		if _, port := r.connects(clientA, 10000+i); !stored[port] {
			t.Fatalf("client %d got port %d, to which no SYN waits", i, port)
		}
	}

	for waiting := inviteSteps - 1; waiting <= inviteSteps; waiting++ {
		r := newRig(t, setup{table: func(c *conntrack.Config) {
			short(c)
			c.Pool4[0].First = invitedPort
		}})
		for port := range waiting {
			r.from4(syn46(t, mappedA, 2000+port))
		}
		r.from4(syn46(t, mappedA, invitedPort))
		if _, port := r.connects(clientA, 40001); (port == invitedPort) != (waiting < inviteSteps) {
			t.Errorf("behind %d SYNs to ports that cannot be had: mapped to %d", waiting, port)
		}
	}
}

// What cannot be provoked at will between goroutines, one after the other.
func TestSendersInSlowMotion(t *testing.T) {
	table := newRig(t, setup{}).table
	s := new(synStore)
	m := &meta{frame: make([]byte, 256)}
	m.p.L3, m.p.End = ethernetHeader, 60
	put := func(port uint16) {
		m.hash = uint64(port) << 24
		m.k46 = conntrack.Key46{Server: 1, Mapped: addr4(mappedA), MappedPort: port}
		if !s.put(m, 7, 100) {
			t.Fatal("no room")
		}
	}
	// The last SYN is overtaken, somebody passes it, and another one comes.
	put(2000)
	s.match(synTag(2000 << 24))
	if v, ok := s.oldest(1<<16, 7, table); ok {
		t.Errorf("found %+v, which is overtaken", v)
	}
	put(2001)
	if v, ok := s.oldest(1<<16, 7, table); !ok || v.port != 2001 {
		t.Errorf("found %+v, %v, want the one that came last", v, ok)
	}
	// Somebody has read which is the first, and its place is another's then.
	s.senders.heads[8].Store(2 + synSlots)
	if v, ok := s.oldest(1<<16, 8, table); ok {
		t.Errorf("found %+v, which has taken another's place", v)
	}
	if v, ok := s.oldest(2<<16, 7, table); ok {
		t.Errorf("found %+v for another sender", v)
	}
}

// The lists of senders, while their owner stores SYNs and ends them: what others
// find is of the sender that they look for, and no SYN is found by two.
func TestSendersWhileOthersLook(t *testing.T) {
	table := newRig(t, setup{}).table
	s := new(synStore)
	const servers = 3
	var found [1 << 16]struct {
		sync.Mutex
		n int
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for reader := range 3 {
		wg.Go(func() {
			for i := reader; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				server := uint64(i%servers + 1)
				v, ok := s.oldest(server<<16, server&1, table)
				if !ok {
					continue
				}
				if uint64(v.port)%servers != server%servers || v.addr != addr4(mappedA) {
					t.Errorf("server %d finds %+v", server, v)
					return
				}
				if s.match(synTag(uint64(v.port) << 24)) {
					found[v.port].Lock()
					found[v.port].n++
					found[v.port].Unlock()
				}
			}
		})
	}
	m := &meta{frame: make([]byte, 256)}
	m.p.L3, m.p.End = ethernetHeader, 60
	stored, overtaken := 0, 0
	now := conntrack.Tick(100)
	for port := 2000; port < 60000; port++ {
		server := uint32(port % servers)
		if server == 0 {
			server = servers
		}
		m.hash = uint64(port) << 24
		m.k46 = conntrack.Key46{Server: server, Mapped: addr4(mappedA), MappedPort: uint16(port)}
		if s.put(m, uint64(server)&1, now) {
			stored++
		}
		if port%50 == 0 {
			now++
			runtime.Gosched() // on a busy machine the others would come too late
		}
		for {
			h, matched := s.take(now, 10)
			if h == nil {
				break
			}
			if matched {
				overtaken++
			}
		}
	}
	close(stop)
	wg.Wait()
	for {
		h, matched := s.take(now+10, 10)
		if h == nil {
			break
		}
		if matched {
			overtaken++
		}
	}
	total := 0
	for port := range found {
		if total += found[port].n; found[port].n > 1 {
			t.Errorf("the SYN to port %d was found by %d", port, found[port].n)
		}
	}
	if total != overtaken || total == 0 {
		t.Errorf("%d SYNs were found, %d ended as overtaken, of %d", total, overtaken, stored)
	}
	for b := range s.senders.heads {
		if s.senders.heads[b].Load() != 0 || s.senders.tails[b] != 0 {
			t.Errorf("bucket %d is not empty", b)
		}
	}
}
