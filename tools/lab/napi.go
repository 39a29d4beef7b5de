package lab

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/netdev.h; golang.org/x/sys does not have them.
const (
	netdevFamily     = "netdev"
	netdevVersion    = 1
	netdevNAPIGet    = 11
	netdevNAPISet    = 14
	napiAttrIfindex  = 1
	napiAttrID       = 2
	napiAttrPID      = 4
	napiAttrThreaded = 8
)

// ReceiveOn moves what the kernel does for received packets of an interface
// that has NAPI (a veth end with an XDP program, or with GRO) from whatever CPU
// they were sent on to threads on one CPU (Linux 6.17). A negative CPU undoes it.
func (h Host) ReceiveOn(ifname string, cpu int) error {
	return h.onLink(ifname, func(dev netlink.Link) error {
		family, err := netlink.GenlFamilyGet(netdevFamily)
		if err != nil {
			return fmt.Errorf("generic netlink family %s: %w", netdevFamily, err)
		}
		ids, _, err := listNAPI(family.ID, dev.Attrs().Index)
		if err != nil {
			return err
		}
		threaded := uint32(1)
		if cpu < 0 {
			threaded = 0
		}
		for _, id := range ids {
			req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
			req.AddData(genlHeader{netdevNAPISet, netdevVersion, 0, 0})
			req.AddData(nl.NewRtAttr(napiAttrID, nl.Uint32Attr(id)))
			req.AddData(nl.NewRtAttr(napiAttrThreaded, nl.Uint32Attr(threaded)))
			if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
				return fmt.Errorf("give NAPI %d a thread: %w", id, err)
			}
		}
		if cpu < 0 {
			return nil
		}
		_, threads, err := listNAPI(family.ID, dev.Attrs().Index)
		if err != nil {
			return err
		}
		if len(ids) == 0 || len(threads) != len(ids) {
			return fmt.Errorf("%d NAPI instances have %d threads", len(ids), len(threads))
		}
		var set unix.CPUSet
		set.Set(cpu)
		for _, thread := range threads {
			if err := unix.SchedSetaffinity(thread, &set); err != nil {
				return fmt.Errorf("pin thread %d to CPU %d: %w", thread, cpu, err)
			}
		}
		return nil
	})
}

// genlHeader is struct genlmsghdr: command, version, two octets that must be
// zero. (nl.Genlmsg reads them from behind its end, and this family is strict.)
type genlHeader [4]byte

func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

// listNAPI returns an interface's NAPI instances and the threads of those that
// have one.
func listNAPI(family uint16, ifindex int) (ids []uint32, threads []int, err error) {
	req := nl.NewNetlinkRequest(int(family), unix.NLM_F_DUMP)
	req.AddData(genlHeader{netdevNAPIGet, netdevVersion, 0, 0})
	req.AddData(nl.NewRtAttr(napiAttrIfindex, nl.Uint32Attr(uint32(ifindex))))
	replies, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("list NAPI instances: %w", err)
	}
	for _, reply := range replies {
		attrs(reply[nl.SizeofGenlmsg:], napiAttrID, func(b []byte) { ids = append(ids, binary.NativeEndian.Uint32(b)) })
		attrs(reply[nl.SizeofGenlmsg:], napiAttrPID, func(b []byte) { threads = append(threads, int(binary.NativeEndian.Uint32(b))) })
	}
	return ids, threads, nil
}
