package systemtest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// planted is a bug that a row of the fault bench must see: a change of the source, applied by `go build -overlay` and
// never by a switch in the product.
type planted struct {
	name  string // as BUG= of make torture-planted, with spaces for dashes
	file  string // below the root of the module
	edits []edit
	also  map[string][]edit // in other files: what would find the bug by itself before a row does
	row   string            // of the fault table, or "kill" or "alerts" for the tests of these names
	// shows is the count that the bug must raise: any other thing amiss might have another cause. With a row "alerts" it
	// is says.
	shows func(*violations) int
	says  string // a regular expression for what that test must complain of
}

// edit is a place that must be there exactly once, and what stands there instead.
type edit struct{ old, new string }

// plantedBugs are those that issue after issue must keep visible.
func plantedBugs() []planted {
	return []planted{
		{
			name: "dedup off", file: "raftstate/machine/batch.go", row: "kill",
			edits: []edit{{"case id.Seq == last+1:", "case id.Seq <= last+1:"}},
			shows: func(v *violations) int { return v.doubled },
		},
		{
			name: "acknowledge before commit", file: "raftstate/proposer.go", row: "kill",
			edits: []edit{{
				"	future := n.raft.Load().ApplyLog(",
				`	batchesOnly := true
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
			}},
			shows: func(v *violations) int { return v.lost },
		},
		{ // two nodes that decide by their own clocks differ as soon as a sender's clock is ahead
			name: "wall clock in apply", file: "raftstate/machine/batch.go", row: "kill",
			edits: []edit{
				{"	now := tx.LogTime() * 1e6\n", "	now := time.Now().UnixNano()\n"},
			},
			shows: func(v *violations) int { return v.differing },
		},
		{ // what was acknowledged is in memory only, on all three nodes; nor is it noted how far the log had reached, by
			// which a node that lost its end refuses to start
			name: "fsync off", file: "raftstate/logfile/store.go", row: "power-all",
			edits: []edit{
				{"segment.NewFiler(dir, o.Files)", "segment.NewFiler(dir, unsynced{o.Files})"},
				{"	return s.reach.set(logs[len(logs)-1].Index, false)\n", "	return nil\n"},
				{"// measure seeds the extents", `type unsynced struct{ types.VFS }

func (u unsynced) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := u.VFS.Create(dir, name, size)
	return unsyncedFile{f}, err
}

func (u unsynced) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := u.VFS.OpenWriter(dir, name)
	return unsyncedFile{f}, err
}

type unsyncedFile struct{ types.WritableFile }

func (unsyncedFile) Sync() error { return nil }

// measure seeds the extents`},
			},
			shows: func(v *violations) int { return v.lost + v.forgotten },
		},
		{ // the mark says more than the store of metrics has made durable; what lies before it is not replayed
			name: "watermark after the sync", file: "raftstate/marks.go", row: "power-marks",
			edits: []edit{{
				"	return n.commit(z.frozen, meta.Mark{\n",
				`	ctx, cancel := context.WithTimeout(n.ctx, flushTimeout)
	defer cancel()
	if err := errors.Join(f.sinks.Metrics.Flush(ctx), n.layout.Sync(n.generation)); err != nil {
		return err
	}
	<-time.After(300 * time.Millisecond) // as on a disk that takes its time
	f.mu.Lock()
	f.freezes++
	late := f.store.Freeze(f.applied.Load(), f.term)
	f.mu.Unlock()
	err = f.sinks.Logs.Flush(ctx)
	if err == nil {
		m := meta.Mark{
			Index: late.Index, Term: late.Term, Generation: n.generation,
			Configuration: raft.EncodeConfiguration(s.config), ConfigurationIndex: s.configIndex,
		}
		if err = late.Commit(m); err == nil {
			n.mark.Store(&m)
			n.retain()
		}
	}
	if err != nil || late != nil {
		return err
	}
	return n.commit(z.frozen, meta.Mark{
`,
			}},
			shows: func(v *violations) int { return v.lost + v.forgotten },
		},
		{ // a message goes out, and then it is written down that it will
			name: "no claim before sending", file: "appliance/alerting/flush.go", row: "alerts",
			edits: []edit{
				{"	\"slices\"\n\n", "	\"slices\"\n	\"time\"\n\n"},
				{"		err := l.commit(ctx, Txn{\n			Compares: []Compare{{BucketGroups, d.g.key, d.g.mod}, {BucketSends, claim.Key, 0}},\n", `		l.send(claim)
		<-time.After(300 * time.Millisecond) // so that a kill meets it
		err := l.commit(ctx, Txn{
			Compares: []Compare{{BucketGroups, d.g.key, d.g.mod}, {BucketSends, claim.Key, 0}},
`},
			},
			says: `the history gives no reason`,
		},
		{ // a follower goes by what it has itself instead of asking the leader; also for a token that was made a moment before
			name: "leader not asked", file: "raftstate/remote.go", row: "stop-follower",
			edits: []edit{{"			index, err = n.indexFrom(ctx, id)", "			index = n.fsm.applied.Load()"}},
			says:  `a linearizable read of .* was acknowledged before|the token is unknown, used up or expired`,
		},
		{ // a leader does not ask the others whether it still leads
			name: "leader goes by itself", file: "raftstate/remote.go", row: "stop-leader",
			edits: []edit{{"	if err := n.verify(ctx, r); err != nil { // it also makes raft ask them at once\n		return 0, err\n	}\n	if err := n.confirmed(ctx, r, term, asked); err != nil {\n", "	if err := error(nil); asked == 0 {\n"}},
			says:  `a linearizable read of .* was acknowledged before`,
		},
		{ // two who read the same version of a record both change it
			name: "compare ignored", file: "raftstate/machine/records.go", row: "metadata",
			edits: []edit{{"		if ok && v.ModIndex != cmp.ModIndex || !ok && cmp.ModIndex != 0 {", "		if !ok && cmp.ModIndex != 0 {"}},
			says:  `is not linearizable|good once gave`,
		},
		{ // a node takes whatever comes
			name: "no bound in flight", file: "appliance/gateway/budget.go", row: "overload",
			edits: []edit{{"	if len(b.waiting) == 0 && b.left >= w.wants {", "	if n >= 0 {"}},
			says:  `(?m:nothing was refused: this|a node takes \d+ MiB|\d+ elections under load|ack p99 \S+$)`,
		},
		{ // what was sealed is in the inbox and in blocks until a second batch is written, also on the disk
			name: "inbox rows go later", file: "logstore/seal.go", row: "kill-index",
			edits: []edit{
				{"	\"slices\"\n\n", "	\"slices\"\n	\"time\"\n\n"},
				{"	if err := batch.DeleteRange([]byte{prefixInbox}, append(last, 0), nil); err != nil {\n", `	if err := errors.Join(e.commit(batch), e.db.Flush()); err != nil {
		return false, fmt.Errorf("seal: %w", err)
	}
	<-time.After(100 * time.Millisecond) // so that a cut meets it
	batch = e.db.NewBatch()
	if err := batch.DeleteRange([]byte{prefixInbox}, append(last, 0), nil); err != nil {
`},
				{"	\"encoding/binary\"\n", "	\"encoding/binary\"\n	\"errors\"\n"},
			},
			shows: func(v *violations) int { return v.doubled },
		},
		{ // what the index does not have yet is taken for searched by it; on opening the index that is noticed, unless nobody looks
			name: "marks go before the index", file: "logstore/work.go", row: "kill-index",
			edits: []edit{{"	if err := e.index.Add(d, name, docs); err != nil {\n", `	early := e.db.NewBatch()
	err = early.Set(dayPrefix(prefixIndex, d), appendIndexName(nil, name), nil)
	for _, m := range blocks[:n] {
		err = errors.Join(err, early.Delete(blockKey(prefixMark, d, m.id), nil))
	}
	if err = errors.Join(err, e.commit(early), e.db.Flush()); err != nil {
		return false, err
	}
	<-time.After(100 * time.Millisecond) // so that a cut meets it
	if err := e.index.Add(d, name, docs); err != nil {
`}},
			also:  map[string][]edit{"logstore/prune.go": {{"	return ids, err\n}\n\n// indexQuery", "	return nil, err\n}\n\n// indexQuery"}}},
			shows: func(v *violations) int { return v.lost },
		},
	}
}

