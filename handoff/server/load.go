package server

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// loader fills an empty table from the store. Used once, by one goroutine.
type loader struct {
	t       *table
	clients map[uint64]owner
}

// owner says where a client is.
type owner struct {
	channel *channel
	client  uint32
}

// load reads the whole store. Entries come in the order of their creation,
// which is the best guess at their order of use that there is after a restart.
func (s *store) load(t *table) error {
	l := loader{t: t, clients: map[uint64]owner{}}
	err := s.db.View(func(tx *bbolt.Tx) error {
		for _, step := range []struct {
			bucket bucket
			read   func(k, v []byte) error
		}{{bucketChannels, l.channel}, {bucketClients, l.client}, {bucketEntries, l.entry}, {bucketLeases, l.lease}} {
			name := bucketNames[step.bucket]
			b := tx.Bucket(name)
			if b == nil { // version 1, read only
				continue
			}
			err := b.ForEach(func(k, v []byte) error {
				if err := step.read(k, v); err != nil {
					return fmt.Errorf("bucket %s, key %x: %w", name, k, err)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return l.check()
	})
	if err != nil {
		return fmt.Errorf("read the table: %w", err)
	}
	return nil
}

func (l *loader) channel(k, v []byte) error {
	if len(k) != channelKeyLen || len(v) < channelValueLen {
		return fmt.Errorf("the lengths are %d and %d: %w", len(k), len(v), errStore)
	}
	c := newChannel(channelKey{own: addr4(k[:4]), nat64: addr4(k[4:])})
	c.moved(binary.BigEndian.Uint16(v), addr4(v[2:6]))
	c.token = append([]byte{}, v[channelValueLen:]...)
	l.t.channels[c.key] = c
	return nil
}

func (l *loader) client(k, v []byte) error {
	if len(k) != 8 || len(v) < clientValueLen {
		return fmt.Errorf("the lengths are %d and %d: %w", len(k), len(v), errStore)
	}
	c := l.t.channels[channelKey{own: addr4(v[:4]), nat64: addr4(v[4:8])}]
	if c == nil {
		return fmt.Errorf("a client of a NAT64 that is not there: %w", errStore)
	}
	i, isNew := c.addClient(addr6(v[8:24]))
	if !isNew {
		return fmt.Errorf("a second record of one client: %w", errStore)
	}
	id := binary.BigEndian.Uint64(k)
	c.clients[i].id = id
	c.clients[i].auth = append([]byte{}, v[clientValueLen:]...)
	l.clients[id] = owner{c, i}
	l.t.nextID = max(l.t.nextID, id+1)
	return nil
}

func (l *loader) entry(k, v []byte) error {
	if len(k) != 8 || len(v) != entryValueLen {
		return fmt.Errorf("the lengths are %d and %d: %w", len(k), len(v), errStore)
	}
	o, ok := l.clients[binary.BigEndian.Uint64(v)]
	if !ok {
		return fmt.Errorf("an entry of a client that is not there: %w", errStore)
	}
	c := o.channel
	prefix, err := c.addPrefix(prefix96(v[16:28]))
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	e := entry{
		id: binary.BigEndian.Uint64(k), created: int64(binary.BigEndian.Uint64(v[8:])), client: o.client, prefix: prefix,
		mapped: binary.BigEndian.Uint16(v[28:]), clientPort: binary.BigEndian.Uint16(v[30:]),
	}
	if _, taken := c.byTuple[tupleIndex{e.client, e.prefix, e.clientPort}]; taken || c.findMapped(e.mapped) != 0 {
		return fmt.Errorf("a second entry of one client port or mapped port: %w", errStore)
	}
	c.place(e)
	l.t.count++
	l.t.nextID = max(l.t.nextID, e.id+1)
	return nil
}

func (l *loader) lease(k, v []byte) error {
	if len(k) != 8 || len(v) != leaseValueLen {
		return fmt.Errorf("the lengths are %d and %d: %w", len(k), len(v), errStore)
	}
	o, ok := l.clients[binary.BigEndian.Uint64(v)]
	if !ok {
		return fmt.Errorf("a lease of a client that is not there: %w", errStore)
	}
	prefix, err := o.channel.addPrefix(prefix96(v[16:28]))
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, err)
	}
	x := &lease{
		id: binary.BigEndian.Uint64(k), created: int64(binary.BigEndian.Uint64(v[8:])), channel: o.channel,
		leaseKey: leaseKey{client: o.client, prefix: prefix, protocol: v[32]}, address: addr4(v[28:32]),
	}
	if !l.t.placeLease(x) {
		return fmt.Errorf("a second lease of one client or address: %w", errStore)
	}
	l.t.nextID = max(l.t.nextID, x.id+1)
	return nil
}

// check finds clients without an entry or lease: they leave with their last one.
func (l *loader) check() error {
	for id, o := range l.clients {
		if o.channel.clients[o.client].entries == 0 {
			return fmt.Errorf("client %d has no entry: %w", id, errStore)
		}
	}
	return nil
}
