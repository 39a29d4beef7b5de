package traffic

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestEveryFlowOnce: numbers and combinations of addresses and ports are one to
// one.
func TestEveryFlowOnce(t *testing.T) {
	f := Flows{
		Src: netip.MustParsePrefix("2001:db8::ff:0/126"), Dst: netip.MustParsePrefix("64:ff9b::/125"),
		SrcPorts: Ports{65530, 65535}, DstPorts: Ports{1, 5},
	}
	if err := f.Validate(); err != nil {
		t.Fatal(err)
	}
	p := NewProduct(f)
	if want := uint64(4 * 8 * 6 * 5); p.Len() != want || f.Len() != want {
		t.Fatalf("%d flows, want %d", p.Len(), want)
	}
	seen := map[Tuple]bool{}
	for i := range p.Len() {
		u := p.Tuple(i)
		src := netip.AddrFrom16(u.Reverse(UDP).Destination(true).As16())
		if seen[u] || !f.Src.Contains(src) || !f.Dst.Contains(u.Destination(true)) || u.SrcPort < 65530 || u.DstPort < 1 || u.DstPort > 5 {
			t.Fatalf("flow %d is %+v", i, u)
		}
		seen[u] = true
	}
}

// TestFirstFlows: source ports come first, so that a thousand flows are those
// of one client.
func TestFirstFlows(t *testing.T) {
	p := NewProduct(testFlows(UDP, false))
	for i, want := range map[uint64]Tuple{
		0:    {SrcLo: 0xc0000210, DstLo: 0xc6336407, SrcPort: 40000, DstPort: 9},
		99:   {SrcLo: 0xc0000210, DstLo: 0xc6336407, SrcPort: 40099, DstPort: 9},
		100:  {SrcLo: 0xc0000211, DstLo: 0xc6336407, SrcPort: 40000, DstPort: 9},
		1600: {SrcLo: 0xc0000210, DstLo: 0xc6336407, SrcPort: 40000, DstPort: 10},
	} {
		if got := p.Tuple(i); got != want {
			t.Errorf("flow %d is %+v, want %+v", i, got, want)
		}
	}
	if p := NewProduct(testFlows(Echo, false)); p.Len() != 1600 || p.Tuple(5).SrcPort != 40005 || p.Tuple(5).DstPort != 0 {
		t.Errorf("%d echoes, the sixth %+v", p.Len(), p.Tuple(5))
	}
}

func TestReverse(t *testing.T) {
	a := Tuple{1, 2, 3, 4, 5, 6}
	if got := a.Reverse(UDP); got != (Tuple{3, 4, 1, 2, 6, 5}) || got.Reverse(UDP) != a {
		t.Errorf("%+v", got)
	}
	if got := (Tuple{1, 2, 3, 4, 5, 0}).Reverse(Echo); got != (Tuple{3, 4, 1, 2, 5, 0}) {
		t.Errorf("the answer to an echo: %+v", got)
	}
}

func TestFlowsRefused(t *testing.T) {
	good := testFlows(UDP, true)
	for want, change := range map[string]func(*Flows){
		"a source and":       func(f *Flows) { f.Src = netip.Prefix{} },
		"different families": func(f *Flows) { f.Src = netip.MustParsePrefix("192.0.2.0/24") },
		"ends before":        func(f *Flows) { f.SrcPorts = Ports{2, 1} },
		"more than 2^40":     func(f *Flows) { f.Src, f.SrcPorts = netip.MustParsePrefix("2001:db8::/64"), Ports{0, 65535} },
		"has 3200":           func(f *Flows) { f.Count = 3201 },
	} {
		f := good
		change(&f)
		if err := f.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	many := good
	many.Src, many.Count = netip.MustParsePrefix("2001:db8::/64"), 1_000_000
	if err := many.Validate(); err != nil || many.Len() != 1_000_000 {
		t.Errorf("a million flows of a large prefix: %v, %d", err, many.Len())
	}
}

func TestPortsText(t *testing.T) {
	for text, want := range map[string]Ports{"53": {53, 53}, "1024-65535": {1024, 65535}, "0-0": {0, 0}} {
		if got, err := ParsePorts(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-", "1-", "2-1", "65536", "a", "1-2-3"} {
		if got, err := ParsePorts(text); err == nil {
			t.Errorf("%q is taken as %v", text, got)
		}
	}
}

func TestIMIX(t *testing.T) {
	for text, want := range map[string]Sizes{
		"aag":           {60, 60, 1514},
		"abcdefg":       {60, 124, 252, 508, 1020, 1276, 1514},
		"2x80,1x1514":   {80, 1514, 80},
		"1x100":         {100},
		"simple":        {60, 590, 60, 60, 590, 60, 1514, 60, 590, 60, 590, 60},
		"3x80,2x590,1x": nil, "h": nil, "": nil, "257x80": nil, "0x80": nil, "200x80,100x90": nil,
	} {
		got, err := ParseIMIX(text)
		if (err != nil) != (want == nil) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if text == "simple" {
			continue // the order is no promise
		}
		if want != nil && !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	s, err := ParseIMIX("simple")
	if err != nil {
		t.Fatal(err)
	}
	count := map[int]int{}
	for _, octets := range s.AtLeast(80) {
		count[octets]++
	}
	if len(s) != 12 || count[80] != 7 || count[590] != 4 || count[1514] != 1 {
		t.Errorf("7:4:1 is %v", count)
	}
	if m := s.Plus(4).Mean(); m < 361 || m > 362 { // (7*64+4*594+1518)/12
		t.Errorf("a mean of %v octets", m)
	}
}
