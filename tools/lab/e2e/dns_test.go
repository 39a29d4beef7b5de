package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"handoff64/tools/lab"
)

// answerDNS answers a question for nNNNN.lab with TXT records that make the
// message that many octets long, or an empty one with TC set if that is more
// than the limit.
func answerDNS(query []byte, limit int) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	want := 0
	if _, err := fmt.Sscanf(q.Name.String(), "n%d.", &want); err != nil {
		return nil, fmt.Errorf("question for %s: %w", q.Name, err)
	}
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, Truncated: want > limit},
		Questions: []dnsmessage.Question{q},
	}
	opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
	if err := opt.Header.SetEDNS0(4096, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, err
	}
	answer.Additionals = append(answer.Additionals, opt)
	empty, err := answer.Pack()
	if err != nil || answer.Truncated {
		return empty, err
	}
	// A record takes 12 octets (its name is a pointer), each of its strings 1.
	record := dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET}
	for left := want - len(empty); left > 0; {
		n := min(left-13, 255)
		if rest := left - 13 - n; rest > 0 && rest < 14 {
			n -= 14 // leaves the last one room
		}
		answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: record, Body: &dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", n)}}})
		left -= 13 + n
	}
	return answer.Pack()
}

// dns serves over UDP and TCP until the test ends.
func (w *world) dns(h lab.Host, network4or6, address string) {
	w.t.Helper()
	c, err := h.ListenPacket("udp"+network4or6, address)
	w.must(err)
	w.t.Cleanup(func() { c.Close() })
	l, err := h.Listen("tcp", address)
	w.must(err)
	w.t.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			if answer, err := answerDNS(buf[:n], 4096); err == nil {
				_, _ = c.WriteTo(answer, from) // a lost answer is asked for again
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				_ = serveDNS(c) // who asked reports what is missing
			}()
		}
	}()
}

// serveDNS answers queries over TCP, each with its length in front.
func serveDNS(c net.Conn) error {
	for {
		length := make([]byte, 2)
		if _, err := io.ReadFull(c, length); err != nil {
			return err
		}
		query := make([]byte, binary.BigEndian.Uint16(length))
		if _, err := io.ReadFull(c, query); err != nil {
			return err
		}
		answer, err := answerDNS(query, 0xffff)
		if err != nil {
			return err
		}
		_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
		if err != nil {
			return err
		}
	}
}

// digSizes are lengths of answers over UDP: those that fit one packet on both
// sides, and those that come in two or more fragments.
var digSizes = []int{100, 512, 1200, 1232, 1233, 1400, 1452, 1472, 1473, 2500, 4096}

// dig asks for messages of many lengths over UDP, in one packet and in
// fragments, and over TCP, with the server on either side.
func TestProgramDig(t *testing.T) {
	t.Parallel()
	need(t, "dig")
	w := judged(t, lab.Options{}, static("udp", 53, 53), static("tcp", 53, 53))
	w.dns(w.server, "4", netip.AddrPortFrom(w.Server(), 53).String())
	w.dns(w.client, "6", "[::]:53")
	sizes := map[string][]int{
		"+notcp +bufsize=4096 +ignore": digSizes,
		"+tcp":                         {100, 4096, 60000},
		"+bufsize=4096":                {9000}, // truncated over UDP, then asked for over TCP
	}
	for _, side := range []struct {
		from lab.Host
		to   netip.Addr
	}{{w.client, lab.Embed(w.Server())}, {w.server, lab.Pool4}} {
		for options, list := range sizes {
			for _, size := range list {
				args := append(strings.Fields(options), "+tries=3", "+time=2", "TXT", fmt.Sprintf("n%d.lab.", size), "@"+side.to.String())
				out := w.output(side.from, "dig", args...)
				if want := fmt.Sprintf("MSG SIZE  rcvd: %d", size); !strings.Contains(out, want) || !strings.Contains(out, "status: NOERROR") {
					t.Errorf("dig %s for %d octets from the %s:\n%s", options, size, side.from.Name, out[:min(len(out), 1500)])
				}
			}
		}
	}
}
