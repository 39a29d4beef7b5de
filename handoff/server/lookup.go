package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	api "handoff64/handoff/client"
)

// errWhat: the question is none.
var errWhat = errors.New("not an IPv4 address and a port")

// checkQuery refuses what no local program can have as its peer.
func checkQuery(q api.Query) error {
	if !q.Address.Addr().Is4() {
		return fmt.Errorf("%v: %w", q.Address, errWhat)
	}
	return nil
}

// waitStep is how long a look-up that may wait sleeps between two looks.
const waitStep = 5 * time.Millisecond

// maxWait bounds what others may have us wait for.
const maxWait = 10 * time.Second

// lookup answers from the running server's table and log.
func (s *Server) lookup(ctx context.Context, q api.Query) (a api.Answer, err error) {
	if q.At.IsZero() {
		end := time.Now().Add(min(q.Wait, maxWait))
		for {
			a, err = s.answerNow(ctx, q)
			if err != nil || !a.NAT64 || len(a.Clients) > 0 || !time.Now().Before(end) {
				return a, err
			}
			select {
			case <-ctx.Done():
				return a, nil
			case <-time.After(waitStep):
			}
		}
	}
	// The log may be long, so one at a time reads it.
	select {
	case s.reading <- struct{}{}:
	case <-ctx.Done():
		return a, ctx.Err()
	}
	defer func() { <-s.reading }()
	found, err := LookupAt(ctx, ownView{s: s}, q.Address, q.At)
	return s.say(q, found), err
}

func (s *Server) answerNow(ctx context.Context, q api.Query) (api.Answer, error) {
	found, err := Lookup(ctx, ownView{s: s}, q.Address)
	return s.say(q, found), err
}

// say is what was found, as programs see it.
func (s *Server) say(q api.Query, found []Holder) api.Answer {
	a := Answer(q, found)
	a.NAT64 = s.knows(a.Address)
	return a
}

// Answer is what Lookup or LookupAt found, as programs see it; NAT64 is left
// false.
func Answer(q api.Query, found []Holder) api.Answer {
	a := api.Answer{Address: q.Address.Addr(), Port: q.Address.Port(), At: q.At, Clients: make([]api.Holder, len(found))}
	for i, h := range found {
		a.Clients[i] = api.Holder{Client: h.Client, ClientPort: h.ClientPort, Server: h.Server}
	}
	return a
}

// knows says whether an address is one of a NAT64.
func (s *Server) knows(nat64 netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.table.keys(Filter{NAT64: nat64})) > 0
}

// entries calls each for the entries that the filter selects. It holds the
// table's lock for one NAT64 at a time.
func (s *Server) entries(f Filter, each func(*Row) error) error {
	s.mu.Lock()
	keys := s.table.keys(f)
	s.mu.Unlock()
	var rows []Row
	for _, k := range keys {
		s.mu.Lock()
		rows = s.table.rows(k, f, rows[:0])
		s.mu.Unlock()
		for i := range rows {
			if err := each(&rows[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// ownView is what the functions for look-ups need of a View, within the server.
type ownView struct {
	View
	s *Server
}

// Status says where the log is, and nothing else.
func (v ownView) Status(context.Context) (Status, error) {
	return Status{Log: v.s.commit.log.path}, nil
}

func (v ownView) Entries(_ context.Context, f Filter, each func(*Row) error) error {
	return v.s.entries(f, each)
}
