package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// errStore marks a store whose contents contradict each other.
var errStore = errors.New("the table on disk is damaged")

// errLocked: somebody else has the store open.
var errLocked = errors.New("another handoffd has it open")

// storeVersion is what this program writes. Version 1 had no leases. Another one
// is not guessed at.
const storeVersion = 2

var (
	metaVersion = []byte("version") // read only, like those below
	metaPending = []byte("pending")
	metaLog     = []byte("log")
)

// store is the table on disk: a bbolt file. Written by the committer alone;
// the rest happens before it starts and after it has ended.
type store struct{ db *bbolt.DB }

// openStore opens or makes the file. Whoever has it open has it alone.
func openStore(path string, readOnly bool) (*store, error) {
	if _, err := os.Stat(path); readOnly && err != nil {
		return nil, fmt.Errorf("open the table: %w", err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:  time.Second,
		ReadOnly: readOnly,
		// The list of free pages is found anew when the file is opened, which
		// saves writing it with every transaction.
		NoFreelistSync: true,
		FreelistType:   bbolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = errLocked
	}
	if err != nil {
		return nil, fmt.Errorf("open the table %s: %w", path, err)
	}
	s := &store{db}
	if err := s.prepare(readOnly); err != nil {
		return nil, errors.Join(fmt.Errorf("open the table %s: %w", path, err), db.Close())
	}
	return s, nil
}

// prepare makes the buckets of a new file and checks the version of an old one.
func (s *store) prepare(readOnly bool) error {
	if !readOnly {
		err := s.db.Update(func(tx *bbolt.Tx) error {
			for _, name := range bucketNames {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return fmt.Errorf("make the bucket %s: %w", name, err)
				}
			}
			meta := tx.Bucket(bucketNames[bucketMeta])
			if v := meta.Get(metaVersion); v != nil && !bytes.Equal(v, []byte{1}) {
				return nil
			}
			return meta.Put(metaVersion, []byte{storeVersion})
		})
		if err != nil {
			return err
		}
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketNames[bucketMeta])
		if meta == nil {
			return fmt.Errorf("bucket %s is missing: %w", bucketNames[bucketMeta], errStore)
		}
		v := meta.Get(metaVersion)
		if len(v) != 1 || v[0] < 1 || v[0] > storeVersion {
			return fmt.Errorf("its version is %v, this program knows %d: %w", v, storeVersion, fs.ErrInvalid)
		}
		for b, name := range bucketNames {
			if tx.Bucket(name) == nil && (v[0] == storeVersion || bucket(b) != bucketLeases) {
				return fmt.Errorf("bucket %s is missing: %w", name, errStore)
			}
		}
		return nil
	})
}

func (s *store) close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the table: %w", err)
	}
	return nil
}

// apply makes the changes of all batches durable in one transaction, and with
// them the lines that the log is about to get.
func (s *store) apply(batches []*batch, p *pending) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		var b [numBuckets]*bbolt.Bucket
		for i, name := range bucketNames {
			b[i] = tx.Bucket(name)
			b[i].FillPercent = 0.95 // keys only ever grow
		}
		for _, batch := range batches {
			if err := batch.applyTo(&b); err != nil {
				return err
			}
		}
		if p == nil {
			return nil
		}
		return b[bucketMeta].Put(metaPending, p.encode())
	})
	if err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

func (ch *changes) applyTo(b *[numBuckets]*bbolt.Bucket) error {
	for _, r := range ch.records {
		key := ch.data[r.key:r.value]
		var err error
		if r.remove {
			err = b[r.bucket].Delete(key)
		} else {
			err = b[r.bucket].Put(key, ch.data[r.value:r.end])
		}
		if err != nil {
			return fmt.Errorf("bucket %s, key %x: %w", bucketNames[r.bucket], key, err)
		}
	}
	return nil
}

// meta reads a value of the meta bucket; nil when it is not there.
func (s *store) meta(key []byte) (value []byte, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket(bucketNames[bucketMeta]).Get(key); v != nil {
			value = append([]byte{}, v...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s from the table: %w", key, err)
	}
	return value, nil
}

// setMeta writes a value of the meta bucket; nil deletes it.
func (s *store) setMeta(key, value []byte) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketNames[bucketMeta])
		if value == nil {
			return meta.Delete(key)
		}
		return meta.Put(key, value)
	})
	if err != nil {
		return fmt.Errorf("write %s to the table: %w", key, err)
	}
	return nil
}

// pending is what the log gets with the transaction that it is stored in: where
// in which file, and what. It lets the next start see what a crash kept from
// the log. Plain data.
type pending struct {
	device, inode uint64
	offset        int64
	lines         []byte
}

func (p *pending) encode() []byte {
	b := make([]byte, 0, 24+len(p.lines))
	b = binary.BigEndian.AppendUint64(b, p.device)
	b = binary.BigEndian.AppendUint64(b, p.inode)
	b = binary.BigEndian.AppendUint64(b, uint64(p.offset))
	return append(b, p.lines...)
}

func decodePending(b []byte) (*pending, error) {
	if len(b) < 24 {
		return nil, fmt.Errorf("the log's pending lines have %d octets: %w", len(b), errStore)
	}
	return &pending{
		device: binary.BigEndian.Uint64(b), inode: binary.BigEndian.Uint64(b[8:]),
		offset: int64(binary.BigEndian.Uint64(b[16:])), lines: b[24:],
	}, nil
}
