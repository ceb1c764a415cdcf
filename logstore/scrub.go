package logstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/blob"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/sstable/colblk"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/triward/triward/logstore/index"
)

// Scrub reads the files of the store and compares them with their checksums: tables and blob files of Pebble block by
// block, past its cache, Pebble's manifest, and the word indexes with the blocks that must be in them. pace is told of the
// bytes read, and its error ends the scrub. It holds up nothing: files that go meanwhile are passed over. Damage is
// remembered and told to OnDamage, that of an index to OnIndex: it is made again by itself. What was found is returned.
func (s *Store) Scrub(ctx context.Context, pace func(bytes int) error) ([]*DamageError, error) {
	e, release, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer release()
	c := &scrub{e: e, pace: func(n int) error { return errors.Join(ctx.Err(), e.ctx.Err(), pace(n)) }}
	for _, step := range []func() error{c.manifest, c.tables, c.indexes} {
		err := step()
		if d, ok := errors.AsType[*DamageError](err); ok { // a key that a step goes by
			c.found = append(c.found, d)
			c.e.noteDamage(d)
			continue
		}
		if err != nil {
			return c.found, fmt.Errorf("scrub log store %s: %w", e.dir, err)
		}
	}
	return c.found, nil
}

type scrub struct {
	e     *engine
	pace  func(int) error
	found []*DamageError
}

// damaged takes the failure of a file; nil when the scrub can go on.
func (c *scrub) damaged(name string, from, to int64, err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if cerr := c.e.ctx.Err(); cerr != nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return errors.Join(cerr, err)
	}
	unread := errors.Is(err, unix.EIO) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) // of a file that is there
	if !unread && !pebble.IsCorruptionError(err) && !errors.Is(err, errNotWritten) {
		return err
	}
	d := &DamageError{Dir: c.e.dir, Place: filepath.Join("pebble", name), Err: err, From: from, To: to}
	c.found = append(c.found, d)
	c.e.noteDamage(d)
	return nil
}

// errNotWritten says that a file is not what was written.
var errNotWritten = errors.New("it is not what was written")

func (c *scrub) manifest() error {
	name, size, err := readManifest(c.e.store.opt.FS, filepath.Join(c.e.dir, "pebble"))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return c.pace(int(size))
	}
	return c.damaged(name, 0, 0, err)
}

// tables checks the files of Pebble. One that it does not use any more may still be there and is as good.
func (c *scrub) tables() error {
	files, dir := c.e.store.opt.FS, filepath.Join(c.e.dir, "pebble")
	names, err := files.List(dir)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	slices.Sort(names)
	days := c.days()
	o := &pebble.Options{FS: files, FormatMajorVersion: pebble.FormatValueSeparation}
	o.EnsureDefaults()
	ro := o.MakeReaderOptions()
	for _, name := range names {
		check := checkTable
		switch filepath.Ext(name) {
		case ".sst":
		case ".blob":
			check = checkBlobs
		default:
			continue
		}
		path := filepath.Join(dir, name)
		err := c.e.checkFile(path, ro, c.pace, check)
		if err != nil && !c.inUse(path, name) {
			continue
		}
		span := days[name]
		if err := c.damaged(name, span.from, span.to, err); err != nil {
			return err
		}
	}
	return nil
}

// inUse reports whether a file whose reading failed is one that Pebble goes by: others are gone meanwhile, or still being
// written.
func (c *scrub) inUse(path, name string) bool {
	was, err := c.e.store.opt.FS.Stat(path)
	if err != nil {
		return false
	}
	if filepath.Ext(name) == ".sst" {
		levels, err := c.e.db.SSTables()
		return err != nil || slices.ContainsFunc(levels, func(level []pebble.SSTableInfo) bool {
			return slices.ContainsFunc(level, func(t pebble.SSTableInfo) bool { return fmt.Sprintf("%s.sst", t.BackingSSTNum) == name })
		})
	}
	wait := time.NewTimer(blobSettles)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-c.e.ctx.Done():
		return false
	}
	is, err := c.e.store.opt.FS.Stat(path)
	return err == nil && is.Size() == was.Size() && is.ModTime().Equal(was.ModTime())
}

// blobSettles is for how long a blob file must not have changed to count as written; which of them are in use Pebble does
// not tell.
const blobSettles = 2 * time.Second

type span struct{ from, to int64 } // milliseconds

