package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/triward/triward/appliance/backup"
	"github.com/triward/triward/appliance/backup/container"
	"github.com/triward/triward/appliance/backup/target"
)

const block = "tsdb/01HZZZZZZZZZZZZZZZZZZZZZZZ/"

func fill(s *state) {
	s.index = 10
	s.write(block+"chunks/000001", someBytes(1, 5<<20))
	s.write(block+"index", someBytes(2, 300<<10))
	s.write("tsdb/empty", nil)
	s.write("logs/pebble/000004.sst", someBytes(3, 2<<20+17))
	s.write("meta/meta.db", someBytes(4, 3<<20))
}

func TestSaveAndRead(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted=%t", encrypted), func(t *testing.T) {
			id, p := newIdentity(t), newPlace()
			scope := someScope
			if encrypted {
				scope.Recipients = []string{id.Recipient().String()}
			}
			r := opened(t, &client{place: p}, scope, newSecret(t, encrypted))
			s := newState(t)
			fill(s)
			want := s.bytes()
			name, st := saved(t, r, s, "one")
			if st.New != st.Read || st.New < 10<<20 || st.Stored < st.New {
				t.Errorf("first save: %+v", st)
			}
			look, err := Look(t.Context(), &client{place: p}, []age.Identity{id})
			if err != nil {
				t.Fatal(err)
			}
			got, b, err := image(look, name)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d of %d bytes came back: %v", len(got), len(want), err)
			}
			if encrypted != (len(b.Keys) == 2) || b.Manifest.Index != 10 || len(b.Manifest.Files) != 5 {
				t.Errorf("keys %v, manifest %+v", b.Keys, b.Manifest)
			}
			for object, body := range p.objects {
				if bytes.Contains(body, someKeys[1].Body) {
					t.Errorf("the private key stands in %s in clear", object)
				}
				if encrypted && bytes.Contains(body, []byte("meta.db")) {
					t.Errorf("%s tells names of files", object)
				}
			}
			if _, _, err := look.CheckStored(t.Context(), name, nil); err != nil {
				t.Error(err)
			}

			// Next time little has changed.
			s.index = 20
			s.write("logs/pebble/000005.sst", someBytes(5, 100<<10))
			db := someBytes(4, 3<<20)
			copy(db[1<<20:], "changed")
			s.write("meta/meta.db", db)
			second, st := saved(t, r, s, "two")
			if most := int64(150 << 10); st.New > most || st.Stored > most {
				t.Errorf("second save stored too much: %+v", st)
			}
			want2 := s.bytes()
			for n, w := range map[string][]byte{name: want, second: want2} {
				if got, _, err := image(look, n); err != nil || !bytes.Equal(got, w) {
					t.Errorf("%s: %d of %d bytes came back: %v", n, len(got), len(w), err)
				}
			}
			if c, err := look.Choose(t.Context(), 19, 0); err != nil || c.Name != name {
				t.Errorf("at entry 19: %v, %v", c, err)
			}
			if c, err := look.Choose(t.Context(), 0, 20_000); err != nil || c.Name != second {
				t.Errorf("at time 20 s: %v, %v", c, err)
			}
			if _, err := look.Choose(t.Context(), 9, 0); !errors.Is(err, ErrNoSave) {
				t.Errorf("before the first: %v", err)
			}
		})
	}
}

