package tsdb

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	promtsdb "github.com/prometheus/prometheus/tsdb"
	"github.com/zeebo/xxh3"
)

// sumOfMeta writes a text as meta.json and sums it.
func sumOfMeta(t *testing.T, text []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, blockMeta), text, 0o600); err != nil {
		t.Fatal(err)
	}
	sum, err := fileSum(dir, blockMeta, func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// The sum of meta.json is the one that the first version took, which went by the library's structure; what the library sets
// later, or may add one day, does not change it, and all else does.
func TestSumOfMeta(t *testing.T) {
	id := ulid.MustParse("01KAVQ2K1T2XH4T7M3YQZ0B5C6")
	meta := promtsdb.BlockMeta{ULID: id, MinTime: 1, MaxTime: 7200000, Version: 1, Stats: promtsdb.BlockStats{NumSamples: 10, NumFloatSamples: 10, NumSeries: 3, NumChunks: 4, NumHistogramSamples: 5, NumTombstones: 2}}
	meta.Compaction = promtsdb.BlockMetaCompaction{
		Level: 2, Sources: []ulid.ULID{id}, Parents: []promtsdb.BlockDesc{{ULID: id, MinTime: 1, MaxTime: 2}}, Hints: []string{"from-out-of-order"},
	}
	for name, m := range map[string]promtsdb.BlockMeta{"full": meta, "empty": {}} {
		text, err := json.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := sumOfMeta(t, text), hexSum(xxh3.Hash128(text)); got != want {
			t.Errorf("%s: %s, the first version took %s", name, got, want)
		}
	}
	text, err := json.MarshalIndent(&meta, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	want := sumOfMeta(t, text)
	if want != "15489ce6186c34d8cdece4b83b7dcea0" {
		t.Errorf("sum %s: blocks that were summed before would be called damaged", want)
	}
	later := meta
	later.Compaction.Deletable, later.Compaction.Failed = true, true
	if text, err = json.Marshal(&later); err != nil {
		t.Fatal(err)
	}
	if got := sumOfMeta(t, []byte(strings.Replace(string(text), `{"ulid"`, `{"flavour":"new","ulid"`, 1))); got != want {
		t.Errorf("with marks and a field that is not known: %s, want %s", got, want)
	}
	for _, change := range [][2]string{{`"numSamples":10`, `"numSamples":11`}, {`"level"`, `"levem"`}, {`"maxTime":7200000`, `"maxTime":7200001`}} {
		if changed := strings.Replace(string(text), change[0], change[1], 1); changed == string(text) || sumOfMeta(t, []byte(changed)) == want {
			t.Errorf("%s was not noticed", change[1])
		}
	}
}
