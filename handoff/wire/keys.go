package wire

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"
)

// AuthenticatorPeriod is how long an authenticator key is in use. The draft has
// no rotation message for authenticators, and a server may need one after months
// of silence: eight keys make it nearly two years.
const AuthenticatorPeriod = 90 * 24 * time.Hour

// keysKept is how many keys of a ring are accepted: the one in use and those
// before it.
const keysKept = 8

// keyRing is the last keys of one purpose. A plain value: a rotation changes a
// copy of it.
type keyRing struct {
	// rotated is when the current key came into use, wall clock.
	rotated time.Time
	epoch   uint16 // of the current key; wraps around
	n       uint16 // keys there are, 1 to keysKept; their epochs end with epoch
	keys    [keysKept]macKey
}

// at returns the key of an epoch, nil when it is too old or never was.
func (r *keyRing) at(epoch uint16) *macKey {
	if r.epoch-epoch >= r.n { // in 16 bits, so that it holds across the wrap
		return nil
	}
	return &r.keys[epoch%keysKept]
}

// due says whether advance would change the ring.
func (r *keyRing) due(now time.Time, period time.Duration) bool {
	return now.Before(r.rotated) || now.Sub(r.rotated) >= period
}

// advance takes a new key into use when the current one has had its period. A
// long pause makes one rotation, not many, so that the key that was last in use
// is the most recently expired one. A rotation in the future means that the
// clock was wrong; then the period begins anew instead of lasting for years.
func (r *keyRing) advance(now time.Time, period time.Duration) {
	switch {
	case !r.due(now, period):
		return
	case !now.Before(r.rotated):
		r.push(randomMACKey())
	}
	r.rotated = now
}

func (r *keyRing) push(k macKey) {
	if r.n > 0 {
		r.epoch++
	}
	r.keys[r.epoch%keysKept] = k
	r.n = min(r.n+1, keysKept)
}

// compute writes the epoch and the MAC of (domain, server, rest).
func (r *keyRing) compute(epoch uint16, domain uint8, server [4]byte, rest []byte, dst *[MACLen]byte) {
	var mac [macLen]byte
	r.at(epoch).sum(domain, server[:], rest, &mac)
	binary.BigEndian.PutUint16(dst[:], epoch)
	copy(dst[2:], mac[:])
}

// check computes one MAC, with the key whose epoch stands in data. How long it
// takes depends on the epoch, which is no secret, and not on the MAC.
func (r *keyRing) check(domain uint8, server [4]byte, rest, data []byte) bool {
	if len(data) != MACLen {
		return false
	}
	key := r.at(binary.BigEndian.Uint16(data))
	if key == nil {
		return false
	}
	var mac [macLen]byte
	key.sum(domain, server[:], rest, &mac)
	return subtle.ConstantTimeCompare(mac[:], data[2:]) == 1
}

// keySet is both rings; what the key file holds. Read only once it is shared.
type keySet struct{ token, authenticator keyRing }

// Keys makes and checks the tokens and authenticators of a NAT64, with keys from
// a file that one process uses at a time. All methods but Rotate are safe for
// concurrent use, and safe beside it; Rotate is called by one goroutine. LoadKeys
// makes one; the zero value is of no use.
type Keys struct {
	path                string
	tokenPeriod, period time.Duration // period is that of authenticators
	set                 atomic.Pointer[keySet]
	retry               time.Time // Rotate's own: no new attempt to write before
}

// LoadKeys reads the key file, or makes one with new keys when there is none,
// and rotates what is due. Keys rotate after tokenPeriod and authenticatorPeriod
// (AuthenticatorPeriod, but for tests); the file keeps the time of the last
// rotation, so that restarts do not put off the next. A file that others can
// read, or that is damaged, is an error: it is never overwritten.
func LoadKeys(path string, now time.Time, tokenPeriod, authenticatorPeriod time.Duration) (*Keys, error) {
	if tokenPeriod <= 0 || authenticatorPeriod <= 0 {
		return nil, fmt.Errorf("key file %s: rotation periods of %v and %v: must be longer than nothing", path, tokenPeriod, authenticatorPeriod)
	}
	k := &Keys{path: path, tokenPeriod: tokenPeriod, period: authenticatorPeriod}
	set, err := readKeyFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		set = newKeySet(wallClock(now))
		if err := writeKeyFile(path, set); err != nil {
			return nil, fmt.Errorf("creating %w", err)
		}
	case err != nil:
		return nil, err
	}
	k.set.Store(set)
	if _, err := k.Rotate(now); err != nil {
		return nil, err
	}
	return k, nil
}

