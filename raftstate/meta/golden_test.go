package meta

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

var update = flag.Bool("update", false, "write testdata anew")

// The records of the file and the hashes of digests are a format: what they are must not change unseen.
func TestGoldenRecords(t *testing.T) {
	tl := emptyTimeline(1000)
	for _, at := range []int64{2000, 17_000, 32_000, 47_001, 40_000, 62_001, 100_000} {
		tl, _ = tl.place(at, noFloor)
	}
	times := &timesPage{}
	dict := &dictPage{}
	for i := range 200 {
		times.tl[i], dict.owner[i], dict.hash[i] = tl, 1+uint32(i/150), uint64(i)*3
	}
	times.tl[7] = &timeline{start: 5, floor: -9}
	a := &agent{name: "a1", num: 3, open: true, epoch: wire.Epoch{1, 2}, closed: []wire.Epoch{{9}}, series: 200, clones: 1}
	a.lanes[wire.LaneLogs] = laneState{300, 0x1122334455667788}
	mark := Mark{Index: 300, Term: 2, Configuration: []byte("conf"), ConfigurationIndex: 1, Generation: "g1"}
	s := openNew(t)
	entry(s, 1, 1_700_000_000_000, func(tx *Tx) {
		tx.SetFormat(1)
		tx.RaiseFloor(command.KindLogs, 77)
		tx.OpenEpoch("a1", wire.Epoch{1})
		tx.AllotSeries("a1", [][]byte{labels("x").AppendKey(nil)})
		for i := range uint64(5) {
			tx.Remember(Sum{i, i << 32}, 3)
		}
	})
	line := wire.LogLine{T: 1, Severity: wire.SeverityError, Text: []byte("text"), Fields: []wire.Label{{Name: "f", Value: "v"}}}
	lineSum, _ := HashLine(HashStream(wire.StreamLog, labels("x")), &line, nil)
	var b strings.Builder
	row := func(name string, rec []byte) { fmt.Fprintf(&b, "%s %s\n", name, hex.EncodeToString(rec)) }
	row("times", times.append(nil))
	row("dict", dict.append(nil)[:40])
	row("agent", a.append(nil))
	row("mark", mark.append(nil))
	row("value", appendValue(nil, &Value{Data: []byte("data"), ModIndex: 300, Expires: 1_700_000_000_000}))
	row("recent", s.recent.pages[0].append(nil)[:3*16])
	row("state", s.appendState(nil, 300, 2))
	row("sealed", sealed([]byte("key"), []byte("value")))
	row("day", dayKey{command.KindEvents, 19_000}.key())
	fmt.Fprintf(&b, "sample %s\nline %s\n", HashSample(HashLabels(labels("x")), 1000, 0.5), lineSum)

	path := filepath.Join("testdata", "records.txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the format changed: got\n%s\nwant\n%s", b.String(), want)
	}

	f := fields{b: times.append(nil)}
	if p, err := f.timesPage(); err != nil || p.tl[7].floor != -9 || p.tl[199].last() != 100_000 || p.tl[200] != nil {
		t.Errorf("page read back as %+v, %v", p, err)
	}
	f = fields{b: s.recent.pages[0].append(nil)}
	if p, err := f.recentPage(); err != nil || p.n != 5 || p.sums != s.recent.pages[0].sums {
		t.Errorf("page read back as %+v, %v", p, err)
	}
	f = fields{b: dict.append(nil)}
	if p, err := f.dictPage(); err != nil || p.owner != dict.owner || p.hash != dict.hash || p.live != 200 {
		t.Errorf("page read back as %+v, %v", p, err)
	}
}
