package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal with what was written to it.
type terminal struct {
	master, slave *os.File
	mu            sync.Mutex
	text          strings.Builder
}

func (w *world) terminal(rows, columns uint16) *terminal {
	w.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	w.must(err)
	w.must(unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	w.must(err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	w.must(err)
	w.must(unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}))
	p := &terminal{master: master, slave: slave}
	w.t.Cleanup(func() { master.Close(); slave.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return // closed
			}
			p.mu.Lock()
			p.text.Write(buf[:n])
			p.mu.Unlock()
		}
	}()
	return p
}

// screen is what was drawn last.
func (p *terminal) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := strings.Split(p.text.String(), "\x1b[H")
	return all[len(all)-1]
}

var sent4 = regexp.MustCompile(`IPv4 +\S+ ?\S* +\S+ ?\S* +([0-9.]+) (k?)pkt/s`)

// The rates in top are those of the traffic; it draws anew when the terminal
// changes its size, and q leaves the terminal as it was.
func TestTop(t *testing.T) {
	t.Parallel()
	w := plain(t, withoutHandoff)
	w.echoUDP(w.server, "udp4", netip.AddrPortFrom(w.Server(), 7).String())
	c := w.dial(w.client, "udp", 0, w.embedded(7))
	_, err := ask(c)
	w.must(err)
	p := w.terminal(40, 120)
	was, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	w.must(err)
	cmd := exec.CommandContext(w.ctx, built.Nat64ctl, "--socket", w.d.Socket(), "top")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.slave, p.slave, p.slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
	w.must(cmd.Start())
	// 200 datagrams a second, as evenly as the machine can; what was really sent
	// is taken from the counters around the time that top shows.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_, _ = c.Write([]byte("x")) // counted where it arrives
			}
		}
	}()
	first, at := w.stats().TX.IPv4.Packets, time.Now()
	w.eventually("top shows the rate of the traffic", 30*time.Second, func() error {
		passed := time.Since(at)
		if passed < 3*time.Second {
			return errors.New("too early to compare")
		}
		real := float64(w.stats().TX.IPv4.Packets-first) / passed.Seconds()
		m := sent4.FindStringSubmatch(p.screen())
		if m == nil {
			return fmt.Errorf("no rate on the screen: %q", p.screen())
		}
		shown, err := strconv.ParseFloat(m[1], 64)
		if m[2] == "k" {
			shown *= 1000
		}
		if err != nil || shown < real/2 || shown > real*2 || real < 20 {
			return fmt.Errorf("shown %v, really %v (%v)", shown, real, err)
		}
		return nil
	})
	w.must(unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 5, Col: 20}))
	w.eventually("top follows the size", 10*time.Second, func() error {
		if n := strings.Count(p.screen(), "\r\n"); n > 4 || n == 0 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	_, err = p.master.Write([]byte("q"))
	w.must(err)
	w.must(cmd.Wait())
	is, err := unix.IoctlGetTermios(int(p.slave.Fd()), unix.TCGETS)
	w.must(err)
	if *is != *was {
		t.Errorf("the terminal afterwards: %+v, before: %+v", is, was)
	}
	w.eventually("the screen is given back", 5*time.Second, func() error {
		if !strings.HasSuffix(p.screen(), "\x1b[?25h\x1b[?1049l") {
			return fmt.Errorf("it ends in %q", p.screen())
		}
		return nil
	})
}
