package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socketMode lets root and the socket's group in, nobody else: whoever reaches
// the socket may change mappings.
const socketMode = 0o660

// listenUnix binds the control socket. What a killed instance left at the path
// is replaced; a socket that somebody still answers on is not.
func listenUnix(path string) (net.Listener, error) {
	if err := clearStale(path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// The file that bind makes takes the mode of the socket (minus the
		// umask), so that it is never open to more than socketMode.
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), socketMode) }); cerr != nil {
			return fmt.Errorf("reaching the control socket: %w", cerr)
		}
		return os.NewSyscallError("fchmod", err)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("binding the control socket %s: %w", path, err)
	}
	if err := os.Chmod(path, socketMode); err != nil { // the umask took bits away
		l.Close()
		return nil, fmt.Errorf("giving the control socket its mode: %w", err)
	}
	return l, nil
}

// clearStale removes a socket that nobody listens on.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at the control socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("control socket %s: a file that is no socket stands there; move it away or change control_socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fmt.Errorf("control socket %s: another nat64d answers there; stop it or change control_socket", path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("control socket %s is in use or out of reach: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the control socket that a killed instance left: %w", err)
	}
	return nil
}