func TestKeys(t *testing.T) {
	id, other, p := newIdentity(t), newIdentity(t), newPlace()
	scope := someScope
	scope.Recipients = []string{id.Recipient().String()}
	secret := newSecret(t, true)
	r := opened(t, &client{place: p}, scope, secret)
	s := newState(t)
	fill(s)
	name, _ := saved(t, r, s, "one")
	if _, err := Look(t.Context(), &client{place: p}, []age.Identity{other}); !errors.Is(err, backup.ErrKey) {
		t.Errorf("with another key: %v", err)
	}
	closed, err := Look(t.Context(), &client{place: p}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := image(closed, name); !errors.Is(err, backup.ErrKey) {
		t.Errorf("without a key: %v", err)
	}
	if h, packs, err := closed.Inspect(t.Context(), name); err != nil || packs != 1 || h.Keys != container.KeysInside {
		t.Errorf("inspected without a key: %+v, %d packs, %v", h, packs, err)
	}
	if _, _, err := closed.CheckStored(t.Context(), name, nil); err != nil {
		t.Errorf("checked without a key: %v", err)
	}
	// The cluster's own key opens manifests, not what they name.
	if _, _, err := image(r, name); !errors.Is(err, backup.ErrKey) {
		t.Errorf("the cluster reads a repository that is not for it: %v", err)
	}
	// With Drill it opens all but the private keys.
	scope.Drill = true
	r = opened(t, &client{place: newPlace()}, scope, secret)
	name, _ = saved(t, r, s, "one")
	if got, b, err := image(r, name); err != nil || !bytes.Equal(got, s.bytes()) || len(b.Keys) != 0 {
		t.Errorf("a drill: %d bytes, %v", len(got), err)
	}
}

// TestForeign opens what is another repository.
func TestForeign(t *testing.T) {
	p := newPlace()
	opened(t, &client{place: p}, someScope, newSecret(t, false))
	other := someScope
	other.Incarnation = "i2"
	if _, err := Open(t.Context(), &client{place: p}, &other, newSecret(t, false)); !errors.Is(err, ErrForeign) {
		t.Errorf("another incarnation: %v", err)
	}
	if _, err := Look(t.Context(), &client{place: newPlace()}, nil); !errors.Is(err, ErrNotRepository) {
		t.Errorf("nothing: %v", err)
	}
	p.objects[fileRepository] = bytes.Replace(p.objects[fileRepository], []byte(`"version": 1`), []byte(`"version": 2`), 1)
	if _, err := Look(t.Context(), &client{place: p}, nil); !errors.Is(err, ErrVersion) {
		t.Errorf("of another version: %v", err)
	}
}

// TestDamage alters, cuts and removes each object in turn: the save is refused, and never read wrongly.
func TestDamage(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		id, p := newIdentity(t), newPlace()
		scope := someScope
		if encrypted {
			scope.Recipients = []string{id.Recipient().String()}
		}
		r := opened(t, &client{place: p}, scope, newSecret(t, encrypted))
		s := newState(t)
		s.index = 10
		s.write(block+"chunks/000001", someBytes(1, 3000))
		s.write("meta/meta.db", someBytes(2, 2000))
		name, _ := saved(t, r, s, "one")
		want := s.bytes()
		objects := p.objects
		for object, body := range objects {
			if object == fileRepository {
				continue
			}
			damage := map[string][]byte{"cut off": body[:len(body)-1], "cut in half": body[:len(body)/2], "empty": {}, "prolonged": append(bytes.Clone(body), 0)}
			for at := 0; at < len(body); at += 37 {
				b := bytes.Clone(body)
				b[at] ^= 0x10
				damage[fmt.Sprint("byte ", at)] = b
			}
			damage["gone"] = nil
			for how, b := range damage {
				one := newPlace()
				for n, o := range objects {
					one.objects[n] = o
				}
				if one.objects[object] = b; b == nil {
					delete(one.objects, object)
				}
				look, err := Look(t.Context(), &client{place: one}, []age.Identity{id})
				if err != nil {
					t.Fatal(err)
				}
				if got, _, err := image(look, name); err == nil && !bytes.Equal(got, want) {
					t.Errorf("encrypted %t: %s of %s: it was read wrongly", encrypted, how, object)
				} else if err == nil && (encrypted || !strings.HasPrefix(object, prefixPack)) {
					t.Errorf("encrypted %t: %s of %s: nothing was noticed", encrypted, how, object)
				}
				if _, _, err := look.CheckStored(t.Context(), name, nil); err == nil {
					t.Errorf("encrypted %t: %s of %s: nothing was noticed without a key", encrypted, how, object)
				} else if how == "gone" && !errors.Is(err, ErrMissing) && !errors.Is(err, ErrNoSave) {
					t.Errorf("%s is gone: %v", object, err)
				}
			}
		}
	}
}

// TestLostPackIsStoredAgain removes a pack: the next save does not count on it.
func TestLostPackIsStoredAgain(t *testing.T) {
	p := newPlace()
	r := opened(t, &client{place: p}, someScope, newSecret(t, false))
	s := newState(t)
	fill(s)
	saved(t, r, s, "one")
	for name := range p.objects {
		if strings.HasPrefix(name, prefixPack) {
			delete(p.objects, name)
		}
	}
	s.index = 20
	name, st := saved(t, r, s, "two")
	if st.New < 10<<20 {
		t.Errorf("%+v", st)
	}
	if got, _, err := image(r, name); err != nil || !bytes.Equal(got, s.bytes()) {
		t.Error(err)
	}
}

