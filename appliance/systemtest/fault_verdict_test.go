package systemtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A row is red for what its goals do not allow, each by its own measure.
func TestVerdicts(t *testing.T) {
	row := &faultRow{name: "row", goal: time.Second}
	for what, c := range map[string]struct {
		r   result
		why string // "" when it is green
	}{
		"all well":                        {result{faults: 1, recoveries: []time.Duration{time.Second}, same: []time.Duration{time.Minute}}, ""},
		"nothing was done":                {result{}, "no fault"},
		"five times the goal":             {result{faults: 1, recoveries: []time.Duration{4 * time.Second, 6 * time.Second}}, "to recover"},
		"states apart for long":           {result{faults: 1, same: []time.Duration{151 * time.Second}}, "the same state"},
		"half of the goodput goal":        {result{faults: 1, goodput: []float64{0.25}}, "goodput"},
		"two thirds of the goodput goal":  {result{faults: 1, goodput: []float64{0.34}}, ""},
		"one of three in bad company":     {result{faults: 3, goodput: []float64{0.7, 0.15, 0.6}}, ""},
		"nothing went on, once":           {result{faults: 3, goodput: []float64{0.7, 0.05, 0.6}}, "goodput"},
		"three leaders a minute":          {result{faults: 9, leaders: 3, under: time.Minute}, ""},
		"four leaders a minute":           {result{faults: 9, leaders: 4, under: time.Minute}, "4 leaders"},
		"what was acknowledged is gone":   {result{faults: 1, violations: violations{lost: 1}}, "lost 1"},
		"twice":                           {result{faults: 1, violations: violations{doubled: 2}}, "doubled 2"},
		"a sender that was not served":    {result{faults: 1, violations: violations{broken: 1}}, "broken 1"},
		"the row says so":                 {result{faults: 1, err: errNotRun}, "cannot run"},
		"many leaders, but for a moment":  {result{faults: 9, leaders: 4, under: 20 * time.Second}, ""},
		"a little more than the time":     {result{faults: 1, recoveries: []time.Duration{4 * time.Second}}, ""},
		"the same state on the last look": {result{faults: 1, same: []time.Duration{100 * time.Second}}, ""},
	} {
		if red := c.r.red(row); (red == "") != (c.why == "") || !strings.Contains(red, c.why) {
			t.Errorf("%s: red says %q, want %q", what, red, c.why)
		}
	}
}

// The end of a run says what ran, and only a whole one passes.
func TestLastLine(t *testing.T) {
	b := &bench{what: "make torture", rows: make([]faultRow, 3)}
	for want, got := range map[string]string{
		"make torture: 3 of 3 rows ran, 0 red: passed":      b.last(3, 0, nil),
		"make torture: 3 of 3 rows ran, 1 red":              b.last(3, 1, nil),
		"make torture: 2 of 3 rows ran, 0 red; not run: a":  b.last(2, 0, []string{"a"}),
		"make torture: 0 of 3 rows ran, 0 red; not run: a,": b.last(0, 0, []string{"a,"}),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Calls that another thread interrupted are read as one, by the file whatever its descriptor.
func TestSyncsAreRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "strace")
	const text = `  101 1764190000.100000 fdatasync(9</d/raft/1.wal>) = 0
  101 1764190000.200000 fdatasync(9</d/raft/1.wal> <unfinished ...>
  102 1764190000.210000 fsync(11</d/meta.db> <unfinished ...>
  101 1764190000.220000 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
  102 1764190000.230000 <... fsync resumed>) = 0
  103 1764190000.240000 fsync(14</d/raft/1.wal>) = -1 EIO (Input/output error) (INJECTED)
  101 1764190000.250000 exit_group(1 <unfinished ...>
  102 1764190000.260000 +++ exited with 1 +++
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	list, ended, err := (&tracer{path: path}).syncsSeen()
	if err != nil {
		t.Fatal(err)
	}
	tried := make(map[string]int)
	for _, s := range list {
		if s.failed {
			tried[s.file]++
		}
	}
	if len(list) != 4 || len(tried) != 1 || tried["/d/raft/1.wal"] != 2 {
		t.Errorf("failed syncs by file: %v of %+v", tried, list)
	}
	if want := 1764190000*time.Second + 250*time.Millisecond; ended != want {
		t.Errorf("ended at %v, want %v", ended, want)
	}
}
