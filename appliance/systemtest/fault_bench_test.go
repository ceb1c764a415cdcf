package systemtest

import (
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
	run    func(ctx context.Context, tr *trial) error
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
		memberRows(),
		queueRows(),
	)
}

// tooSlow is how many times the goal a time to recover may take before the row is red.
const tooSlow = 5

// trial is one run of a row: its cluster, its senders, what it has found. Its methods are for the goroutine of the row
// unless they say otherwise.
type trial struct {
	t    *testing.T
	row  *faultRow
	seed uint64
	rng  *rand.Rand // from seed and name of the row: the schedule of faults
	dir  string     // of its own, empty at first, removed at the end
	bin  string     // folder of the binaries

	c       *cluster
	net     *network // when the plan says apart
	places  []*place // of the nodes, likewise
	peers   []*proxy // before the peers' ports of the nodes, when the row wants them
	traffic *traffic // when it was begun
	flooder *sender  // likewise, of data that only fills

	stockEnd time.Time // of what readers of damaged nodes know

	through map[string]string // what senders take for the address of a node, by that address
	fillers int               // how many senders of much that nobody looks at are added

	result
	ends []func()
}

// atEnd has fn called when the trial is over, however it ends; the last one first.
func (tr *trial) atEnd(fn func()) { tr.ends = append(tr.ends, fn) }

// faulted counts faults that were injected.
func (tr *trial) faulted(n int) { tr.faults += n }

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
	ctx, cancel := context.WithTimeout(ctx, max(10*row.weight, 10*time.Minute))
	defer cancel()
	err = tr.whole(ctx)
	tr.took = time.Since(begin)
	if errors.Is(err, errNotRun) {
		b.sums[i].notRun = err.Error()
		fmt.Printf("NOT RUN  %s: %v\n", row.name, err)
		return
	}
	tr.err = err
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

// keepLog copies the log of the nodes to the folder that TRIWARD_TORTURE_LOGS names.
func (tr *trial) keepLog() {
	to := os.Getenv("TRIWARD_TORTURE_LOGS")
	if to == "" {
		return
	}
	b, err := os.ReadFile(tr.c.log.Name())
	if err == nil {
		err = os.WriteFile(filepath.Join(to, fmt.Sprintf("%s-%d.log", tr.row.name, tr.seed)), b, 0o600)
	}
	if err != nil {
		fmt.Printf("    keep the log: %v\n", err)
	}
}

// newBench has the rows that pick takes and that ROWS names: names, or beginnings of names that end with '*'.
func newBench(t *testing.T, pick func(*faultRow) bool) *bench {
	t.Helper()
	b := &bench{t: t, bin: binaries(t, ""), dir: t.TempDir()}
	want := strings.Fields(strings.ReplaceAll(os.Getenv("TRIWARD_TORTURE_ROWS"), ",", " "))
	found := make(map[string]bool)
	for _, row := range faultRows() {
		named := len(want) == 0
		for _, w := range want {
			if prefix, ok := strings.CutSuffix(w, "*"); w == row.name || ok && strings.HasPrefix(row.name, prefix) {
				named, found[w] = true, true
			}
		}
		if named && pick(&row) {
			b.rows = append(b.rows, row)
		}
	}
	for _, w := range want {
		if !found[w] {
			t.Fatalf("there is no row %q", w)
		}
	}
	b.sums = make([]summary, len(b.rows))
	return b
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

// TestTorture runs the rows in turn, in an order from the seed, until the minutes are over; at least each of them once
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
	seed := number(t, "TRIWARD_TORTURE_SEED", uint64(time.Now().Unix()))
	b := newBench(t, func(*faultRow) bool { return true })
	end := time.Now().Add(time.Duration(minutes) * time.Minute)
	fmt.Printf("torture: %d rows, seed %d, %d minutes\n", len(b.rows), seed, minutes)
	for round := uint64(0); round == 0 || time.Now().Before(end); round++ {
		ran := false
		for _, i := range rngOf(seed+round, "order").Perm(len(b.rows)) {
			if minutes > 0 && time.Until(end) < b.rows[i].weight || b.sums[i].notRun != "" {
				continue
			}
			b.once(t.Context(), i, seed+round)
			ran = true
		}
		if !ran {
			break
		}
	}
	b.report(seed)
}

// TestFaults runs each row of the short selection once. `make faults` sets the environment.
func TestFaults(t *testing.T) {
	if os.Getenv("TRIWARD_FAULTS") == "" {
		t.Log("ten minutes of faults are injected by make faults")
		return
	}
	if !inside(t) {
		return
	}
	seed := number(t, "TRIWARD_TORTURE_SEED", uint64(time.Now().Unix()))
	b := newBench(t, func(r *faultRow) bool { return r.short })
	for i := range b.rows {
		b.once(t.Context(), i, seed)
	}
	b.report(seed)
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
	if rngOf(7, "a").Uint64() != rngOf(7, "a").Uint64() || rngOf(7, "a").Uint64() == rngOf(7, "b").Uint64() {
		t.Error("a seed does not give its schedule again")
	}
}
