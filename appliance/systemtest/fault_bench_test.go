package systemtest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// faultRow is a row of the fault table: one kind of fault, and what must hold while it lasts and after it.
type faultRow struct {
	name   string        // a-z, digits and '-'; how it is asked for
	fault  string        // what is done, in words
	needs  []need        // what it cannot run without
	weight time.Duration // of one trial on two quiet cores
	short  bool          // `make faults` runs it
	quick  time.Duration // of the trial that it runs then, when that is a shorter one
	goal   time.Duration // for the times to recover; at five times the goal the row is red; 0: they are printed only
	// longer is how much longer than that the environment may make a trial; nil: it does not.
	longer func() time.Duration
	run    func(ctx context.Context, tr *trial) error
}

// limit is how long a trial may take.
func (r *faultRow) limit() time.Duration {
	d := max(10*r.weight, 10*time.Minute)
	if r.longer != nil {
		d += r.longer()
	}
	return d
}

// lengthOf is a length of time that a variable of the environment asks for, 0 when it asks for none.
func lengthOf(name string) func() time.Duration {
	return func() time.Duration {
		d, _ := time.ParseDuration(os.Getenv(name)) // the row itself complains
		return d
	}
}

// need is something that a machine may lack.
type need struct {
	what string
	// missing says why it is not there, nil when it is.
	missing func() error
}

// faultRows are all rows, in the order of the table in docs/reliability.md.
func faultRows() []faultRow {
	return slices.Concat(
		killRows(),
		networkRows(),
		slowRows(),
		damageRows(),
		notifyRows(),
		metaRows(),
		agentRows(),
		loadRows(),
		diskRows(),
		hostileRows(),
		memberRows(),
		restoreRows(),
		queueRows(),
		searchRows(),
	)
}

// tooSlow is how many times the goal a time may take before the row is red: others may use the machine. What is no time, a
// share, a number of elections or memory, does not grow with that: tooMuch is how many times its goal it may be.
const (
	tooSlow = 5
	tooMuch = 1.5
)

// trial is one run of a row: its cluster, its senders, what it has found. Its methods are for the goroutine of the row
// unless they say otherwise.
type trial struct {
	t    *testing.T
	row  *faultRow
	seed uint64
	rng  *rand.Rand // from seed and name of the row: the schedule of faults
	dir  string     // of its own, empty at first, removed at the end
	bin  string     // folder of the binaries

	c        *cluster
	net      *network  // when the plan says apart
	places   []*place  // of the nodes, likewise
	peers    []*proxy  // before the peers' ports of the nodes, when the row wants them
	traffic  *traffic  // when it was begun
	flooders []*sender // likewise, of data that is not compared at the end

	stockEnd time.Time     // of what readers of damaged nodes know
	fed      int           // series that were made so that there are files
	pace     time.Duration // of senders, when it is not the usual one
	repeats  int           // likewise, as sender.repeats
	// telling are linearizable reads at a node that had stood still which would be stale if it went by what it had; told those
	// of them that were answered.
	telling, told int

	mendedAt time.Time // when the last fault ended, but for starts of nodes

	through map[string]string // what senders take for the address of a node, by that address
	fillers int               // how many senders of much that nobody looks at are added

	result
	ends []func()
}

// atEnd has fn called when the trial is over, however it ends; the last one first.
func (tr *trial) atEnd(fn func()) { tr.ends = append(tr.ends, fn) }

// faulted counts faults that were injected.
func (tr *trial) faulted(n int) { tr.faults += n }

// mended notes that a fault has ended now. The start of a node is noted by the cluster.
func (tr *trial) mended() { tr.mendedAt = time.Now() }

// recovered notes how long after a fault, or its end, all was well again.
func (tr *trial) recovered(d time.Duration) { tr.recoveries = append(tr.recoveries, d) }

// note adds a figure or a remark to the row of the table.
func (tr *trial) note(format string, args ...any) {
	tr.notes = append(tr.notes, fmt.Sprintf(format, args...))
}

// logf prints what happens now.
func (tr *trial) logf(format string, args ...any) {
	fmt.Printf("    %s %s: %s\n", time.Now().Format("15:04:05"), tr.row.name, fmt.Sprintf(format, args...))
}

// errNotRun comes from a row that finds out on the way that this machine cannot run it.
var errNotRun = errors.New("cannot run here")

// bench is one run of several rows.
type bench struct {
	t    *testing.T
	bin  string
	dir  string
	what string // the command that it is
	rows []faultRow
	sums []summary
}

