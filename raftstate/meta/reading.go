package meta

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/raftstate/boltcheck"
	"github.com/triward/triward/raftstate/command"
)

// Table is a part of the state whose records are compared between nodes: a bucket of the file, of the metadata a
// bucket of its own ("meta/users").
type Table struct {
	Name    string
	Records int
	Sum     Sum // of the hashes of its records
}

// prefixTable begins the names of tables of the metadata.
const prefixTable = "meta/"

// Reading is the state as of one commit. It keeps pages of the file from being used again, so it must not be held for
// longer than it takes to read it. It may be used by one goroutine, and must be closed.
type Reading struct {
	tx      *bolt.Tx
	path    string
	mark    Mark
	leaving <-chan struct{}
}

// ErrReplaced ends the check of a file that is closed: the node stops, or goes over to another one.
var ErrReplaced = errors.New("the file is not in use any more")

// Read begins to read the state as of the last commit.
func (s *Store) Read() (*Reading, error) {
	s.commitMu.Lock() // so that the file and mark are of one commit
	defer s.commitMu.Unlock()
	s.dbMu.RLock()
	defer s.dbMu.RUnlock()
	if s.db == nil {
		return nil, fmt.Errorf("read state: %w", bolt.ErrDatabaseNotOpen)
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("read state %s: %w", s.path, err)
	}
	s.tabMu.RLock()
	defer s.tabMu.RUnlock()
	return &Reading{tx: tx, path: s.path, mark: s.mark, leaving: s.leaving}, nil
}

// Mark is up to where the log is in it.
func (r *Reading) Mark() Mark { return r.mark }

// Path is the file that is read.
func (r *Reading) Path() string { return r.path }

// Close lets the pages go.
func (r *Reading) Close() error { return r.tx.Rollback() }

// Summary tells what the state holds, and the sums of its tables in order. Errors about records that are not what was
// written wrap ErrDamaged.
func (r *Reading) Summary() (Summary, []Table, error) {
	sum := summarizer{
		s: &Store{digests: make(map[dayKey]dayTotal)}, hash: sha256.New(),
		out: Summary{Keys: make(map[string]int), Floors: make(map[command.Kind]int64)},
	}
	if err := r.guarded(sum.read); err != nil {
		return Summary{}, nil, err
	}
	var tables []Table
	err := r.each(func(table string, key, value []byte) error {
		if n := len(tables); n == 0 || tables[n-1].Name != table {
			tables = append(tables, Table{Name: table})
		}
		t := &tables[len(tables)-1]
		t.Records++
		t.Sum = t.Sum.Add(hashRecord(key, value))
		return nil
	})
	return sum.summary(), tables, err
}

// Keys returns the hashes of the records of tables by table and key, of each table the first most of them.
func (r *Reading) Keys(tables []string, most int) (map[string]map[string]Sum, error) {
	out := make(map[string]map[string]Sum)
	for _, t := range tables {
		out[t] = make(map[string]Sum)
	}
	err := r.each(func(table string, key, value []byte) error {
		if keys, wanted := out[table]; wanted && len(keys) < most {
			keys[string(key)] = hashRecord(key, value)
		}
		return nil
	})
	return out, err
}

// Check reads the whole file of this commit without mapping it, as the package's Check does. pace is told of the bytes
// that are read and ends the check with its error. It ends with ErrReplaced when the store is about to close the file, which waits
// for the reading.
func (r *Reading) Check(pace func(n int) error) error {
	read := func(n int) error {
		select {
		case <-r.leaving:
			return ErrReplaced
		default:
			return pace(n)
		}
	}
	err := boltcheck.CheckAt(r.path, uint64(r.tx.ID()), read, func(bucket string, key, value []byte) error {
		if _, err := unsealed(key, value); err != nil {
			return fmt.Errorf("bucket %s: %w", bucket, err)
		}
		return nil
	})
	if errors.Is(err, boltcheck.ErrDamaged) {
		return fmt.Errorf("%w: state %w", ErrDamaged, err)
	}
	if err != nil {
		return fmt.Errorf("state %w", err)
	}
	return nil
}

// each shows all records but the mark, which is each node's own, in order of tables and keys. Keys of the metadata are
// without their bucket.
func (r *Reading) each(fn func(table string, key, value []byte) error) error {
	return r.guarded(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			b := tx.Bucket(name)
			if b == nil {
				return fmt.Errorf("%w: it has no bucket %q", ErrDamaged, name)
			}
			kv := string(name) == string(bucketKV)
			err := b.ForEach(func(key, rec []byte) error {
				value, err := unsealed(key, rec)
				if err != nil {
					return err
				}
				if !kv {
					if string(name) == string(bucketState) && string(key) == string(keyMark) {
						return nil
					}
					return fn(string(name), key, value)
				}
				bucket, rest, _ := strings.Cut(string(key), "\x00")
				return fn(prefixTable+bucket, []byte(rest), value)
			})
			if err != nil {
				return fmt.Errorf("bucket %s: %w", name, err)
			}
		}
		return nil
	})
}

// guarded makes an error of what bbolt does on a damaged file.
func (r *Reading) guarded(fn func(tx *bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read state %s: %w: %v", r.path, ErrDamaged, p)
		}
	}()
	if err := fn(r.tx); err != nil {
		return fmt.Errorf("read state %s: %w", r.path, err)
	}
	return nil
}

// hashRecord identifies a record within its table.
func hashRecord(key, value []byte) Sum {
	b := make([]byte, 0, len(key)+len(value)+8)
	for i := range 8 {
		b = append(b, byte(uint64(len(key))>>(8*i)))
	}
	h := xxh3.Hash128(append(append(b, key...), value...))
	return Sum{h.Hi, h.Lo}
}
