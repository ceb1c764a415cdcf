package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/triward/triward/agent/wire"
)

// Defaults of Options.
const (
	DefaultMaxBytes  = 256 << 20
	DefaultMaxSeries = 50_000
	MinMaxBytes      = 1 << 20
)

// Options of a spool.
type Options struct {
	MaxBytes  int64 // bound of all lanes together; 0 is DefaultMaxBytes
	MaxSeries int   // bound of the dictionary; 0 is DefaultMaxSeries
	Log       *slog.Logger
	OnDrop    func(Drop) // called after batches were given up
}

// Drop tells of batches that were given up and replaced by empty ones.
type Drop struct {
	Lane     wire.Lane
	From, To uint64 // sequences in the current epoch
	Items    uint64 // samples or lines they held
	Reason   string
}

// Content is what a batch holds: a body made by agent/wire (metrics with local series numbers instead of ids),
// compressed as Codec says, and the hash of the body uncompressed. Changes are the positions of the sources
// after this content.
type Content struct {
	Hash    uint64
	Codec   wire.Codec
	RawLen  int
	Body    []byte
	Items   int
	Changes []StateChange
}

// Spool is the write-ahead log of an agent. Its methods are safe for concurrent use.
type Spool struct {
	dir   string
	opt   Options
	lock  *os.File
	lanes [len(wire.Lanes)]*lane
	dict  *dictionary

	mu       sync.Mutex // meta and acknowledgements
	epoch    wire.Epoch
	lost     [len(wire.Lanes)]uint64 // items given up so far
	acks     *ackFile
	notify   chan struct{}
	closed   bool
	closeErr error
}

// lane shares of MaxBytes, in percent, by lane number - 1.
var shares = [len(wire.Lanes)]int64{25, 65, 5, 5}

