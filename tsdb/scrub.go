package tsdb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/record"
	"github.com/prometheus/prometheus/tsdb/wlog"
	"golang.org/x/sys/unix"

	"github.com/triward/triward/agent/wire"
)

// Scrub reads the files of the store that do not change any more and compares them with their checksums: blocks, closed
// segments of the write-ahead logs with their checkpoint, closed files of chunks of the head, and the store's own small
// files. pace is told of the bytes read, and its error ends the scrub. It holds up nothing: files that go meanwhile are
// passed over. Damage is remembered and told to OnDamage; what was found is returned.
func (s *Store) Scrub(ctx context.Context, pace func(bytes int) error) ([]*DamageError, error) {
	g, err := s.hold()
	if err != nil {
		return nil, fmt.Errorf("scrub metrics store: %w", err)
	}
	c := &scrub{g: g, pace: func(n int) error { return errors.Join(ctx.Err(), g.ctx.Err(), pace(n)) }}
	c.list()
	g.release() // files that are deleted while they are read do no harm
	for _, step := range []func() error{c.small, c.blocks, c.logs, c.headChunks} {
		if err := step(); err != nil {
			return c.found, fmt.Errorf("scrub metrics store %s: %w", g.dir, err)
		}
	}
	return c.found, nil
}

type scrub struct {
	g     *generation
	pace  func(int) error
	found []*DamageError
	open  []listed
}

// listed is a block that was open when the scrub began.
type listed struct {
	id         ulid.ULID
	dir        string
	minT, maxT int64
	sums       map[string]string
}

func (c *scrub) list() {
	g := c.g
	g.manifestMu.Lock()
	sums := make(map[ulid.ULID]map[string]string)
	for i := range g.manifest.Blocks {
		sums[g.manifest.Blocks[i].ULID] = g.manifest.Blocks[i].Sums
	}
	for id, s := range g.fresh {
		sums[id] = s
	}
	g.manifestMu.Unlock()
	for _, b := range g.db.Blocks() {
		m := b.Meta()
		c.open = append(c.open, listed{m.ULID, b.Dir(), m.MinTime, m.MaxTime, sums[m.ULID]})
	}
}

// damaged takes a failure of a file: nil when the scrub can go on.
func (c *scrub) damaged(d *DamageError) error {
	if gone(d.Err) || c.g.ctx.Err() != nil {
		return nil
	}
	switch {
	case errors.Is(d.Err, context.Canceled) || errors.Is(d.Err, context.DeadlineExceeded):
		return d.Err
	case errors.Is(d.Err, unix.EIO): // a sector that the disk cannot read; who has the file mapped must keep off it
		d.Hides = true
	case !isCorruption(d.Err):
		return d.Err
	}
	c.found = append(c.found, d)
	c.g.damaged(d)
	return nil
}

