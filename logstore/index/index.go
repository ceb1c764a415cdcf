// Package index is the word index of the log store: one Bleve index for each UTC day, with one document for
// each block whose words are the document's only field. It is derived from the blocks: it may be thrown away
// at any moment, and is when it is damaged or panics.
//
// An index lives in <dir>/<day>-<name>, name being random; a store remembers the name, so an index that was
// made again is never taken for the one that was lost. Documents are durable when Add returns, directories
// included (Bleve itself leaves its new directory and index_meta.json unsynced). The package must not import
// the log store.
package index

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/blevesearch/bleve/v2"
	"github.com/blevesearch/bleve/v2/analysis"
	"github.com/blevesearch/bleve/v2/document"
	"github.com/blevesearch/bleve/v2/index/scorch"
	bleveindex "github.com/blevesearch/bleve_index_api"
)

// ErrUnusable is wrapped by every error that tells of an index which must be dropped and built again.
var ErrUnusable = errors.New("word index is unusable")

// Name tells the indexes of one day apart.
type Name [16]byte

// Doc is a block: its id and its terms, each followed by a line feed.
type Doc struct {
	ID    uint64
	Terms []byte
}

// Days are the indexes of a store. It is safe for concurrent use, except that a day is written by one goroutine
// at a time.
type Days struct {
	dir    string
	max    int
	expect func(day int64, name Name) ([]uint64, error)
	log    *slog.Logger

	mu   sync.Mutex // guards what follows
	open map[dayName]*day
	tick uint64
}

type dayName struct {
	day  int64
	name Name
}

// day is an open index. It is closed when it left the map and has no users.
type day struct {
	idx   bleve.Index
	raw   bleveindex.Index
	path  string
	users int
	gone  bool
	last  uint64
	ready chan struct{} // closed once idx or err is set
	err   error
}

const field = "w"

// Open returns the indexes below dir, which is made when absent. At most maxOpen are held open (more while more
// are in use). An index is checked whenever it is opened: against the checksums of its files, which Bleve writes
// and never reads, and against expect, the blocks that must be in it (Bleve opens without the documents it
// cannot find).
func Open(dir string, maxOpen int, expect func(day int64, name Name) ([]uint64, error), log *slog.Logger) (*Days, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open word index: %w", err)
	}
	return &Days{dir: dir, max: maxOpen, expect: expect, log: log, open: map[dayName]*day{}}, nil
}

func (d *Days) path(dn dayName) string {
	return filepath.Join(d.dir, strconv.FormatInt(dn.day, 10)+"-"+hex.EncodeToString(dn.name[:]))
}

// Has reports whether the index is there; it may still turn out to be unusable.
func (d *Days) Has(dayNo int64, name Name) bool {
	_, err := os.Stat(filepath.Join(d.path(dayName{dayNo, name}), "index_meta.json"))
	return err == nil
}

// Sweep removes every index that keep does not want. It is for the start, before anything is open.
func (d *Days) Sweep(keep func(day int64, name Name) bool) error {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return fmt.Errorf("list word indexes: %w", err)
	}
	for _, e := range entries {
		left, right, _ := strings.Cut(strings.TrimPrefix(e.Name(), "-"), "-")
		no, err := strconv.ParseInt(left, 10, 64)
		if strings.HasPrefix(e.Name(), "-") {
			no = -no
		}
		var name Name
		if b, herr := hex.DecodeString(right); err == nil && herr == nil && len(b) == len(name) {
			name = Name(b)
			if keep(no, name) {
				continue
			}
		}
		if err := os.RemoveAll(filepath.Join(d.dir, e.Name())); err != nil {
			return fmt.Errorf("remove word index: %w", err)
		}
	}
	return nil
}

// Create makes an empty index for the day, durable when it returns.
func (d *Days) Create(dayNo int64) (name Name, err error) {
	_, _ = rand.Read(name[:]) // never fails
	path := d.path(dayName{dayNo, name})
	defer rescue(&err)
	idx, err := bleve.NewUsing(path, bleve.NewIndexMapping(), scorch.Name, scorch.Name, config())
	if err != nil {
		return name, fmt.Errorf("make word index %s: %w", path, err)
	}
	if err := idx.Close(); err != nil {
		return name, fmt.Errorf("make word index %s: %w", path, err)
	}
	return name, errors.Join(syncTree(path), syncPath(d.dir))
}

