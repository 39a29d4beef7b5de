package host

import (
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestVLANsOn(t *testing.T) {
	attrs := func(name string, parent int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, ParentIndex: parent}
	}
	all := []netlink.Link{
		&netlink.Device{LinkAttrs: attrs("eth0", 0)},
		&netlink.Vlan{LinkAttrs: attrs("eth0.10", 2)},
		&netlink.Vlan{LinkAttrs: attrs("eth1.10", 3)},
		&netlink.Macvlan{LinkAttrs: attrs("mac0", 2)},
		&netlink.Vlan{LinkAttrs: attrs("eth0.20", 2)},
	}
	if got := vlansOn(2, all); !slices.Equal(got, []string{"eth0.10", "eth0.20"}) {
		t.Errorf("on interface 2: %v", got)
	}
	inNamespace(t)
	if got, err := VLANsOn("four"); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := VLANsOn("absent"); err == nil {
		t.Error("an interface that is not there")
	}
}
