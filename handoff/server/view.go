package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Row is an entry as the commands show it. A plain value.
// A client that has an address of the pool for itself has MappedPort and
// ClientPort 0; one that has a protocol without ports to itself has its number
// in both.
type Row struct {
	NAT64 netip.Addr `json:"nat64"`
	// Address is what local programs see: the NAT64's, or one of the pool.
	Address    netip.Addr   `json:"address"`
	MappedPort uint16       `json:"mapped_port"`
	Client     netip.Addr   `json:"client"`
	ClientPort uint16       `json:"client_port"`
	Server     netip.Addr   `json:"server"`
	Prefix     netip.Prefix `json:"prefix"`
	Created    time.Time    `json:"created"`
}

// Filter selects entries; its zero value selects all of them.
type Filter struct {
	NAT64      netip.Addr
	Address    netip.Addr
	MappedPort uint16 // also selects clients that have the whole address
}

// NAT64Status is one control channel.
type NAT64Status struct {
	NAT64   netip.Addr `json:"nat64"`
	Server  netip.Addr `json:"server"`
	Port    uint16     `json:"port"`
	Entries int        `json:"entries"`
}

// Status is what `handoffd status` shows. Counters are zero without a running
// server. A plain value.
type Status struct {
	Ready bool `json:"ready"`
	// StoppedAt is when the table was last written, if no server has it.
	StoppedAt time.Time `json:"stopped_at,omitzero"`

	Version string `json:"version,omitempty"`
	UptimeS int64  `json:"uptime_s"`
	Mode    string `json:"mode"`
	Listen  string `json:"listen,omitempty"`
	Log     string `json:"log"`
	// LookupSocket and HTTP are where programs may ask who their clients are.
	LookupSocket string `json:"lookup_socket,omitempty"`
	HTTP         string `json:"http,omitempty"`
	Entries      int    `json:"entries"` // and leases
	Leases       int    `json:"leases"`
	// NAT64s counts the addresses, Channels lists them with our own that each
	// asked.
	NAT64s   int           `json:"nat64s"`
	Channels []NAT64Status `json:"channels"`
	Counters Counters      `json:"counters"`
}

// Counters is counted since the server started. Received datagrams are accepted
// or refused, under one name each.
type Counters struct {
	Received       uint64            `json:"received"`
	ReceivedOctets uint64            `json:"received_octets"`
	Sent           uint64            `json:"sent"`
	SentOctets     uint64            `json:"sent_octets"`
	SendErrors     uint64            `json:"send_errors"`
	Accepted       map[string]uint64 `json:"accepted"`
	Refused        map[string]uint64 `json:"refused"`
	EntriesRefused uint64            `json:"entries_refused"`
	PacketsRefused uint64            `json:"packets_refused"`
	Authenticated  uint64            `json:"authenticated"`
	Rotations      uint64            `json:"rotations"`
	Created        uint64            `json:"created"`
	Deleted        uint64            `json:"deleted"`
	Transactions   uint64            `json:"transactions"`
	// Local is about what the server translates itself.
	Local LocalCounters `json:"local"`
}

// View looks into a server's table, be it running or not. Used by one goroutine.
type View interface {
	Status(ctx context.Context) (Status, error)
	// Entries calls each for every entry that the filter selects, those of a
	// NAT64 in the order of their mapped ports.
	Entries(ctx context.Context, f Filter, each func(*Row) error) error
	Close() error
}

// ErrNoTable: there is neither a server nor a table.
var ErrNoTable = errors.New("no handoffd runs and none has left a table")

// OpenView asks the running server, or else reads what the last one left.
func OpenView(ctx context.Context, stateDir string) (View, error) {
	c, err := dialControl(ctx, stateDir)
	if err == nil {
		return c, nil
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, err
	}
	s, err := openStore(filepath.Join(stateDir, tableName), true)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("state folder %s: %w", stateDir, ErrNoTable)
	}
	if err != nil {
		return nil, err
	}
	v := &stored{store: s, table: newTable(maxMapped, 0, nil, nil)}
	if err := s.load(v.table); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return v, nil
}

// stored is the View of a table that no server has open.
type stored struct {
	store *store
	table *table
}

func (v *stored) Close() error { return v.store.close() }

