package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"handoff64/tools/lab"
)

// flowPace is the pause between the chunks of a flow: many of them together
// must leave the machine time for the translator.
const (
	flowPace  = 10 * time.Millisecond
	flowChunk = 4096
)

// Flows are TCP connections over which both ends send all the time. Each octet
// that arrives is compared with the one that was due, at both ends, so a lost,
// repeated, changed or foreign one is an error at once. The methods may be
// called from any goroutine; Finish is the last one.
type Flows struct {
	flows  []*flow
	hold   [2]atomic.Bool // by the direction: upwards (from the client), downwards
	ending chan struct{}  // closed when the clients shall send no more
	broken chan error     // the first error of each end
	ends   sync.WaitGroup
}

// flow is one connection with both its ends in this process.
type flow struct {
	sent, checked [2]atomic.Int64 // by the direction
}

// StartFlows opens n connections from a host to the address under which it
// knows the listener, and has both ends send. The listener is closed when all
// have been accepted.
func StartFlows(ctx context.Context, from lab.Host, l net.Listener, address string, n int) (*Flows, error) {
	f := &Flows{ending: make(chan struct{}), broken: make(chan error, 4*n)}
	for range n {
		f.flows = append(f.flows, &flow{})
	}
	accepted := make(chan error, 1)
	go func() { accepted <- errors.Join(f.accept(ctx, l), l.Close()) }()
	for i := range n {
		c, err := from.DialContext(ctx, "tcp", address)
		if err == nil {
			err = binary.Write(c, binary.BigEndian, uint32(i))
		}
		if err != nil {
			l.Close()
			return f, errors.Join(fmt.Errorf("flow %d to %s: %w", i, address, err), <-accepted)
		}
		f.serve(ctx, c, i, up)
	}
	if err := <-accepted; err != nil {
		return f, fmt.Errorf("flows to %s: %w", address, err)
	}
	return f, nil
}

// The directions, by who sends: the client upwards, the server downwards.
const up, down = 0, 1

// accept takes the server's ends. A connection begins with its number.
func (f *Flows) accept(ctx context.Context, l net.Listener) error {
	for range f.flows {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		var i uint32
		if err := binary.Read(c, binary.BigEndian, &i); err != nil || int(i) >= len(f.flows) {
			return fmt.Errorf("number of a flow: %d: %w", i, errors.Join(err, c.Close()))
		}
		f.serve(ctx, c, int(i), down)
	}
	return nil
}

// serve runs one end of a connection, which sends in the given direction.
func (f *Flows) serve(ctx context.Context, c net.Conn, i, direction int) {
	over := context.AfterFunc(ctx, func() { c.Close() })
	received := make(chan struct{}) // all that comes has come
	var both sync.WaitGroup
	both.Go(func() {
		defer close(received)
		f.note(i, direction, "receive", f.receive(c, i, 1-direction))
	})
	both.Go(func() {
		last := f.ending
		if direction == down {
			last = received
		}
		f.note(i, direction, "send", f.send(c.(*net.TCPConn), i, direction, last))
	})
	f.ends.Go(func() {
		both.Wait()
		over()
		c.Close()
	})
}

func (f *Flows) note(i, direction int, what string, err error) {
	if err != nil {
		f.broken <- fmt.Errorf("flow %d: the %s cannot %s: %w", i, [2]string{"client", "server"}[direction], what, err)
	}
}

// octets are what a flow carries in a direction: random, and of its own.
func octets(i, direction int) *rand.ChaCha8 {
	var seed [32]byte
	binary.BigEndian.PutUint32(seed[:], uint32(i))
	seed[4] = byte(direction)
	return rand.NewChaCha8(seed)
}

// send sends until last is closed, then ends its direction of the connection.
func (f *Flows) send(c *net.TCPConn, i, direction int, last <-chan struct{}) error {
	stream, chunk := octets(i, direction), make([]byte, flowChunk)
	tick := time.NewTicker(flowPace)
	defer tick.Stop()
	for {
		select {
		case <-last:
			return c.CloseWrite()
		case <-tick.C:
		}
		if f.hold[direction].Load() {
			continue
		}
		stream.Read(chunk) // never fails, by its documentation
		n, err := c.Write(chunk)
		f.flows[i].sent[direction].Add(int64(n))
		if err != nil {
			return err
		}
	}
}

// receive compares what comes until the other end has sent its last octet.
func (f *Flows) receive(c net.Conn, i, direction int) error {
	stream, got, want := octets(i, direction), make([]byte, flowChunk), make([]byte, flowChunk)
	for {
		n, err := c.Read(got)
		stream.Read(want[:n])
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("wrong octets after %d right ones", f.flows[i].checked[direction].Load())
		}
		f.flows[i].checked[direction].Add(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Checked is how many octets each direction of each connection has delivered.
func (f *Flows) Checked() []int64 {
	var all []int64
	for _, one := range f.flows {
		all = append(all, one.checked[up].Load(), one.checked[down].Load())
	}
	return all
}

// Err is why a connection broke, nil while none did.
func (f *Flows) Err() error {
	select {
	case err := <-f.broken:
		f.broken <- err
		return err
	default:
		return nil
	}
}

// Hold makes the clients, the servers or both fall silent, or speak again.
func (f *Flows) Hold(clients, servers bool) {
	f.hold[up].Store(clients)
	f.hold[down].Store(servers)
}

// Quiet says whether all that was sent has arrived.
func (f *Flows) Quiet() bool {
	for _, one := range f.flows {
		for direction := range one.sent {
			if one.sent[direction].Load() != one.checked[direction].Load() {
				return false
			}
		}
	}
	return true
}

// Finish ends all connections in order and says whether each octet that was
// sent has arrived.
func (f *Flows) Finish() error {
	close(f.ending)
	f.ends.Wait()
	close(f.broken)
	var errs []error
	for err := range f.broken {
		errs = append(errs, err)
	}
	for i, one := range f.flows {
		for direction := range one.sent {
			if sent, got := one.sent[direction].Load(), one.checked[direction].Load(); sent != got || sent == 0 {
				errs = append(errs, fmt.Errorf("flow %d, direction %d: %d octets sent, %d arrived", i, direction, sent, got))
			}
		}
	}
	return errors.Join(errs...)
}
