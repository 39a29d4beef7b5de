package nexthop

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel holds the netlink sockets: one for routes, of which there may be a
// flood, one for all else, which must not wait behind it, and one to ask and
// tell. Owned by the manager's goroutine once it runs.
type kernel struct {
	routes, rest *eventSocket
	requests     map[int]*nl.SocketHandle
}

// openKernel opens the sockets in the network namespace of the calling thread.
func openKernel(buffer int) (k *kernel, err error) {
	k = new(kernel)
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.routes, err = openEvents(buffer, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_NEXTHOP); err != nil {
		return k, fmt.Errorf("follow routes: %w", err)
	}
	if k.rest, err = openEvents(buffer, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR); err != nil {
		return k, fmt.Errorf("follow neighbours, links and addresses: %w", err)
	}
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return k, fmt.Errorf("open a netlink socket for requests: %w", err)
	}
	k.requests = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
	return k, nil
}

func (k *kernel) close() error {
	var errs []error
	for _, s := range []*eventSocket{k.routes, k.rest} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	for _, s := range k.requests {
		s.Close()
	}
	return errors.Join(errs...)
}

func (k *kernel) request(kind int, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = k.requests
	return r
}

// dump calls f with the body of every message of a table, some of them more
// than once: a dump that changes interrupt is repeated, up to a limit. After
// that the error is netlink.ErrDumpInterrupted, and a few entries may be
// missing.
func (k *kernel) dump(ask int, answer uint16, family uint8, f func(data []byte) error) (err error) {
	const attempts = 3
	for range attempts {
		if err = k.dumpOnce(ask, answer, family, f); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return err
}

func (k *kernel) dumpOnce(ask int, answer uint16, family uint8, f func(data []byte) error) error {
	r := k.request(ask, unix.NLM_F_DUMP)
	switch answer {
	case unix.RTM_NEWROUTE:
		r.AddData(&nl.RtMsg{RtMsg: unix.RtMsg{Family: family}})
	case unix.RTM_NEWNEIGH:
		r.AddData(&netlink.Ndmsg{Family: family})
	case unix.RTM_NEWADDR:
		r.AddData(nl.NewIfAddrmsg(int(family)))
	default:
		r.AddData(nl.NewIfInfomsg(int(family)))
	}
	var bad error
	err := r.ExecuteIter(unix.NETLINK_ROUTE, answer, func(data []byte) bool {
		bad = f(data)
		return bad == nil
	})
	return errors.Join(err, bad)
}

// probe has the kernel resolve a neighbour, as if it had a packet for it, or
// verify it.
func (k *kernel) probe(p probe) error {
	msg := netlink.Ndmsg{Index: uint32(p.key.ifindex), Family: family(p.key), State: p.state}
	flags := unix.NLM_F_ACK
	if p.state == 0 {
		msg.Flags = unix.NTF_USE
		flags |= unix.NLM_F_CREATE
	}
	r := k.request(unix.RTM_NEWNEIGH, flags)
	r.AddData(&msg)
	r.AddData(nl.NewRtAttr(unix.NDA_DST, p.key.addr.AsSlice()))
	if _, err := r.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("probe neighbour %v on interface %d: %w", p.key.addr, p.key.ifindex, err)
	}
	return nil
}

// neighbour reads one entry.
func (k *kernel) neighbour(key neighKey) (m neighMsg, err error) {
	r := k.request(unix.RTM_GETNEIGH, 0)
	r.AddData(&netlink.Ndmsg{Index: uint32(key.ifindex), Family: family(key)})
	r.AddData(nl.NewRtAttr(unix.NDA_DST, key.addr.AsSlice()))
	answers, err := r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if err != nil {
		return m, fmt.Errorf("read neighbour %v on interface %d: %w", key.addr, key.ifindex, err)
	}
	for _, a := range answers {
		m, _, err = decodeNeigh(a)
		return m, err
	}
	return m, fmt.Errorf("read neighbour %v on interface %d: %w", key.addr, key.ifindex, unix.ENOENT)
}

func family(key neighKey) uint8 {
	if key.addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
