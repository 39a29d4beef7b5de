package xsk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/asavie/xdp"
	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ProgramName is the filter's name in the kernel. A program of this name on an
// interface that no process holds is the left-over of a killed one.
const ProgramName = filterProgHandoff64Xdp

// Values of IFLA_XDP_ATTACHED (linux/if_link.h).
const (
	attachedNative  = 1
	attachedGeneric = 2
)

// attached is a program found on an interface.
type attached struct {
	id    uint32
	where uint32 // attachedNative and so on
}

// findAttached returns the program on the interface, or nil.
func findAttached(l *link) (*attached, error) {
	nl, err := netlink.LinkByIndex(l.index)
	if err != nil {
		return nil, fmt.Errorf("xsk: interface %q: %w", l.name, err)
	}
	if x := nl.Attrs().Xdp; x != nil && x.Attached {
		return &attached{id: x.ProgId, where: x.AttachMode}, nil
	}
	return nil, nil
}

// findLeftOver returns the program that a killed instance of ours left on the
// interface, or nil; anybody else's program is an error that leaves it alone.
// The caller holds the interface's lock, so nothing of ours is alive there.
func findLeftOver(l *link, stateDir string) (*attached, error) {
	a, err := findAttached(l)
	if err != nil || a == nil {
		return nil, err
	}
	remedy := fmt.Sprintf("if nobody needs it: ip link set dev %s xdp off", l.name)
	if a.where != attachedNative && a.where != attachedGeneric {
		return nil, fmt.Errorf("xsk: interface %q carries an offloaded XDP program or several (attach mode %d); %s", l.name, a.where, remedy)
	}
	name, err := programNameOf(a.id)
	switch {
	case a.id != 0 && a.id == notedProgram(l, stateDir):
	case err != nil:
		return nil, fmt.Errorf("xsk: interface %q carries XDP program %d, and whose it is needs CAP_SYS_ADMIN to know; %s: %w", l.name, a.id, remedy, err)
	case name != ProgramName:
		return nil, fmt.Errorf("xsk: interface %q carries the XDP program %q (id %d) of somebody else; %s", l.name, name, a.id, remedy)
	}
	return a, nil
}

func programNameOf(id uint32) (string, error) {
	p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
	if err != nil {
		return "", fmt.Errorf("open program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", fmt.Errorf("read program %d: %w", id, err)
	}
	return info.Name, nil
}

// attachMu guards xdp.DefaultXdpFlags, which is how that package is told the mode.
var attachMu sync.Mutex

// attach puts the filter on the interface in the wanted mode and returns the
// mode it got. There must be no program there: should one have appeared in
// the meantime, the kernel refuses.
func (f *filter) attach(l *link, mode Mode) error {
	flags := uint32(unix.XDP_FLAGS_DRV_MODE)
	if mode == ModeGeneric {
		flags = unix.XDP_FLAGS_SKB_MODE
	}
	attachMu.Lock()
	defer attachMu.Unlock()
	saved := xdp.DefaultXdpFlags
	defer func() { xdp.DefaultXdpFlags = saved }()
	xdp.DefaultXdpFlags = flags | unix.XDP_FLAGS_UPDATE_IF_NOEXIST
	if err := f.xdp.Attach(l.index); err != nil {
		return fmt.Errorf("xsk: attach the filter to %q in %s mode: %w", l.name, mode, err)
	}
	return nil
}

// takeOver puts the filter in the place of a left-over in one step, so that
// the kernel sees none of our packets in between, and returns its mode. One in
// a mode that is not wanted is detached: the result is then "".
func (f *filter) takeOver(l *link, a *attached, wanted Mode) (Mode, error) {
	mode, flags := ModeNative, unix.XDP_FLAGS_DRV_MODE
	if a.where == attachedGeneric {
		mode, flags = ModeGeneric, unix.XDP_FLAGS_SKB_MODE
	}
	if wanted != ModeAuto && wanted != mode {
		return "", detach(l, a)
	}
	nl := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.index}}
	if err := netlink.LinkSetXdpFdWithFlags(nl, f.xdp.Program.FD(), flags); err != nil {
		return "", fmt.Errorf("xsk: replace program %d on %q: %w", a.id, l.name, err)
	}
	return mode, nil
}

// detachOwn takes the filter off the interface, if it is still the one there.
func (f *filter) detachOwn(l *link) error {
	info, err := f.xdp.Program.Info()
	if err != nil {
		return fmt.Errorf("xsk: read our own program: %w", err)
	}
	id, _ := info.ID()
	a, err := findAttached(l)
	if err != nil {
		var gone netlink.LinkNotFoundError
		if errors.As(err, &gone) {
			return nil // and the program went with the interface
		}
		return err
	}
	if a == nil || a.id != uint32(id) {
		return nil
	}
	return detach(l, a)
}

// detach removes a program in the mode it is attached in. (xdp.Program.Detach
// names no mode: the kernel then looks for a native program only, and the call
// waits for ever for a generic one to go.)
func detach(l *link, a *attached) error {
	flags := unix.XDP_FLAGS_DRV_MODE
	if a.where == attachedGeneric {
		flags = unix.XDP_FLAGS_SKB_MODE
	}
	nl := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.index}}
	if err := netlink.LinkSetXdpFdWithFlags(nl, -1, flags); err != nil {
		return fmt.Errorf("xsk: detach program %d from %q: %w", a.id, l.name, err)
	}
	return nil
}

// lockLink reserves the interface for this process until the returned
// descriptor is closed, by the death of the process at the latest. An abstract
// Unix socket is what the kernel itself keeps per network namespace, as it
// does interface indexes.
func lockLink(l *link) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("xsk: socket to lock %q with: %w", l.name, err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@handoff64/xsk/" + strconv.Itoa(l.index)})
	if err == nil {
		return fd, nil
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("xsk: interface %q is in use by another running instance: %w", l.name, err)
	} else {
		err = fmt.Errorf("xsk: lock %q: %w", l.name, err)
	}
	return -1, errors.Join(err, unix.Close(fd))
}

// notePath is the file that holds the number of the program on l. Program
// numbers are not used again before 2^31 others were.
func notePath(l *link, stateDir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("xsk: find our network namespace: %w", err)
	}
	return filepath.Join(stateDir, fmt.Sprintf("xdp-%d-%d", st.Ino, l.index)), nil
}

// note writes down which program is ours.
func (f *filter) note(l *link, stateDir string) error {
	if stateDir == "" {
		return nil
	}
	info, err := f.xdp.Program.Info()
	if err != nil {
		return fmt.Errorf("xsk: read our own program: %w", err)
	}
	id, _ := info.ID()
	path, err := notePath(l, stateDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("xsk: make the state directory: %w", err)
	}
	if err := os.WriteFile(path, fmt.Appendln(nil, uint32(id)), 0o644); err != nil {
		return fmt.Errorf("xsk: note the attached program: %w", err)
	}
	return nil
}

// notedProgram returns what note wrote, or 0.
func notedProgram(l *link, stateDir string) uint32 {
	if stateDir == "" {
		return 0
	}
	path, err := notePath(l, stateDir)
	if err != nil {
		return 0
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	id, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 32)
	if err != nil {
		return 0 // a torn note is no note
	}
	return uint32(id)
}

func removeNote(l *link, stateDir string) error {
	if stateDir == "" {
		return nil
	}
	path, err := notePath(l, stateDir)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("xsk: remove the note of the attached program: %w", err)
	}
	return nil
}
