package tsdb

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/oklog/ulid/v2"
	promtsdb "github.com/prometheus/prometheus/tsdb"
)

// manifestFile lists the blocks and the sizes of their files, so that one that vanished or was cut short is seen
// when the store opens: the library opens what it finds. Contents have checksums of the library, which it verifies
// when it reads them.
const manifestFile = "blocks.json"

type manifest struct {
	// Floor is the greatest floor below which blocks were deleted.
	Floor  int64           `json:"floor"`
	Blocks []manifestBlock `json:"blocks"`
}

type manifestBlock struct {
	ULID    ulid.ULID        `json:"ulid"`
	MinTime int64            `json:"min_time"`
	MaxTime int64            `json:"max_time"` // exclusive
	Sources []ulid.ULID      `json:"sources"`  // first blocks of which it was merged
	Files   map[string]int64 `json:"files"`    // bytes of index and chunks, by path in the block
	// Sums has what fileSum returns of each file, those of meta.json and tombstones too. It is absent of blocks that an
	// older version made, until Adopt.
	Sums map[string]string `json:"sums,omitempty"`
}

// seal wraps a document with its version and a checksum over both. That it does so stays in all versions.
type seal struct {
	Version uint8           `json:"version"`
	Body    json.RawMessage `json:"body"`
	CRC     uint32          `json:"crc32c"`
}

// sealVersion is the version of the store's own files, of which this program knows no other.
const sealVersion = 1

func (s *seal) sum() uint32 {
	return crc32.Update(crc32.Checksum([]byte{s.Version}, castagnoli), castagnoli, s.Body)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writeSealed replaces a small file; with durable it is fsynced before it takes its name.
func writeSealed(path string, doc any, durable bool) error {
	body, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	sealed := seal{Version: sealVersion, Body: body}
	sealed.CRC = sealed.sum()
	b, err := json.Marshal(sealed)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// readSealed leaves doc alone and returns false when the file is absent.
func readSealed(path string, doc any) (bool, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	var sealed seal
	if err := json.Unmarshal(b, &sealed); err != nil {
		return false, damaged(path, err)
	}
	if sealed.sum() != sealed.CRC {
		return false, damaged(path, errors.New("checksum does not fit"))
	}
	if sealed.Version != sealVersion {
		return false, &VersionError{File: path, Version: sealed.Version}
	}
	if err := json.Unmarshal(sealed.Body, doc); err != nil {
		return false, damaged(path, err)
	}
	return true, nil
}

// scanBlocks describes the blocks below dir as they are. A block that lacks a file is damage.
func scanBlocks(dir string) ([]manifestBlock, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	var blocks []manifestBlock
	for _, e := range entries {
		if _, err := ulid.ParseStrict(e.Name()); err != nil || !e.IsDir() {
			continue
		}
		b, err := scanBlock(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		blocks = append(blocks, b)
	}
	return blocks, nil
}

func scanBlock(dir string) (b manifestBlock, err error) {
	path := filepath.Join(dir, "meta.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return b, damaged(path, err)
	}
	var meta promtsdb.BlockMeta
	if err := json.Unmarshal(text, &meta); err != nil {
		return b, damaged(path, err)
	}
	if meta.Version != 1 || meta.ULID.String() != filepath.Base(dir) {
		return b, damaged(path, fmt.Errorf("block %s of version %d in this directory", meta.ULID, meta.Version))
	}
	b = manifestBlock{
		ULID: meta.ULID, MinTime: meta.MinTime, MaxTime: meta.MaxTime, Sources: meta.Compaction.Sources,
		Files: make(map[string]int64),
	}
	chunkFiles, err := filepath.Glob(filepath.Join(dir, "chunks", "*"))
	if err != nil {
		return b, fmt.Errorf("list chunks: %w", err)
	}
	for _, path := range append(chunkFiles, filepath.Join(dir, "index")) {
		st, err := os.Stat(path)
		if err != nil {
			return b, damaged(path, err)
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return b, fmt.Errorf("name of %s: %w", path, err)
		}
		b.Files[rel] = st.Size()
	}
	return b, nil
}

// checkBlocks compares the blocks with the manifest and returns the manifest as it is from now on.
func checkBlocks(dir string) (manifest, error) {
	m := manifest{Floor: math.MinInt64}
	path := filepath.Join(dir, manifestFile)
	if _, err := readSealed(path, &m); err != nil {
		return m, err
	}
	found, err := scanBlocks(dir)
	if err != nil {
		return m, err
	}
	byID := make(map[ulid.ULID]manifestBlock, len(found))
	merged := make(map[ulid.ULID]struct{})
	for _, b := range found {
		byID[b.ULID] = b
		for _, s := range b.Sources {
			merged[s] = struct{}{}
		}
	}
	for _, want := range m.Blocks {
		have, ok := byID[want.ULID]
		if !ok {
			if want.MaxTime > m.Floor && !covered(want.Sources, merged) {
				return m, damaged(filepath.Join(dir, want.ULID.String()), errors.New("block is missing"))
			}
			continue
		}
		for name, size := range want.Files {
			if got, ok := have.Files[name]; !ok || got != size {
				return m, damaged(filepath.Join(dir, want.ULID.String(), name), fmt.Errorf("has %d bytes of %d", got, size))
			}
		}
		if err := checkMeta(filepath.Join(dir, want.ULID.String()), want.Sums); err != nil {
			return m, err
		}
	}
	carrySums(found, m.Blocks)
	m.Blocks = found
	return m, nil
}

// covered reports whether all sources of a block that is gone live on in others.
func covered(sources []ulid.ULID, merged map[ulid.ULID]struct{}) bool {
	for _, s := range sources {
		if _, ok := merged[s]; !ok {
			return false
		}
	}
	return len(sources) > 0
}

// noteBlocks writes the manifest anew when the blocks have changed.
func (g *generation) noteBlocks() error {
	g.manifestMu.Lock()
	defer g.manifestMu.Unlock()
	loaded := g.db.Blocks()
	same := len(loaded) == len(g.manifest.Blocks)
	known := make(map[ulid.ULID]struct{}, len(g.manifest.Blocks))
	for _, b := range g.manifest.Blocks {
		known[b.ULID] = struct{}{}
	}
	for _, b := range loaded {
		if _, ok := known[b.Meta().ULID]; !ok {
			same = false
		}
	}
	if same {
		return nil
	}
	blocks := make([]manifestBlock, 0, len(loaded))
	for _, b := range loaded {
		described, err := scanBlock(b.Dir())
		if errors.Is(err, fs.ErrNotExist) {
			continue // just deleted below the floor
		}
		if err != nil {
			return err
		}
		blocks = append(blocks, described)
	}
	carrySums(blocks, g.manifest.Blocks)
	for i := range blocks {
		if sums, ok := g.fresh[blocks[i].ULID]; ok && blocks[i].Sums == nil {
			blocks[i].Sums = sums
		}
	}
	next := manifest{Floor: g.manifest.Floor, Blocks: blocks}
	if err := writeSealed(filepath.Join(g.dir, manifestFile), next, true); err != nil {
		return err
	}
	g.manifest = next
	clear(g.fresh)
	return nil
}

// noteFloor makes the manifest say that blocks below floor may be gone.
func (g *generation) noteFloor(floor int64) error {
	g.manifestMu.Lock()
	defer g.manifestMu.Unlock()
	if floor <= g.manifest.Floor {
		return nil
	}
	next := manifest{Floor: floor, Blocks: g.manifest.Blocks}
	if err := writeSealed(filepath.Join(g.dir, manifestFile), next, true); err != nil {
		return err
	}
	g.manifest = next
	return nil
}
