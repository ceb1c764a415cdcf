package index

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"runtime/debug"

	"github.com/blevesearch/bleve/v2/index/scorch"
	bleveindex "github.com/blevesearch/bleve_index_api"
)

// Bleve maps its segments into memory and compares nothing with their checksums, so a bit that flips in the file of an open
// index changes what the index says at once: a word that is not found hides lines, and a merge writes what it read wrong into
// a segment with a right checksum. Whatever was read from segments is therefore used only when the segments have their
// checksums after it was read. A gigabyte takes about a tenth of a second; a day of three million lines has a few megabytes.

// mergeGuard is the name of checkMerge among Bleve's callbacks. Bleve knows them by their names only, from a table that must not
// change once the program has started.
var mergeGuard = named("triward: segments are whole before what was merged from them is used", checkMerge)

func named(name string, callback func(scorch.Event) bool) string {
	scorch.RegistryEventCallbacks[name] = callback
	return name
}

// checkMerge is called by Bleve's merger when it has written a segment and is about to put it in the place of those that it was
// made from. It panics when one of them is damaged: the merger recovers, and ends, and leaves the index as it was, which
// Find and Add refuse from then on.
func checkMerge(e scorch.Event) bool {
	debug.SetPanicOnFault(true) // of the goroutines of Bleve, for a file that is cut while it is mapped
	if e.Kind != scorch.EventKindMergeTaskIntroductionStart {
		return true
	}
	if err := checkIndex(e.Scorch); err != nil {
		panic(err)
	}
	return true
}

// checkIndex compares all segments of an index with their checksums.
func checkIndex(i bleveindex.Index) error {
	r, err := i.Reader()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // nothing was written
	return checkSums(r)
}

// checkSums compares the segments that r reads from with the CRC-32 at their ends, in the memory that they are mapped to. Those
// that are in no file yet have none.
func checkSums(r bleveindex.IndexReader) error {
	snap, ok := r.(*scorch.IndexSnapshot)
	if !ok {
		return fmt.Errorf("reader of type %T", r)
	}
	for _, s := range snap.Segments() {
		m, ok := s.Segment().(interface {
			Path() string
			Data() []byte
		})
		if !ok {
			continue
		}
		data := m.Data()
		end := len(data) - crc32.Size
		if end < 0 || crc32.ChecksumIEEE(data[:end]) != binary.BigEndian.Uint32(data[end:]) {
			return fmt.Errorf("checksum of %s is wrong", filepath.Base(m.Path()))
		}
	}
	return nil
}