// once runs one trial of row i.
func (b *bench) once(ctx context.Context, i int, seed uint64) {
	row := &b.rows[i]
	for _, n := range row.needs {
		if err := n.missing(); err != nil {
			b.sums[i].notRun, b.sums[i].tolerated = fmt.Sprintf("needs %s: %v", n.what, err), !strict(err)
			fmt.Printf("NOT RUN  %s: %s\n", row.name, b.sums[i].notRun)
			return
		}
	}
	dir, err := os.MkdirTemp(b.dir, row.name+"-")
	if err != nil {
		b.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	tr := &trial{t: b.t, row: row, seed: seed, rng: rngOf(seed, row.name), dir: dir, bin: b.bin}
	begin := time.Now()
	fmt.Printf("%s RUN      %s, seed %d: %s\n", begin.Format("15:04:05"), row.name, seed, row.fault)
	ctx, cancel := context.WithTimeout(ctx, row.limit())
	defer cancel()
	err = tr.whole(ctx)
	tr.took = time.Since(begin)
	if errors.Is(err, errNotRun) {
		b.sums[i].notRun = err.Error()
		fmt.Printf("NOT RUN  %s: %v\n", row.name, err)
		return
	}
	tr.err = err
	tr.uncompared = tr.traffic != nil && !tr.traffic.compared && tr.total() == 0
	if err := tr.result.writeCounts(); err != nil {
		b.t.Error(err)
	}
	b.sums[i].add(row, &tr.result, seed)
	fmt.Printf("%s %s\n", time.Now().Format("15:04:05"), tr.result.line(row, seed))
}

// rngOf gives the same numbers for the same trial.
func rngOf(seed uint64, row string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(row)) // never fails
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// whole runs the row and ends what it began, also after a panic.
func (tr *trial) whole(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
		if err != nil && !errors.Is(err, errNotRun) && tr.c != nil {
			fmt.Printf("    nodes said last:\n%s\n", tr.c.tail())
			tr.keepLog()
		}
		for _, end := range slices.Backward(tr.ends) {
			end()
		}
	}()
	if err := tr.row.run(ctx, tr); err != nil {
		return err
	}
	if tr.traffic != nil && !tr.traffic.compared {
		return errors.New("the row did not compare what its senders sent")
	}
	return nil
}

// keepLog copies the log of the nodes, with what their goroutines were at, to the folder that TRIWARD_TORTURE_LOGS names.
func (tr *trial) keepLog() {
	to := os.Getenv("TRIWARD_TORTURE_LOGS")
	if to == "" {
		return
	}
	for i := range tr.c.Nodes {
		n := &tr.c.Nodes[i]
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.PID)); n.PID > 0 && bytes.Contains(line, []byte(n.Config)) { // it may have ended
			_ = syscall.Kill(n.PID, syscall.SIGQUIT)
		}
	}
	_ = until(context.Background(), 5*time.Second, func(context.Context) error { // they write it down
		for i := range tr.c.Nodes {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tr.c.Nodes[i].PID))
			if err == nil && !bytes.Contains(status, []byte("\nState:\tZ")) {
				return errors.New("a node has not ended")
			}
		}
		return nil
	})
	b, err := os.ReadFile(tr.c.log.Name())
	if err == nil {
		err = os.WriteFile(filepath.Join(to, fmt.Sprintf("%s-%d.log", tr.row.name, tr.seed)), b, 0o600)
	}
	if err != nil {
		fmt.Printf("    keep the log: %v\n", err)
	}
}

// newBench has the rows that pick takes and that ROWS names: names, or beginnings of names that end with '*'. A name that
// leaves no row of the selection ends the test.
func newBench(t *testing.T, pick func(*faultRow) bool) *bench {
	t.Helper()
	b := &bench{t: t, bin: binaries(t, ""), dir: t.TempDir()}
	var err error
	if b.rows, err = choose(faultRows(), os.Getenv("TRIWARD_TORTURE_ROWS"), pick); err != nil {
		t.Fatal(err)
	}
	b.sums = make([]summary, len(b.rows))
	return b
}

// choose returns those of all rows that names has and pick takes; all that pick takes when names is empty.
func choose(all []faultRow, names string, pick func(*faultRow) bool) (rows []faultRow, err error) {
	want := strings.Fields(strings.ReplaceAll(names, ",", " "))
	known, taken := make(map[string]bool), make(map[string]bool)
	for _, row := range all {
		named := len(want) == 0
		for _, w := range want {
			if prefix, ok := strings.CutSuffix(w, "*"); w == row.name || ok && strings.HasPrefix(row.name, prefix) {
				named, known[w] = true, true
				taken[w] = taken[w] || pick(&row)
			}
		}
		if named && pick(&row) {
			rows = append(rows, row)
		}
	}
	for _, w := range want {
		switch {
		case !known[w]:
			return nil, fmt.Errorf("there is no row %q", w)
		case !taken[w]:
			return nil, fmt.Errorf("row %q is not among those of the short selection: make torture ROWS='%s' MINUTES=0 runs it", w, w)
		}
	}
	return rows, nil
}

// inside runs the test again in a process that has namespaces of its own, streaming what it prints, and reports false;
// in that process, and where there are no namespaces to be had, it reports true.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inBench) != "" {
		if err := loopbackUp(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=0"}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), inBench+"=1", "TMPDIR="+t.TempDir(), "TRIWARD_BIN="+binaries(t, ""))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = benchAttr()
	if err := cmd.Start(); err != nil {
		t.Logf("no namespaces for this user, rows that need them are not run: %v", err)
		return true
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the bench failed: %v", err)
	}
	return false
}

