package boltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// fill makes a file with branch, leaf, overflow and free pages.
func fill(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: PageSize})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		err := db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{"many", "large", "few"} {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				n, size := 400, 50
				switch name {
				case "large":
					n, size = 3, 20_000
				case "few":
					n, size = 2, 3
				}
				for i := range n {
					if err := b.Put(fmt.Appendf(nil, "key-%05d", i), bytes.Repeat([]byte{byte(round)}, size)); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWholeFile(t *testing.T) {
	path := fill(t)
	seen := map[string]int{}
	err := Check(path, func(bucket string, _, value []byte) error {
		if !bytes.Equal(value, bytes.Repeat([]byte{2}, len(value))) {
			t.Errorf("bucket %s: a value of an earlier transaction", bucket)
		}
		seen[bucket]++
		return nil
	})
	if err != nil || seen["many"] != 400 || seen["large"] != 3 || seen["few"] != 2 {
		t.Errorf("%v, %v", seen, err)
	}
	own := errors.New("not as it should be")
	if err := Check(path, func(string, []byte, []byte) error { return own }); !errors.Is(err, own) {
		t.Errorf("error of the caller: %v", err)
	}
	if err := Check(path+".absent", nil); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
		t.Errorf("absent file: %v", err)
	}
}

// TestNothingBreaksTheCheck changes and cuts the file everywhere.
func TestNothingBreaksTheCheck(t *testing.T) {
	whole, err := os.ReadFile(fill(t))
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte) error {
		c := &checker{f: bytes.NewReader(b), size: int64(len(b)), record: func(string, []byte, []byte) error { return nil }}
		return c.run()
	}
	for at := 0; at < len(whole); at += 509 {
		for _, change := range []byte{1, 0xff} {
			bad := bytes.Clone(whole)
			bad[at] ^= change
			if err := check(bad); err != nil && !errors.Is(err, ErrDamaged) {
				t.Fatalf("byte %d ^ %#x: %v", at, change, err)
			}
		}
	}
	for size := 0; size < len(whole); size += 4093 {
		if err := check(whole[:size]); err != nil && !errors.Is(err, ErrDamaged) || err == nil && size < len(whole)/2 {
			t.Fatalf("cut to %d bytes: %v", size, err)
		}
	}
}

// badSector is a file of which a page cannot be read.
type badSector struct {
	*bytes.Reader
	page int64
}

func (f badSector) ReadAt(b []byte, off int64) (int, error) {
	if off/PageSize == f.page {
		return 0, &fs.PathError{Op: "read", Path: "file", Err: syscall.EIO}
	}
	return f.Reader.ReadAt(b, off)
}

// A page that the disk cannot read is damage in a file that is in use, and an error of the system otherwise.
func TestPageThatCannotBeRead(t *testing.T) {
	path := fill(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	id := max(binary.LittleEndian.Uint64(whole[boltPageHeader+48:]), binary.LittleEndian.Uint64(whole[PageSize+boltPageHeader+48:]))
	met := 0
	for page := range int64(len(whole) / PageSize) {
		for _, inUse := range []bool{false, true} {
			c := &checker{f: badSector{bytes.NewReader(whole), page}, size: int64(len(whole)), record: func(string, []byte, []byte) error { return nil }, at: inUse, txid: id}
			err := c.run()
			if err == nil {
				continue // not in use
			}
			met++
			if errors.Is(err, ErrDamaged) != inUse || !inUse && !errors.Is(err, syscall.EIO) {
				t.Errorf("page %d, in use %v: %v", page, inUse, err)
			}
		}
	}
	if met < 10 {
		t.Errorf("only %d pages were read", met)
	}
}

// Whatever a file holds, checking it must end, without a panic.
func FuzzCheck(f *testing.F) {
	whole, err := os.ReadFile(fill(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole[:16*PageSize])
	f.Add(whole[:3*PageSize])
	f.Fuzz(func(_ *testing.T, b []byte) {
		c := &checker{f: bytes.NewReader(b), size: int64(len(b)), record: func(string, []byte, []byte) error { return nil }}
		_ = c.run()
	})
}
