package wire

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
)

const (
	keyLen = 32
	// macLen is what is kept of the 32 octets that HMAC-SHA-256 has: 16 octets
	// are the least that the draft asks for (§4).
	macLen = 16
	// MACLen is the length of our tokens and authenticators: the key's epoch,
	// then the MAC. The epoch lets a check compute one MAC whatever the key's age.
	MACLen = 2 + macLen

	blockLen = sha256.BlockSize
)

// macKey is a key for HMAC-SHA-256 (RFC 2104) with its two padded blocks
// computed once. Never changed after newMACKey, so safe for concurrent use.
//
// crypto/hmac is not used because its state is allocated for each message;
// hashing two short arrays on the stack is HMAC by its definition.
type macKey struct {
	secret       [keyLen]byte
	inner, outer [blockLen]byte
}

func newMACKey(secret [keyLen]byte) macKey {
	k := macKey{secret: secret}
	for i := range k.inner {
		k.inner[i], k.outer[i] = 0x36, 0x5c
	}
	subtle.XORBytes(k.inner[:keyLen], k.inner[:keyLen], secret[:])
	subtle.XORBytes(k.outer[:keyLen], k.outer[:keyLen], secret[:])
	return k
}

// randomMACKey draws a key. The system's random source does not fail: where
// there is none, crypto/rand ends the program.
func randomMACKey() macKey {
	var secret [keyLen]byte
	rand.Read(secret[:])
	return newMACKey(secret)
}

// maxMACText is the longest text that is authenticated: an address, a port and
// the longest token, for the server's validation.
const maxMACText = 1 + 4 + 2 + MaxData

// sum is the truncated HMAC of the domain octet, a and b. The domain keeps the
// MACs of two purposes apart even if the keys were the same; every caller's a
// has one length, so that (a, b) cannot be split another way.
func (k *macKey) sum(domain uint8, a, b []byte, mac *[macLen]byte) {
	var text [blockLen + maxMACText]byte
	copy(text[:], k.inner[:])
	text[blockLen] = domain
	n := blockLen + 1
	n += copy(text[n:], a)
	n += copy(text[n:], b)
	hash := sha256.Sum256(text[:n])

	var last [blockLen + sha256.Size]byte
	copy(last[:], k.outer[:])
	copy(last[blockLen:], hash[:])
	hash = sha256.Sum256(last[:])
	copy(mac[:], hash[:])
}
