package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"handoff64/handoff/wire"
)

// batches is how many bursts may be under way between reader and committer: what
// a slow disk can fall behind before the kernel's buffer has to hold the rest.
const batches = 128

// Server is a handoff server. Open makes one, Run runs it once.
// Reopen may be called at any time from any goroutine; the control socket
// serves others by itself.
type Server struct {
	cfg     Config
	log     *slog.Logger
	socket  *socket
	control *control
	commit  *committer
	counts  *counters
	started time.Time
	reading chan struct{} // held by the look-up that reads the log

	mu      sync.Mutex // guards handler and table
	handler *handler
	table   *table
	ready   bool

	answers   *answers // nil without a device
	committed atomic.Uint64

	free, full chan *batch
}

// Open reads the table, completes the log, and binds the control port.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (s *Server, err error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o750); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	s = &Server{cfg: cfg, log: log, counts: &counters{}, started: time.Now(), reading: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	s.commit = &committer{counts: s.counts, committed: &s.committed, reopen: make(chan struct{}, 1)}
	if s.commit.store, err = openStore(filepath.Join(cfg.StateDir, tableName), false); err != nil {
		return s, err
	}
	if err := s.openLog(); err != nil {
		return s, err
	}
	if s.socket, err = openSocket(ctx, cfg.Listen); err != nil {
		return s, err
	}
	s.commit.send = func(b *batch) { s.socket.write(b, s.counts) }
	if err := s.load(); err != nil {
		return s, err
	}
	return s, s.openDevice()
}

// openLog opens the log, gives it what it lacks, and notes where it is, for
// lookup.
func (s *Server) openLog() error {
	path, err := s.cfg.logPath()
	if err != nil {
		return err
	}
	st := s.commit.store
	if s.commit.log, err = openLog(path, s.cfg.LogFormat, s.cfg.Stdout); err != nil {
		return err
	}
	stored, err := st.meta(metaPending)
	if err != nil {
		return err
	}
	var p *pending
	if stored != nil {
		if p, err = decodePending(stored); err != nil {
			return err
		}
	}
	if err := s.commit.log.recover(p); err != nil {
		return fmt.Errorf("complete the log after a crash: %w", err)
	}
	// What was pending is in the log now, wherever rotations move that.
	if err := st.setMeta(metaPending, nil); err != nil {
		return err
	}
	return st.setMeta(metaLog, []byte(path))
}

// load makes table and handler.
func (s *Server) load() error {
	var seed [32]byte
	rand.Read(seed[:]) // never fails
	random := mathrand.New(mathrand.NewChaCha8(seed))
	s.table = newTable(s.cfg.MaxEntries, s.socket.port, &kernelSockets{}, random)
	if err := s.commit.store.load(s.table); err != nil {
		return err
	}
	s.handler = &handler{
		table: s.table, key: wire.NewValidationKey(), attenuation: newAttenuator(random),
		discardPort: s.cfg.discardPort, counts: s.counts, mode: s.cfg.Mode,
	}
	s.committed.Store(s.table.nextID - 1)
	s.free, s.full = make(chan *batch, batches), make(chan *batch, batches)
	for range batches {
		s.free <- &batch{}
	}
	return nil
}

// Run serves until ctx ends or something fails that a server cannot do without.
// ready is called once datagrams are read and the control socket answers.
func (s *Server) Run(ctx context.Context, ready func()) (err error) {
	defer func() { err = errors.Join(err, s.close()) }()
	if s.control, err = startControl(s); err != nil {
		return err
	}
	committed := make(chan error, 1)
	go func() {
		err := s.commit.run(s.full, s.free)
		if err != nil {
			// The reader may wait for a batch or for a datagram.
			close(s.free)
			err = errors.Join(err, s.socket.conn.SetReadDeadline(time.Unix(1, 0)))
		}
		committed <- err
	}()
	answering := s.answer()
	stop := context.AfterFunc(ctx, func() {
		if err := s.socket.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
			s.log.Error("stop reading", "error", err)
		}
	})
	defer stop()
	s.setReady(true)
	ready()
	err = s.read()
	s.setReady(false)
	close(s.full)
	err = errors.Join(err, <-committed, answering())
	if err != nil {
		return err
	}
	return s.commit.store.setMeta(metaPending, nil)
}

// read is the reader's loop: datagrams in, batches out.
func (s *Server) read() error {
	for b := range s.free {
		// What was delivered at once, or refused, leaves nothing to commit.
		for b.idle() {
			ds, err := s.socket.read()
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return nil // asked to stop
			}
			if err != nil {
				return err
			}
			s.handle(ds, b)
		}
		s.full <- b // never waits: there is room for all batches
	}
	return nil
}

// handle fills a batch with what becomes of a burst.
func (s *Server) handle(ds []datagram, b *batch) {
	s.mu.Lock()
	s.handler.begin(b, time.Now())
	for i := range ds {
		s.handler.handle(&ds[i])
	}
	b.last = s.table.nextID - 1
	s.mu.Unlock()
	if n := s.handler.nat; n != nil {
		n.now.write(n.device, n.counts)
	}
}

func (s *Server) setReady(r bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = r
}

// Reopen makes the log follow a rotation.
func (s *Server) Reopen() {
	select {
	case s.commit.reopen <- struct{}{}:
	default: // asked for already
	}
}

// Port is the control port that was bound.
func (s *Server) Port() uint16 { return s.socket.port }

// Close gives up a server that is not going to be Run.
func (s *Server) Close() error { return s.close() }

// close gives up whatever there is.
func (s *Server) close() error {
	var errs []error
	if s.control != nil {
		errs = append(errs, s.control.close())
	}
	if s.answers != nil {
		errs = append(errs, s.answers.device.Close())
	}
	if s.socket != nil {
		errs = append(errs, s.socket.close())
	}
	if s.commit.log != nil {
		errs = append(errs, s.commit.log.close())
	}
	if s.commit.store != nil {
		errs = append(errs, s.commit.store.close())
	}
	return errors.Join(errs...)
}