// floorDocs is how many documents are at least expected in a segment.
const floorDocs = 64

func config() map[string]any {
	return map[string]any{
		"unsafe_batch": false, "numSnapshotsToKeep": 1, "bolt_timeout": "1s", "eventCallbackName": mergeGuard,
		"scorchPersisterOptions": map[string]any{"PersisterNapTimeMSec": 0, "NumPersisterWorkers": 1},
		// Sizes are in documents. What Bleve does by itself counts on documents that are small: below 2,000 of them it merges all
		// segments into one after each Add.
		"scorchMergePlanOptions": map[string]any{"FloorSegmentSize": floorDocs, "MaxSegmentsPerTier": 4, "SegmentsPerMergeTask": 4, "TierGrowth": 4},
	}
}

// Add writes the documents; they are durable when it returns. An error that wraps ErrUnusable asks for Drop.
func (d *Days) Add(dayNo int64, name Name, docs []Doc) (err error) {
	h, err := d.hold(dayName{dayNo, name})
	if err != nil {
		return err
	}
	defer d.release(h)
	defer rescue(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	b := h.idx.NewBatch()
	for i := range docs {
		doc := document.NewDocument(docID(docs[i].ID))
		doc.AddField(document.NewTextFieldCustom(field, nil, docs[i].Terms, bleveindex.IndexField|bleveindex.SkipFreqNorm, lines{}))
		if err := b.IndexAdvanced(doc); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
		}
	}
	if err := h.idx.Batch(b); err != nil {
		return fmt.Errorf("write word index %s: %w", h.path, err)
	}
	// The batch looked up which documents it replaces.
	if err := checkIndex(h.raw); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnusable, h.path, err)
	}
	return syncPath(filepath.Join(h.path, "store"))
}

// lines is the analyzer of terms that are there already, one a line.
type lines struct{}

func (lines) Analyze(text []byte) analysis.TokenStream {
	n := bytes.Count(text, []byte{'\n'})
	tokens := make([]analysis.Token, n)
	out := make(analysis.TokenStream, n)
	for i := range out {
		end := bytes.IndexByte(text, '\n')
		tokens[i] = analysis.Token{Term: text[:end:end], Position: i + 1}
		out[i] = &tokens[i]
		text = text[end+1:]
	}
	return out
}

// hold opens the index, or finds it open, and keeps it so until release.
func (d *Days) hold(dn dayName) (*day, error) {
	d.mu.Lock()
	h := d.open[dn]
	if h == nil {
		h = &day{path: d.path(dn), ready: make(chan struct{})}
		d.open[dn] = h
		h.users = 2 // the caller and the opening
		d.mu.Unlock()
		h.err = d.openIndex(dn, h)
		close(h.ready)
		d.mu.Lock()
		h.users--
		if h.err != nil && d.open[dn] == h {
			delete(d.open, dn)
			h.gone = true
		}
		d.evict()
	} else {
		h.users++
	}
	d.tick++
	h.last = d.tick
	d.mu.Unlock()
	<-h.ready
	if h.err != nil {
		d.release(h)
		return nil, h.err
	}
	return h, nil
}

func (d *Days) openIndex(dn dayName, h *day) (err error) {
	defer rescue(&err)
	must, err := d.expect(dn.day, dn.name) // before the index is opened: what it lists is in there by then
	if err != nil {
		return err
	}
	if err = checkRoot(filepath.Join(h.path, "store", "root.bolt")); err == nil {
		h.idx, err = bleve.OpenUsing(h.path, config())
	}
	if err == nil {
		h.raw, err = h.idx.Advanced()
	}
	if err == nil {
		err = h.check(must)
	}
	if err != nil {
		return fmt.Errorf("%w: open %s: %w", ErrUnusable, h.path, err)
	}
	return nil
}

// check compares the files of the index with their checksums, and its documents with those that must be there.
func (h *day) check(must []uint64) error {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	r, err := h.raw.Reader()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // nothing was written
	snap, ok := r.(*scorch.IndexSnapshot)
	if !ok {
		return fmt.Errorf("reader of type %T", r)
	}
	for _, s := range snap.Segments() {
		if p, ok := s.Segment().(interface{ Path() string }); ok {
			if err := checkFile(p.Path()); err != nil {
				return err
			}
		}
	}
	ids, err := r.DocIDReaderAll()
	if err != nil {
		return err
	}
	defer func() { _ = ids.Close() }()
	have := make(map[string]struct{}, len(must))
	for {
		n, err := ids.Next()
		if err != nil {
			return err
		}
		if n == nil {
			break
		}
		id, err := r.ExternalID(n)
		if err != nil {
			return err
		}
		have[id] = struct{}{}
	}
	for _, id := range must {
		if _, ok := have[docID(id)]; !ok {
			return fmt.Errorf("document %016x is missing", id)
		}
	}
	return nil
}

