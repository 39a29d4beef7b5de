package wire

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

const natPort = 64064

func TestValidationKey(t *testing.T) {
	v := NewValidationKey()
	var mac [ValidationMACLen]byte
	v.MAC(start, goldenToken, nat7, natPort, &mac)
	check := func(token []byte, address [4]byte, port uint16, mac []byte) bool {
		return v.Check(start, token, address, port, mac)
	}
	if !check(goldenToken, nat7, natPort, mac[:]) {
		t.Fatal("the MAC is refused")
	}
	longer := append(bytes.Clone(goldenToken), 0, 0)
	for name, accepted := range map[string]bool{
		"another token":   check(goldenRotation, nat7, natPort, mac[:]),
		"a longer token":  check(longer, nat7, natPort, mac[:]),
		"no token":        check(nil, nat7, natPort, mac[:]),
		"another address": check(goldenToken, server9, natPort, mac[:]),
		"another port":    check(goldenToken, nat7, natPort+1, mac[:]),
		"a shorter MAC":   check(goldenToken, nat7, natPort, mac[:15]),
		"no MAC":          check(goldenToken, nat7, natPort, nil),
		"zeros":           check(goldenToken, nat7, natPort, make([]byte, 16)),
		"another key":     NewValidationKey().Check(start, goldenToken, nat7, natPort, mac[:]),
	} {
		if accepted {
			t.Errorf("%s: accepted", name)
		}
	}
	for bit := range len(mac) * 8 {
		bad := mac
		bad[bit/8] ^= 1 << (bit % 8)
		if check(goldenToken, nat7, natPort, bad[:]) {
			t.Errorf("bit %d changed: accepted", bit)
		}
	}
	// Tokens of any length are MACed (draft §4).
	for _, token := range [][]byte{nil, make([]byte, MaxData)} {
		v.MAC(start, token, nat7, natPort, &mac)
		if !check(token, nat7, natPort, mac[:]) {
			t.Errorf("token of %d octets: refused", len(token))
		}
	}
}

// TestValidationKeyRotation: use within 30 s keeps the key; 30 s of rest let the
// next use replace it; the one before is good for 30 s more.
func TestValidationKeyRotation(t *testing.T) {
	v := NewValidationKey()
	mac := func(now time.Time) (m [ValidationMACLen]byte) {
		v.MAC(now, goldenToken, nat7, natPort, &m)
		return m
	}
	good := func(now time.Time, m [ValidationMACLen]byte) bool {
		return v.Check(now, goldenToken, nat7, natPort, m[:])
	}
	now := start
	first := mac(now)
	for range 10 {
		now = now.Add(validationRest - 1)
		if mac(now) != first {
			t.Fatal("replaced although in use")
		}
	}
	if mac(now.Add(-time.Hour)) != first || mac(now.Add(validationRest-1)) != first {
		t.Error("a clock that went back replaced the key, or made its use forgotten")
	}
	now = now.Add(validationRest - 1)
	if late := now.Add(time.Hour); !good(late, first) {
		t.Error("refused although no key replaced it")
	}
	now = now.Add(validationRest)
	second := mac(now)
	if second == first {
		t.Fatal("not replaced after 30 s without use")
	}
	if !good(now, second) || !good(now.Add(validationRest-1), first) {
		t.Error("the key before is refused within 30 s")
	}
	if good(now.Add(validationRest), first) {
		t.Error("the key before is accepted after 30 s")
	}
}

func TestValidationKeyConcurrently(t *testing.T) {
	v := NewValidationKey()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			now := start
			var mac [ValidationMACLen]byte
			for range 1000 {
				v.MAC(now, goldenToken, nat7, uint16(i), &mac)
				if !v.Check(now, goldenToken, nat7, uint16(i), mac[:]) {
					t.Error("refused")
					return
				}
			}
		})
	}
	wg.Wait()
}

// returned is the golden validation packet as it comes back in a payload.
func returned(t testing.TB) []byte {
	var p Payload
	if s := Decode(load(t, "validation-returned"), &p); s != OK {
		t.Fatal(s)
	}
	return bytes.Clone(p.Packet)
}

func TestValidationMAC(t *testing.T) {
	if mac, ok := ValidationMAC(returned(t)); !ok || !bytes.Equal(mac, goldenMAC[:]) {
		t.Errorf("MAC %x, %v", mac, ok)
	}
	// With options in the IPv4 header, and with UDP padding behind the length.
	p := returned(t)
	options := append(append(bytes.Clone(p[:20]), 1, 1, 1, 0), p[20:]...)
	options[0], options[3] = 0x46, options[3]+4
	if mac, ok := ValidationMAC(options); !ok || !bytes.Equal(mac, goldenMAC[:]) {
		t.Errorf("with IPv4 options: MAC %x, %v", mac, ok)
	}
	token := append(bytes.Clone(p[:28]), load(t, "validation-token")...)
	if mac, ok := ValidationMAC(token); !ok || !bytes.Equal(mac, goldenMAC[:]) {
		t.Errorf("with a token: MAC %x, %v", mac, ok)
	}
}

// TestValidationMACRefuses: what is not the packet that AppendValidation makes.
func TestValidationMACRefuses(t *testing.T) {
	edit := func(at int, with ...byte) []byte {
		p := returned(t)
		copy(p[at:], with)
		return p
	}
	const udp, inner = 20, 20 + 8 + 20
	for name, p := range map[string][]byte{
		"nothing":               nil,
		"cut":                   returned(t)[:103],
		"IPv6":                  load(t, "message-ipv6"),
		"TCP":                   edit(9, 6),
		"first fragment":        edit(6, 0x20, 0),
		"last fragment":         edit(6, 0, 1),
		"to another port":       edit(udp+2, 0, 10),
		"UDP length 0":          edit(udp+4, 0, 0),
		"UDP length 7":          edit(udp+4, 0, 7),
		"UDP length too long":   edit(udp+4, 0, 85),
		"UDP payload cut":       edit(udp+4, 0, 83),
		"unknown format":        edit(udp+8, 0x50),
		"with a next header":    edit(inner+6, 17),
		"shorter IPv6 payload":  append(edit(inner+4, 0, 14)[:102:102], 0, 0),
		"IPv4 packet, not IPv6": edit(inner, load(t, "message-ipv4")...),
		"header only":           {0x45, 0, 0, 20, 0, 0, 0, 0, 1, 17, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8},
	} {
		if mac, ok := ValidationMAC(p); ok {
			t.Errorf("%s: MAC %x", name, mac)
		}
	}
}
