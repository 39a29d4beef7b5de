package main

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"handoff64/cmd/nat64d/config"
	"handoff64/conntrack"
)

// mapping is a static mapping of the file.
func mapping(proto, client, mapped string) config.StaticBIB {
	return config.StaticBIB{Protocol: proto, Client: netip.MustParseAddrPort(client), Mapped: netip.MustParseAddrPort(mapped)}
}

// tables is a translator that has only its tables, and somebody who does the
// workers' part of removals.
func tables(t *testing.T, statics ...config.StaticBIB) *translator {
	t.Helper()
	table, _, err := conntrack.New(conntrack.Config{
		Shards: 1, Sessions: 1 << 10, Pool4: []conntrack.Pool4Range{{Addr: 0xc0000201, First: 1024, Last: 65535}},
		Static: staticsFrom(&config.Config{StaticBIB: statics}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for now := conntrack.Tick(1); ctx.Err() == nil; now++ {
			table.Shard(0).Expire(now, 64)
			time.Sleep(100 * time.Microsecond)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return &translator{table: table}
}

// sorted makes lists of mappings comparable.
func sorted(list []conntrack.Static) (out []string) {
	for _, s := range list {
		out = append(out, s.String())
	}
	slices.Sort(out)
	return out
}

func TestReloadOfStaticMappings(t *testing.T) {
	a := mapping("tcp", "[2001:db8::1]:80", "192.0.2.1:8080")
	b := mapping("udp", "[2001:db8::2]:53", "192.0.2.1:5353")
	aMoved := mapping("tcp", "[2001:db8::1]:80", "192.0.2.1:9090")
	aTaken := mapping("tcp", "[2001:db8::9]:80", "192.0.2.1:8080")
	byHand := mapping("icmp", "[2001:db8::3]:1", "192.0.2.1:2")
	clash := mapping("icmp", "[2001:db8::4]:1", "192.0.2.1:2")
	of := func(list ...config.StaticBIB) *config.Config { return &config.Config{StaticBIB: list} }
	for name, tc := range map[string]struct {
		before, after *config.Config
		removed       *config.StaticBIB // by hand, between the two
		want          *config.Config    // beside byHand
		fails         bool
	}{
		"nothing":                   {of(a, b), of(a, b), nil, of(a, b), false},
		"one goes":                  {of(a, b), of(b), nil, of(b), false},
		"one comes":                 {of(a), of(a, b), nil, of(a, b), false},
		"all go":                    {of(a, b), of(), nil, of(), false},
		"a client moves":            {of(a, b), of(aMoved, b), nil, of(aMoved, b), false},
		"a port is another's":       {of(a, b), of(b, aTaken), nil, of(b, aTaken), false},
		"by hand and by file":       {of(a), of(a, byHand), nil, of(a), false},
		"by hand, then gone":        {of(a, byHand), of(a), nil, of(a), false},
		"the file restores":         {of(a, b), of(a, b), &b, of(a, b), false},
		"clash with bib add":        {of(a), of(b, clash), nil, of(a), true},
		"clash, and a client moves": {of(a), of(aMoved, clash), nil, of(a), true},
	} {
		t.Run(name, func(t *testing.T) {
			tr := tables(t, tc.before.StaticBIB...)
			hand := staticsFrom(of(byHand))[0]
			if err := tr.table.AddStatic(hand); err != nil && name != "by hand, then gone" {
				t.Fatal(err)
			}
			if tc.removed != nil {
				s := staticsFrom(of(*tc.removed))[0]
				if err := tr.table.RemoveStatic(s.Proto, s.Mapped, s.MappedPort); err != nil {
					t.Fatal(err)
				}
			}
			_, err := changeOfStatics(tc.before, tc.after, tr.table.Statics()).apply(tr)
			if (err != nil) != tc.fails || err != nil && !errors.Is(err, conntrack.ErrConflict) {
				t.Fatalf("error %v", err)
			}
			want := append(staticsFrom(tc.want), hand)
			if name == "by hand, then gone" {
				want = staticsFrom(tc.want) // it stood in the file, whoever made it
			}
			if got, want := sorted(tr.table.Statics()), sorted(want); !slices.Equal(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

func TestUndoOfStaticMappings(t *testing.T) {
	tr := tables(t)
	a := mapping("udp", "[2001:db8::1]:80", "192.0.2.1:8080")
	before, after := &config.Config{}, &config.Config{StaticBIB: []config.StaticBIB{a}}
	undo, err := changeOfStatics(before, after, nil).apply(tr)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if got := tr.table.Statics(); len(got) != 0 {
		t.Errorf("after undoing: %v", got)
	}
}