func newKeySet(now time.Time) *keySet {
	set := &keySet{token: keyRing{rotated: now}, authenticator: keyRing{rotated: now}}
	set.token.push(randomMACKey())
	set.authenticator.push(randomMACKey())
	return set
}

// wallClock drops the monotonic reading, which means nothing in the next
// process, and the time zone.
func wallClock(t time.Time) time.Time { return t.UTC().Round(0) }

// retryAfter is how long Rotate leaves a file alone that it could not write.
const retryAfter = time.Minute

// Rotate takes new keys into use when the current ones have had their period,
// and says whether it did. It is to be called about once a second; mostly it
// only looks at the clock. A new key is on the disk, and the name of its file
// too, before the first token is made with it: what was handed out is still
// valid after a crash at any moment. When the file cannot be written the old
// keys stay in use and the error is returned, once per attempt, one a minute.
func (k *Keys) Rotate(now time.Time) (rotated bool, err error) {
	now = wallClock(now)
	old := k.set.Load()
	if !old.token.due(now, k.tokenPeriod) && !old.authenticator.due(now, k.period) {
		return false, nil
	}
	if wait := k.retry.Sub(now); wait > 0 && wait <= retryAfter {
		return false, nil
	}
	set := *old
	set.token.advance(now, k.tokenPeriod)
	set.authenticator.advance(now, k.period)
	if err := writeKeyFile(k.path, &set); err != nil {
		k.retry = now.Add(retryAfter)
		return false, fmt.Errorf("rotating keys, the old ones stay in use: %w", err)
	}
	k.retry = time.Time{}
	k.set.Store(&set)
	return set.token.epoch != old.token.epoch || set.authenticator.epoch != old.authenticator.epoch, nil
}

// Token writes the token for a server, the data of a type 4 message.
func (k *Keys) Token(server [4]byte, dst *[MACLen]byte) {
	r := &k.set.Load().token
	r.compute(r.epoch, TypeToken, server, nil, dst)
}

// RotationToken writes the token as the most recently expired key computed it,
// the data of a type 5 message (draft §4). False when no key has expired yet.
// It is to be sent for one period after a rotation; the next rotation follows
// right then, so there is no later time at which to stop.
func (k *Keys) RotationToken(server [4]byte, dst *[MACLen]byte) (ok bool) {
	r := &k.set.Load().token
	if r.n < 2 {
		return false
	}
	r.compute(r.epoch-1, TypeToken, server, nil, dst)
	return true
}

// Authenticator writes the authenticator for a server and a client, the data of
// a type 6 message.
func (k *Keys) Authenticator(server [4]byte, client [16]byte, dst *[MACLen]byte) {
	r := &k.set.Load().authenticator
	r.compute(r.epoch, TypeAuthenticator, server, client[:], dst)
}

// CheckToken says whether data is a token of ours for this server, made with one
// of the last 8 keys.
func (k *Keys) CheckToken(server [4]byte, data []byte) bool {
	return k.set.Load().token.check(TypeToken, server, nil, data)
}

// CheckAuthenticator says whether data is an authenticator of ours for this
// server and client, made with one of the last 8 keys.
func (k *Keys) CheckAuthenticator(server [4]byte, client [16]byte, data []byte) bool {
	return k.set.Load().authenticator.check(TypeAuthenticator, server, client[:], data)
}

// TokenEpoch is the epoch of the key that tokens are made with. Whoever caches a
// token compares it to see that the token has been replaced.
func (k *Keys) TokenEpoch() uint16 { return k.set.Load().token.epoch }
