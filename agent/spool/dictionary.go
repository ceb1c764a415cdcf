package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/triward/triward/agent/wire"
)

// ErrSeriesFull says that the dictionary holds as many series as it may.
var ErrSeriesFull = errors.New("dictionary of series is full")

// dictionary gives local numbers to label sets: 1, 2, 3 ... in the order of the file. New ones are buffered
// until sync, which must return before a batch that uses them is appended.
type dictionary struct {
	mu         sync.Mutex
	path       string
	f          *os.File
	size       int64
	limit      int
	keys       []string
	numbers    map[string]uint64
	pending    []byte
	synced     int // numbers up to here are durable
	generation uint64
	failed     error
}

func openDictionary(dir string, limit int) (*dictionary, error) {
	d := &dictionary{path: filepath.Join(dir, "series"), limit: limit, numbers: map[string]uint64{}, generation: 1}
	f, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unreadable("open dictionary", err)
	}
	d.f = f
	b, err := os.ReadFile(d.path)
	if err != nil {
		f.Close()
		return nil, unreadable("read dictionary", err)
	}
	rest := b
	for len(rest) > 0 {
		p, n, err := nextRecord(rest)
		if err != nil {
			break
		}
		if len(p) < 1 || p[0] != typeSeries {
			f.Close()
			return nil, fmt.Errorf("%w: %s: foreign record at byte %d", ErrDamaged, d.path, len(b)-len(rest))
		}
		key := string(p[1:])
		d.keys = append(d.keys, key)
		d.numbers[key] = uint64(len(d.keys))
		rest = rest[n:]
	}
	if holdsRecord(rest) {
		f.Close()
		return nil, fmt.Errorf("%w: %s at byte %d", ErrDamaged, d.path, len(b)-len(rest))
	}
	d.size = int64(len(b) - len(rest))
	if len(rest) > 0 {
		if err := f.Truncate(d.size); err != nil {
			f.Close()
			return nil, fmt.Errorf("cut torn end of dictionary: %w", err)
		}
	}
	d.synced = len(d.keys)
	return d, nil
}

// number returns the local number of the series with the canonical key, giving out a new one if needed.
func (d *dictionary) number(key []byte) (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n, ok := d.numbers[string(key)]; ok {
		return n, nil
	}
	if len(d.keys) >= d.limit {
		return 0, fmt.Errorf("%w: %d series", ErrSeriesFull, d.limit)
	}
	k := string(key)
	d.keys = append(d.keys, k)
	n := uint64(len(d.keys))
	d.numbers[k] = n
	d.pending = appendRecord(d.pending, append([]byte{typeSeries}, key...))
	return n, nil
}

func (d *dictionary) sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	if len(d.pending) == 0 {
		return nil
	}
	if _, err := d.f.WriteAt(d.pending, d.size); err != nil {
		// The next attempt writes the same bytes to the same place.
		return fmt.Errorf("write dictionary: %w", err)
	}
	if err := d.f.Sync(); err != nil {
		d.failed = fmt.Errorf("sync dictionary: %w", err)
		return d.failed
	}
	d.size += int64(len(d.pending))
	d.pending = d.pending[:0]
	d.synced = len(d.keys)
	return nil
}

func (d *dictionary) labels(n uint64) (wire.Labels, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n == 0 || n > uint64(len(d.keys)) {
		return nil, false
	}
	ls, _, err := wire.LabelsFromKey([]byte(d.keys[n-1]))
	return ls, err == nil
}

// reset forgets all numbers. No batch that uses one may be pending.
func (d *dictionary) reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.f.Truncate(0); err != nil {
		return fmt.Errorf("empty dictionary: %w", err)
	}
	if err := d.f.Sync(); err != nil {
		d.failed = fmt.Errorf("sync dictionary: %w", err)
		return d.failed
	}
	d.size, d.pending, d.keys, d.synced = 0, nil, nil, 0
	d.numbers = map[string]uint64{}
	d.generation++
	return nil
}
