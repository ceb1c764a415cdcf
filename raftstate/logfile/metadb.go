package logfile

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft-wal/types"
	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/raftstate/boltcheck"
)

// metaDB is the small file beside the segments: which segments there are, and what raft stores besides its log (its
// term and vote). It takes the place of raft-wal's own, which maps the file unchecked and whose records nothing
// checks: with a flipped bit a node would vote twice in a term or look for its entries in the wrong files.
type metaDB struct {
	db     *bolt.DB
	loaded func(types.PersistentState) (types.PersistentState, error) // what to make of the state that was loaded
}

const (
	metaFile      = "wal-meta.db"
	recordVersion = 1
	recordHead    = 1 + 4
)

var (
	bucketSegments = []byte("segments") // one record: the state as raft-wal has it, as JSON
	bucketStable   = []byte("stable")   // what raft stores besides its log

	keySegments = []byte("state")
)

// A record is the version of this form (1 byte), the crc32c of bucket, key, version and value (4 bytes, little endian)
// and the value. That version and checksum stand first, and of what the checksum is, stays so in all versions.
func sealRecord(bucket string, key, value []byte) []byte {
	b := append(make([]byte, 0, recordHead+len(value)), recordVersion)
	b = binary.LittleEndian.AppendUint32(b, recordSum(bucket, key, recordVersion, value))
	return append(b, value...)
}

func recordSum(bucket string, key []byte, version byte, value []byte) uint32 {
	sum := crc32.Checksum([]byte(bucket), castagnoli)
	sum = crc32.Update(sum, castagnoli, key)
	sum = crc32.Update(sum, castagnoli, []byte{version})
	return crc32.Update(sum, castagnoli, value)
}

// unsealRecord returns the value, which points into rec.
func unsealRecord(bucket string, key, rec []byte) ([]byte, error) {
	if len(rec) < recordHead || binary.LittleEndian.Uint32(rec[1:]) != recordSum(bucket, key, rec[0], rec[recordHead:]) {
		return nil, fmt.Errorf("record %q of bucket %s: %w", key, bucket, errChecksum)
	}
	if rec[0] != recordVersion {
		return nil, fmt.Errorf("record %q of bucket %s: %w: it is of version %d, this program knows %d", key, bucket, ErrVersion, rec[0], recordVersion)
	}
	return rec[recordHead:], nil
}

func metaOptions() *bolt.Options {
	return &bolt.Options{Timeout: time.Second, PageSize: boltcheck.PageSize}
}

// Load implements types.MetaStore.
func (m *metaDB) Load(dir string) (types.PersistentState, error) {
	var state types.PersistentState
	path := filepath.Join(dir, metaFile)
	err := boltcheck.Check(path, func(bucket string, key, rec []byte) error {
		_, err := unsealRecord(bucket, key, rec)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = createMeta(path)
	}
	if err != nil {
		return state, err
	}
	if m.db, err = bolt.Open(path, 0o600, metaOptions()); err != nil {
		return state, fmt.Errorf("open %s: %w", path, err)
	}
	raw, err := m.get(bucketSegments, keySegments)
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, &state)
	}
	if err != nil {
		return state, errors.Join(fmt.Errorf("read %s: %w", path, err), m.Close())
	}
	if state, err = m.loaded(state); err != nil {
		return state, errors.Join(err, m.Close())
	}
	return state, nil
}

// createMeta makes an empty file under another name and renames it, so that path is whole or absent.
func createMeta(path string) error {
	fresh := path + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	db, err := bolt.Open(fresh, 0o600, metaOptions())
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(bucketSegments)
		if err == nil {
			_, err = tx.CreateBucket(bucketStable)
		}
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return nil
}

// CommitState implements types.MetaStore.
func (m *metaDB) CommitState(state types.PersistentState) error {
	raw, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode list of segments: %w", err)
	}
	return m.put(bucketSegments, keySegments, raw)
}

// GetStable implements types.MetaStore.
func (m *metaDB) GetStable(key []byte) ([]byte, error) { return m.get(bucketStable, key) }

// SetStable implements types.MetaStore.
func (m *metaDB) SetStable(key, value []byte) error { return m.put(bucketStable, key, value) }

// get returns a copy of the value, nil when there is none.
func (m *metaDB) get(bucket, key []byte) (value []byte, err error) {
	err = m.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil {
			return fmt.Errorf("bucket %s is missing", bucket)
		}
		rec := b.Get(key)
		if rec == nil {
			return nil
		}
		v, err := unsealRecord(string(bucket), key, rec)
		value = append([]byte{}, v...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return value, nil
}

// put stores a value durably; nil takes it away.
func (m *metaDB) put(bucket, key, value []byte) error {
	return m.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		switch {
		case b == nil:
			return fmt.Errorf("bucket %s is missing", bucket)
		case value == nil:
			return b.Delete(key)
		}
		return b.Put(key, sealRecord(string(bucket), key, value))
	})
}

// Close implements types.MetaStore.
func (m *metaDB) Close() error {
	if m.db == nil {
		return nil
	}
	return m.db.Close()
}
