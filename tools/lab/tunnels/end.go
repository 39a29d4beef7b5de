package tunnels

import (
	"context"
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// Kinds of tunnels.
const (
	Plain     = "plain"
	WireGuard = "wireguard"
)

// End is one end of a tunnel. A plain value.
type End struct {
	Kind   string
	Device string         // name of the TUN device
	MTU    int            // of it
	Port   uint16         // of our UDP socket
	Peer   netip.AddrPort // the other end's
	First  bool           // which of the two ends, for WireGuard's keys
}

var errKind = errors.New("the kinds of tunnels are plain and wireguard")

// RunEnd carries packets until ctx ends. It needs CAP_NET_ADMIN.
func RunEnd(ctx context.Context, e End) error {
	if e.Kind != Plain && e.Kind != WireGuard {
		return fmt.Errorf("%q: %w", e.Kind, errKind)
	}
	t, err := tun.CreateTUN(e.Device, e.MTU)
	if err != nil {
		return fmt.Errorf("make the TUN device %s: %w", e.Device, err)
	}
	if e.Kind == WireGuard {
		return e.wireguard(ctx, t)
	}
	return e.plain(ctx, t)
}

// wireguard is wireguard-go as it is, with keys that everybody knows.
func (e *End) wireguard(ctx context.Context, t tun.Device) error {
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "wireguard: "))
	defer d.Close()
	own, peer := testKey(e.First), testKey(!e.First)
	settings := fmt.Sprintf("private_key=%s\nlisten_port=%d\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(own.Bytes()), e.Port, hex.EncodeToString(peer.PublicKey().Bytes()), e.Peer)
	if err := errors.Join(d.IpcSet(settings), d.Up()); err != nil {
		return fmt.Errorf("set wireguard up: %w", err)
	}
	select {
	case <-ctx.Done():
	case <-d.Wait():
	}
	return nil
}

// testKey is a key of the first or the second end.
func testKey(first bool) *ecdh.PrivateKey {
	octet := "11"
	if first {
		octet = "22"
	}
	raw, _ := hex.DecodeString(strings.Repeat(octet, 32)) // a constant
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		panic(err) // any 32 octets are a key
	}
	return key
}

// room is what must be free in front of a packet from or to the device.
const room = 16

// plain puts every packet into a datagram, and nothing else.
func (e *End) plain(ctx context.Context, t tun.Device) error {
	bind := conn.NewDefaultBind()
	receive, _, err := bind.Open(e.Port)
	if err != nil {
		return errors.Join(fmt.Errorf("open UDP port %d: %w", e.Port, err), t.Close())
	}
	peer, err := bind.ParseEndpoint(e.Peer.String())
	if err != nil {
		return errors.Join(fmt.Errorf("peer %v: %w", e.Peer, err), bind.Close(), t.Close())
	}
	stop := context.AfterFunc(ctx, func() { bind.Close(); t.Close() })
	defer stop()
	failed := make(chan error, len(receive)+1)
	for _, r := range receive {
		go func() { failed <- fromPeer(r, t, bind.BatchSize()) }()
	}
	go func() { failed <- toPeer(t, bind, peer) }()
	err = <-failed
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(err, bind.Close(), t.Close())
}

// buffers are so many, for a packet of any size each.
func buffers(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = make([]byte, room+1<<16)
	}
	return all
}

// toPeer sends what the kernel routes into the device.
func toPeer(t tun.Device, bind conn.Bind, peer conn.Endpoint) error {
	bufs, sizes := buffers(t.BatchSize()), make([]int, t.BatchSize())
	packets := make([][]byte, 0, t.BatchSize())
	for {
		n, err := t.Read(bufs, sizes, room)
		if errors.Is(err, tun.ErrTooManySegments) {
			err = nil // the rest of them is lost, as in a full queue
		}
		if err != nil {
			return fmt.Errorf("read from the TUN device: %w", err)
		}
		packets = packets[:0]
		for i := range n {
			packets = append(packets, bufs[i][room:room+sizes[i]])
		}
		for len(packets) > 0 {
			some := packets[:min(len(packets), bind.BatchSize())]
			packets = packets[len(some):]
			// What cannot be sent is lost: the tunnelled connections notice.
			_ = bind.Send(some, peer)
		}
	}
}

// fromPeer hands what comes from the other end to the kernel.
func fromPeer(receive conn.ReceiveFunc, t tun.Device, batch int) error {
	bufs, sizes, from := buffers(batch), make([]int, batch), make([]conn.Endpoint, batch)
	into, packets := make([][]byte, batch), make([][]byte, 0, batch)
	for i := range into {
		into[i] = bufs[i][room:]
	}
	for {
		n, err := receive(into, sizes, from)
		if err != nil {
			return fmt.Errorf("receive from the other end: %w", err)
		}
		packets = packets[:0]
		for i := range n {
			if sizes[i] > 0 {
				packets = append(packets, bufs[i][:room+sizes[i]])
			}
		}
		if len(packets) > 0 {
			_, _ = t.Write(packets, room) // no packet of the kernel's liking: lost
		}
	}
}