func (c *scrub) small() error {
	var m manifest
	var p position
	for name, doc := range map[string]any{manifestFile: &m, positionFile: &p} {
		path := filepath.Join(c.g.dir, name)
		if _, err := readSealed(path, doc); err != nil {
			if err := c.damaged(&DamageError{File: path, Err: err}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *scrub) blocks() error {
	for i := range c.open {
		b := &c.open[i]
		names, err := blockFiles(b.dir)
		if err != nil {
			return err
		}
		unproven := make(map[string]string, len(names))
		for name := range b.sums { // what is not there any more is seen too
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		vanished := false
		for _, name := range names {
			sum, err := fileSum(b.dir, name, c.pace)
			if gone(err) {
				if _, serr := os.Stat(filepath.Join(b.dir, blockMeta)); gone(serr) {
					vanished = true // the block was merged or fell below the floor
					break
				}
				err = errors.New("file is missing")
			}
			if want, ok := b.sums[name]; err == nil && ok && sum != want {
				err = errChecksum
			}
			if err == nil {
				unproven[name] = sum
				continue
			}
			d := &DamageError{File: filepath.Join(b.dir, name), Err: err, From: b.minT, To: b.maxT}
			d.Hides = filepath.Dir(name) != "chunks" // chunks have checksums that every reader checks
			if err := c.damaged(d); err != nil {
				return err
			}
			vanished = true
		}
		if b.sums == nil && !vanished {
			c.g.manifestMu.Lock()
			c.g.unproven[b.id] = unproven
			c.g.manifestMu.Unlock()
		}
	}
	return nil
}

// logs reads the closed segments of both logs; the last one is being written.
func (c *scrub) logs() error {
	for _, name := range []string{walDir, wblDir} {
		dir := filepath.Join(c.g.dir, name)
		segs, err := listSegments(dir)
		if err != nil && !errors.Is(err, ErrDamaged) { // a gap is what truncation looks like from beside
			return err
		}
		if len(segs) > 0 {
			segs = segs[:len(segs)-1]
		}
		if checkpoint, _, err := wlog.LastCheckpoint(dir); err == nil {
			more, err := listSegments(checkpoint)
			if err != nil && !errors.Is(err, ErrDamaged) {
				return err
			}
			segs = append(segs, more...)
		}
		k := checker{log: slog.New(slog.DiscardHandler), dec: record.NewDecoder(labels.NewSymbolTable(), nil), series: map[chunks.HeadSeriesRef]struct{}{}}
		for _, s := range segs {
			st, err := os.Stat(s.path)
			if gone(err) {
				continue
			}
			if err == nil {
				err = c.pace(int(st.Size()))
			}
			if err == nil {
				err = evict(s.path)
			}
			if err == nil {
				_, err = k.scan(s, func([]byte) error { return nil })
			}
			if err != nil {
				if err := c.damaged(&DamageError{File: s.path, Err: err}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func evict(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	forget(f)
	return f.Close()
}

// headChunks checks the files of the head's chunks. The newest one is being written: what is not whole there may be its end,
// unless a whole chunk comes behind it.
func (c *scrub) headChunks() error {
	paths, err := filepath.Glob(filepath.Join(c.g.dir, headChunksDir, "[0-9]*"))
	if err != nil {
		return fmt.Errorf("list chunks of the head: %w", err)
	}
	slices.SortFunc(paths, func(a, b string) int {
		i, _ := strconv.Atoi(filepath.Base(a))
		j, _ := strconv.Atoi(filepath.Base(b))
		return i - j
	})
	for i := range paths {
		if err := checkHeadChunks(paths[i], i == len(paths)-1, c.pace); err != nil {
			if err := c.damaged(&DamageError{File: paths[i], Err: err}); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkHeadChunks reads a file of chunks of the head: a header, then for each chunk the series (8 bytes), least and
// greatest time (8 each), encoding (1), length (uvarint), content and a CRC32C of all that (4), big endian; then zeros.
// The newest one is made of zeros before its header is written.
func checkHeadChunks(path string, newest bool, pace func(int) error) error {
	var b []byte
	if st, err := os.Stat(path); err == nil {
		b = make([]byte, 0, min(st.Size(), chunks.MaxHeadChunkFileSize))
	}
	if err := readPaced(path, pace, func(part []byte) error { b = append(b, part...); return nil }); err != nil {
		return err
	}
	if newest && allZero(b[:min(len(b), chunks.HeadChunkFileHeaderSize)]) {
		if headChunkBehind(b[min(len(b), chunks.HeadChunkFileHeaderSize):]) {
			return errors.New("its header is not there")
		}
		return nil
	}
	if len(b) < chunks.HeadChunkFileHeaderSize || binary.BigEndian.Uint32(b) != chunks.MagicHeadChunks {
		return errors.New("it does not begin as such a file does")
	}
	for at := chunks.HeadChunkFileHeaderSize; at < len(b); {
		rest := b[at:]
		if len(rest) < headChunkFixed+1 || allZero(rest[:headChunkFixed]) {
			if !newest && !allZero(rest) {
				return fmt.Errorf("bytes behind the last chunk, at %d", at)
			}
			return nil
		}
		size, whole := headChunk(rest)
		if !whole {
			if newest && !headChunkBehind(rest[1:]) {
				return nil
			}
			return fmt.Errorf("chunk at %d: %w", at, errChecksum)
		}
		at += size
	}
	return nil
}

// headChunkFixed is what a chunk of the head begins with before its length.
const headChunkFixed = chunks.SeriesRefSize + 2*chunks.MintMaxtSize + chunks.ChunkEncodingSize

// headChunk returns the size of the chunk that b begins with and whether it is whole.
func headChunk(b []byte) (int, bool) {
	if len(b) < headChunkFixed+1 {
		return 0, false
	}
	size, n := binary.Uvarint(b[headChunkFixed:])
	if n <= 0 || size > math.MaxInt32 || headChunkFixed+n+int(size)+chunks.CRCSize > len(b) {
		return 0, false
	}
	end := headChunkFixed + n + int(size)
	return end + chunks.CRCSize, crc32.Checksum(b[:end], castagnoli) == binary.BigEndian.Uint32(b[end:])
}

// headChunkBehind reports whether a whole chunk begins in the next bytes. A chunk has about 200 bytes, so not far.
func headChunkBehind(b []byte) bool {
	const far = 64 << 10
	for at := range min(len(b), far) {
		if allZero(b[at:min(len(b), at+headChunkFixed)]) {
			continue
		}
		if _, whole := headChunk(b[at:]); whole {
			return true
		}
	}
	return false
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// Each shows all samples with times in [from, to), in milliseconds, as queries would: series is called with the labels of
// each series, and what it returns with each of its samples. The store is held meanwhile, so the span should be short: a
// reader holds up the truncation of the head. Damage that it meets is reported as that of a query.
func (s *Store) Each(ctx context.Context, from, to int64, series func(wire.Labels) func(t int64, v float64)) error {
	if from >= to {
		return nil
	}
	q, err := s.Querier(from, to-1)
	if err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	set := q.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchRegexp, labels.MetricName, ".*"))
	var it chunkenc.Iterator
	for err == nil && set.Next() {
		if err = ctx.Err(); err != nil {
			break
		}
		at := set.At()
		it = at.Iterator(it)
		sample := series(fromLibrary(at.Labels()))
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			if kind != chunkenc.ValFloat {
				continue
			}
			sample(it.At())
		}
		err = it.Err()
	}
	if err := errors.Join(s.noticed(errors.Join(err, set.Err())), q.Close()); err != nil {
		return fmt.Errorf("read samples: %w", err)
	}
	return nil
}
