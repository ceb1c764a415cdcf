package meta

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

// layer is what changed between two marks. Once frozen, neither it nor what it points to changes.
type layer struct {
	kv     kvLayer              // kvMu
	labels map[uint64][]byte    // tabMu; nil: removed
	agents map[string]*agent    // tabMu; nil: forgotten
	days   map[dayKey]bool      // tabMu
	dict   map[uint64]*dictPage // nil: removed
	times  map[uint64]*timesPage
	recent map[uint64]*recentPage // nil: removed
}

func newLayer() *layer {
	return &layer{
		kv: make(kvLayer), labels: make(map[uint64][]byte), agents: make(map[string]*agent),
		days: make(map[dayKey]bool), dict: make(map[uint64]*dictPage), times: make(map[uint64]*timesPage),
		recent: make(map[uint64]*recentPage),
	}
}

// merge puts the changes of the older layer before those of l, for a commit that failed.
func (l *layer) merge(older *layer) *layer {
	out := newLayer()
	for _, from := range []*layer{older, l} {
		for bucket, keys := range from.kv {
			for key, e := range keys {
				out.kv.put(bucket, key, e)
			}
		}
		maps.Copy(out.labels, from.labels)
		maps.Copy(out.agents, from.agents)
		maps.Copy(out.days, from.days)
		maps.Copy(out.dict, from.dict)
		maps.Copy(out.times, from.times)
		maps.Copy(out.recent, from.recent)
	}
	return out
}

// Frozen is the state as of one entry, set aside to be committed.
type Frozen struct {
	Index, Term uint64

	s     *Store
	layer *layer
	gen   uint64
	loads uint64
	state []byte
	days  map[dayKey]dayTotal // of layer.days; absent: dropped
}

// Freeze sets aside what changed since the freeze before, for a mark at index, the last entry applied and
// published. It is quick: pages are copied when they next change. Apply goroutine only.
func (s *Store) Freeze(index, term uint64) *Frozen {
	s.kvMu.Lock()
	s.tabMu.Lock()
	defer s.kvMu.Unlock()
	defer s.tabMu.Unlock()
	l := s.live
	if s.frozen != nil {
		l = l.merge(s.frozen)
	}
	f := &Frozen{
		Index: index, Term: term, s: s, layer: l, gen: s.gen, loads: s.loads,
		state: s.appendState(nil, index, term), days: make(map[dayKey]dayTotal, len(l.days)),
	}
	for k := range l.days {
		if t, ok := s.digests[k]; ok {
			f.days[k] = t
		}
	}
	s.frozen, s.live = l, newLayer()
	s.gen++
	return f
}

// appendState writes the version and the single values.
func (s *Store) appendState(dst []byte, index, term uint64) []byte {
	dst = binary.AppendUvarint(dst, stateVersion)
	dst = binary.AppendUvarint(dst, index)
	dst = binary.AppendUvarint(dst, term)
	dst = binary.AppendVarint(dst, s.logTime.Load())
	dst = binary.AppendUvarint(dst, uint64(s.format.Load()))
	dst = binary.AppendUvarint(dst, s.nextID)
	dst = binary.AppendUvarint(dst, uint64(s.nextAgent))
	for _, k := range command.Kinds {
		dst = binary.AppendVarint(dst, s.floors[k].Load())
	}
	dst = binary.AppendUvarint(dst, s.recent.first)
	return binary.AppendUvarint(dst, s.recent.next)
}

func (s *Store) readState(b []byte) error {
	f := fields{b: b}
	if v := f.uvarint("version"); f.err == nil && v != stateVersion {
		return fmt.Errorf("%w: it is of version %d, this program knows %d", ErrVersion, v, stateVersion)
	}
	s.applied = f.uvarint("applied index")
	s.appliedTerm = f.uvarint("applied term")
	s.logTime.Store(f.varint("log time"))
	s.format.Store(uint32(f.uvarint("format")))
	s.nextID = f.uvarint("next id")
	s.nextAgent = uint32(f.uvarint("next agent"))
	for _, k := range command.Kinds {
		s.floors[k].Store(f.varint("floor"))
	}
	s.recent.first = f.uvarint("oldest recent line")
	s.recent.next = f.uvarint("next recent line")
	return f.end("state")
}

func (m *Mark) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, m.Index)
	dst = binary.AppendUvarint(dst, m.Term)
	dst = binary.AppendUvarint(dst, m.ConfigurationIndex)
	dst = wire.AppendString(dst, m.Configuration)
	return wire.AppendString(dst, m.Generation)
}

func readMark(b []byte) (Mark, error) {
	f := fields{b: b}
	m := Mark{
		Index: f.uvarint("mark's index"), Term: f.uvarint("mark's term"),
		ConfigurationIndex: f.uvarint("configuration's index"),
	}
	m.Configuration = slices.Clone(f.prefixed("configuration"))
	m.Generation = string(f.prefixed("generation"))
	return m, f.end("mark")
}

