package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where named namespaces are mounted; iproute2 uses the same.
const netnsDir = "/run/netns"

// Host is one namespace of a lab. It is a value without state of its own:
// any number of goroutines may use it at once.
type Host struct {
	Name string // "client", "nat64", …
	lab  string
}

// Namespace is the host's name in /run/netns.
func (h Host) Namespace() string { return h.lab + "-" + h.Name }

// Path is the file that stands for the host's namespace.
func (h Host) Path() string { return filepath.Join(netnsDir, h.Namespace()) }

// Enter runs fn with the calling goroutine inside the host's namespace.
// Sockets that fn opens and programs that it starts belong to the namespace
// for good; goroutines that it starts do not.
func (h Host) Enter(fn func() error) (err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace of this thread: %w", err)
	}
	defer home.Close()
	target, err := netns.GetFromPath(h.Path())
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("host %s: open its namespace: %w", h.Name, err)
	}
	defer target.Close()
	// Setting the old namespace again comes first among the deferred calls,
	// and also after a panic or runtime.Goexit in fn. A thread that cannot
	// return stays locked, and so ends with its goroutine.
	defer func() {
		if back := netns.Set(home); back != nil {
			err = errors.Join(err, fmt.Errorf("host %s: leave its namespace: %w", h.Name, back))
			return
		}
		runtime.UnlockOSThread()
	}()
	if err := netns.Set(target); err != nil {
		return fmt.Errorf("host %s: enter its namespace: %w", h.Name, err)
	}
	return fn()
}

// Start starts cmd inside the host's namespace: a child inherits the
// namespace of the thread that forks it.
func (h Host) Start(cmd *exec.Cmd) error {
	if err := h.Enter(cmd.Start); err != nil {
		return fmt.Errorf("host %s: start %s: %w", h.Name, cmd.Path, err)
	}
	return nil
}

// Output runs a program inside the host and returns what it printed on both
// its outputs, also when it failed.
func (h Host) Output(ctx context.Context, name string, args ...string) (string, error) {
	var out []byte
	err := h.Enter(func() (err error) {
		out, err = exec.CommandContext(ctx, name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("host %s: %s: %w", h.Name, name, err)
	}
	return string(out), nil
}

// DialContext connects from inside the host; address holds a literal address,
// because a resolver's goroutines would run outside the namespace. It fits
// http.Transport.
func (h Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, net.Dialer{}, network, address)
}

// DialFrom is DialContext with a dialer of the caller's: local address,
// timeout, socket options.
func (h Host) DialFrom(ctx context.Context, d net.Dialer, network, address string) (conn net.Conn, err error) {
	// Multipath TCP would add options and subflows that no test asked for.
	d.SetMultipathTCP(false)
	err = h.Enter(func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return conn, nil
}

// portFreed is how long Listen waits for a port that was in use a moment ago. A
// child of this process has copies of all its sockets from its fork to its
// exec, a closed listener among them, whose port the kernel holds so long.
const portFreed = 5 * time.Second

// Listen listens for connections inside the host.
func (h Host) Listen(network, address string) (l net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	for end := time.Now().Add(portFreed); ; time.Sleep(10 * time.Millisecond) {
		err = h.Enter(func() (err error) {
			l, err = lc.Listen(context.Background(), network, address)
			return err
		})
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) || time.Now().After(end) {
			return nil, fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
}

// datagramBuffer holds what arrives while a program of a host waits for a
// processor, in octets: some thousand small datagrams. With the kernel's 208
// KiB, fewer than 300 fit, and those that do not are lost without a trace.
const datagramBuffer = 4 << 20

// ListenPacket opens a datagram socket inside the host.
func (h Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	lc := net.ListenConfig{Control: roomForDatagrams}
	err = h.Enter(func() (err error) {
		c, err = lc.ListenPacket(context.Background(), network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return c, nil
}

// roomForDatagrams gives a new socket its datagramBuffer, which only root may
// make larger than net.core.rmem_max.
func roomForDatagrams(_, _ string, socket syscall.RawConn) (err error) {
	if control := socket.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, datagramBuffer)
	}); control != nil {
		return control
	}
	if err != nil {
		return fmt.Errorf("SO_RCVBUFFORCE: %w", err)
	}
	return nil
}
