package tsdb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/oklog/ulid/v2"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// Files of a block besides index and chunks.
const (
	blockMeta       = "meta.json"
	blockTombstones = "tombstones"
)

// summingCompactor sums the files of every block that is made, before the library counts it in.
type summingCompactor struct {
	promtsdb.Compactor
	g *generation
}

// Write implements promtsdb.Compactor.
func (c *summingCompactor) Write(dest string, b promtsdb.BlockReader, mint, maxt int64, base *promtsdb.BlockMeta) ([]ulid.ULID, error) {
	return c.sum(dest)(c.Compactor.Write(dest, b, mint, maxt, base))
}

// Compact implements promtsdb.Compactor. What was read wrong from a damaged block would have right checksums in the one that is
// made, so the blocks are looked at before (an empty result has them deleted) and after, and nothing is made from damaged ones.
func (c *summingCompactor) Compact(dest string, dirs []string, open []*promtsdb.Block) ([]ulid.ULID, error) {
	if err := c.sound(dirs, open); err != nil {
		return nil, err
	}
	ids, err := c.Compactor.Compact(dest, dirs, open)
	if err == nil {
		err = c.sound(dirs, open)
		for _, id := range ids {
			if err != nil {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dest, id.String())))
			}
		}
	}
	return c.sum(dest)(ids, err)
}

func (c *summingCompactor) sound(dirs []string, open []*promtsdb.Block) error {
	for _, b := range open {
		if !slices.Contains(dirs, b.Dir()) {
			continue
		}
		if err := c.g.soundBlock(b); err != nil {
			return fmt.Errorf("not merged: %w", err)
		}
	}
	return nil
}

func (c *summingCompactor) sum(dest string) func([]ulid.ULID, error) ([]ulid.ULID, error) {
	return func(ids []ulid.ULID, err error) ([]ulid.ULID, error) {
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			sums, err := sumBlock(filepath.Join(dest, id.String()), func(int) error { return c.g.compactCtx.Err() })
			if err != nil { // it goes without until Scrub has read it
				c.g.log.Warn("a new block has no checksums yet", "block", id, "error", err)
				continue
			}
			c.g.manifestMu.Lock()
			c.g.fresh[id] = sums
			c.g.manifestMu.Unlock()
		}
		return ids, nil
	}
}

// blockFiles lists the files of a block by path in it.
func blockFiles(dir string) ([]string, error) {
	chunkFiles, err := filepath.Glob(filepath.Join(dir, "chunks", "*"))
	if err != nil {
		return nil, fmt.Errorf("list chunks: %w", err)
	}
	names := []string{"index", blockMeta}
	for _, p := range chunkFiles {
		names = append(names, filepath.Join("chunks", filepath.Base(p)))
	}
	if _, err := os.Stat(filepath.Join(dir, blockTombstones)); err == nil {
		names = append(names, blockTombstones)
	}
	return names, nil
}

func sumBlock(dir string, pace func(int) error) (map[string]string, error) {
	names, err := blockFiles(dir)
	if err != nil {
		return nil, err
	}
	sums := make(map[string]string, len(names))
	for _, name := range names {
		if sums[name], err = fileSum(dir, name, pace); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// fileSum returns the 128-bit xxh3 of a file of a block in hexadecimal. Of meta.json it is that of its content: the library
// writes it again when it marks a block as deletable or as one that could not be merged.
func fileSum(dir, name string, pace func(int) error) (string, error) {
	path := filepath.Join(dir, name)
	if name == blockMeta {
		return metaSum(path)
	}
	h := xxh3.New()
	err := readPaced(path, pace, func(b []byte) error {
		_, _ = h.Write(b) // never fails
		return nil
	})
	return hexSum(h.Sum128()), err
}

func hexSum(u xxh3.Uint128) string { return fmt.Sprintf("%016x%016x", u.Hi, u.Lo) }

// readStep is how much is read at once by a scrub.
const readStep = 1 << 20

// readPaced reads a file from the disk rather than from what the system remembers of it, as far as nobody has it mapped.
func readPaced(path string, pace func(int) error, fn func([]byte) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	forget(f)
	defer forget(f)
	buf := make([]byte, readStep)
	for {
		n, err := f.Read(buf)
		if n > 0 {
			if perr := pace(n); perr != nil {
				return perr
			}
			if ferr := fn(buf[:n]); ferr != nil {
				return ferr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
}

// forget asks the system to drop its copy of a file; that it does not changes nothing but how much a scrub sees.
func forget(f *os.File) { _ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// checkMeta compares meta.json and tombstones of a block, which are small, with their sums.
func checkMeta(dir string, sums map[string]string) error {
	for _, name := range []string{blockMeta, blockTombstones} {
		want, ok := sums[name]
		if !ok {
			continue
		}
		got, err := fileSum(dir, name, func(int) error { return nil })
		if err != nil {
			return damaged(filepath.Join(dir, name), err)
		}
		if got != want {
			return damaged(filepath.Join(dir, name), errChecksum)
		}
	}
	return nil
}

var errChecksum = errors.New("checksum does not fit")

// carrySums gives blocks the sums that the same blocks had.
func carrySums(blocks, from []manifestBlock) {
	sums := make(map[ulid.ULID]map[string]string, len(from))
	for i := range from {
		sums[from[i].ULID] = from[i].Sums
	}
	for i := range blocks {
		if blocks[i].Sums == nil {
			blocks[i].Sums = sums[blocks[i].ULID]
		}
	}
}

// keepSums gives blocks the sums that the manifest has.
func (g *generation) keepSums(blocks []manifestBlock) {
	g.manifestMu.Lock()
	defer g.manifestMu.Unlock()
	carrySums(blocks, g.manifest.Blocks)
}

// Adopt gives checksums to the files of blocks that have none, as Scrub has read them, when proven says of a block's span
// (milliseconds, maxT exclusive) that what the store answers about it was compared with what it must hold since.
func (s *Store) Adopt(proven func(minT, maxT int64) bool) error {
	g, err := s.hold()
	if err != nil {
		return fmt.Errorf("adopt checksums: %w", err)
	}
	defer g.release()
	g.manifestMu.Lock()
	defer g.manifestMu.Unlock()
	next := manifest{Floor: g.manifest.Floor, Blocks: append([]manifestBlock(nil), g.manifest.Blocks...)}
	changed := false
	for i := range next.Blocks {
		b := &next.Blocks[i]
		if sums, ok := g.unproven[b.ULID]; ok && b.Sums == nil && proven(b.MinTime, b.MaxTime) {
			b.Sums, changed = sums, true
		}
	}
	if !changed {
		return nil
	}
	if err := writeSealed(filepath.Join(g.dir, manifestFile), next, true); err != nil {
		return fmt.Errorf("adopt checksums: %w", err)
	}
	g.manifest = next
	clear(g.unproven)
	return nil
}

func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
