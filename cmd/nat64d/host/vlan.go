package host

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// VLANsOn names the VLAN interfaces on top of one of ours. XDP does not see
// the tags that a device takes off, so frames of these VLANs may be taken for
// untagged ones.
func VLANsOn(name string) ([]string, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	all, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("interfaces of the host: %w", err)
	}
	return vlansOn(link.Attrs().Index, all), nil
}

func vlansOn(index int, all []netlink.Link) (names []string) {
	for _, l := range all {
		if l.Type() == "vlan" && l.Attrs().ParentIndex == index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}
