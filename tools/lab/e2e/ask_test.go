package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// askTries and askWait bound how long a question over UDP is repeated: long
// enough for an address to be resolved, or a link to come up.
const (
	askTries = 20
	askWait  = 200 * time.Millisecond

	// onceWait is for a datagram that is not repeated.
	onceWait = 3 * time.Second
)

// ask sends a datagram over a connected socket until something comes back.
// An ICMP error that comes back is an error of the socket.
func ask(c net.Conn) (string, error) {
	buf := make([]byte, 2048)
	for range askTries {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		if err := c.SetReadDeadline(time.Now().Add(askWait)); err != nil {
			return "", err
		}
		n, err := c.Read(buf)
		if err == nil {
			return string(buf[:n]), nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return "", err
		}
	}
	return "", fmt.Errorf("no answer from %s to %d questions", c.RemoteAddr(), askTries)
}

// askFrom does the same from an unconnected socket.
func askFrom(c net.PacketConn, to net.Addr) (string, error) {
	buf := make([]byte, 2048)
	for range askTries {
		if _, err := c.WriteTo([]byte("?"), to); err != nil {
			return "", err
		}
		if err := c.SetReadDeadline(time.Now().Add(askWait)); err != nil {
			return "", err
		}
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || (err == nil && from.String() != to.String()) {
			continue
		}
		return string(buf[:n]), err
	}
	return "", fmt.Errorf("no answer from %s to %d questions", to, askTries)
}

// askOnce sends a single datagram and waits for the answer.
func askOnce(c net.Conn) (string, error) {
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(onceWait)); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := c.Read(buf)
	if err != nil {
		return "", fmt.Errorf("answer from %s: %w", c.RemoteAddr(), err)
	}
	return string(buf[:n]), nil
}
