package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"handoff64/tools/lab"
	"handoff64/tools/lab/traffic"
)

// stack makes an interface on top of one of a host's, and hands it to another
// host if one is named. It skips the test where the kernel has no such thing.
func (w *world) stack(host, parent string, dev netlink.Link, to string) {
	w.t.Helper()
	err := w.Host(host).Enter(func() error {
		below, err := netlink.LinkByName(parent)
		if err != nil {
			return err
		}
		dev.Attrs().ParentIndex = below.Attrs().Index
		if err := netlink.LinkAdd(dev); err != nil || to == "" {
			return err
		}
		ns, err := netns.GetFromPath(w.Host(to).Path())
		if err != nil {
			return err
		}
		defer ns.Close()
		return netlink.LinkSetNsFd(dev, int(ns))
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		w.t.Skipf("this kernel has no %s interfaces", dev.Type())
	}
	w.must(err)
}

func vlan(name string, id int) netlink.Link {
	return &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: name}, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
}

func macvlan(name string) netlink.Link {
	return &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.MACVLAN_MODE_BRIDGE}
}

// noAddresses takes all addresses off an interface.
func (w *world) noAddresses(host, ifname string) {
	w.t.Helper()
	w.must(w.Host(host).Enter(func() error {
		dev, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		all, err := netlink.AddrList(dev, netlink.FAMILY_ALL)
		for i := range all {
			if err == nil && !all[i].IP.IsLinkLocalUnicast() {
				err = netlink.AddrDel(dev, &all[i])
			}
		}
		return err
	}))
}

// onATrunk has both sides on one cable: VLAN 10 leads to the client, VLAN 20 to
// the server.
func onATrunk(w *world) {
	w.t.Helper()
	w.points = map[string]string{"client": "vlan10", "server": "vlan20"}
	w.stack("client", "eth0", vlan("vlan10", 10), "")
	w.stack("client", "eth0", vlan("vlan20", 20), "server")
	w.stack("nat64", lab.IPv6Interface, vlan("six", 10), "")
	w.stack("nat64", lab.IPv6Interface, vlan("four", 20), "")
	for _, e := range [][2]string{{"client", "eth0"}, {"server", "eth0"}, {"nat64", lab.IPv6Interface}, {"nat64", lab.IPv4Interface}} {
		w.noAddresses(e[0], e[1])
	}
	w.addresses("client", "vlan10", "2001:db8:1::10/64")
	w.addresses("server", "vlan20", "192.0.2.10/24")
	w.addresses("nat64", "six", "2001:db8:1::1/64")
	w.addresses("nat64", "four", "192.0.2.1/24")
	w.route("client", "", "2001:db8:1::1")
	w.route("server", "", lab.Nat64IPv4.String())
}

// onMacvlan has an interface of the same kind as a VLAN's, on top of another
// and without XDP of its own, on either side.
func onMacvlan(w *world) {
	w.t.Helper()
	w.must(w.nat64.SetSysctl("ipv4/conf/all/arp_ignore", "1")) // the interface below does not answer for it
	for name, e := range map[string][2]string{"six": {lab.IPv6Interface, "2001:db8:1::1/64"}, "four": {lab.IPv4Interface, "192.0.2.1/24"}} {
		w.stack("nat64", e[0], macvlan(name), "")
		w.noAddresses("nat64", e[0])
		w.addresses("nat64", name, e[1])
	}
	w.must(w.client.FlushNeighbours("eth0"))
	w.must(w.server.FlushNeighbours("eth0"))
}

// The two sides are interfaces on top of others.
func TestStackedInterfaces(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for name, arrange := range map[string]func(*world){"VLANs of a trunk": onATrunk, "macvlan": onMacvlan} {
		t.Run(name, func(t *testing.T) {
			w := arranged(t, lab.Options{}, arrange, func(c map[string]any) {
				c["ipv6_interface"], c["ipv4_interface"] = "six", "four"
			}, static("tcp", 8080, 8080))
			st, err := w.d.Status(w.ctx)
			w.must(err)
			if i := st.Interfaces; i["ipv6"].XDPMode != "generic" || i["ipv4"].XDPMode != "generic" {
				t.Errorf("XDP on stacked interfaces: %+v", i)
			}
			w.everyProtocol()
			web := w.web()
			_, err = traffic.Download(w.ctx, w.client, web, 10<<20)
			w.must(err)
			_, err = traffic.Upload(w.ctx, w.client, web, 10<<20)
			w.must(err)
			w.echoTCP(w.client, "[::]:8080")
			w.must(say(w.ctx, w.dial(w.server, "tcp", 0, netip.AddrPortFrom(lab.Pool4, 8080).String()), "from the server"))
		})
	}
}

// tagMark is in the payload of every frame of the tests with tags.
var tagMark = []byte("this frame has a VLAN tag")

// Frames with a tag on an attached interface are other networks'. Whatever is
// in them, priority tags (VLAN 0) included, they are the kernel's.
func TestTaggedFramesStayWithTheKernel(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, mode := range []string{"native", "generic"} {
		t.Run(mode, func(t *testing.T) {
			w := build(t, lab.Options{}, xdpMode(mode))
			w.everyProtocol()
			const each = 20
			for _, id := range []uint16{0, 1, 30, 4094} {
				before := w.stats()
				came := w.countMarked(lab.IPv6Interface, each, func() { w.sendTagged("client", lab.IPv6Interface, id, w.tagged6(), each) })
				came += w.countMarked(lab.IPv4Interface, each, func() { w.sendTagged("server", lab.IPv4Interface, id, w.tagged4(), each) })
				if after := w.stats(); after.RX != before.RX || came != 2*each {
					t.Errorf("VLAN %d: %d of %d frames came to the kernel; workers received %+v, before %+v", id, came, 2*each, after.RX, before.RX)
				}
			}
		})
	}
}

