package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
)

// tuples lists n different addresses and ports of a host.
func tuples(addresses []netip.Addr, firstPort uint16, n int) []netip.AddrPort {
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = netip.AddrPortFrom(addresses[i%len(addresses)], firstPort+uint16(i/len(addresses)))
	}
	return all
}

// moreAddresses gives the first client some more.
func (w *world) moreAddresses(n int) []netip.Addr {
	w.t.Helper()
	all := []netip.Addr{w.Client()}
	for i := range n - 1 {
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8:1::1:%d", i+1))
		w.must(w.client.AddAddress("eth0", netip.PrefixFrom(a, 64)))
		all = append(all, a)
	}
	return all
}

// openUDP opens a datagram socket in the current namespace, bound and connected.
func openUDP(from, to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	wait := unix.NsecToTimeval(int64(askWait * 5))
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Bind(fd, &unix.SockaddrInet6{Addr: from.Addr().As16(), Port: int(from.Port())}),
		unix.Connect(fd, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("from %s to %s: %w", from, to, err)
	}
	return fd, nil
}

// meet exchanges one datagram, repeated while it is not answered, in the
// current namespace, and returns the answer.
func meet(from, to netip.AddrPort) (string, error) {
	fd, err := openUDP(from, to)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 256)
	for range askTries {
		if _, err := unix.Write(fd, []byte("?")); err != nil {
			return "", fmt.Errorf("from %s to %s: %w", from, to, err)
		}
		n, err := unix.Read(fd, buf)
		if err == nil {
			return string(buf[:n]), nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			return "", fmt.Errorf("from %s to %s: %w", from, to, err)
		}
	}
	return "", fmt.Errorf("from %s to %s: no answer to %d datagrams", from, to, askTries)
}

// meetAll does it from all tuples, many at a time, and returns the address
// under which each appears to the observer asked.
func (w *world) meetAll(h lab.Host, from []netip.AddrPort, to netip.AddrPort) map[netip.AddrPort]netip.AddrPort {
	w.t.Helper()
	const atATime = 64
	var (
		next atomic.Int64
		mu   sync.Mutex
		all  = make(map[netip.AddrPort]netip.AddrPort, len(from))
		errs = make(chan error, atATime)
		wg   sync.WaitGroup
	)
	one := func(f netip.AddrPort) error {
		answer, err := meet(f, to)
		if err != nil {
			return err
		}
		a, err := netip.ParseAddrPort(answer)
		mu.Lock()
		all[f] = a
		mu.Unlock()
		return err
	}
	for range atATime {
		wg.Go(func() {
			errs <- h.Enter(func() error {
				for w.ctx.Err() == nil {
					i := next.Add(1) - 1
					if i >= int64(len(from)) {
						return nil
					}
					if err := one(from[i]); err != nil {
						return err
					}
				}
				return w.ctx.Err()
			})
		})
	}
	wg.Wait()
	for range atATime {
		w.must(<-errs)
	}
	return all
}

// pour sends one datagram from each tuple, so many a second, round and round
// until stop is closed; nothing is answered. It returns how many it sent.
func pour(h lab.Host, from []netip.AddrPort, to netip.AddrPort, perSecond int, stop <-chan struct{}) (sent int, err error) {
	err = h.Enter(func() error {
		for start := time.Now(); ; sent++ {
			due := start.Add(time.Second / time.Duration(perSecond) * time.Duration(sent))
			select {
			case <-stop:
				return nil
			case <-time.After(time.Until(due)):
			}
			fd, err := openUDP(from[sent%len(from)], to)
			if err != nil {
				return err
			}
			_, err = unix.Write(fd, []byte("a new connection"))
			unix.Close(fd)
			if err != nil {
				return fmt.Errorf("from %s to %s: %w", from[sent%len(from)], to, err)
			}
		}
	})
	return sent, err
}