// TestCacheChangesNoAnswer makes the same saves with and without it.
func TestCacheChangesNoAnswer(t *testing.T) {
	s, file := newState(t), filepath.Join(t.TempDir(), "backup", "cache.json")
	fill(s)
	old := time.Now().Add(-time.Hour)
	for _, f := range []string{block + "chunks/000001", block + "index", "logs/pebble/000004.sst"} {
		if err := os.Chtimes(filepath.Join(s.dir, f), old, old); err != nil {
			t.Fatal(err)
		}
	}
	with, without := opened(t, &client{place: newPlace()}, someScope, newSecret(t, false)), opened(t, &client{place: newPlace()}, someScope, newSecret(t, false))
	save := func(r *Repository, run string, c *Cache) (string, Stats) {
		req := request(s, run)
		req.Cache = c
		_, name, st, err := r.Save(t.Context(), imageState{s.image()}, req)
		if err != nil {
			t.Fatal(err)
		}
		return name, st
	}
	for i, change := range []func(){
		func() {},
		func() {},
		func() { s.write("logs/pebble/000005.sst", someBytes(9, 4000)) },
		func() { s.remove("logs/pebble/000004.sst") },
		// The same name and length with something else in it: its inode or time of change tells.
		func() { s.write("logs/pebble/000005.sst", someBytes(10, 4000)) },
		func() { s.remove(block + "index"); s.write(block+"index", someBytes(11, 300<<10)) },
	} {
		change()
		s.index += 10
		run := fmt.Sprint("run", i)
		a, st := save(with, run, OpenCache(file))
		b, _ := save(without, run, nil)
		x, _, err1 := image(with, a)
		y, _, err2 := image(without, b)
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(x, y) || !bytes.Equal(x, s.bytes()) {
			t.Errorf("step %d: with the cache another image came out: %v", i, err)
		}
		if i == 1 && st.Read != 3<<20 { // the metadata alone
			t.Errorf("the cache was of no use: %+v", st)
		}
	}
}

// TestPacksAreGivenUp lets a pack decay: what is still needed of it is stored again, and it goes.
func TestPacksAreGivenUp(t *testing.T) {
	p := newPlace()
	r := opened(t, &client{place: p}, someScope, newSecret(t, false))
	s := newState(t)
	s.index = 1
	for i := range 10 {
		s.write(fmt.Sprintf("logs/pebble/%06d.sst", i), someBytes(uint64(i), 100<<10))
	}
	first, _ := saved(t, r, s, "first")
	for i := range 8 {
		s.remove(fmt.Sprintf("logs/pebble/%06d.sst", i))
	}
	s.index = 2
	saved(t, r, s, "second") // still made of the old pack
	s.index = 3
	third, st := saved(t, r, s, "third")
	if st.New != 200<<10 {
		t.Errorf("%+v", st)
	}
	for _, save := range []string{first, SaveName(2, 2000, "second")} {
		if err := r.Remove(t.Context(), save); err != nil {
			t.Fatal(err)
		}
	}
	if sw, err := r.Sweep(t.Context(), 10); err != nil || sw.Packs != 1 || sw.Bytes < 1000<<10 {
		t.Errorf("%+v, %v", sw, err)
	}
	if got, _, err := image(r, third); err != nil || !bytes.Equal(got, s.bytes()) {
		t.Error(err)
	}
}

// TestFolder saves into a folder of files.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	r := opened(t, &target.Folder{Dir: dir}, someScope, newSecret(t, false))
	s := newState(t)
	fill(s)
	name, _ := saved(t, r, s, "one")
	if got, _, err := image(r, name); err != nil || !bytes.Equal(got, s.bytes()) {
		t.Error(err)
	}
	if sw, err := r.Sweep(t.Context(), 10); err != nil || sw.Packs != 0 {
		t.Errorf("%+v, %v", sw, err)
	}
}

// TestErrorsOfWhoTakesTheImage are theirs, not the backup's.
func TestErrorsOfWhoTakesTheImage(t *testing.T) {
	r := opened(t, &client{place: newPlace()}, someScope, newSecret(t, false))
	s := newState(t)
	fill(s)
	name, _ := saved(t, r, s, "one")
	own := errors.New("the disk is full")
	_, err := r.Source(name).Read(t.Context(), nil, func(_ container.Header, in io.Reader) error {
		_, err := io.CopyN(io.Discard, in, 1000)
		return errors.Join(err, own)
	})
	if !errors.Is(err, own) || errors.Is(err, backup.ErrContent) {
		t.Error(err)
	}
}

