package systemtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// planted is a bug that the kill test must see: a change of the source, applied by `go build -overlay` and
// never by a switch in the product.
type planted struct {
	name     string
	file     string // below the root of the module
	old, new string
	// shows is the count that the bug must raise: any other thing amiss might have another cause.
	shows func(*violations) int
}

// plantedBugs are those that issue after issue must keep visible.
func plantedBugs() []planted {
	return []planted{
		{
			name: "dedup off", file: "raftstate/machine/batch.go",
			old: "case id.Seq == last+1:", new: "case id.Seq <= last+1:",
			shows: func(v *violations) int { return v.doubled },
		},
		{
			name: "acknowledge before commit", file: "raftstate/proposer.go",
			old: "	future := n.raft.Load().ApplyLog(",
			new: `	batchesOnly := true
	for _, c := range entry.Commands {
		batchesOnly = batchesOnly && c.Type == command.TypeBatch
	}
	if batchesOnly {
		for _, p := range batch {
			p.answer(outcome{index: 1, results: make([]command.Result, len(p.commands))}, nil)
		}
		<-time.After(50 * time.Millisecond) // so that a kill meets it on a slow machine too
		n.raft.Load().ApplyLog(raft.Log{Data: entry.Append(nil)}, 0)
		<-pr.slots
		return
	}
	future := n.raft.Load().ApplyLog(`,
			shows: func(v *violations) int { return v.lost },
		},
	}
}

// overlay writes the changed file and the description that go build wants, and returns its path.
func (p planted) overlay(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, filepath.FromSlash(p.file))
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), p.old); n != 1 {
		t.Fatalf("%s: the place to plant %q is found %d times in %s, want once: the source has changed, change the plant too", p.name, p.old, n, p.file)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, "changed.go")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(src), p.old, p.new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	desc, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, desc, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// verdict says why a run does not show that the bug is found, nil when it does.
func (p planted) verdict(v *violations) error {
	switch {
	case v.broken > 0:
		return fmt.Errorf("the run went wrong, so it shows nothing: %v", v)
	case p.shows(v) == 0:
		return fmt.Errorf("the kill test does not bite: %v", v)
	}
	return nil
}

// A run that went wrong for any other reason must not pass for a bug that was found.
func TestOnlyTheBugItselfIsFound(t *testing.T) {
	bugs := plantedBugs()
	for _, c := range []struct {
		bug   planted
		v     violations
		found bool
	}{
		{bugs[0], violations{doubled: 3}, true},
		{bugs[0], violations{lost: 3, forgotten: 1, differing: 1, foreign: 1}, false},
		{bugs[0], violations{doubled: 3, broken: 1}, false},
		{bugs[1], violations{lost: 3, forgotten: 2}, true},
		{bugs[1], violations{forgotten: 2, doubled: 1}, false},
		{bugs[1], violations{lost: 3, broken: 1}, false},
		{bugs[1], violations{broken: 1}, false},
	} {
		if err := c.bug.verdict(&c.v); (err == nil) != c.found {
			t.Errorf("%s with %v: %v", c.bug.name, &c.v, err)
		}
	}
}

// TestPlantedBugs shows that the kill test bites: each bug must turn it red, by what the ledger says and not by a run
// that went wrong.
func TestPlantedBugs(t *testing.T) {
	t.Parallel()
	for _, p := range plantedBugs() {
		t.Run(p.name, func(t *testing.T) {
			k := kills{leader: 2, all: 2, senders: 2, pace: 10 * time.Millisecond}
			out := k.run(t, binaries(t, p.overlay(t)))
			if err := p.verdict(out.violations); err != nil {
				t.Fatalf("after %d batches: %v", out.acked, err)
			}
			t.Logf("found, as it must be: %v", out.violations)
		})
	}
}
