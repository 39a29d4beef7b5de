package traffic

import (
	"bytes"
	"fmt"
	"net"
	"time"

	"handoff64/tools/lab"
)

// udpTries is how often a datagram is sent before it counts as lost: the
// first of a flow may meet an unresolved neighbour, none may vanish twice
// running on an idle network.
const udpTries = 3

// udpWait is the time for one try.
const udpWait = time.Second

// EchoUDP answers every datagram with itself until the connection is closed.
func EchoUDP(h lab.Host, network, address string) (net.PacketConn, error) {
	c, err := h.ListenPacket(network, address)
	if err != nil {
		return nil, fmt.Errorf("UDP echo server: %w", err)
	}
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			// A datagram that cannot be sent is one that the other side
			// does not get; that is for the other side to notice.
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
	return c, nil
}

// Exchange sends payload over a connected UDP socket and checks that it comes
// back unchanged. An empty payload is a datagram too.
func Exchange(c net.Conn, payload []byte) error {
	buf := make([]byte, 1<<16)
	for range udpTries {
		if _, err := c.Write(payload); err != nil {
			return fmt.Errorf("send %d octets: %w", len(payload), err)
		}
		if err := c.SetReadDeadline(time.Now().Add(udpWait)); err != nil {
			return fmt.Errorf("read deadline: %w", err)
		}
		n, err := c.Read(buf)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive the echo of %d octets: %w", len(payload), err)
		}
		if !bytes.Equal(buf[:n], payload) {
			return fmt.Errorf("sent %d octets, %d others came back", len(payload), n)
		}
		return nil
	}
	return fmt.Errorf("no echo of %d octets in %d tries", len(payload), udpTries)
}
