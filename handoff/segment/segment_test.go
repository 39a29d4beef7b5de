package segment

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// TestThereAndBack: what leaves as one message arrives as the datagrams that it
// consists of, whether the kernel joins them again or not.
func TestThereAndBack(t *testing.T) {
	listen := func() *net.UDPConn {
		var lc net.ListenConfig
		c, err := lc.ListenPacket(context.Background(), "udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.UDPConn)
	}
	from, to := listen(), listen()
	raw, err := to.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1) }); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	var all [][]byte
	for i := range 10 {
		size := 1000
		if i == 9 {
			size = 300
		}
		all = append(all, bytes.Repeat([]byte{byte(i)}, size))
	}
	m := ipv4.Message{Buffers: all, OOB: Append(nil, 1000), Addr: to.LocalAddr()}
	if len(m.OOB) != Space {
		t.Fatalf("the control message has %d octets", len(m.OOB))
	}
	if n, err := ipv4.NewPacketConn(from).WriteBatch([]ipv4.Message{m}, 0); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	var got [][]byte
	if err := to.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for len(got) < len(all) {
		in := []ipv4.Message{{Buffers: [][]byte{make([]byte, 65535)}, OOB: make([]byte, 64)}}
		if _, err := ipv4.NewPacketConn(to).ReadBatch(in, 0); err != nil {
			t.Fatalf("after %d: %v", len(got), err)
		}
		size := Size(in[0].OOB[:in[0].NN])
		for d, rest := Next(in[0].Buffers[0][:in[0].N], size); d != nil; d, rest = Next(rest, size) {
			got = append(got, d)
			if rest == nil {
				break
			}
		}
	}
	for i := range all {
		if !bytes.Equal(got[i], all[i]) {
			t.Fatalf("datagram %d has %d octets, begins with %d", i, len(got[i]), got[i][0])
		}
	}
}

func TestJoins(t *testing.T) {
	for _, c := range []struct {
		n, first, last, size int
		want                 bool
	}{
		{1, 1000, 1000, 1000, true}, {1, 1000, 1000, 10, true}, {1, 1000, 1000, 1001, false}, {2, 1000, 999, 1000, false},
		{63, 1000, 1000, 1000, true}, {64, 1000, 1000, 1000, false}, {44, 1472, 1472, 1472, false}, {43, 1472, 1472, 1472, true},
	} {
		if got := Joins(c.n, c.first, c.last, c.size); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if Size(nil) != 0 || Size(make([]byte, 40)) != 0 {
		t.Error("a size where there is none")
	}
}