// days tells for the names of tables which days they are of, as far as their keys say.
func (c *scrub) days() map[string]span {
	out := map[string]span{}
	levels, err := c.e.db.SSTables()
	if err != nil {
		return out
	}
	for _, level := range levels {
		for i := range level {
			low, high := level[i].Smallest.UserKey, level[i].Largest.UserKey
			if len(low) < 5 || len(high) < 5 || low[0] != high[0] || low[0] == prefixInbox || !strings.ContainsRune("shcxfmd", rune(low[0])) {
				continue
			}
			out[fmt.Sprintf("%s.sst", level[i].BackingSSTNum)] = span{dayOf(low) * DayNs / 1e6, (dayOf(high) + 1) * DayNs / 1e6}
		}
	}
	return out
}

// file is what a check reads of.
type file struct {
	vfs.File
	pace func(int) error
}

// ReadAt paces what Pebble reads.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.pace(len(p)); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (e *engine) checkFile(path string, ro sstable.ReaderOptions, pace func(int) error,
	check func(*file, sstable.ReaderOptions) error,
) error {
	f, err := e.store.opt.FS.Open(path)
	if err != nil {
		return err
	}
	forget(f)
	defer forget(f)
	if err := rescued(func() error { return check(&file{f, pace}, ro) }); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil // the reader closed the file
}

// forget asks the system to drop its copy of a file, so that the disk is read.
func forget(f vfs.File) {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		_ = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) // then less is seen, and nothing else changes
	}
}

// rescued turns a panic of Pebble's readers over what they do not expect into an error.
func rescued(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errNotWritten, r)
		}
	}()
	return fn()
}

func checkTable(f *file, ro sstable.ReaderOptions) error {
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return err
	}
	r, err := sstable.NewReader(context.Background(), readable, ro)
	if err != nil {
		return err
	}
	if err := r.ValidateBlockChecksums(); err != nil {
		return err // the caller closes the file
	}
	return r.Close()
}

// checkBlobs reads every block of a blob file. The blocks lie one behind the other, each with its checksum; the index says
// where each begins and, in one number more, where the last ends.
func checkBlobs(f *file, ro sstable.ReaderOptions) error {
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return err
	}
	ctx := context.Background()
	r, err := blob.NewFileReader(ctx, readable, blob.FileReaderOptions{ReaderOptions: ro.ReaderOptions})
	if err != nil {
		return err
	}
	h, err := r.ReadIndexBlock(ctx, block.NoReadEnv, nil)
	if err != nil {
		return err
	}
	offsets := blobOffsets(h.BlockData())
	h.Release()
	for i := 0; i+1 < len(offsets); i++ {
		if offsets[i+1] < offsets[i]+block.TrailerLen {
			return fmt.Errorf("%w: block %d ends before it begins", errNotWritten, i)
		}
		b, err := r.ReadValueBlock(ctx, block.NoReadEnv, nil, block.Handle{Offset: offsets[i], Length: offsets[i+1] - offsets[i] - block.TrailerLen})
		if err != nil {
			return err
		}
		b.Release()
	}
	return r.Close()
}

// blobOffsets reads the index of a blob file (Pebble v2.1): four bytes with the number of remapped blocks, then a block of
// two columns, those and the offsets, of which there is one more than rows.
func blobOffsets(data []byte) []uint64 {
	var d colblk.BlockDecoder
	remapped := int(binary.LittleEndian.Uint32(data))
	d.Init(data, 4)
	_ = colblk.DecodeColumn(&d, 0, remapped, colblk.DataTypeUint, colblk.DecodeUnsafeUints)
	column := colblk.DecodeColumn(&d, 1, d.Rows()+1, colblk.DataTypeUint, colblk.DecodeUnsafeUints)
	out := make([]uint64, d.Rows()+1)
	for i := range out {
		out[i] = column.At(i)
	}
	return out
}

// indexes checks the word indexes. One that is not what it should be is made again from the blocks.
func (c *scrub) indexes() error {
	e := c.e
	if e.index == nil {
		return nil
	}
	days, err := e.days(e.db, prefixIndex, false)
	if err != nil {
		return err
	}
	for _, d := range days {
		name, ok, err := e.indexName(e.db, d)
		if err != nil || !ok || e.distrusted(d) {
			if err != nil && !errors.Is(err, ErrDamaged) {
				return err
			}
			continue
		}
		err = e.index.Verify(d, name, c.pace)
		switch now, ok, nerr := e.indexName(e.db, d); {
		case nerr != nil || !ok || now != name: // the day was dropped, or its index made again
		case errors.Is(err, index.ErrUnusable):
			e.distrust(d, name, err)
			c.found = append(c.found, &DamageError{Dir: e.dir, Place: indexPlace(d), Err: err, From: d * DayNs / 1e6, To: (d + 1) * DayNs / 1e6, Index: true})
		case err != nil:
			return err
		}
	}
	return nil
}

func indexPlace(d int64) string { return "index/" + strconv.FormatInt(d, 10) }