// tagged6 and tagged4 are packets that would be the NAT64's without a tag.
func (w *world) tagged6() []gopacket.SerializableLayer {
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: w.Client().AsSlice(), DstIP: lab.Embed(w.Server()).AsSlice()}
	u := &layers.UDP{SrcPort: 4000, DstPort: 4001}
	w.must(u.SetNetworkLayerForChecksum(ip))
	return []gopacket.SerializableLayer{ip, u, gopacket.Payload(tagMark)}
}

func (w *world) tagged4() []gopacket.SerializableLayer {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: w.Server().AsSlice(), DstIP: lab.Pool4.AsSlice()}
	u := &layers.UDP{SrcPort: 4001, DstPort: 4000}
	w.must(u.SetNetworkLayerForChecksum(ip))
	return []gopacket.SerializableLayer{ip, u, gopacket.Payload(tagMark)}
}

// frame puts Ethernet, and a tag unless id is untagged, in front of a packet
// for an interface of the box.
func (w *world) frame(ifname string, id int, packet []gopacket.SerializableLayer) []byte {
	w.t.Helper()
	all, err := w.nat64.Interfaces()
	w.must(err)
	mac, err := net.ParseMAC(all[ifname].MAC)
	w.must(err)
	typ := layers.EthernetTypeIPv6
	if _, ok := packet[0].(*layers.IPv4); ok {
		typ = layers.EthernetTypeIPv4
	}
	front := []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, DstMAC: mac, EthernetType: typ}}
	if id != untagged {
		front = []gopacket.SerializableLayer{
			&layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}, DstMAC: mac, EthernetType: layers.EthernetTypeDot1Q},
			&layers.Dot1Q{Priority: 5, VLANIdentifier: uint16(id), Type: typ},
		}
	}
	b := gopacket.NewSerializeBuffer()
	w.must(gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(front, packet...)...))
	return b.Bytes()
}

const untagged = -1

func (w *world) sendTagged(from, to string, id uint16, packet []gopacket.SerializableLayer, n int) {
	w.t.Helper()
	w.sendRaw(from, w.frame(to, int(id), packet), n)
}

// sendRaw sends a frame as it is out of a host's eth0.
func (w *world) sendRaw(from string, frame []byte, n int) {
	w.t.Helper()
	w.must(w.Host(from).Enter(func() error {
		dev, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for range n {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
				return err
			}
		}
		return nil
	}))
}

// countMarked counts the frames with the mark that come to the box's kernel on
// an interface while send runs, until there are enough or it takes too long.
func (w *world) countMarked(ifname string, enough int, send func()) (n int) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "marked.pcap")
	c, err := w.nat64.StartCapture(ifname, file, enough)
	w.must(err)
	before := w.received(ifname)
	send()
	w.eventually("the frames are there", 10*time.Second, func() error {
		if n := w.received(ifname) - before; n < uint64(enough) {
			return fmt.Errorf("%d of %d", n, enough)
		}
		return nil
	})
	w.must(c.Stop())
	f, err := os.Open(file)
	w.must(err)
	defer f.Close()
	r, err := pcapgo.NewReader(f)
	w.must(err)
	for {
		frame, _, err := r.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return n
		}
		w.must(err)
		if bytes.Contains(frame, tagMark) {
			n++
		}
	}
}

// received is how many frames an interface of the box has received.
func (w *world) received(ifname string) (n uint64) {
	w.t.Helper()
	w.must(w.nat64.Enter(func() error {
		dev, err := netlink.LinkByName(ifname)
		if err == nil {
			n = dev.Attrs().Statistics.RxPackets
		}
		return err
	}))
	return n
}

// tagAtEgress has a host's kernel tag everything it sends, as its VLAN
// interfaces do: beside the packet, for the device to insert.
func (w *world) tagAtEgress(host string, id int) {
	w.t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, int32(binary.NativeEndian.Uint16([]byte{0x81, 0x00}))), // 802.1Q, in network order
		asm.Mov.Imm(asm.R3, int32(id)),
		asm.FnSkbVlanPush.Call(),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
	}})
	w.must(err)
	defer prog.Close()
	w.must(w.Host(host).Enter(func() error {
		dev, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}}
		if err := netlink.QdiscAdd(q); err != nil {
			return fmt.Errorf("clsact: %w", err)
		}
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: dev.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          prog.FD(), Name: "tag", DirectAction: true,
		})
	}))
}

// Where the sender's device takes the tag out of the frame and hands it over
// beside it, no XDP program can see it: the frame looks untagged and is taken
// for the NAT64's (docs/operations.md, "VLANs"). This holds the handbook to
// what the kernel does, and to the remedy.
func TestTagBesideThePacket(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const sent = 20
	for _, mode := range []string{"native", "generic"} {
		for _, beside := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, tag beside the frame %v", mode, beside), func(t *testing.T) {
				w := build(t, lab.Options{}, xdpMode(mode))
				w.everyProtocol()
				w.must(w.client.SetFeature("eth0", "tx-vlan-hw-insert", beside))
				w.tagAtEgress("client", 30)
				toKernel := sent
				if beside {
					toKernel = 0
				}
				came := w.countMarked(lab.IPv6Interface, sent, func() { w.sendRaw("client", w.frame(lab.IPv6Interface, untagged, w.tagged6()), sent) })
				if came != toKernel {
					t.Errorf("%d of %d frames came to the kernel, want %d", came, sent, toKernel)
				}
			})
		}
	}
}