// overlay writes the changed file and the description that go build wants, and returns its path.
func (p *planted) overlay(t *testing.T) string {
	t.Helper()
	changes := map[string][]edit{p.file: p.edits}
	maps.Copy(changes, p.also)
	file, err := overlayOf(t.TempDir(), changes)
	if err != nil {
		t.Fatalf("plant %q: %v", p.name, err)
	}
	return file
}

// overlayOf writes to dir what go build -overlay wants for a program with changed files, which are named from the root of the
// module, and returns its path.
func overlayOf(dir string, changes map[string][]edit) (string, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	for name, edits := range changes {
		path := filepath.Join(root, filepath.FromSlash(name))
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		src := string(b)
		for _, e := range edits {
			if n := strings.Count(src, e.old); n != 1 {
				return "", fmt.Errorf("the place to change is found %d times in %s, want once: the source has changed, change this too: %q", n, name, e.old)
			}
			src = strings.Replace(src, e.old, e.new, 1)
		}
		replace[path] = filepath.Join(dir, fmt.Sprintf("changed%d.go", len(replace)))
		if err := os.WriteFile(replace[path], []byte(src), 0o600); err != nil {
			return "", err
		}
	}
	desc, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, desc, 0o600)
}

// verdict says why a run does not show that the bug is found, nil when it does.
func (p *planted) verdict(v *violations) error {
	switch {
	case v.broken > 0:
		return fmt.Errorf("the run went wrong, so it shows nothing: %v", v)
	case p.shows(v) == 0:
		return fmt.Errorf("the row does not bite: %v", v)
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
		{bugs[2], violations{differing: 1}, true},
		{bugs[2], violations{lost: 1}, false},
	} {
		if err := c.bug.verdict(&c.v); (err == nil) != c.found {
			t.Errorf("%s with %v: %v", c.bug.name, &c.v, err)
		}
	}
}