// number reads an integer of the environment.
func number(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// seeds are those of TRIWARD_TORTURE_SEED, one by the clock when it is empty.
func seeds(t *testing.T) (list []uint64) {
	t.Helper()
	for _, text := range strings.Fields(strings.ReplaceAll(os.Getenv("TRIWARD_TORTURE_SEED"), ",", " ")) {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("TRIWARD_TORTURE_SEED: %v", err)
		}
		list = append(list, n)
	}
	if len(list) == 0 {
		list = append(list, uint64(time.Now().Unix()))
	}
	return list
}

// TestTorture runs the rows in turn, in an order from the seed, until the minutes are over; each of them once with each seed
// when the minutes are 0. `make torture` sets the environment.
func TestTorture(t *testing.T) {
	if os.Getenv("TRIWARD_TORTURE_MINUTES") == "" {
		t.Log("long faults are injected by make torture")
		return
	}
	if !inside(t) {
		return
	}
	minutes := number(t, "TRIWARD_TORTURE_MINUTES", 0)
	list := seeds(t)
	b := newBench(t, func(*faultRow) bool { return true })
	b.what = "make torture"
	end := time.Now().Add(time.Duration(minutes) * time.Minute)
	fmt.Printf("torture: %d rows, seeds %v, %d minutes\n", len(b.rows), list, minutes)
	for round := 0; round < len(list) || minutes > 0; round++ {
		seed := list[min(round, len(list)-1)] + uint64(max(0, round-len(list)+1))
		ran := false
		for _, i := range rngOf(seed, "order").Perm(len(b.rows)) {
			if minutes > 0 && time.Until(end) < b.rows[i].weight || b.sums[i].notRun != "" {
				continue
			}
			b.once(t.Context(), i, seed)
			ran = true
		}
		if !ran {
			break
		}
	}
	b.report()
}

// faultsEnd is how long after its start `make faults` begins no further row, so that there is a table before go test ends it
// all. It takes ten minutes on two quiet cores.
const faultsEnd = 20 * time.Minute

// TestFaults runs each row of the short selection once. `make faults` sets the environment.
func TestFaults(t *testing.T) {
	if os.Getenv("TRIWARD_FAULTS") == "" {
		t.Log("ten minutes of faults are injected by make faults")
		return
	}
	if !inside(t) {
		return
	}
	seed := seeds(t)[0]
	b := newBench(t, func(r *faultRow) bool { return r.short })
	b.what = "make faults"
	end := time.Now().Add(faultsEnd)
	ctx, cancel := context.WithDeadline(t.Context(), end.Add(7*time.Minute))
	defer cancel()
	for i := range b.rows {
		if time.Now().Before(end) {
			b.once(ctx, i, seed)
		}
	}
	b.report()
}

// What is asked for is run, or said not to be.
func TestRowsAreChosen(t *testing.T) {
	all := faultRows()
	short := func(r *faultRow) bool { return r.short }
	any := func(*faultRow) bool { return true }
	for _, c := range []struct {
		names string
		pick  func(*faultRow) bool
		want  string // names of the rows, or what the error says
	}{
		{"kill-leader", any, "kill-leader"},
		{"kill-*, part-leader", any, "kill-follower kill-leader kill-all part-leader kill-index"},
		{"kill-leader", short, "short selection"},
		{"part-leader flap-*", short, "short selection"},
		{"nothing-*", any, "there is no row"},
	} {
		rows, err := choose(all, c.names, c.pick)
		var got []string
		for _, r := range rows {
			got = append(got, r.name)
		}
		if text := strings.Join(got, " "); err == nil && text != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("ROWS=%q: %q %v, want %q", c.names, text, err, c.want)
		}
	}
	if rows, err := choose(all, "", any); err != nil || len(rows) != len(all) {
		t.Errorf("%d rows of %d: %v", len(rows), len(all), err)
	}
}

// The table itself: names that can be typed, and a selection that fits into its ten minutes.
func TestFaultTable(t *testing.T) {
	seen := make(map[string]bool)
	var short time.Duration
	var which []string
	for _, r := range faultRows() {
		if seen[r.name] || strings.Trim(r.name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || r.fault == "" || r.weight <= 0 {
			t.Errorf("row %+v", r)
		}
		seen[r.name] = true
		if r.short {
			d := cmp.Or(r.quick, r.weight)
			short += d
			which = append(which, fmt.Sprintf("%s %v", r.name, d))
		}
	}
	if short > 10*time.Minute {
		t.Errorf("make faults takes %v, 10 minutes at most: %s", short, strings.Join(which, ", "))
	}
	var whole time.Duration
	for _, r := range faultRows() {
		if !strings.HasPrefix(r.name, "bit-") && !strings.HasPrefix(r.name, "damage-") {
			whole += r.weight
		}
	}
	t.Logf("all rows but those of damage take %v", whole)
	if whole > 90*time.Minute {
		t.Errorf("each row once takes %v without those of damage, 90 minutes at most", whole)
	}
	if rngOf(7, "a").Uint64() != rngOf(7, "a").Uint64() || rngOf(7, "a").Uint64() == rngOf(7, "b").Uint64() {
		t.Error("a seed does not give its schedule again")
	}
}
