package index

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/blevesearch/bleve/v2/document"
	"github.com/blevesearch/bleve/v2/index/scorch"
	bleveindex "github.com/blevesearch/bleve_index_api"
)

// filled returns an index of documents 1 to docs, in as many segments as there were calls of Add, and what each of its terms is in.
func filled(t *testing.T, docs, each int) (*Days, Name, map[string][]uint64) {
	t.Helper()
	var all []uint64
	d, err := Open(t.TempDir(), 2, func(int64, Name) ([]uint64, error) { return all, nil }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	name, err := d.Create(1)
	if err != nil {
		t.Fatal(err)
	}
	rng, in := rand.New(rand.NewPCG(7, 7)), map[string][]uint64{}
	for id := uint64(1); id <= uint64(docs); {
		var batch []Doc
		for range each {
			batch = append(batch, Doc{ID: id, Terms: terms(rng, id, in)})
			id++
		}
		if err := d.Add(1, name, batch); err != nil {
			t.Fatal(err)
		}
		for _, b := range batch {
			all = append(all, b.ID)
		}
	}
	return d, name, in
}

// terms are words of which some are in many documents and some in one.
func terms(rng *rand.Rand, id uint64, in map[string][]uint64) (out []byte) {
	set := map[string]bool{fmt.Sprintf("only%c%c", 'a'+id%26, 'a'+id/26): true}
	for range 40 {
		set[fmt.Sprintf("word%c%c", 'a'+rng.IntN(1+rng.IntN(26)), 'a'+rng.IntN(26))] = true
	}
	for _, w := range slices.Sorted(maps.Keys(set)) {
		out = append(append(out, w...), '\n')
		in[w] = append(in[w], id)
	}
	return out
}

// wrong asks for every term. It returns the first answer that is not right, and whether any question was refused.
func wrong(t *testing.T, d *Days, name Name, in map[string][]uint64) (what string, refused bool) {
	t.Helper()
	for w, want := range in {
		got, all, err := d.Find(t.Context(), 1, name, &Query{Op: Term, Text: w})
		switch {
		case errors.Is(err, ErrUnusable):
			refused = true
		case err != nil:
			t.Fatal(err)
		case all || !slices.Equal(slices.Sorted(maps.Keys(got)), want):
			return fmt.Sprintf("%s is in %v, found in %v", w, want, slices.Sorted(maps.Keys(got))), refused
		}
	}
	return "", refused
}

// segments lists the files that questions are answered from.
func segments(t *testing.T, d *Days, name Name) (files []string) {
	t.Helper()
	h, err := d.hold(dayName{1, name})
	if err != nil {
		t.Fatal(err)
	}
	defer d.release(h)
	r, err := h.raw.Reader()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for _, s := range r.(*scorch.IndexSnapshot).Segments() {
		files = append(files, s.Segment().(interface{ Path() string }).Path())
	}
	if len(files) == 0 {
		t.Fatal("no segments")
	}
	return files
}

// flip changes one bit of a file in place, as a mapping of it sees at once, and returns what changes it back.
func flip(t *testing.T, path string, rng *rand.Rand) (back func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	at, bit, b := rng.Int64N(info.Size()), byte(1)<<rng.IntN(8), make([]byte, 1)
	change := func() {
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= bit
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	change()
	return func() { change(); _ = f.Close() }
}

// A bit that flips in a segment while it is mapped never hides a block: the answer is right, or there is none.
func TestFlippedBitInAnOpenIndexHidesNothing(t *testing.T) {
	d, name, in := filled(t, 60, 60)
	if what, refused := wrong(t, d, name, in); what != "" || refused {
		t.Fatal(what, refused)
	}
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range 150 {
		back := flip(t, segments(t, d, name)[0], rng)
		what, refused := wrong(t, d, name, in)
		if what != "" || !refused {
			t.Fatalf("flip %d: %s, refused %v", i, what, refused)
		}
		back()
	}
	if what, refused := wrong(t, d, name, in); what != "" || refused {
		t.Fatal("mended:", what, refused)
	}
}

// What was merged from a damaged segment has a right checksum; it must never be asked.
func TestDamageIsNotMerged(t *testing.T) {
	for seed := range uint64(6) {
		d, name, in := filled(t, 9, 1)
		h, err := d.hold(dayName{1, name})
		if err != nil {
			t.Fatal(err)
		}
		stat := func(name string) any { return h.raw.(*scorch.Scorch).StatsMap()[name] }
		until(t, "an index at rest", func() bool { return stat("index_bgthreads_active") == false })
		merged, rng := stat("TotFileMergeIntroductionsDone"), rand.New(rand.NewPCG(seed, 1))
		for _, f := range segments(t, d, name) {
			flip(t, f, rng)
		}
		for id := uint64(100); id < 130; id++ { // not by Add, which would refuse
			b := h.idx.NewBatch()
			doc := document.NewDocument(docID(id))
			doc.AddField(document.NewTextFieldCustom(field, nil, terms(rng, id, in), bleveindex.IndexField|bleveindex.SkipFreqNorm, lines{}))
			if err := errors.Join(b.IndexAdvanced(doc), h.idx.Batch(b)); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "the end of the merger, or a merge", func() bool {
			return stat("TotOnErrors") != uint64(0) || stat("TotFileMergeIntroductionsDone") != merged
		})
		if what, refused := wrong(t, d, name, in); what != "" || !refused {
			t.Fatalf("seed %d: %s, refused %v", seed, what, refused)
		}
		if err := d.Add(1, name, []Doc{{ID: 200, Terms: []byte("more\n")}}); !errors.Is(err, ErrUnusable) {
			t.Fatalf("add to a damaged index: %v", err)
		}
		d.release(h)
	}
}

// A file that is cut while it is mapped is an unusable index and not the end of the process.
func TestCutFileOfAnOpenIndex(t *testing.T) {
	d, name, in := filled(t, 60, 60)
	for _, f := range segments(t, d, name) {
		if err := os.Truncate(f, 0); err != nil {
			t.Fatal(err)
		}
	}
	if what, refused := wrong(t, d, name, in); what != "" || !refused {
		t.Fatal(what, refused)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("waited for " + what)
		}
	}
}
