package logstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A manifest that is damaged anywhere is refused; one whose end a power loss tore off behind the last flush is not.
func TestManifestIsReadBeforePebbleDoes(t *testing.T) {
	dir := t.TempDir()
	m := newModel(3)
	s := testStore(t, dir, Options{})
	for range 20 {
		m.apply(t, s, 3)
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		work(t, s, true)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	pebble := filepath.Join(dir, "pebble")
	name, size, err := readManifest(vfs.Default, pebble)
	if err != nil || size < 500 {
		t.Fatal(name, size, err)
	}
	path := filepath.Join(pebble, name)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	durable := int(readDurable(vfs.Default, dir).Bytes)
	if durable == 0 || durable > len(whole) {
		t.Fatalf("%d bytes are said to be durable of %d", durable, len(whole))
	}
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for at := 0; at < durable; at += 1 + durable/300 {
		b := append([]byte(nil), whole...)
		b[at] ^= 1 << (at % 8)
		write(b)
		if _, _, err := readManifest(vfs.Default, pebble); !errors.Is(err, errNotWritten) {
			t.Fatalf("a flipped bit at byte %d of %d: %v", at, durable, err)
		}
	}
	write(whole[:durable-1])
	if _, _, err := readManifest(vfs.Default, pebble); !errors.Is(err, errNotWritten) {
		t.Errorf("cut off before what was durable: %v", err)
	}
	b := append([]byte(nil), whole...)
	b[durable/2] ^= 4
	write(b)
	note := filepath.Join(dir, durableFile)
	noted, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(note); err != nil { // as an older version leaves it
		t.Fatal(err)
	}
	if s, err := New(Options{Manual: true}); err != nil || !errors.Is(s.Open(dir), ErrDamaged) {
		t.Error("a manifest that is broken in the middle was opened")
	}
	if err := os.WriteFile(note, noted, 0o600); err != nil {
		t.Fatal(err)
	}
	write(append(whole[:len(whole):len(whole)], 1, 2, 3, 4, 9, 0, 1, 'x'))
	if _, _, err := readManifest(vfs.Default, pebble); err != nil {
		t.Errorf("torn behind what was durable: %v", err)
	}
	again := testStore(t, t.TempDir(), Options{})
	if err := again.Open(dir); err != nil {
		t.Errorf("a torn end: %v", err)
	}
}