func (v *stored) Status(context.Context) (Status, error) {
	path, err := v.store.meta(metaLog)
	if err != nil {
		return Status{}, err
	}
	info, err := os.Stat(v.store.db.Path())
	if err != nil {
		return Status{}, fmt.Errorf("look at the table: %w", err)
	}
	st := Status{Mode: "minimal", Log: string(path), StoppedAt: info.ModTime().UTC()}
	v.table.describe(&st)
	(&counters{}).describe(&st.Counters)
	return st, nil
}

func (v *stored) Entries(_ context.Context, f Filter, each func(*Row) error) error {
	for _, k := range v.table.keys(f) {
		for _, r := range v.table.rows(k, f, nil) {
			if err := each(&r); err != nil {
				return err
			}
		}
	}
	return nil
}

// describe fills in what the table knows.
func (t *table) describe(st *Status) {
	st.Entries, st.Leases = t.count, len(t.pool.byAddress)
	addrs := map[addr4]bool{}
	st.Channels = []NAT64Status{}
	for _, k := range t.keys(Filter{}) {
		c := t.channels[k]
		addrs[k.nat64] = true
		st.Channels = append(st.Channels, NAT64Status{
			NAT64: netip4(k.nat64), Server: netip4(k.own), Port: c.port, Entries: c.count(),
		})
	}
	st.NAT64s = len(addrs)
}

// keys lists the channels that a filter selects, in order.
func (t *table) keys(f Filter) []channelKey {
	var out []channelKey
	for k := range maps.Keys(t.channels) {
		if (!f.NAT64.IsValid() || netip4(k.nat64) == f.NAT64) && t.mayHave(k, f.Address) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, func(a, b channelKey) int {
		if c := netip4(a.nat64).Compare(netip4(b.nat64)); c != 0 {
			return c
		}
		return netip4(a.own).Compare(netip4(b.own))
	})
	return out
}

// mayHave says whether a channel has anything under an address.
func (t *table) mayHave(k channelKey, a netip.Addr) bool {
	if !a.IsValid() || netip4(k.nat64) == a {
		return true
	}
	l := t.pool.lessee(a)
	return l != nil && l.channel.key == k
}

// rows appends a channel's entries and leases that a filter selects.
func (t *table) rows(k channelKey, f Filter, dst []Row) []Row {
	c := t.channels[k]
	if c == nil {
		return dst
	}
	dst = c.leaseRows(f, dst)
	if f.Address.IsValid() && f.Address != netip4(k.nat64) {
		return dst
	}
	if f.MappedPort != 0 {
		return c.row(f.MappedPort, dst)
	}
	for p := firstPort; p <= 0xffff; p++ {
		dst = c.row(uint16(p), dst)
	}
	return dst
}

// row appends the entry of a mapped port, if it has one.
func (c *channel) row(port uint16, dst []Row) []Row {
	i := c.findMapped(port)
	if i == 0 {
		return dst
	}
	e := &c.entries[i]
	return append(dst, Row{
		NAT64: netip4(c.key.nat64), Address: netip4(c.key.nat64), MappedPort: e.mapped, Client: netip6(c.clients[e.client].addr), ClientPort: e.clientPort,
		Server: netip4(c.key.own), Created: time.UnixMicro(e.created).UTC(),
		Prefix: netip.PrefixFrom(netip6(embed(c.prefixes[e.prefix], addr4{})), 96),
	})
}

// describe reads the counters.
func (c *counters) describe(out *Counters) {
	*out = Counters{
		Received: c.received.Load(), ReceivedOctets: c.receivedOctets.Load(),
		Sent: c.sent.Load(), SentOctets: c.sentOctets.Load(), SendErrors: c.sendErrors.Load(),
		EntriesRefused: c.entriesRefused.Load(), PacketsRefused: c.packetsRefused.Load(), Authenticated: c.authenticated.Load(), Rotations: c.rotations.Load(),
		Created: c.created.Load(), Deleted: c.deleted.Load(), Transactions: c.commits.Load(),
		Local:    c.local.describe(),
		Accepted: map[string]uint64{}, Refused: map[string]uint64{},
	}
	for o := notified; int(o) < numOutcomes; o++ {
		n := c.payloads[o].Load()
		switch {
		case o == firstWire: // wire.OK is no outcome
		case o.refused():
			out.Refused[o.String()] = n
		default:
			out.Accepted[o.String()] = n
		}
	}
}
