package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// stopTimeout is how long a program in a lab has to end after SIGTERM.
const stopTimeout = 5 * time.Second

// Down takes a lab down: its programs, links, namespaces and folder. It works
// on what it finds, so it may be called for a lab that is up, half built,
// left by a process that crashed, or not there at all.
func Down(name string) error {
	if err := NeedRoot(); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	hosts, err := hostsOf(name)
	if err != nil {
		return err
	}
	var errs []error
	errs = append(errs, stopPrograms(hosts))
	for _, h := range hosts {
		errs = append(errs, h.remove())
	}
	for _, dir := range []string{tablesOf(name), filepath.Join(runDir, name)} {
		if err := os.RemoveAll(dir); err != nil {
			errs = append(errs, fmt.Errorf("lab %s: %w", name, err))
		}
		// The last lab takes the common folder along; this fails for others.
		_ = os.Remove(filepath.Dir(dir))
	}
	return errors.Join(errs...)
}

// Down takes the lab down.
func (l *Lab) Down() error { return Down(l.Options.Name) }

// hostsOf finds the namespaces of a lab. Labs named a and a-b do not mix,
// because no host is called b-something.
func hostsOf(name string) ([]Host, error) {
	entries, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list of namespaces: %w", err)
	}
	var hosts []Host
	for _, entry := range entries {
		host, found := strings.CutPrefix(entry.Name(), name+"-")
		if found && isHostName(host) {
			hosts = append(hosts, Host{Name: host, lab: name})
		}
	}
	return hosts, nil
}

// isHostName knows the hosts of all topologies.
func isHostName(name string) bool {
	everything := newLab(Options{Name: DefaultName, Routers: true, Clients: 2, Servers: 3, Nat64s: 2}, 0)
	return everything.hasHost(name)
}

// remove deletes the host's links and its namespace. The links go first and
// by hand: a namespace that somebody still holds open would keep them.
func (h Host) remove() error {
	var errs []error
	// A plain file is what a crash between the two steps of a namespace's
	// creation leaves; there is nothing to enter then.
	var stat unix.Statfs_t
	if err := unix.Statfs(h.Path(), &stat); err == nil && stat.Type == unix.NSFS_MAGIC {
		errs = append(errs, h.Enter(deleteLinks))
		if err := unix.Unmount(h.Path(), unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("host %s: unmount %s: %w", h.Name, h.Path(), err))
		}
	}
	if err := os.Remove(h.Path()); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("host %s: %w", h.Name, err))
	}
	return errors.Join(errs...)
}

// deleteLinks deletes the veth ends of the current namespace; their other
// ends go with them.
func deleteLinks() error {
	all, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, dev := range all {
		if dev.Type() != "veth" {
			continue
		}
		if err := netlink.LinkDel(dev); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete link %s: %w", dev.Attrs().Name, err)
		}
	}
	return nil
}

// processExists says whether a process is alive (or not yet waited for).
func processExists(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

// programsIn lists the processes whose main thread is in one of the hosts,
// except for this process, whose threads come and go.
func programsIn(hosts []Host) ([]int, error) {
	inside := make(map[string]bool)
	for _, h := range hosts {
		if handle, err := netns.GetFromPath(h.Path()); err == nil {
			inside[handle.UniqueId()] = true
			handle.Close()
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list of processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		handle, err := netns.GetFromPid(pid)
		if err != nil {
			continue // it has ended meanwhile
		}
		if inside[handle.UniqueId()] {
			pids = append(pids, pid)
		}
		handle.Close()
	}
	return pids, nil
}

// stopPrograms ends what runs in the hosts: politely, so that a nat64d gives
// back what it holds outside the lab, then by force.
func stopPrograms(hosts []Host) error {
	if len(hosts) == 0 {
		return nil
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		left, err := signalPrograms(hosts, signal)
		if err != nil {
			return err
		}
		if !left {
			return nil
		}
	}
	return errors.New("programs in the lab survive SIGKILL")
}

// signalPrograms sends each program in the hosts the signal once and waits
// for all of them to end; it says whether some did not.
func signalPrograms(hosts []Host, signal unix.Signal) (left bool, err error) {
	told := make(map[int]bool)
	for deadline := time.Now().Add(stopTimeout); ; {
		pids, err := programsIn(hosts)
		if err != nil || len(pids) == 0 {
			return false, err
		}
		for _, pid := range pids {
			if told[pid] {
				continue
			}
			told[pid] = true
			if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
				return true, fmt.Errorf("stop process %d: %w", pid, err)
			}
		}
		if time.Now().After(deadline) {
			return true, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}
