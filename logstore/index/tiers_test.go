package index

import (
	"math/rand/v2"
	"testing"

	"github.com/blevesearch/bleve/v2/index/scorch"
)

// What is indexed is merged a few times, not after each Add with all that is there, which was ten times what there is after 20 of them.
func TestMergesGoByTiers(t *testing.T) {
	d, name, in := filled(t, 0, 1)
	h, err := d.hold(dayName{1, name})
	if err != nil {
		t.Fatal(err)
	}
	stat := func(name string) any { return h.raw.(*scorch.Scorch).StatsMap()[name] }
	rng := rand.New(rand.NewPCG(2, 2))
	for id := uint64(1); id <= 20*floorDocs; {
		var batch []Doc
		for range floorDocs {
			batch = append(batch, Doc{ID: id, Terms: terms(rng, id, in)})
			id++
		}
		if err := d.Add(1, name, batch); err != nil {
			t.Fatal(err)
		}
		until(t, "an index at rest", func() bool { return stat("index_bgthreads_active") == false })
	}
	written, there := stat("TotFileMergeWrittenBytes").(uint64), stat("CurOnDiskBytes").(uint64)
	d.release(h)
	if files := segments(t, d, name); written == 0 || written > 3*there || len(files) > 12 {
		t.Errorf("merges wrote %d bytes, %d are there in %d files", written, there, len(files))
	}
	if what, refused := wrong(t, d, name, in); what != "" || refused {
		t.Error(what, refused)
	}
}
