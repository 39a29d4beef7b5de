package conntrack

import (
	"net/netip"
	"testing"
)

// fixture is a table with a fixed secret, and what tests do to it over and
// over.
type fixture struct {
	*Table
	tb testing.TB
}

var testSecret = [32]byte{1, 2, 3}

const poolAddr = 0xc0000201 // 192.0.2.1

// defaults completes a test's configuration.
func defaults(c Config) Config {
	if c.Shards == 0 {
		c.Shards = 1
	}
	if c.Sessions == 0 {
		c.Sessions = 4096
	}
	if c.Pool4 == nil {
		c.Pool4 = []Pool4Range{{poolAddr, 1024, 65535}}
	}
	if c.Secret == nil {
		c.Secret = &testSecret
	}
	if c.Pool6 == nil {
		c.Pool6 = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("2001:db8:64::/96")}
	}
	return c
}

func newFixture(tb testing.TB, c Config) *fixture {
	tb.Helper()
	t, r, err := New(defaults(c))
	if err != nil {
		tb.Fatal(err)
	}
	if r.Problem != nil {
		tb.Fatal(r.Problem)
	}
	tb.Cleanup(func() {
		if err := t.Close(); err != nil {
			tb.Error(err)
		}
	})
	return &fixture{t, tb}
}

// flow is the key of a numbered flow: few server ports, many clients.
func flow(n int) Key64 {
	return Key64{
		Client: Addr6{0x20010db8_00000000, uint64(n>>4) + 1}, ClientPort: uint16(40000 + n&15),
		Server: 0xcb007100 + uint32(n&255), ServerPort: 443, Proto: UDP,
	}
}

func (f *fixture) ownerOf(k *Key64) *Shard { return f.Shard(f.Owner(k.Client, k.ClientPort)) }

// tryOpen creates a session as a worker does for a new flow from IPv6.
func (f *fixture) tryOpen(k Key64, st TCPState, now Tick) (Session, Verdict) {
	s := f.ownerOf(&k)
	m, v := s.Map(k.Client, k.ClientPort, k.Proto)
	if v != OK {
		return Session{}, v
	}
	se := Session{Key: k, Mapped: m.Addr, MappedPort: m.Port, Delta64: uint16(k.Client.Lo), Delta46: ^uint16(k.Client.Lo), State: st}
	return se, s.Insert(&se, now)
}

// open is tryOpen where nothing may be refused.
func (f *fixture) open(k Key64, st TCPState, now Tick) Session {
	f.tb.Helper()
	se, v := f.tryOpen(k, st, now)
	if v != OK {
		f.tb.Fatalf("open %+v: %v", k, v)
	}
	return se
}

func (f *fixture) get64(k Key64) (v View64, ok bool) {
	ok = f.Lookup64(&k, f.Hash64(&k), &v)
	return v, ok
}

func (f *fixture) get46(k Key46) (v View46, ok bool) {
	ok = f.Lookup46(&k, f.Hash46(&k), &v)
	return v, ok
}

// expireAll runs every shard's timers to the end.
func (f *fixture) expireAll(now Tick) (n int) {
	for i := range f.Shards() {
		for s := f.Shard(i); ; {
			got := s.Expire(now, 1<<20)
			n += got
			if got == 0 && len(s.Probes()) == 0 && !s.sweep.active {
				break
			}
		}
	}
	return n
}

func (f *fixture) check() {
	f.tb.Helper()
	if err := f.selfcheck(); err != nil {
		f.tb.Fatal(err)
	}
}
