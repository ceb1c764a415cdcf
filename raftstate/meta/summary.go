package meta

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"runtime/debug"
	"strings"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// Summary tells what a state file holds.
type Summary struct {
	Mark    Mark
	LogTime int64  // milliseconds since 1970
	Format  uint32 // of the cluster
	Floors  map[command.Kind]int64
	Digests []Digest // in order of kind and day
	Agents  int      // that ever sent
	Series  int
	Keys    map[string]int // keys of the metadata by bucket
	Cuts    []wire.LogCut  // lines that selectors hide, in order of their keys
	// Sum is the SHA-256, in hexadecimal, of everything but the mark: equal on all nodes at one index.
	Sum string
}

// Summarize reads the state file at path, which nobody may be writing, without taking it into use. The file is
// checked first; errors about one that is not what was written wrap ErrDamaged.
func Summarize(path string) (_ Summary, err error) {
	if err := Check(path); err != nil {
		return Summary{}, err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("read state %s: %w: %v", path, ErrDamaged, r)
		}
	}()
	o := options(true)
	o.InitialMmapSize = 0
	db, err := bolt.Open(path, 0o600, o)
	if err != nil {
		return Summary{}, fmt.Errorf("read state %s: %w", path, err)
	}
	defer func() { _ = db.Close() }() // nothing was written
	r := summarizer{
		s: &Store{digests: make(map[dayKey]dayTotal)}, hash: sha256.New(),
		out: Summary{Keys: make(map[string]int), Floors: make(map[command.Kind]int64)},
	}
	if err := db.View(r.read); err != nil {
		return Summary{}, fmt.Errorf("read state %s: %w", path, err)
	}
	return r.summary(), nil
}

type summarizer struct {
	s    *Store // only what the readers of records fill
	hash hash.Hash
	out  Summary
}

func (r *summarizer) read(tx *bolt.Tx) error {
	for _, name := range allBuckets {
		b := tx.Bucket(name)
		if b == nil {
			return fmt.Errorf("%w: it has no bucket %q", ErrDamaged, name)
		}
		r.add(name)
		err := b.ForEach(func(key, rec []byte) error {
			value, err := unsealed(key, rec)
			if err != nil {
				return err
			}
			return r.record(string(name), key, value)
		})
		if err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	return nil
}

func (r *summarizer) record(bucket string, key, value []byte) (err error) {
	switch bucket {
	case string(bucketState):
		if string(key) == string(keyMark) {
			r.s.mark, err = readMark(value)
			r.s.marked = err == nil
			return err // not part of the sum: each node has its own
		}
		if string(key) == string(keyState) {
			err = r.s.readState(value)
		}
	case string(bucketDays):
		err = r.s.loadDay(key, value)
	case string(bucketAgents):
		r.out.Agents++
	case string(bucketSeries):
		r.out.Series++
	case string(bucketKV):
		name, k, _ := strings.Cut(string(key), "\x00")
		r.out.Keys[name]++
		if name == command.BucketSelectorCuts {
			err = r.cut(k, key, value)
		}
	}
	r.add(key)
	r.add(value)
	return err
}

func (r *summarizer) cut(name string, key, value []byte) error {
	f := fields{b: value}
	index := f.uvarint("index")
	f.varint("expiry")
	if f.err != nil {
		return f.err
	}
	cut, err := command.LogCut(name, index, f.b)
	if err != nil {
		return fmt.Errorf("%w: record %q: %w", ErrDamaged, key, err)
	}
	r.out.Cuts = append(r.out.Cuts, cut)
	return nil
}

// add puts bytes and their number into the sum.
func (r *summarizer) add(b []byte) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
	r.hash.Write(n[:])
	r.hash.Write(b)
}

func (r *summarizer) summary() Summary {
	out := r.out
	out.Mark, out.LogTime, out.Format = r.s.mark, r.s.LogTime(), r.s.Format()
	for _, k := range command.Kinds {
		out.Floors[k] = r.s.Floor(k)
	}
	d := Digests{total: r.s.digests}
	out.Digests = d.List()
	out.Sum = hex.EncodeToString(r.hash.Sum(nil))
	return out
}

// FoldDigests makes one short text of digests in order of kind and day: equal when they are.
func FoldDigests(sums []Digest) string {
	var b []byte
	for _, d := range sums {
		b = fmt.Appendf(b, "%d %d %d %x %x\n", d.Kind, d.Day, d.Count, d.Sum.Hi, d.Sum.Lo)
	}
	return FoldText(string(b))
}

// FoldText makes 16 hexadecimal digits of a text.
func FoldText(s string) string { return fmt.Sprintf("%016x", wire.HashContent([]byte(s))) }
