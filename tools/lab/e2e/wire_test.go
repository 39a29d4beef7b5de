package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/gopacket/gopacket/pcapgo"

	"handoff64/handoff/wire"
	"handoff64/tools/lab"
)

// packet4 is what the tests look at of a captured IPv4 packet.
type packet4 struct {
	src, dst         netip.Addr
	protocol         byte
	srcPort, dstPort uint16
	first            bool   // of a datagram, or all of it: ports and payload are there
	payload          []byte // of UDP
	octets           int    // of the IPv4 packet
}

// eachIPv4 calls each for every IPv4 packet of a pcap file. The payload is
// overwritten by the next.
func eachIPv4(file string, each func(packet4)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for {
		frame, _, err := r.ZeroCopyReadPacketData()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if len(frame) >= 34 && binary.BigEndian.Uint16(frame[12:]) == 0x0800 {
			each(readIPv4(frame[14:]))
		}
	}
}

func readIPv4(b []byte) packet4 {
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	p := packet4{
		src: netip.AddrFrom4([4]byte(b[12:])), dst: netip.AddrFrom4([4]byte(b[16:])), protocol: b[9], octets: total,
		first: binary.BigEndian.Uint16(b[6:])&0x1fff == 0,
	}
	data := b[min(header, len(b)):min(total, len(b))]
	if p.first && (p.protocol == 6 || p.protocol == 17) && len(data) >= 8 {
		p.srcPort, p.dstPort = binary.BigEndian.Uint16(data), binary.BigEndian.Uint16(data[2:])
	}
	if p.first && p.protocol == 17 && len(data) >= 8 {
		p.payload = data[8:]
	}
	return p
}

// entry is a connection tracking entry, as a key of maps.
type entry struct {
	server, nat64 netip.Addr
	mapped        uint16
	client        netip.AddrPort
}

func (e entry) String() string {
	return fmt.Sprintf("%s is %s towards %s", netip.AddrPortFrom(e.nat64, e.mapped), e.client, e.server)
}

func entryOf(server, nat64 netip.Addr, e *wire.Entry) entry {
	return entry{server, nat64, e.MappedPort, netip.AddrPortFrom(netip.AddrFrom16(e.Client), e.ClientPort)}
}

// returned collects the entries that a server has sent to NAT64s. The first
// fragment of a datagram holds its entry: the packet comes last.
func returned(file string, server netip.Addr) (map[entry]bool, error) {
	all := make(map[entry]bool)
	err := eachIPv4(file, func(p packet4) {
		if p.src != server || p.srcPort != controlPort || p.protocol != 17 {
			return
		}
		for b := p.payload; len(b) >= 2 && b[0]>>4 == 3 && len(b) >= 2+2*int(b[1]); b = b[2+2*int(b[1]):] {
			var payload wire.Payload
			if b[0]&15 == wire.TypeEntry && wire.Decode(b[:2+2*int(b[1])], &payload) == wire.OK {
				all[entryOf(server, p.dst, &payload.Entry)] = true
			}
		}
	})
	return all, err
}

// told collects the entries of notifications to a server that hold the
// identifier, too.
func told(file string, server netip.Addr) (map[entry]bool, error) {
	all := make(map[entry]bool)
	err := eachIPv4(file, func(p packet4) {
		var g wire.Groups
		if p.dst != server || p.dstPort != controlPort || wire.DecodeGroups(p.payload, &g) != wire.OK {
			return
		}
		var e wire.Entry
		for {
			if _, ok := g.Next(&e); !ok {
				return
			}
			all[entryOf(server, p.src, &e)] = true
		}
	})
	return all, err
}

// record captures everything at the server until the function that it returns
// is called, which gives the file's name.
func (w *world) record(h lab.Host, ifname string) (stop func() string) {
	w.t.Helper()
	c, err := h.StartCapture(ifname, filepath.Join(w.t.TempDir(), h.Name+".pcap"), 0)
	w.must(err)
	return func() string {
		w.t.Helper()
		w.must(c.Stop())
		if c.Missed > 0 {
			w.t.Fatalf("%s misses %d packets", c.File, c.Missed)
		}
		return c.File
	}
}

// fewer shows some of many in a message.
func fewer[T any](all []T) []T { return slices.Clip(all[:min(len(all), 5)]) }