// TestPlantedBugs shows that the kill test bites: each bug must turn it red, by what the ledger says and not by a run
// that went wrong. The bugs that other rows find take longer: TestPlantedInRows.
func TestPlantedBugs(t *testing.T) {
	t.Parallel()
	for _, p := range plantedBugs() {
		if p.inWhichRow() != "kill" || !asked(&p) {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			k := kills{leader: 2, all: 2, senders: 2, pace: 10 * time.Millisecond}
			out := k.run(t, binaries(t, p.overlay(t)))
			if err := p.verdict(out.violations); err != nil {
				t.Fatalf("after %d batches: %v", out.acked, err)
			}
			t.Logf("found, as it must be: %v", out.violations)
		})
	}
}

// asked reports whether the bug is one that BUG= of make torture-planted names; without it each is.
func asked(p *planted) bool {
	bug := os.Getenv("TRIWARD_PLANTED_BUG")
	return bug == "" || bug == "all" || bug == p.slug()
}

// inWhichRow is the row that is to find the bug: its own, or the one that ROW= of make torture-planted names.
func (p *planted) inWhichRow() string { return cmp.Or(os.Getenv("TRIWARD_PLANTED_ROW"), p.row) }

func (p *planted) slug() string { return strings.ReplaceAll(p.name, " ", "-") }

// The places where bugs are planted are there: it is known at once when the source has moved.
func TestPlantsFit(t *testing.T) {
	if _, err := overlayOf(t.TempDir(), hurried); err != nil {
		t.Error(err)
	}
	for _, p := range plantedBugs() {
		p.overlay(t)
		if p.row == "kill" || p.row == "alerts" {
			continue
		}
		found := false
		for _, r := range faultRows() {
			found = found || r.name == p.row
		}
		if !found {
			t.Errorf("%s is to be found by %q, which is no row", p.name, p.row)
		}
	}
}

