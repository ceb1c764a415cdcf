package repository

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/triward/triward/appliance/backup/target"
)

// BenchmarkIncrementalSave saves a state of TRIWARD_BENCH_MB (100) in tables of 8 MiB and a metadata file, changes one
// per cent of it and saves again into a folder: it reports what each save wrote, in parts of the state.
//
//	TRIWARD_BENCH_MB=4000 go test ./appliance/backup/repository -run '^$' -bench IncrementalSave -benchtime 1x
func BenchmarkIncrementalSave(b *testing.B) {
	mb := 100
	if n, err := strconv.Atoi(os.Getenv("TRIWARD_BENCH_MB")); err == nil && n > 0 {
		mb = n
	}
	for b.Loop() {
		b.StopTimer()
		s := newState(b)
		s.index = 1
		const table = 8 << 20
		for i := range mb << 20 / table {
			s.write(fmt.Sprintf("logs/pebble/%06d.sst", i), someBytes(uint64(i), table))
		}
		db := someBytes(1<<20, 8<<20)
		s.write("meta/meta.db", db)
		r := opened(b, &target.Folder{Dir: b.TempDir()}, someScope, newSecret(b, false))
		_, full := saved(b, r, s, "full")
		size := s.image().Size()
		// One per cent: new tables, and pages all over the metadata.
		changed := size / 100
		s.write("logs/pebble/900000.sst", someBytes(7, int(changed-changed/10)))
		for at := 0; at < int(changed/10); at += 4096 {
			copy(db[at*37%len(db)/4096*4096:], someBytes(uint64(at), 4096))
		}
		s.write("meta/meta.db", db)
		s.index = 2
		b.StartTimer()
		_, st := saved(b, r, s, "second")
		b.ReportMetric(float64(full.Stored)/float64(size)*100, "full-%")
		b.ReportMetric(float64(st.Stored)/float64(size)*100, "incremental-%")
		b.ReportMetric(float64(size)/1e6, "state-MB")
	}
}
