package systemtest

import (
	"encoding/json"
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
}

// plantedBugs are those that issue after issue must keep visible.
func plantedBugs() []planted {
	return []planted{
		{
			name: "dedup off", file: "raftstate/machine/batch.go",
			old: "case id.Seq == last+1:", new: "case id.Seq <= last+1:",
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

// TestPlantedBugs shows that the kill test bites: each bug must turn it red.
func TestPlantedBugs(t *testing.T) {
	for _, p := range plantedBugs() {
		t.Run(p.name, func(t *testing.T) {
			k := kills{leader: 2, all: 2, senders: 2, pace: 10 * time.Millisecond}
			out := k.run(t, binaries(t, p.overlay(t)))
			if out.violations.total() == 0 {
				t.Fatalf("nothing was found amiss in %d batches: the kill test does not bite", out.acked)
			}
			t.Logf("found, as it must be: %v", out.violations)
		})
	}
}