// Commit writes the frozen state and the mark, whose index and term must be those of the freeze, in one
// transaction and returns when it is durable. On error nothing is written and the state stays set aside: the
// next Freeze takes it along. ErrSuperseded says that a later one was committed or the store reloaded.
func (f *Frozen) Commit(m Mark) error {
	if m.Index != f.Index || m.Term != f.Term {
		return fmt.Errorf("commit mark %d/%d of state frozen at %d/%d", m.Index, m.Term, f.Index, f.Term)
	}
	s := f.s
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	if s.loads != f.loads || f.gen <= s.sealed {
		return fmt.Errorf("commit mark %d: %w", m.Index, ErrSuperseded)
	}
	s.dbMu.RLock()
	db := s.db
	s.dbMu.RUnlock()
	if db == nil {
		return fmt.Errorf("commit mark %d: %w", m.Index, bolt.ErrDatabaseNotOpen)
	}
	if err := db.Update(func(tx *bolt.Tx) error { return f.write(tx, &m) }); err != nil {
		return fmt.Errorf("commit mark %d to %s: %w", m.Index, s.path, err)
	}
	s.kvMu.Lock()
	s.tabMu.Lock()
	defer s.kvMu.Unlock()
	defer s.tabMu.Unlock()
	s.sealed, s.mark, s.marked = f.gen, m, true
	if s.frozen == f.layer {
		s.frozen = nil
	}
	return nil
}

func (f *Frozen) write(tx *bolt.Tx, m *Mark) error {
	if err := f.writeKV(tx.Bucket(bucketKV)); err != nil {
		return err
	}
	agents := tx.Bucket(bucketAgents)
	for _, name := range slices.Sorted(maps.Keys(f.layer.agents)) {
		a := f.layer.agents[name]
		if a == nil {
			if err := agents.Delete([]byte(name)); err != nil {
				return err
			}
			continue
		}
		if err := putSealed(agents, []byte(name), a.append(nil)); err != nil {
			return err
		}
	}
	series := tx.Bucket(bucketSeries)
	series.FillPercent = 0.9 // ids ascend, so pages are filled once and split at the end
	if err := writePages(series, f.layer.labels, func(rec []byte) []byte {
		return slices.Clip(rec) // sealing must not write behind the shared record
	}); err != nil {
		return err
	}
	if err := writePages(tx.Bucket(bucketDict), f.layer.dict, func(p *dictPage) []byte {
		if p == nil {
			return nil
		}
		return p.append(nil)
	}); err != nil {
		return err
	}
	if err := writePages(tx.Bucket(bucketTimes), f.layer.times, func(p *timesPage) []byte {
		if p == nil {
			return nil
		}
		return p.append(nil)
	}); err != nil {
		return err
	}
	if err := writePages(tx.Bucket(bucketRecent), f.layer.recent, func(p *recentPage) []byte {
		if p == nil {
			return nil
		}
		return p.append(make([]byte, 0, 16*p.n+crcSize))
	}); err != nil {
		return err
	}
	days := tx.Bucket(bucketDays)
	for k := range f.layer.days {
		key := k.key()
		t, ok := f.days[k]
		if !ok {
			if err := days.Delete(key); err != nil {
				return err
			}
			continue
		}
		rec := binary.LittleEndian.AppendUint64(nil, t.count)
		rec = binary.LittleEndian.AppendUint64(rec, t.sum.Hi)
		if err := putSealed(days, key, binary.LittleEndian.AppendUint64(rec, t.sum.Lo)); err != nil {
			return err
		}
	}
	state := tx.Bucket(bucketState)
	if err := putSealed(state, keyState, slices.Clone(f.state)); err != nil {
		return err
	}
	return putSealed(state, keyMark, m.append(nil))
}

func (f *Frozen) writeKV(b *bolt.Bucket) error {
	for _, bucket := range slices.Sorted(maps.Keys(f.layer.kv)) {
		keys := f.layer.kv[bucket]
		for _, key := range slices.Sorted(maps.Keys(keys)) {
			e, k := keys[key], kvKey(bucket, key)
			var err error
			if e.deleted {
				err = b.Delete(k)
			} else {
				err = putSealed(b, k, appendValue(nil, &e.Value))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// writePages writes values by number in ascending order; those whose encoding is nil are deleted.
func writePages[V any](b *bolt.Bucket, pages map[uint64]V, encode func(V) []byte) error {
	for _, n := range slices.Sorted(maps.Keys(pages)) {
		key := idKey(n)
		rec := encode(pages[n])
		var err error
		if rec == nil {
			err = b.Delete(key)
		} else {
			err = putSealed(b, key, rec)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (k dayKey) key() []byte {
	// The sign bit is turned so that days before 1970 sort first.
	return binary.BigEndian.AppendUint64([]byte{byte(k.kind)}, uint64(k.day)^1<<63)
}

// CopyTo makes at path, which must not exist, a durable copy of the file as of the last commit. Commits wait
// for it.
func (s *Store) CopyTo(path string) error {
	s.commitMu.Lock()
	defer s.commitMu.Unlock()
	from := s.Path()
	if err := copyFile(from, path); err != nil {
		return fmt.Errorf("copy state %s: %w", from, err)
	}
	return syncDir(filepath.Dir(path))
}

func copyFile(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if e := dst.Close(); err == nil {
			err = e
		}
		if err != nil {
			_ = os.Remove(to)
		}
	}()
	if _, err = io.Copy(dst, src); err != nil {
		return err
	}
	return dst.Sync()
}
