// Package tunport is the way between the workers and the host's own IP stack: a
// TUN device with one queue for each worker.
//
//	worker ── Send: Ethernet header off ──► queue ──► the kernel receives an IP packet
//	       ◄─ Recv: Ethernet header on ──── queue ◄── the kernel routes one to the device
//
// The device lives as long as the process that opened it.
package tunport

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"handoff64/ring"
)

const devicePath = "/dev/net/tun"

// Config says which device to make.
type Config struct {
	Name    string
	UMEM    *ring.UMEM
	Workers []*ring.FrameStack // of each worker: where its queue takes frames from and gives them back to
}

// Device is a TUN device. Ports belong to the workers; Close comes after they
// have stopped. Lost may be called from any goroutine while it is open.
type Device struct {
	name  string
	index int
	ports []*Port
}

// Open makes the device, in the network namespace of the calling thread. Making
// one takes CAP_NET_ADMIN and access to /dev/net/tun. It is down, and has no
// address: the rest is for whoever knows what it is for. A device that is there
// already is somebody else's, and an error.
func Open(c Config) (*Device, error) {
	d := &Device{name: c.Name}
	for i, free := range c.Workers {
		fd, err := openQueue(c.Name, i == 0)
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.ports = append(d.ports, &Port{fd: fd, umem: c.UMEM, free: free})
	}
	link, err := netlink.LinkByName(c.Name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TUN device %s: %w", c.Name, err), d.Close())
	}
	d.index = link.Attrs().Index
	return d, nil
}

// openQueue makes the device with its first queue, or opens a further one.
func openQueue(name string, first bool) (fd int, err error) {
	fd, err = unix.Open(devicePath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s (the kernel's tun module, and access to the file): %w", devicePath, err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return -1, errors.Join(fmt.Errorf("TUN device %q: %w", name, err), unix.Close(fd))
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
	if first {
		flags |= unix.IFF_TUN_EXCL
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		if errors.Is(err, unix.EBUSY) {
			err = fmt.Errorf("the name is taken: %w", err)
		}
		return -1, errors.Join(fmt.Errorf("TUN device %s (needs CAP_NET_ADMIN): %w", name, err), unix.Close(fd))
	}
	return fd, nil
}

// Name of the interface.
func (d *Device) Name() string { return d.name }

// Index of the interface.
func (d *Device) Index() int { return d.index }

// Ports are the queues, in the order of the workers.
func (d *Device) Ports() []*Port { return d.ports }

// Lost is how many packets the kernel had for the device and no room: nobody
// took them out of the queue in time.
func (d *Device) Lost() (uint64, error) {
	link, err := netlink.LinkByIndex(d.index)
	if err != nil {
		return 0, fmt.Errorf("TUN device %s: %w", d.name, err)
	}
	return link.Attrs().Statistics.TxDropped, nil
}

// Close closes all queues, which takes the device away.
func (d *Device) Close() error {
	var errs []error
	for _, p := range d.ports {
		if err := unix.Close(p.fd); err != nil {
			errs = append(errs, fmt.Errorf("close TUN device %s: %w", d.name, err))
		}
	}
	d.ports = nil
	return errors.Join(errs...)
}