// Open opens or makes the spool in dir. It fails with ErrLocked when another process has it, and with
// ErrDamaged when its content is not what was written (see OpenOrReplace).
func Open(dir string, opt Options) (*Spool, error) {
	if opt.MaxBytes == 0 {
		opt.MaxBytes = DefaultMaxBytes
	}
	if opt.MaxBytes < MinMaxBytes {
		return nil, fmt.Errorf("spool of %d bytes is too small: at least %d are needed", opt.MaxBytes, MinMaxBytes)
	}
	if opt.MaxSeries == 0 {
		opt.MaxSeries = DefaultMaxSeries
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make spool directory: %w", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	s := &Spool{dir: dir, opt: opt, lock: lock, notify: make(chan struct{}, 1)}
	if err := s.open(); err != nil {
		s.Close()
		return nil, fmt.Errorf("open spool %s: %w", dir, err)
	}
	return s, nil
}

func (s *Spool) open() error {
	m, err := loadMeta(s.dir)
	if err != nil {
		return err
	}
	s.epoch = m.epoch
	s.lost = m.Lost
	if s.acks, err = openAcks(s.dir); err != nil {
		return err
	}
	for i, id := range wire.Lanes {
		l, err := openLane(s.dir, id, m.Base[i], s.acks.ords[i], m.Drops[i], s.opt.MaxBytes*shares[i]/100)
		if err != nil {
			return err
		}
		l.mayDrop = id != wire.LaneLogs
		s.lanes[i] = l
	}
	if s.dict, err = openDictionary(s.dir, s.opt.MaxSeries); err != nil {
		return err
	}
	if len(s.dict.keys) > s.opt.MaxSeries/2 {
		return s.resetSeriesIfIdle()
	}
	return nil
}

func (s *Spool) lane(id wire.Lane) *lane {
	if !id.Valid() {
		panic(fmt.Sprintf("spool: lane %d does not exist", id))
	}
	return s.lanes[id-1]
}

// Epoch returns the name of this life of the spool.
func (s *Spool) Epoch() wire.Epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Append makes c the next batch of the lane. When it returns nil the content and the changes of state are
// durable, both or neither. ErrFull means that the lane has no room now, ErrTooLarge that it never will have. The
// body is not kept.
func (s *Spool) Append(id wire.Lane, c Content) error {
	if c.RawLen > wire.MaxBatchRaw {
		return fmt.Errorf("%w: batch of %d bytes, at most %d are allowed", ErrTooLarge, c.RawLen, wire.MaxBatchRaw)
	}
	changes, err := sizeOf(c.Changes)
	if err != nil {
		return err
	}
	if changes > maxChanges {
		return fmt.Errorf("%w: batch moves the positions of %d sources in %d bytes, at most %d are allowed", ErrTooLarge, len(c.Changes), changes, maxChanges)
	}
	if id.CarriesMetrics() {
		if err := s.dict.sync(); err != nil {
			return err
		}
	}
	l := s.lane(id)
	drops, err := s.appendLocked(l, &c, int64(len(c.Body)+changes+64))
	for _, d := range drops {
		s.opt.Log.Warn("spool is full: batches given up", "lane", d.Lane.String(), "from", d.From, "to", d.To,
			"items", d.Items)
		if s.opt.OnDrop != nil {
			s.opt.OnDrop(d)
		}
	}
	if err != nil {
		return err
	}
	select {
	case s.notify <- struct{}{}:
	default:
	}
	return nil
}

// appendLocked writes c, for which it makes room of need bytes.
func (s *Spool) appendLocked(l *lane, c *Content, need int64) (drops []Drop, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if need > l.limit {
		return nil, fmt.Errorf("%w: batch takes %d bytes, lane %s may hold %d: raise spool.max_bytes", ErrTooLarge, need, l.id, l.limit)
	}
	for l.used()+need > l.limit {
		if l.spent() {
			if err := l.roll(); err != nil {
				return drops, err
			}
			continue
		}
		i := -1
		if l.mayDrop {
			i = l.droppable()
		}
		if i < 0 {
			return drops, fmt.Errorf("%w: lane %s holds %d of %d bytes", ErrFull, l.id, l.used(), l.limit)
		}
		d, err := s.dropSegment(l, i)
		if err != nil {
			return drops, err
		}
		drops = append(drops, d)
	}
	rec := batchRecord{
		ord: l.next, hash: c.Hash, codec: c.Codec, rawLen: c.RawLen, items: c.Items,
		changes: c.Changes, body: c.Body,
	}
	off, err := l.write(rec.append(make([]byte, 0, len(c.Body)+256)))
	if err != nil {
		return drops, err
	}
	g := l.segments[len(l.segments)-1]
	g.entries = append(g.entries, entry{uint32(off), uint32(c.Items)})
	l.next++
	l.applyChanges(c.Changes)
	return drops, nil
}

// dropSegment gives up a whole segment: first the range is durable, then the file goes.
func (s *Spool) dropSegment(l *lane, i int) (Drop, error) {
	g := l.segments[i]
	d := Drop{Lane: l.id, From: g.first - l.base, To: g.last() - l.base, Reason: "spool is full"}
	for _, e := range g.entries {
		d.Items += uint64(e.items)
	}
	if err := s.recordDrop(l, span{g.first, g.last()}, d.Items); err != nil {
		return d, err
	}
	return d, l.remove(i)
}

// recordDrop makes it durable that the batches of sp are replaced by empty ones. The caller holds l.mu.
func (s *Spool) recordDrop(l *lane, sp span, items uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	drops := slices.Clone(l.drops)
	if n := len(drops); n > 0 && drops[n-1].To+1 == sp.From {
		drops[n-1].To = sp.To
	} else {
		drops = append(drops, sp)
	}
	m := s.metaLocked()
	m.Drops[l.id-1] = drops
	m.Lost[l.id-1] += items
	if err := m.save(s.dir); err != nil {
		return err
	}
	l.drops = drops
	s.lost[l.id-1] += items
	return nil
}

// metaLocked collects what the meta file says. The caller holds s.mu, under which alone the bases and the slices
// of ranges given up are replaced.
func (s *Spool) metaLocked() meta {
	m := meta{epoch: s.epoch, Lost: s.lost}
	for i, l := range s.lanes {
		m.Base[i], m.Drops[i] = l.base, l.drops
	}
	return m
}

// AppendState makes changes of source positions durable that no batch carries. Many take several records: after an
// error some may be durable.
func (s *Spool) AppendState(id wire.Lane, changes []StateChange) error {
	if _, err := sizeOf(changes); err != nil {
		return err
	}
	l := s.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, part := range split(changes) {
		if _, err := l.write(appendChanges([]byte{typeState}, part)); err != nil {
			return err
		}
		l.applyChanges(part)
	}
	return nil
}

// State returns the positions of the sources as of the newest batch of the lane. The values are shared: do not
// write into them.
func (s *Spool) State(id wire.Lane) map[string][]byte { return s.lane(id).stateCopy() }

// Position returns the last acknowledged sequence of the lane and the next one to be given out.
func (s *Spool) Position(id wire.Lane) (acked, next uint64) {
	l := s.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked - l.base, l.next - l.base
}

// NextAtOpen returns what Position returned as next when the spool was opened (0 when the epoch is younger).
// Batches from there on were made by this process.
func (s *Spool) NextAtOpen(id wire.Lane) uint64 {
	l := s.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.atOpen <= l.base {
		return 0
	}
	return l.atOpen - l.base
}

// Notify returns a channel that receives after batches were appended.
func (s *Spool) Notify() <-chan struct{} { return s.notify }

// Read returns batches of the lane from sequence from on, at most count of them and about maxBytes bytes (one
// at least when there is one). Identity has no agent. Batches given up come as empty ones.
func (s *Spool) Read(id wire.Lane, from uint64, count, maxBytes int) ([]wire.Batch, error) {
	epoch := s.Epoch()
	l := s.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.base+from <= l.acked {
		return nil, fmt.Errorf("batch %d of lane %s is acknowledged and gone", from, id)
	}
	var out []wire.Batch
	size := 0
	for ord := l.base + from; ord < l.next && len(out) < count; ord++ {
		b := wire.Batch{Identity: wire.Identity{Epoch: epoch, Lane: id, Seq: ord - l.base}}
		if l.dropped(ord) {
			b.Body = EmptyBody(id)
			b.RawLen, b.Hash = len(b.Body), wire.HashContent(b.Body)
		} else {
			rec, err := l.payload(ord)
			if err != nil {
				return out, err
			}
			b.Hash, b.Codec, b.RawLen, b.Body = rec.hash, rec.codec, rec.rawLen, rec.body
		}
		if len(out) > 0 && size+len(b.Body) > maxBytes {
			break
		}
		size += len(b.Body)
		out = append(out, b)
	}
	return out, nil
}

// EmptyBody is the body that stands for a batch given up.
func EmptyBody(id wire.Lane) []byte {
	if id.CarriesMetrics() {
		return wire.AppendMetrics(nil, nil)
	}
	return wire.AppendLogs(nil, &wire.LogBatch{})
}

// Ack says that the cluster has the lane's batches up to seq. The position is durable when it returns; files
// that are not needed any more are removed. A seq that was acknowledged before changes nothing.
func (s *Spool) Ack(id wire.Lane, seq uint64) error {
	l := s.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	ord := l.base + seq
	if ord <= l.acked {
		return nil
	}
	if ord >= l.next {
		return fmt.Errorf("acknowledgement of batch %d of lane %s, which ends at %d", seq, id, l.next-1-l.base)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.acks.write(id, ord); err != nil {
		return err
	}
	l.acked = ord
	l.drops = slices.DeleteFunc(slices.Clone(l.drops), func(d span) bool { return d.To <= ord })
	l.trim()
	return nil
}

// Pending reports whether any batch waits for its acknowledgement.
func (s *Spool) Pending() bool {
	for _, l := range s.lanes {
		l.mu.Lock()
		p := l.acked+1 < l.next
		l.mu.Unlock()
		if p {
			return true
		}
	}
	return false
}

// NewEpoch gives the spool a new random name. All batches that are not acknowledged are carried over, in order,
// with sequences that begin with 1 again. It is one atomic step on disk. The caller must have acknowledged
// every batch that the cluster took under the old epoch.
func (s *Spool) NewEpoch() (wire.Epoch, error) {
	for _, l := range s.lanes {
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.metaLocked()
	m.epoch = newEpoch()
	for i, l := range s.lanes {
		m.Base[i] = l.acked
	}
	if err := m.save(s.dir); err != nil {
		return s.epoch, err
	}
	for _, l := range s.lanes {
		l.base = l.acked
	}
	s.epoch = m.epoch
	return s.epoch, nil
}

// maxSetAside is how many refused batches are kept for a person to look at.
const maxSetAside = 32

// SetAside takes an unacknowledged batch out of its lane, because the cluster refuses its content, and puts an
// empty one in its place. The record is kept in the folder set-aside.
func (s *Spool) SetAside(id wire.Lane, seq uint64, reason string) error {
	d, err := s.setAside(id, seq, reason)
	if err == nil && s.opt.OnDrop != nil {
		s.opt.OnDrop(d)
	}
	return err
}

func (s *Spool) setAside(id wire.Lane, seq uint64, reason string) (Drop, error) {
	l := s.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	ord := l.base + seq
	d := Drop{Lane: id, From: seq, To: seq, Reason: reason}
	if ord <= l.acked || ord >= l.next || l.dropped(ord) {
		return d, fmt.Errorf("batch %d of lane %s cannot be set aside: it is not waiting", seq, id)
	}
	rec, err := l.payload(ord)
	if err != nil {
		return d, err
	}
	d.Items = uint64(rec.items)
	if err := keepAside(s.dir, fmt.Sprintf("%s-%016x.rec", id, ord), rec.append(nil)); err != nil {
		s.opt.Log.Warn("refused batch is not kept", "lane", id.String(), "seq", seq, "err", err)
	}
	return d, s.recordDrop(l, span{ord, ord}, d.Items)
}

// Given reports whether the batch was given up, so that an empty one stands in its place.
func (s *Spool) Given(id wire.Lane, seq uint64) bool {
	l := s.lane(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped(l.base + seq)
}

func keepAside(dir, name string, payload []byte) error {
	dir = filepath.Join(dir, "set-aside")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for len(old) >= maxSetAside {
		if err := os.Remove(filepath.Join(dir, old[0].Name())); err != nil {
			return err
		}
		old = old[1:]
	}
	return os.WriteFile(filepath.Join(dir, name), appendRecord(nil, payload), 0o600)
}

// Number returns the local number of the series with the canonical key (wire.Labels.AppendKey). A full
// dictionary is emptied as soon as no metrics batch waits; until then it answers ErrSeriesFull.
func (s *Spool) Number(key []byte) (uint64, error) { return s.dict.number(key) }

// SeriesLabels returns the labels of a local number.
func (s *Spool) SeriesLabels(n uint64) (wire.Labels, bool) { return s.dict.labels(n) }

// Generation changes whenever local numbers lose their meaning.
func (s *Spool) Generation() uint64 {
	s.dict.mu.Lock()
	defer s.dict.mu.Unlock()
	return s.dict.generation
}

// ReclaimSeries empties the dictionary when it is full and no metrics batch waits, so that series which came
// and went make room. Producers call it between two scrapes, never while holding numbers.
func (s *Spool) ReclaimSeries() error {
	s.dict.mu.Lock()
	full := len(s.dict.keys) >= s.opt.MaxSeries
	s.dict.mu.Unlock()
	if !full {
		return nil
	}
	return s.resetSeriesIfIdle()
}

func (s *Spool) resetSeriesIfIdle() error {
	for _, id := range wire.Lanes {
		if !id.CarriesMetrics() {
			continue
		}
		l := s.lane(id)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.acked+1 < l.next {
			return nil
		}
	}
	return s.dict.reset()
}

// LaneStats describes a lane.
type LaneStats struct {
	Acked   uint64 `json:"acked"`
	Next    uint64 `json:"next"`
	Bytes   int64  `json:"bytes"`
	Limit   int64  `json:"limit"`
	Lost    uint64 `json:"lost_items"`
	Files   int    `json:"files"`
	Waiting uint64 `json:"waiting"`
}

// Stats describes a spool.
type Stats struct {
	Epoch   string               `json:"epoch"`
	Bytes   int64                `json:"bytes"`
	Batches uint64               `json:"batches"` // waiting
	Series  int                  `json:"series"`
	Lanes   map[string]LaneStats `json:"lanes"`
}

// Stats returns figures for people and heartbeats.
func (s *Spool) Stats() Stats {
	st := Stats{Epoch: s.Epoch().String(), Lanes: map[string]LaneStats{}}
	s.mu.Lock()
	lost := s.lost
	s.mu.Unlock()
	for i, l := range s.lanes {
		l.mu.Lock()
		ls := LaneStats{
			Acked: l.acked - l.base, Next: l.next - l.base, Bytes: l.bytes, Limit: l.limit,
			Lost: lost[i], Files: len(l.segments), Waiting: l.next - 1 - l.acked,
		}
		l.mu.Unlock()
		st.Bytes += ls.Bytes
		st.Batches += ls.Waiting
		st.Lanes[l.id.String()] = ls
	}
	s.dict.mu.Lock()
	st.Series = len(s.dict.keys)
	s.dict.mu.Unlock()
	return st
}

// Failed returns the error that ended a lane or the dictionary (a failed fsync), or nil. The process must end:
// what the disk holds is only known after opening the spool again.
func (s *Spool) Failed() error {
	for _, l := range s.lanes {
		l.mu.Lock()
		err := l.failed
		l.mu.Unlock()
		if err != nil {
			return err
		}
	}
	s.dict.mu.Lock()
	defer s.dict.mu.Unlock()
	return s.dict.failed
}

// Close releases the spool. Everything appended is durable already.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		defer s.mu.Unlock()
		return s.closeErr
	}
	s.closed = true
	s.mu.Unlock()
	var errs []error
	for _, l := range s.lanes {
		if l != nil {
			errs = append(errs, l.close())
		}
	}
	if s.dict != nil {
		errs = append(errs, s.dict.f.Close())
	}
	if s.acks != nil {
		errs = append(errs, s.acks.f.Close())
	}
	errs = append(errs, s.lock.Close())
	s.closeErr = errors.Join(errs...)
	return s.closeErr
}
