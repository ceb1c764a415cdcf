package repository

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/raftstate/snapshot"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew; only for a form of a new version")

// golden holds bytes against those of the version.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes are written, version 1 has %d others", name, len(got), len(want))
	}
}

// plain is a repository that is not encrypted with a secret that does not change.
func plain() *Repository {
	return &Repository{
		store:  &client{place: newPlace()},
		secret: &Secret{Hash: bytes.Repeat([]byte{7}, 32)}, about: about{Triward: "repository", Version: Version, ID: "x", Cluster: "c1"},
	}
}

// TestGoldenBytes holds the forms of version 1.
func TestGoldenBytes(t *testing.T) {
	r := plain()
	id := r.pieceID([]byte("piece"))
	golden(t, "piece-id", []byte(hex.EncodeToString(id[:])))
	golden(t, "entry", appendEntry(nil, &Entry{Index: 258, Term: 3, Type: 1, Data: []byte("data")}))
	var segment bytes.Buffer
	h := container.Header{Cluster: "c1", Node: "n1", First: 11, Index: 12, Term: 1, LogTime: 12_000, Created: 5, Program: "test", Content: container.ContentLogV1}
	if err := writeSegment(&segment, h, nil, entries(11, 12)); err != nil {
		t.Fatal(err)
	}
	golden(t, "segment", segment.Bytes())
	var manifest bytes.Buffer
	pack := prefixPack + strings.Repeat("ab", 32)
	body := &saveBody{
		Version: Version, Image: snapshot.Header{Format: 1, Index: 12, Term: 1, Node: "n1"},
		Files: []saveFile{{Name: "meta/"}, {Name: "meta/meta.db", Size: 5, SHA256: "00", Pieces: []int{0}}},
		Packs: []packEntry{{Name: pack, Size: 20, Pieces: []piece{{ID: id[:], Len: 18, Raw: 5}}}},
	}
	m := &backup.Manifest{Version: 1, Cluster: "c1", Index: 12, Term: 1, Files: []backup.File{{Name: "meta/meta.db", Size: 5, SHA256: "00"}}}
	h = container.Header{Cluster: "c1", Node: "n1", Index: 12, Term: 1, Created: 5, Program: "test", Content: container.ContentSaveV1}
	if err := r.writeManifest(&manifest, h, m, body); err != nil {
		t.Fatal(err)
	}
	golden(t, "save", manifest.Bytes())
	if name := SaveName(12, 1_790_000_000_000, "run1"); name != "save-00000000000000000012-001790000000000-run1" {
		t.Error(name)
	}
	if name := segmentName(1, 20, "x"); name != "log-00000000000000000001-00000000000000000020-x" {
		t.Error(name)
	}
	golden(t, "scope-id", []byte((&Scope{Cluster: "c1", Incarnation: "i1", Recipients: []string{"b", "a", "a"}}).ID()))
}

// TestGoldenBytesAreRead reads what version 1 wrote.
func TestGoldenBytesAreRead(t *testing.T) {
	r := plain()
	segment, err := os.ReadFile("testdata/segment")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if _, err := r.readSegment(bytes.NewReader(segment), Segment{First: 11, Last: 12}, func(Entry) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d entries, %v", n, err)
	}
	body, err := os.ReadFile("testdata/save")
	if err != nil {
		t.Fatal(err)
	}
	name := SaveName(12, 0, "x")
	r.store.(*client).objects[name] = body
	s, err := r.load(t.Context(), name)
	if err != nil || s.manifest.Index != 12 || len(s.body.Packs) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

func FuzzReadSave(f *testing.F) {
	if b, err := os.ReadFile("testdata/save"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := plain()
		name := SaveName(12, 0, "x")
		r.store.(*client).objects[name] = b
		if s, err := r.load(t.Context(), name); err == nil {
			_, _, _ = image(r, name) // its packs are not there
			_ = s
		}
	})
}

// FuzzReadSaveBody looks at what is behind the checksums.
func FuzzReadSaveBody(f *testing.F) {
	f.Add([]byte(`{"packs":["pack-`+strings.Repeat("ab", 32)+`"]}`), []byte(`{"version":1,"files":[{"name":"a","size":1,"pieces":[0]}]}`))
	f.Fuzz(func(t *testing.T, list, body []byte) {
		r := plain()
		var out bytes.Buffer
		c, err := container.NewWriter(&out, container.Header{Content: container.ContentSaveV1, Cluster: "c1"})
		if err != nil {
			t.Fatal(err)
		}
		var b saveBody
		if json.Unmarshal(body, &b) == nil {
			b.Manifest = json.RawMessage(`{"version":1,"header_sha256":"` + c.HeaderSum() + `","cluster":"c1"}`)
			if body, err = json.Marshal(&b); err != nil {
				return
			}
		}
		packed, err := compressed(list)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeSections(c, packed, body, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		name := SaveName(12, 0, "x")
		r.store.(*client).objects[name] = out.Bytes()
		_, _, _ = image(r, name)
	})
}

func FuzzReadEntry(f *testing.F) {
	f.Add(appendEntry(nil, &Entry{Index: 258, Term: 3, Type: 1, Data: []byte("data")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := readEntry(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again := appendEntry(nil, &e); !bytes.Equal(again, b[:len(again)]) {
			t.Errorf("%x was read as %+v", b, e)
		}
	})
}

func FuzzReadSegment(f *testing.F) {
	if b, err := os.ReadFile("testdata/segment"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = plain().readSegment(bytes.NewReader(b), Segment{First: 11, Last: 12}, func(Entry) error { return nil })
	})
}

// FuzzReadPack reads a piece of what claims to be a pack.
func FuzzReadPack(f *testing.F) {
	f.Add(binary.LittleEndian.AppendUint16([]byte(packMagic), Version), int64(0), int64(10), int64(10))
	f.Fuzz(func(t *testing.T, b []byte, off, n, raw int64) {
		r := plain()
		name := prefixPack + strings.Repeat("ab", 32)
		r.store.(*client).objects[name] = b
		p, err := r.newPackReader(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		if got, err := p.read(name, &piece{ID: make([]byte, 32), Off: off, Len: n, Raw: raw}); err == nil {
			t.Errorf("%d bytes were read that nobody stored", len(got))
		}
	})
}
