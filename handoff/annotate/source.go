package annotate

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"handoff64/handoff/server"
)

// Source is where an Index gets its knowledge: the session log with those it was
// rotated to, and the table. Used by one goroutine.
type Source struct {
	open    func(context.Context) (server.View, error)
	log     *server.LogReader // nil if handoffd writes no file
	copied  bool              // the user named the log
	now     func() time.Time
	asOf    int64         // when Refresh was last asked, microseconds since 1970
	tableAt time.Time     // when the table was read
	cost    time.Duration // what that took
}

// OpenSource reads the table that open leads to. logPath is the session log; if
// it is empty, it is where handoffd says.
func OpenSource(ctx context.Context, open func(context.Context) (server.View, error), logPath string) (*Source, error) {
	s := &Source{open: open, now: time.Now}
	if logPath != "" && logPath != "-" {
		s.log, s.copied = server.NewLogReader(logPath), true
		return s, nil
	}
	v, err := open(ctx)
	if err != nil {
		return nil, err
	}
	st, err := v.Status(ctx)
	if err = errors.Join(err, v.Close()); err != nil {
		return nil, err
	}
	if st.Log != "" && st.Log != "-" {
		s.log = server.NewLogReader(st.Log)
	}
	return s, nil
}

// HasLog says whether there is a session log to read.
func (s *Source) HasLog() bool { return s.log != nil }

// Close gives the log back.
func (s *Source) Close() error {
	if s.log == nil {
		return nil
	}
	return s.log.Close()
}

// Load takes in all that there is. by says whether the past is wanted.
func (s *Source) Load(ctx context.Context, x *Index, by By) error {
	s.asOf = s.now().UnixMicro()
	if by == ByTime && s.log != nil {
		err := s.log.Read(x.Event)
		if err != nil && (s.copied || !errors.Is(err, fs.ErrNotExist)) {
			return err // handoffd's own log may not be there yet
		}
	}
	return s.table(ctx, x, by)
}

// Refresh takes in what has been added since. Without a log that is the table
// anew, for which the time between two readings is at least ten times what one
// takes, and a second.
func (s *Source) Refresh(ctx context.Context, x *Index, by By) error {
	now := s.now()
	if by == ByTime && s.log != nil {
		s.asOf = now.UnixMicro()
		err := s.log.Read(x.Event)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // being rotated
			return err
		}
		if x.end == forever {
			return nil
		}
		// handoffd did not run, and may do so again.
	}
	if now.Sub(s.tableAt) < max(time.Second, 10*s.cost) {
		return nil
	}
	s.asOf = now.UnixMicro()
	if by == ByTime && s.log != nil {
		if s.table(ctx, x, by) != nil {
			s.tableAt = now // it is starting, perhaps: x has been told already
		}
		return nil
	}
	x.endAll(s.asOf)
	return s.table(ctx, x, by)
}

// running notes when handoffd stopped, if it did: NAT64s use ports as they like
// from then on. Of a copy of a log nobody knows until when it goes.
func (s *Source) running(ctx context.Context, v server.View, x *Index) error {
	st, err := v.Status(ctx)
	if err != nil {
		return err
	}
	x.end = forever
	if !s.copied && !st.StoppedAt.IsZero() {
		x.end = st.StoppedAt.UnixMicro()
	}
	return nil
}

// table takes in what the table has.
func (s *Source) table(ctx context.Context, x *Index, by By) (err error) {
	begin := s.now()
	v, err := s.open(ctx)
	if s.copied && (errors.Is(err, server.ErrNoTable) || errors.Is(err, fs.ErrPermission)) {
		return nil // a log that was brought here without its handoffd, or for whom that is not
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	if by == ByTime {
		err = s.running(ctx, v, x)
	}
	if err != nil {
		return err
	}
	err = v.Entries(ctx, server.Filter{}, func(r *server.Row) error { x.Row(r); return nil })
	s.tableAt = s.now()
	s.cost = s.tableAt.Sub(begin)
	return err
}
