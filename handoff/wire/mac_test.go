package wire

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// countingKey is the key of the vectors: 32 octets that count up from first.
func countingKey(first byte) (k [keyLen]byte) {
	for i := range k {
		k[i] = first + byte(i)
	}
	return k
}

var (
	server9 = [4]byte{198, 51, 100, 9}
	nat7    = [4]byte{192, 0, 2, 7}
)

// TestMACVectors compares with what openssl computes:
//
//	printf '\x04\xc6\x33\x64\x09' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0001…1f
//	printf '\x06\xc6\x33\x64\x09\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x17' | openssl … hexkey:2021…3f
//	printf '\x00\xc0\x00\x02\x07\xfa\x40\x00\x2a\xa0\xa1' | openssl … hexkey:0001…1f
func TestMACVectors(t *testing.T) {
	from := append(nat7[:], 0xfa, 0x40)
	for _, row := range []struct {
		name   string
		first  byte
		domain uint8
		a, b   []byte
		want   string
	}{
		{"token", 0x00, TypeToken, server9[:], nil, "36dff60ec3a08974ca549c8d3ecd19a6"},
		{"token, another key", 0x20, TypeToken, server9[:], nil, "4bf629428773e6cc04cb5481dc180568"},
		{"authenticator", 0x20, TypeAuthenticator, server9[:], client17[:], "d4603a6762b841f585947755b75c59f8"},
		{"validation", 0x00, validationDomain, from, []byte{0, 42, 0xa0, 0xa1}, "53940a6857bb863da9660ce086c6ade1"},
	} {
		k := newMACKey(countingKey(row.first))
		var mac [macLen]byte
		k.sum(row.domain, row.a, row.b, &mac)
		if got := hex.EncodeToString(mac[:]); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
}

// TestMACAgainstHMAC compares with the standard library at every length.
func TestMACAgainstHMAC(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	var secret [keyLen]byte
	text := make([]byte, 1+4+2+MaxData)
	for n := range len(text) - 7 + 1 {
		r.Read(secret[:])
		r.Read(text)
		h := hmac.New(sha256.New, secret[:])
		h.Write(text[:7+n])
		k := newMACKey(secret)
		var mac [macLen]byte
		k.sum(text[0], text[1:7], text[7:7+n], &mac)
		if !bytes.Equal(mac[:], h.Sum(nil)[:macLen]) {
			t.Fatalf("%d octets: not HMAC-SHA-256", 7+n)
		}
	}
}

// TestRandomKeys: two keys are never the same, and none is zeros.
func TestRandomKeys(t *testing.T) {
	seen := map[[keyLen]byte]bool{{}: true}
	for range 100 {
		k := randomMACKey()
		if seen[k.secret] {
			t.Fatalf("key %x came twice", k.secret)
		}
		seen[k.secret] = true
	}
}