// TestPlantedInRows shows that rows of the bench bite. `make torture-planted` sets the environment.
func TestPlantedInRows(t *testing.T) {
	bug := os.Getenv("TRIWARD_PLANTED_BUG")
	if bug == "" {
		t.Log("bugs that take rows of the bench to be found are planted by make torture-planted")
		return
	}
	found := false
	for _, p := range plantedBugs() {
		if !asked(&p) {
			continue
		}
		found = true
		if p.row = p.inWhichRow(); p.row == "kill" { // TestPlantedBugs
			continue
		}
		t.Run(p.name, func(t *testing.T) { p.inRow(t) })
	}
	if !found {
		t.Fatalf("no bug %q", bug)
	}
}

// inRow runs the row with the bug in the program, as whoever looks for it would: in a process of its own.
func (p *planted) inRow(t *testing.T) {
	test, env := "TestTorture", []string{"TRIWARD_TORTURE_MINUTES=0", "TRIWARD_TORTURE_ROWS=" + p.row, "TRIWARD_TORTURE_SEED=1"}
	if p.row == "alerts" {
		test, env = "TestAlerts", []string{"TRIWARD_ALERT_KILLS=4"}
	}
	bin := binaries(t, p.overlay(t))
	agent := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "github.com/triward/triward/agent/cmd/triward-agent")
	if out, err := agent.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	counts := filepath.Join(t.TempDir(), "counts")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v", "-test.timeout=0")
	cmd.Env = append(os.Environ(), append(env, "TRIWARD_BIN="+bin, "TRIWARD_PLANTED_COUNTS="+counts)...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("%s does not bite:\n%s", p.row, out)
	}
	if p.says != "" {
		said := p.complaints(string(out))
		if len(said) == 0 {
			t.Fatalf("%s is red, but not by %q:\n%s", p.row, p.says, out)
		}
		t.Logf("found, as it must be:\n%s", strings.Join(said, "\n"))
		return
	}
	v, err := readCounts(counts)
	if err == nil {
		err = p.verdict(v)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("found by %s, as it must be: %v", p.row, v)
}

// counted is violations as one process tells another.
type counted struct {
	Lost, Doubled, Foreign, Differing, Forgotten, Broken int
	Examples                                             []string
}

// complaints are lines of a test that tell of the bug.
func (p *planted) complaints(out string) []string {
	return regexp.MustCompile(".*(?:"+p.says+").*").FindAllString(out, 5)
}

// What a row always prints is no complaint.
func TestFiguresAreNoComplaint(t *testing.T) {
	bugs := plantedBugs()
	p := &bugs[slices.IndexFunc(bugs, func(p planted) bool { return p.name == "no bound in flight" })]
	for line, complains := range map[string]bool{
		"  9.1 MB/s taken under overload, 8.0 MB/s by six connections: goodput 113 % (goal 80 %); ack p99 2.5s (goal 2s); 12 requests refused with 429\n": false,
		"    lost 0, doubled 0; a node that is not ready: status 503\n":                                                                                   false,
		"    ack p99 12.5s\n    again with: make torture ROWS=overload\n":                                                                                 true,
		"    nothing was refused: this was no overload\n":                                                                                                 true,
		"RED overload: a node takes 900 MiB, GOMEMLIMIT is 400 MiB\n":                                                                                     true,
	} {
		if got := p.complaints(line); (len(got) > 0) != complains {
			t.Errorf("%q: %q", line, got)
		}
	}
}

// writeCounts leaves what a row found to whoever planted a bug.
func (r *result) writeCounts() error {
	to := os.Getenv("TRIWARD_PLANTED_COUNTS")
	if to == "" {
		return nil
	}
	v := r.violations
	if r.err != nil {
		v.add(&v.broken, "%v", r.err)
	}
	b, err := json.Marshal(counted{v.lost, v.doubled, v.foreign, v.differing, v.forgotten, v.broken, v.examples})
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

func readCounts(path string) (*violations, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.Join(errors.New("the row did not come to its end"), err)
	}
	var c counted
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, err
	}
	return &violations{c.Lost, c.Doubled, c.Foreign, c.Differing, c.Forgotten, c.Broken, c.Examples}, nil
}