// checkFile compares a segment with the CRC-32 at its end.
func checkFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	sum, last := crc32.NewIEEE(), make([]byte, 4)
	if _, err := io.CopyN(sum, f, max(0, info.Size()-4)); err != nil {
		return err
	}
	if _, err := io.ReadFull(f, last); err != nil {
		return err
	}
	if sum.Sum32() != binary.BigEndian.Uint32(last) {
		return fmt.Errorf("checksum of %s is wrong", filepath.Base(path))
	}
	return nil
}

// checkRoot makes sure that a bbolt file is as long as its meta pages say: bbolt maps it into memory, where
// reading behind its end kills the process.
func checkRoot(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const metaMagic, header, metaSize = 0xED0CDAED, 16, 64
	size := int64(os.Getpagesize()) // what Bleve makes; the first meta page is at 0 whatever the size
	for _, at := range []int64{0, size} {
		b := make([]byte, header+metaSize)
		if _, err := f.ReadAt(b, at); err != nil {
			return fmt.Errorf("%s is too short: %w", filepath.Base(path), err)
		}
		meta := b[header:]
		if binary.NativeEndian.Uint32(meta) != metaMagic {
			continue // bbolt takes the other one
		}
		pages := binary.NativeEndian.Uint64(meta[40:])
		if pages > 1<<40 || info.Size() < int64(pages)*int64(binary.NativeEndian.Uint32(meta[8:])) {
			return fmt.Errorf("%s has %d bytes, fewer than its %d pages take", filepath.Base(path), info.Size(), pages)
		}
	}
	return nil
}

func docID(id uint64) string { return string(binary.BigEndian.AppendUint64(nil, id)) }

// evict closes what is longest unused beyond the bound. It is called with mu held.
func (d *Days) evict() {
	for len(d.open) > d.max {
		var worst dayName
		var h *day
		for dn, o := range d.open {
			if o.users == 0 && (h == nil || o.last < h.last) {
				worst, h = dn, o
			}
		}
		if h == nil {
			return
		}
		delete(d.open, worst)
		h.gone = true
		h.close(d.log)
	}
}

func (d *Days) release(h *day) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.users--; h.users == 0 && h.gone {
		h.close(d.log)
		return
	}
	d.evict()
}

// close frees the index; damage met in doing so has no one left to serve.
func (h *day) close(log *slog.Logger) {
	if h.idx == nil {
		return
	}
	var err error
	func() {
		defer rescue(&err)
		err = h.idx.Close()
	}()
	if err != nil {
		log.Warn("closing a word index", "path", h.path, "err", err)
	}
	h.idx = nil
}

// Drop removes the index of a day; readers keep what they hold open.
func (d *Days) Drop(dayNo int64, name Name) error {
	dn := dayName{dayNo, name}
	d.mu.Lock()
	if h := d.open[dn]; h != nil {
		delete(d.open, dn)
		if h.gone = true; h.users == 0 {
			h.close(d.log)
		}
	}
	d.mu.Unlock()
	if err := os.RemoveAll(d.path(dn)); err != nil {
		return fmt.Errorf("remove word index: %w", err)
	}
	return nil
}

// Sync makes the directories durable; documents are so since Add.
func (d *Days) Sync() error { return syncPath(d.dir) }

// Close closes all indexes. Readers must be gone.
func (d *Days) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for dn, h := range d.open {
		delete(d.open, dn)
		if h.gone = true; h.users == 0 {
			h.close(d.log)
		}
	}
	return nil
}

// rescue turns a panic of Bleve, which damaged files can cause, into an error.
func rescue(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: panic: %v", ErrUnusable, r)
	}
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync word index: %w", err)
	}
	err = f.Sync()
	return errors.Join(err, f.Close())
}

func syncTree(root string) error {
	return filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncPath(path)
	})
}
