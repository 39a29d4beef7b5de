package host

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

// The kernel settings of the network namespace that nat64d runs in.
const (
	reservedFile  = "/proc/sys/net/ipv4/ip_local_reserved_ports"
	localPortFile = "/proc/sys/net/ipv4/ip_local_port_range"
)

// enoughPorts is how many ephemeral ports the host must keep for itself.
const enoughPorts = 1024

// reserve keeps the kernel from giving the NAT's ports to local programs when
// a pool4 address is the host's own: their answers would be taken for the
// NAT's. The setting holds for all addresses of the host, IPv6 and loopback
// too, so where it would leave programs no ports it is left alone.
func (ch *Changes) reserve(c Config) error {
	own, err := ownsAddress(c.Pool4)
	if err != nil {
		return err
	}
	if !own {
		return ch.unreserve()
	}
	before, err := readTrimmed(reservedFile)
	if err != nil {
		return err
	}
	if ch.undo.Reserved != nil {
		before = *ch.undo.Reserved // the killed instance's changes are not the host's own
	}
	old, err := parseRanges(before)
	if err != nil {
		return fmt.Errorf("%s: %w", reservedFile, err)
	}
	want := mergeRanges(append(slices.Clone(old), c.Ports...))
	left, err := ephemeralLeft(want)
	if err != nil {
		return err
	}
	if left < enoughPorts {
		ch.log.Warn("not reserving the NAT's ports in the kernel: local programs would have too few; "+
			"give pool4 a smaller range or move ip_local_port_range if local programs use the pool4 addresses",
			"ephemeral_ports_left", left)
		return ch.unreserve()
	}
	ch.undo.Reserved = &before
	if err := ch.save(); err != nil {
		return err
	}
	return writeReserved(formatRanges(want))
}

// unreserve gives back what a killed instance reserved and this one does not.
func (ch *Changes) unreserve() error {
	if ch.undo.Reserved == nil {
		return nil
	}
	if err := writeReserved(*ch.undo.Reserved); err != nil {
		return err
	}
	ch.undo.Reserved = nil
	return ch.save()
}

// ownsAddress says whether the host has an address inside pool4.
func ownsAddress(pool4 []netip.Prefix) (bool, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return false, fmt.Errorf("addresses of the host: %w", err)
	}
	return slices.ContainsFunc(list, func(a netlink.Addr) bool {
		ip, ok := netip.AddrFromSlice(a.IP.To4())
		return ok && wanted(pool4, ip)
	}), nil
}

func readTrimmed(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read kernel setting: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func writeReserved(value string) error {
	if err := os.WriteFile(reservedFile, []byte(value+"\n"), 0o644); err != nil {
		return fmt.Errorf("write kernel setting: %w", err)
	}
	return nil
}

// ephemeralLeft counts the ports that local programs still get.
func ephemeralLeft(reserved [][2]uint16) (int, error) {
	s, err := readTrimmed(localPortFile)
	if err != nil {
		return 0, err
	}
	var first, last int
	if _, err := fmt.Sscan(s, &first, &last); err != nil {
		return 0, fmt.Errorf("%s: %q: %w", localPortFile, s, err)
	}
	left := last - first + 1
	for _, r := range reserved {
		lo, hi := max(first, int(r[0])), min(last, int(r[1]))
		if hi >= lo {
			left -= hi - lo + 1
		}
	}
	return left, nil
}

// parseRanges reads the kernel's list format: "8080,9000-9010".
func parseRanges(s string) (rs [][2]uint16, err error) {
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		lo, err1 := strconv.ParseUint(first, 10, 16)
		hi, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || lo > hi {
			return nil, fmt.Errorf("%q is not a port or a range of ports", part)
		}
		rs = append(rs, [2]uint16{uint16(lo), uint16(hi)})
	}
	return rs, nil
}

// mergeRanges sorts ranges and joins those that touch.
func mergeRanges(rs [][2]uint16) [][2]uint16 {
	slices.SortFunc(rs, func(a, b [2]uint16) int { return int(a[0]) - int(b[0]) })
	var out [][2]uint16
	for _, r := range rs {
		if n := len(out); n > 0 && int(r[0]) <= int(out[n-1][1])+1 {
			out[n-1][1] = max(out[n-1][1], r[1])
			continue
		}
		out = append(out, r)
	}
	return out
}

func formatRanges(rs [][2]uint16) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = fmt.Sprintf("%d-%d", r[0], r[1])
		if r[0] == r[1] {
			parts[i] = strconv.Itoa(int(r[0]))
		}
	}
	return strings.Join(parts, ",")
}
