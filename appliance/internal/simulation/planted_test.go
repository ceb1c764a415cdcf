package simulation

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// planted is a bug that schedules must find: a change of the source that `go test -overlay` applies, never a switch in
// the product.
type planted struct {
	name  string
	file  string   // below the root of the module
	edits []string // old and new in turn
	shows []ViolationKind
}

func plantedBugs() []planted {
	return []planted{
		{
			name: "dedup off", file: "raftstate/machine/batch.go",
			edits: []string{"case id.Seq == last+1:", "case id.Seq <= last+1:"},
			shows: []ViolationKind{Doubled, Disordered},
		},
		{
			name: "acknowledge before commit", file: "raftstate/proposer.go",
			edits: []string{"	future := n.raft.Load().ApplyLog(", `	batchesOnly := true
	for _, c := range entry.Commands {
		batchesOnly = batchesOnly && c.Type == command.TypeBatch
	}
	if batchesOnly {
		for _, p := range batch {
			p.answer(outcome{index: 1, results: make([]command.Result, len(p.commands))}, nil)
		}
		n.raft.Load().ApplyLog(raft.Log{Data: entry.Append(nil)}, 0)
		<-pr.slots
		return
	}
	future := n.raft.Load().ApplyLog(`},
			shows: []ViolationKind{Lost, Stale},
		},
		{
			name: "watermark after the sync", file: "raftstate/marks.go",
			edits: []string{`		err = wrap("commit the watermark", frozen.Commit(m))`, `		n.fsm.mu.Lock()
		frozen = n.state.Freeze(n.fsm.applied.Load(), n.fsm.term)
		m.Index, m.Term = frozen.Index, frozen.Term
		n.fsm.freezes++
		n.fsm.mu.Unlock()
		err = wrap("commit the watermark", frozen.Commit(m))`},
			shows: []ViolationKind{Lost, NodeFailed}, // the store of logs knows up to where it holds the log
		},
		{
			name: "a follower skips an entry", file: "raftstate/fsm.go",
			edits: []string{"		case raft.LogCommand:\n", `		case raft.LogCommand:
			if len(logs) > 1 && l.Index%7 == 0 {
				responses[i] = outcome{index: l.Index, term: l.Term}
				continue
			}
`},
			shows: []ViolationKind{Differing, Lost},
		},
		{
			name: "no probation", file: "raftstate/probation.go",
			edits: []string{"	if len(n.cfg.Bootstrap) > 0 || n.cfg.Founding {", "	if n != nil {"},
			shows: []ViolationKind{Lost, Stale, Unlinear, Differing},
		},
		{
			name: "no fsync of the log", file: "raftstate/logfile/store.go",
			edits: []string{
				"segment.NewFiler(dir, o.Files)", "segment.NewFiler(dir, unsynced{o.Files})",
				"// openWAL opens", `type unsynced struct{ types.VFS }

func (u unsynced) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := u.VFS.Create(dir, name, size)
	return neverSynced{f}, err
}

func (u unsynced) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := u.VFS.OpenWriter(dir, name)
	return neverSynced{f}, err
}

type neverSynced struct{ types.WritableFile }

func (neverSynced) Sync() error { return nil }

// openWAL opens`,
			},
			shows: []ViolationKind{Lost, Stale, NodeFailed},
		},
		{
			name: "wall clock in Apply", file: "raftstate/machine/audit.go",
			edits: []string{
				"head.Next(tx.Index(), tx.LogTime(), a)", "head.Next(tx.Index(), time.Now().UnixMilli(), a)",
				`	"fmt"`, `	"fmt"
	"time"`,
			},
			shows: []ViolationKind{Differing},
		},
		{
			name: "reads without asking the others", file: "raftstate/remote.go",
			edits: []string{
				"	if err := n.verify(ctx, r); err != nil { // it also makes raft ask them at once\n		return 0, err\n	}\n	if err := n.confirmed(ctx, r, term, asked); err != nil {\n", "	if err := error(nil); asked == 0 {\n",
			},
			shows: []ViolationKind{Stale, Unlinear},
		},
		{
			name: "one clock is believed", file: "raftstate/clock.go",
			edits: []string{"	own, chosen := offsets[0], middle(offsets, held)", "	own, chosen := offsets[0], offsets[0]\n	offsets = slices.Repeat(offsets[:1], voters)"},
			shows: []ViolationKind{WrongTime, WrongExpiry, Lost},
		},
	}
}

// overlay writes the changed file and the description that go wants, and returns its path.
func (p planted) overlay(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, filepath.FromSlash(p.file))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src := string(b)
	for i := 0; i < len(p.edits); i += 2 {
		if n := strings.Count(src, p.edits[i]); n != 1 {
			t.Fatalf("the place to plant %q is found %d times in %s, want once: the source has changed, change the plant too", p.edits[i], n, p.file)
		}
		src = strings.Replace(src, p.edits[i], p.edits[i+1], 1)
	}
	dir := t.TempDir()
	changed, file := filepath.Join(dir, "changed.go"), filepath.Join(dir, "overlay.json")
	desc, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(changed, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, desc, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestPlantedBugs shows that schedules bite: each bug must be found within TRIWARD_SIM_PLANTED schedules (not run when
// that is not set). TRIWARD_SIM_BUG picks one by its name.
func TestPlantedBugs(t *testing.T) {
	limit := Number(t, "TRIWARD_SIM_PLANTED", 0)
	for _, p := range plantedBugs() {
		if only := os.Getenv("TRIWARD_SIM_BUG"); only != "" && only != p.name {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			file := p.overlay(t)
			if limit == 0 {
				return // that there is a place for it is looked at in any case
			}
			var kinds []string
			for _, k := range p.shows {
				kinds = append(kinds, string(k))
			}
			cmd := exec.Command("go", "test", "-overlay", file, "-count=1", "-timeout", "30m", "-v", "-run", "^TestSchedulesFind$", ".")
			cmd.Env = append(os.Environ(), "TRIWARD_SIM_FIND="+strings.Join(kinds, ","), fmt.Sprint("TRIWARD_SIM_SCHEDULES=", limit))
			out, err := cmd.CombinedOutput()
			said := ""
			for line := range strings.Lines(string(out)) {
				if strings.Contains(line, "found in schedule") {
					said = strings.TrimSpace(line)
				}
			}
			if err != nil || said == "" {
				t.Fatalf("not found in %d schedules: %v\n%s", limit, err, tail(string(out), 4000))
			}
			t.Log(said)
		})
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// TestSchedulesFind runs schedules until one shows a violation of the kinds TRIWARD_SIM_FIND. It is what TestPlantedBugs
// runs with a bug in the source.
func TestSchedulesFind(t *testing.T) {
	want := os.Getenv("TRIWARD_SIM_FIND")
	if want == "" {
		return // only asked for by TestPlantedBugs
	}
	first, count := Number(t, "TRIWARD_SIM_SEED", 1), Number(t, "TRIWARD_SIM_SCHEDULES", 50)
	for seed := first; seed < first+count; seed++ {
		var found []Violation
		t.Run(fmt.Sprint(seed), func(t *testing.T) { found = Check(RunSeed(t, seed, Options{})) })
		for _, v := range found {
			if slices.Contains(strings.Split(want, ","), string(v.Kind)) {
				t.Logf("found in schedule %d: %s", seed-first+1, v)
				return
			}
		}
	}
	t.Fatalf("%d schedules found nothing", count)
}