func entries(from, to uint64) (out []Entry) {
	for i := from; i <= to; i++ {
		out = append(out, Entry{Index: i, Term: 1 + i/100, Type: uint8(i % 2), Stamp: int64(i) * 1000, Data: []byte(strings.Repeat("x", int(i%7)))})
	}
	return out
}

func TestLog(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		id, p := newIdentity(t), newPlace()
		scope := someScope
		if encrypted {
			scope.Recipients = []string{id.Recipient().String()}
		}
		r := opened(t, &client{place: p}, scope, newSecret(t, encrypted))
		// Two writers, one of whom repeats what the other has, and a gap.
		for _, span := range [][2]uint64{{11, 20}, {16, 30}, {21, 25}, {31, 31}, {40, 50}} {
			if _, err := r.WriteSegment(t.Context(), SegmentAbout{Node: "n1"}, entries(span[0], span[1])); err != nil {
				t.Fatal(err)
			}
		}
		look, err := Look(t.Context(), &client{place: p}, []age.Identity{id})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ from, through, last uint64 }{{10, 30, 30}, {10, 31, 31}, {18, 24, 24}, {10, 0, 31}, {39, 0, 50}, {31, 31, 31}} {
			next := c.from + 1
			err := look.Replay(t.Context(), c.from, c.through, func(e Entry) error {
				want := entries(next, next)[0]
				if e.Index != want.Index || e.Term != want.Term || e.Type != want.Type || !bytes.Equal(e.Data, want.Data) {
					t.Errorf("entry %+v, want %+v", e, want)
				}
				next++
				return nil
			})
			if err != nil || next != c.last+1 {
				t.Errorf("from %d through %d: ended before %d, %v", c.from, c.through, next, err)
			}
		}
		err = look.Replay(t.Context(), 10, 45, func(Entry) error { return nil })
		if !errors.Is(err, ErrGap) || !strings.Contains(err.Error(), "32 to 39") {
			t.Errorf("over a gap: %v", err)
		}
		stopped := 0
		if err := look.Replay(t.Context(), 10, 30, func(Entry) error { stopped++; return ErrStop }); err != nil || stopped != 1 {
			t.Errorf("stopped after %d: %v", stopped, err)
		}
		own := errors.New("own")
		if err := look.Replay(t.Context(), 10, 30, func(Entry) error { return own }); !errors.Is(err, own) || errors.Is(err, backup.ErrContent) {
			t.Errorf("an error of who takes entries: %v", err)
		}
		if encrypted {
			if err := r.Replay(t.Context(), 10, 30, func(Entry) error { return nil }); !errors.Is(err, backup.ErrKey) {
				t.Errorf("the cluster reads the archive of a repository that is not for it: %v", err)
			}
		}
		segments, err := look.Segments(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(Covered([]Save{{Index: 10}, {Index: 25}, {Index: 35}, {Index: 41}}, segments))
		if want := "[{10 31} {35 35} {41 50}]"; got != want {
			t.Errorf("covered %s, want %s", got, want)
		}
		for object, body := range p.objects {
			s, ok := parseSegment(object, 0)
			if !ok {
				continue
			}
			for at := range body {
				b := bytes.Clone(body)
				b[at] ^= 1
				if _, err := look.readSegment(bytes.NewReader(b), s, func(Entry) error { return nil }); err == nil {
					t.Fatalf("%s: byte %d was altered, nothing was noticed", object, at)
				}
				if _, err := look.readSegment(bytes.NewReader(body[:at]), s, func(Entry) error { return nil }); err == nil {
					t.Fatalf("%s: cut off at %d, nothing was noticed", object, at)
				}
			}
		}
	}
}

// TestSweepKeepsTheLogThatSavesNeed removes what lies before the oldest one.
func TestSweepKeepsTheLogThatSavesNeed(t *testing.T) {
	r := opened(t, &client{place: newPlace()}, someScope, newSecret(t, false))
	for _, span := range [][2]uint64{{1, 5}, {6, 12}, {13, 20}} {
		if _, err := r.WriteSegment(context.Background(), SegmentAbout{Node: "n1"}, entries(span[0], span[1])); err != nil {
			t.Fatal(err)
		}
	}
	s := newState(t)
	s.index = 10
	saved(t, r, s, "one")
	sw, err := r.Sweep(t.Context(), 10)
	segments, err2 := r.Segments(t.Context())
	if err := errors.Join(err, err2); err != nil || sw.Segments != 1 || len(segments) != 2 {
		t.Errorf("%+v, left %v, %v", sw, segments, err)
	}
}
