package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netns"
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

// Listen listens for connections inside the host.
func (h Host) Listen(network, address string) (l net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	err = h.Enter(func() (err error) {
		l, err = lc.Listen(context.Background(), network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return l, nil
}

// ListenPacket opens a datagram socket inside the host.
func (h Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = h.Enter(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return c, nil
}
