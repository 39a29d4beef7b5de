package lab

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// offloads are the features of a veth end that make its packets differ from
// what a wire would carry: a TCP stack leaves the checksum unfinished and
// hands over segments of 64 kB, because it knows that the other end is memory
// too. AF_XDP sees such packets as they are, so the lab switches them off.
var offloads = []string{
	"tx-checksum-ip-generic",
	"tx-checksum-sctp",
	"tx-tcp-segmentation",
	"tx-tcp-ecn-segmentation",
	"tx-tcp-mangleid-segmentation",
	"tx-tcp6-segmentation",
	"tx-udp-segmentation",
	"tx-generic-segmentation",
	"rx-gro",
}

// DisableOffloads makes an interface's packets those of a wire, as Up does with
// all that it makes.
func (h Host) DisableOffloads(ifname string) error {
	if err := h.Enter(func() error { return setFeatures(ifname, false, offloads) }); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

// SetFeature switches one feature of an interface, by the kernel's name for it.
func (h Host) SetFeature(ifname, feature string, on bool) error {
	if err := h.Enter(func() error { return setFeatures(ifname, on, []string{feature}) }); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

// setFeatures switches features of an interface of the current namespace on or
// off, as ethtool -K does, over generic netlink (ETHTOOL_MSG_FEATURES_SET).
func setFeatures(ifname string, on bool, features []string) error {
	family, err := netlink.GenlFamilyGet(unix.ETHTOOL_GENL_NAME)
	if err != nil {
		return fmt.Errorf("generic netlink family ethtool: %w", err)
	}
	header := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_HEADER|unix.NLA_F_NESTED, nil)
	header.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_NAME, nl.ZeroTerminated(ifname))

	wanted := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_WANTED|unix.NLA_F_NESTED, nil)
	bits := wanted.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, nil)
	for _, feature := range features {
		bit := bits.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED, nil)
		bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_NAME, nl.ZeroTerminated(feature))
		if on {
			bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_VALUE, nil)
		}
	}

	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: unix.ETHTOOL_MSG_FEATURES_SET, Version: unix.ETHTOOL_GENL_VERSION})
	req.AddData(header)
	req.AddData(wanted)
	if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("interface %s: switch offloads: %w", ifname, err)
	}
	return nil
}

// activeFeatures lists the features that are on at an interface of the current
// namespace.
func activeFeatures(ifname string) (map[string]bool, error) {
	family, err := netlink.GenlFamilyGet(unix.ETHTOOL_GENL_NAME)
	if err != nil {
		return nil, fmt.Errorf("generic netlink family ethtool: %w", err)
	}
	header := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_HEADER|unix.NLA_F_NESTED, nil)
	header.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_NAME, nl.ZeroTerminated(ifname))
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(&nl.Genlmsg{Command: unix.ETHTOOL_MSG_FEATURES_GET, Version: unix.ETHTOOL_GENL_VERSION})
	req.AddData(header)
	replies, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, fmt.Errorf("interface %s: read offloads: %w", ifname, err)
	}
	on := make(map[string]bool)
	for _, reply := range replies {
		attrs(reply[nl.SizeofGenlmsg:], unix.ETHTOOL_A_FEATURES_ACTIVE, func(active []byte) {
			attrs(active, unix.ETHTOOL_A_BITSET_BITS, func(bits []byte) {
				attrs(bits, unix.ETHTOOL_A_BITSET_BITS_BIT, func(bit []byte) {
					attrs(bit, unix.ETHTOOL_A_BITSET_BIT_NAME, func(name []byte) {
						on[nl.BytesToString(name)] = true
					})
				})
			})
		})
	}
	return on, nil
}

// attrs calls fn with the content of every attribute of the given type in b.
func attrs(b []byte, kind uint16, fn func([]byte)) {
	for len(b) >= unix.SizeofNlAttr {
		length := int(binary.NativeEndian.Uint16(b))
		if length < unix.SizeofNlAttr || length > len(b) {
			return
		}
		if binary.NativeEndian.Uint16(b[2:])&nl.NLA_TYPE_MASK == kind {
			fn(b[unix.SizeofNlAttr:length])
		}
		b = b[min((length+3)&^3, len(b)):]
	}
}
