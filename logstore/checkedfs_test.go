package logstore

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// What Pebble wrote is taken, whatever the size of its blocks, and a flipped bit of a large one is found before Pebble looks
// for it.
func TestLargeBlocksAreCheckedFirst(t *testing.T) {
	mem := vfs.NewMem()
	const name = "000001.sst"
	f, err := mem.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(f), sstable.WriterOptions{})
	value := make([]byte, 300<<10)
	noise := rand.NewChaCha8([32]byte{7})
	keys := []string{"a", "b", "c"}
	for _, k := range keys {
		_, _ = noise.Read(value)
		if err := w.Set([]byte(k), value); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		f, err := checkedFS{mem}.Open(name)
		if err != nil {
			return err
		}
		in, err := sstable.NewSimpleReadable(f)
		if err != nil {
			return err
		}
		r, err := sstable.NewReader(t.Context(), in, sstable.ReaderOptions{})
		if err != nil {
			return err
		}
		return errors.Join(r.ValidateBlockChecksums(), r.Close())
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	whole, err := mem.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := whole.ReadAt(b, 200<<10); err != nil {
		t.Fatal(err)
	}
	if _, err := whole.WriteAt([]byte{b[0] ^ 0x10}, 200<<10); err != nil {
		t.Fatal(err)
	}
	err = read()
	if !errors.Is(err, pebble.ErrCorruption) || !strings.Contains(err.Error(), "of "+name) {
		t.Errorf("a flipped bit: %v", err)
	}
}

// Small reads, and those of other files, are none of blocks.
func TestOnlyLargeReadsOfTablesAreChecked(t *testing.T) {
	mem := vfs.NewMem()
	body := make([]byte, checkedFrom)
	binary.LittleEndian.PutUint32(body[len(body)-4:], 1+crc32.Checksum(body, castagnoli))
	for name, want := range map[string]error{"000001.blob": pebble.ErrCorruption, "000001.sst": pebble.ErrCorruption, "000001.log": nil, "MANIFEST-000001": nil} {
		f, err := mem.Create(name, vfs.WriteCategoryUnspecified)
		if err == nil {
			_, err = f.Write(body)
		}
		if err == nil {
			f, err = checkedFS{mem}.Open(name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadAt(make([]byte, checkedFrom), 0); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if _, err := f.ReadAt(make([]byte, checkedFrom-1), 0); err != nil {
			t.Errorf("%s, less: %v", name, err)
		}
	}
}
