package machine_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

// rig is a machine with one agent, a0, that has an open epoch and ten series.
type rig struct {
	t     testing.TB
	m     *machine.Machine
	s     *meta.Store
	coder *wire.Coder
	group machine.Group
	index uint64
	seq   map[wire.Lane]uint64
}

func newRig(t testing.TB, lim machine.Limits) *rig {
	s := openStore(t, t.TempDir()+"/meta.db")
	r := &rig{t: t, s: s, coder: newCoder(t), seq: make(map[wire.Lane]uint64)}
	r.m = machine.New(s, r.coder, lim)
	sets := make([]wire.Labels, 10)
	for i := range sets {
		sets[i] = series("a0", i)
	}
	r.apply(command.NewOpenEpoch("a0", wire.Epoch{1}))
	if got := r.apply(command.NewRegisterSeries("a0", sets)); got.Status != command.StatusOK {
		t.Fatalf("%+v", got)
	}
	return r
}

// apply applies one command at log time `start` and leaves in the group what that one brought.
func (r *rig) apply(c command.Command) command.Result {
	r.t.Helper()
	r.group.Reset()
	r.index++
	rs, err := r.m.Apply(r.index, 1, command.Entry{Stamp: start, Commands: []command.Command{c}}, &r.group)
	if err != nil {
		r.t.Fatal(err)
	}
	r.m.Finish(&r.group)
	return rs[0]
}

func (r *rig) id(lane wire.Lane) wire.Identity {
	r.seq[lane]++
	return wire.Identity{Agent: "a0", Epoch: wire.Epoch{1}, Lane: lane, Seq: r.seq[lane], Hash: 1}
}

func (r *rig) scrape(at int64, ids ...uint64) command.Result {
	r.t.Helper()
	raw := wire.AppendMetrics(nil, []wire.Scrape{{T: at, IDs: ids, Values: make([]float64, len(ids))}})
	return r.apply(batch(r.coder, r.id(wire.LaneMetrics), raw))
}

func (r *rig) send(b *wire.LogBatch) command.Result {
	r.t.Helper()
	return r.apply(batch(r.coder, r.id(wire.LaneLogs), wire.AppendLogs(nil, b)))
}

func TestSampleWindow(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	for _, c := range []struct {
		at                   int64
		accepted, dup, wrong uint32
	}{
		{start, 2, 0, 0},
		{start, 0, 2, 0},
		{start + machine.FutureWindow, 2, 0, 0},
		{start + machine.FutureWindow + 1, 0, 0, 2},
		{start - meta.LateWindow, 2, 0, 0},
		{start - meta.LateWindow - 1, 0, 0, 2},
		{-1 << 62, 0, 0, 2},
		{1<<63 - 1, 0, 0, 2},
	} {
		got := r.scrape(c.at, 1, 2)
		if got.Status != command.StatusOK || got.Accepted != c.accepted || got.Duplicates != c.dup || got.Rejected != c.wrong {
			t.Errorf("at %d: %+v", c.at-start, got)
		}
		if len(r.group.Samples.IDs) != int(c.accepted) {
			t.Errorf("at %d: %d samples for the store", c.at-start, len(r.group.Samples.IDs))
		}
		if len(got.Items) != int(c.wrong) {
			t.Errorf("at %d: items %v", c.at-start, got.Items)
		}
	}
	r.apply(command.NewRetentionCut(command.KindMetrics, start-machine.MinRetention-500, command.CutAge))
	if got := r.scrape(start-machine.MinRetention-501, 1); got.Rejected != 1 {
		t.Errorf("before the floor: %+v", got)
	}
	if got := r.scrape(start-machine.MinRetention-500, 1); got.Accepted != 1 {
		t.Errorf("at the floor: %+v", got)
	}
}

// What a series holds at a late time may be forgotten; then the sample is refused, never taken a second time.
func TestForgottenTimeStampsAreRefused(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	var sum int64
	at := make([]int64, 400)
	for i := range at {
		sum += int64(100 + i) // no two gaps are the same
		at[i] = start - 1_000_000 + sum
		if got := r.scrape(at[i], 3); got.Accepted != 1 {
			t.Fatalf("%+v", got)
		}
	}
	refused, duplicates := 0, 0
	for _, ms := range at {
		got := r.scrape(ms, 3)
		if got.Accepted != 0 {
			t.Fatalf("the sample at %d was taken twice", ms)
		}
		refused += int(got.Rejected)
		duplicates += int(got.Duplicates)
	}
	if refused == 0 || duplicates < 200 {
		t.Errorf("%d refused, %d duplicates", refused, duplicates)
	}
	if got := r.scrape(at[399]-1, 3); got.Accepted != 1 {
		t.Errorf("late, in a gap: %+v", got)
	}
}

func TestItemsAreBoundedAndCountsExact(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	var scrapes []wire.Scrape
	for range 4 {
		scrapes = append(scrapes, wire.Scrape{T: start + 3_600_000, IDs: []uint64{1, 2, 3, 4, 5, 6}, Values: make([]float64, 6)})
	}
	got := r.apply(batch(r.coder, r.id(wire.LaneMetrics), wire.AppendMetrics(nil, scrapes)))
	if got.Rejected != 24 || len(got.Items) != command.MaxItemErrors || got.Items[15].Item != 15 {
		t.Errorf("%+v", got)
	}
}

func TestUnknownSeriesRefuseTheBatch(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	r.apply(command.NewOpenEpoch("other", wire.Epoch{2}))
	other := r.apply(command.NewRegisterSeries("other", []wire.Labels{series("other", 1)}))
	got := r.scrape(start, 1, other.IDs[0], 500)
	if got.Status != command.StatusUnknownIDs || !reflect.DeepEqual(got.IDs, []uint64{other.IDs[0], 500}) {
		t.Errorf("%+v", got)
	}
	if len(r.group.Samples.IDs) != 0 {
		t.Errorf("samples of a refused batch: %v", r.group.Samples.IDs)
	}
	r.seq[wire.LaneMetrics]-- // the number was not taken
	if got := r.scrape(start, 1); got.Status != command.StatusOK || got.Accepted != 1 {
		t.Errorf("the same number again: %+v", got)
	}
}

func TestBatchesInTurn(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	raw := wire.AppendMetrics(nil, nil)
	send := func(epoch byte, seq, hash uint64) command.Result {
		return r.apply(batch(r.coder, wire.Identity{Agent: "a0", Epoch: wire.Epoch{epoch}, Lane: wire.LaneMetrics, Seq: seq, Hash: hash}, raw))
	}
	for i, c := range []struct {
		epoch     byte
		seq, hash uint64
		status    command.Status
		expected  uint64
	}{
		{1, 2, 5, command.StatusGap, 1},
		{1, 1, 5, command.StatusOK, 0},
		{1, 2, 6, command.StatusOK, 0},
		{1, 2, 6, command.StatusDuplicate, 2},
		{1, 1, 5, command.StatusDuplicate, 2},
		{1, 2, 7, command.StatusCloned, 2},
		{1, 9, 7, command.StatusGap, 3},
		{8, 1, 7, command.StatusUnknownEpoch, 0},
	} {
		if got := send(c.epoch, c.seq, c.hash); got.Status != c.status || got.Expected != c.expected {
			t.Errorf("batch %d: %+v", i, got)
		}
	}
	if a, _ := r.s.Agent("a0"); a.Clones != 1 || a.Last[wire.LaneMetrics] != 2 {
		t.Errorf("%+v", a)
	}
	r.apply(command.NewOpenEpoch("a0", wire.Epoch{2}))
	if got := send(1, 3, 1); got.Status != command.StatusEpochClosed {
		t.Errorf("closed epoch: %+v", got)
	}
	if got := r.apply(command.NewOpenEpoch("a0", wire.Epoch{1})); got.Status != command.StatusEpochClosed {
		t.Errorf("opened again: %+v", got)
	}
	if got := send(2, 1, 1); got.Status != command.StatusOK {
		t.Errorf("new epoch: %+v", got)
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, machine.Limits{Agents: 2, Series: 14, SeriesPerAgent: 12, ClosedEpochs: 2})
	sets := func(agent string, n int) command.Command {
		out := make([]wire.Labels, n)
		for i := range out {
			out[i] = series(agent, 1000+i)
		}
		return command.NewRegisterSeries(agent, out)
	}
	for name, c := range map[string]command.Command{"per agent": sets("a0", 3), "all": sets("a1", 5)} {
		if got := r.apply(c); got.Status != command.StatusLimit || !strings.Contains(got.Detail, "limit") {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if r.s.SeriesCount() != 10 {
		t.Errorf("%d series", r.s.SeriesCount())
	}
	r.apply(command.NewOpenEpoch("a1", wire.Epoch{1}))
	if got := r.apply(command.NewOpenEpoch("a2", wire.Epoch{1})); got.Status != command.StatusLimit {
		t.Errorf("third agent: %+v", got)
	}
	if got := r.apply(sets("a2", 1)); got.Status != command.StatusLimit {
		t.Errorf("series of a third agent: %+v", got)
	}
	for i, want := range []command.Status{command.StatusOK, command.StatusOK, command.StatusLimit} {
		if got := r.apply(command.NewOpenEpoch("a0", wire.Epoch{byte(10 + i)})); got.Status != want {
			t.Errorf("epoch %d: %+v", i, got)
		}
	}
}

func TestRegisterSeriesAllOrNone(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	twice := []wire.Labels{series("a0", 50), series("a0", 3), series("a0", 50)}
	got := r.apply(command.NewRegisterSeries("a0", twice))
	if !reflect.DeepEqual(got.IDs, []uint64{11, 4, 11}) {
		t.Errorf("%+v", got)
	}
	bad := r.apply(command.NewRegisterSeries("a0", []wire.Labels{series("a0", 60), {{Name: "x", Value: "y"}}}))
	if bad.Status != command.StatusInvalid || len(bad.Items) != 1 || bad.Items[0].Item != 1 || r.s.SeriesCount() != 11 {
		t.Errorf("%+v, %d series", bad, r.s.SeriesCount())
	}
	foreign := r.apply(command.NewRegisterSeries("a1", []wire.Labels{series("a0", 50)}))
	if foreign.Status != command.StatusInvalid {
		t.Errorf("another agent's labels: %+v", foreign)
	}
}

func line(at int64, text string) wire.LogLine {
	return wire.LogLine{T: at, Severity: wire.SeverityInfo, Text: []byte(text)}
}

func TestLines(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	const floor = start - machine.MinRetention
	r.apply(command.NewRetentionCut(command.KindLogs, floor, command.CutAge))
	future := (start+machine.FutureWindow)*1e6 + 5
	in := &wire.LogBatch{Streams: []wire.LogStream{
		{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "source", Value: "f"}}, Lines: []wire.LogLine{
			line(start*1e6, "now"), line((floor-1)*1e6, "old"), line(future, "future"), line(-5, "before 1970"),
		}},
		{Kind: wire.StreamEvent, Labels: wire.Labels{{Name: "source", Value: "e"}}, Lines: []wire.LogLine{line((floor-1)*1e6, "events are kept longer")}},
	}}
	got := r.send(in)
	if got.Accepted != 3 || got.Rejected != 2 || got.Items[0].Item != 1 || got.Items[1].Item != 3 {
		t.Errorf("%+v", got)
	}
	if len(r.group.Logs) != 1 || len(r.group.Logs[0].Batches) != 1 || r.group.Logs[0].Index != r.index {
		t.Fatalf("%+v", r.group.Logs)
	}
	st := r.group.Logs[0].Batches[0].Batch.Streams
	if len(st) != 2 || len(st[0].Lines) != 2 || string(st[0].Lines[1].Text) != "future" || st[0].Lines[1].T != start*1e6 ||
		!reflect.DeepEqual(st[0].Lines[1].Fields, []wire.Label{{Name: "time_sent", Value: rfc3339(future)}}) {
		t.Errorf("%+v", st)
	}
	same := &wire.LogBatch{Streams: in.Streams[1:]}
	raw := wire.AppendLogs(nil, same)
	_, body := r.coder.Compress(nil, raw)
	r.send(same)
	if a := r.group.Logs[0].Batches[0]; !bytes.Equal(a.Body, body) {
		t.Error("a batch of which nothing changed was written anew")
	}
}

// Cuts are remembered, also several of one entry, the newest of them, and only those that removed something.
func TestRetentionCutsAreRemembered(t *testing.T) {
	lim := machine.DefaultLimits()
	lim.RetentionCuts = 3
	r := newRig(t, lim)
	cut := func(cmds ...command.Command) {
		r.index++
		r.group.Reset()
		if _, err := r.m.Apply(r.index, 1, command.Entry{Stamp: start, Commands: cmds}, &r.group); err != nil {
			t.Fatal(err)
		}
		r.m.Finish(&r.group)
	}
	cut(command.NewRetentionCut(command.KindLogs, 100, command.CutAge))
	cut(command.NewRetentionCut(command.KindLogs, 100, command.CutSize)) // removes nothing
	commitMark(t, r.s, r.index)
	cut(command.NewTick("n1"), command.NewRetentionCut(command.KindMetrics, 200, command.CutOperator),
		command.NewRetentionCut(command.KindEvents, 300, command.CutSize))
	cut(command.NewRetentionCut(command.KindLogs, 400, command.CutAge))
	var got []string
	r.s.Scan(machine.BucketRetentionCuts, "", func(key string, v meta.Value) bool {
		got = append(got, key+" "+string(v.Data))
		return true
	})
	want := []string{
		fmt.Sprintf(`%020d.0001 {"at":%d,"kind":"metrics","floor":200,"reason":"operator"}`, r.index-1, start),
		fmt.Sprintf(`%020d.0002 {"at":%d,"kind":"events","floor":300,"reason":"size"}`, r.index-1, start),
		fmt.Sprintf(`%020d.0000 {"at":%d,"kind":"logs","floor":400,"reason":"age"}`, r.index, start),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := r.apply(command.NewRetentionCut(command.KindLogs, start-machine.MinRetention+1, command.CutOperator)); got.Status != command.StatusInvalid {
		t.Errorf("a floor in the last hour: %+v", got)
	}
	bad := command.NewRetentionCut(command.KindLogs, 500, 7)
	if got := r.apply(bad); got.Status != command.StatusInvalid || r.s.Floor(command.KindLogs) != 400 {
		t.Errorf("unknown reason: %+v", got)
	}
}

func (r *rig) deliver(source string, lane wire.Lane, flags command.DeliverFlags, raw []byte) command.Result {
	r.t.Helper()
	return r.apply(delivery(r.coder, source, lane, flags, raw))
}

func counts(r command.Result) [3]uint32 { return [3]uint32{r.Accepted, r.Duplicates, r.Rejected} }

// A source owns its series as an agent does, and needs neither an epoch nor a sequence.
func TestDeliverMetrics(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	scrape := func(at int64, ids ...uint64) []byte {
		return wire.AppendMetrics(nil, []wire.Scrape{{T: at, IDs: ids, Values: make([]float64, len(ids))}})
	}
	got := r.deliver("prom", wire.LaneMetrics, 0, scrape(start, 1, 2))
	if got.Status != command.StatusUnknownIDs || !reflect.DeepEqual(got.IDs, []uint64{1, 2}) {
		t.Errorf("series of an agent: %+v", got)
	}
	if _, known := r.s.Agent("prom"); known || len(r.group.Samples.IDs) != 0 {
		t.Error("a delivery that was refused left something")
	}
	ids := r.apply(command.NewRegisterSeries("prom", []wire.Labels{series("prom", 1), series("prom", 2)})).IDs
	for i, want := range [][3]uint32{{2, 0, 0}, {0, 2, 0}} {
		if got := r.deliver("prom", wire.LaneMetrics, command.RepeatsDropped, scrape(start, ids...)); got.Status != command.StatusOK || counts(got) != want {
			t.Errorf("delivery %d: %+v", i, got)
		}
	}
	if got := r.deliver("prom", wire.LaneMetrics, 0, scrape(start+machine.FutureWindow+1, ids...)); counts(got) != [3]uint32{0, 0, 2} {
		t.Errorf("of the future: %+v", got)
	}
	if got := r.deliver("prom", wire.LaneMetrics, 0, []byte("hello")); got.Status != command.StatusInvalid || !strings.Contains(got.Detail, "delivery of lane metrics") {
		t.Errorf("malformed: %+v", got)
	}
	if got := r.deliver("prom", wire.LaneBackfill, 0, scrape(start, ids...)); got.Status != command.StatusInvalid {
		t.Errorf("lane backfill: %+v", got)
	}
	if a, known := r.s.Agent("prom"); !known || a.Open || a.Series != 2 {
		t.Errorf("the source is %+v, %t", a, known)
	}
}

// Sources are agents, and bounded with them.
func TestDeliverIsBoundByTheLimitOnAgents(t *testing.T) {
	lim := machine.DefaultLimits()
	lim.Agents = 2
	r := newRig(t, lim)
	raw := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{Kind: wire.StreamLog, Lines: []wire.LogLine{line(start*1e6, "x")}}}})
	for _, c := range []struct {
		source string
		want   command.Status
	}{{"s1", command.StatusOK}, {"s2", command.StatusLimit}, {"s1", command.StatusOK}, {"a0", command.StatusOK}} {
		got := r.deliver(c.source, wire.LaneLogs, 0, raw)
		if got.Status != c.want || len(r.group.Logs) != int(got.Accepted) {
			t.Errorf("%s: %+v", c.source, got)
		}
		if _, known := r.s.Agent(c.source); known != (c.want == command.StatusOK) {
			t.Errorf("%s is known: %t", c.source, known)
		}
	}
}

// Repeats are dropped within a delivery and from one to the next, as they were sent, and only where they may.
func TestDeliverDropsRepeats(t *testing.T) {
	lim := machine.DefaultLimits()
	lim.RecentLines = 4
	r := newRig(t, lim)
	in := func(unit string, lines ...wire.LogLine) []byte {
		return wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{
			{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "unit", Value: unit}}, Lines: lines},
		}})
	}
	now, future := start*1e6, (start+machine.FutureWindow)*1e6+5
	severe := line(now, "a")
	severe.Severity = wire.SeverityError
	a, b, later := line(now, "a"), line(now, "b"), line(future, "later")
	for i, c := range []struct {
		flags command.DeliverFlags
		raw   []byte
		want  [3]uint32
	}{
		{0, in("u", a, a), [3]uint32{2, 0, 0}},                                 // two equal lines are data
		{command.RepeatsDropped, in("u", a, b, a), [3]uint32{2, 1, 0}},         // what came without the flag is not remembered
		{command.RepeatsDropped, in("u", a, b), [3]uint32{0, 2, 0}},            // a retry
		{0, in("u", a), [3]uint32{1, 0, 0}},                                    // of another kind of sender
		{command.RepeatsDropped, in("v", a), [3]uint32{1, 0, 0}},               // another stream
		{command.RepeatsDropped, in("u", severe, a), [3]uint32{1, 1, 0}},       // another line
		{command.RepeatsDropped, in("u", later), [3]uint32{1, 0, 0}},           // the first a goes
		{command.RepeatsDropped, in("u", later, b), [3]uint32{0, 2, 0}},        // although it was stored at another time
		{command.RepeatsDropped, in("u", a), [3]uint32{1, 0, 0}},               // forgotten
		{command.RepeatsDropped, in("u", b), [3]uint32{1, 0, 0}},               // then the next
		{command.RepeatsDropped, in("u", line(-1, "old")), [3]uint32{0, 0, 1}}, // not accepted, not remembered
		{command.RepeatsDropped, in("u", severe, later, a, b), [3]uint32{0, 4, 0}},
	} {
		got := r.deliver("loki", wire.LaneLogs, c.flags, c.raw)
		if got.Status != command.StatusOK || counts(got) != c.want {
			t.Errorf("delivery %d: %+v, want %v", i, got, c.want)
		}
		stored := 0
		for _, e := range r.group.Logs {
			for _, l := range e.Batches {
				if l.Agent != "loki" {
					t.Errorf("delivery %d is of %q", i, l.Agent)
				}
				for _, st := range l.Batch.Streams {
					stored += len(st.Lines)
				}
			}
		}
		if stored != int(c.want[0]) {
			t.Errorf("delivery %d: %d lines for the store", i, stored)
		}
	}
}

// A full body that grows by the field is stored as several, none longer than a body may be.
func TestChangedBodiesKeepTheirBound(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "source", Value: "f"}}}
	raw := 0
	for i := 0; raw < wire.MaxBatchRaw-500; i++ {
		st.Lines = append(st.Lines, line((start+machine.FutureWindow)*1e6+int64(i)+1, fmt.Sprintf("line %20d", i)))
		raw = 29*len(st.Lines) + 100
	}
	b := &wire.LogBatch{Streams: []wire.LogStream{st}}
	if n := len(wire.AppendLogs(nil, b)); n > wire.MaxBatchRaw || n < wire.MaxBatchRaw/2 {
		t.Fatalf("body of %d bytes", n)
	}
	if got := r.send(b); int(got.Accepted) != len(st.Lines) {
		t.Fatalf("%+v", got)
	}
	batches := r.group.Logs[0].Batches
	if len(batches) < 2 {
		t.Errorf("%d batches", len(batches))
	}
	i := 0
	for _, a := range batches {
		n := len(wire.AppendLogs(nil, a.Batch))
		if _, err := r.coder.Decompress(nil, &wire.Batch{Codec: a.Codec, RawLen: n, Body: a.Body}); err != nil {
			t.Error(err)
		}
		for _, l := range a.Batch.Streams[0].Lines {
			if want := fmt.Sprintf("line %20d", i); string(l.Text) != want || len(l.Fields) != 1 {
				t.Fatalf("%q with %v, want %q", l.Text, l.Fields, want)
			}
			i++
		}
	}
	if i != len(st.Lines) {
		t.Errorf("%d of %d lines", i, len(st.Lines))
	}
}

// What an entry unfolds to is bounded, however small it is in the log. A batch that is refused keeps its number.
func TestBodiesOfAnEntryAreBounded(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	var cmds []command.Command
	for range command.MaxEntryRaw/wire.MaxBatchRaw + 1 {
		raw := wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{{
			Kind: wire.StreamLog, Labels: wire.Labels{{Name: "agent", Value: "a0"}},
			Lines: []wire.LogLine{line(start*1e6, strings.Repeat("x", 200<<10)), line(start*1e6, strings.Repeat("y", 200<<10)), line(start*1e6, strings.Repeat("z", 100<<10))},
		}}})
		cmds = append(cmds, batch(r.coder, r.id(wire.LaneLogs), raw))
	}
	cmds = append(cmds, command.NewTick("n1"))
	r.index++
	r.group.Reset()
	got, err := r.m.Apply(r.index, 1, command.Entry{Stamp: start, Commands: cmds}, &r.group)
	if err != nil {
		t.Fatal(err)
	}
	r.m.Finish(&r.group)
	for i := range got {
		want := command.StatusOK
		if i >= 8 && i < len(got)-1 {
			want = command.StatusLimit
		}
		if got[i].Status != want {
			t.Errorf("command %d: %+v, want %s", i, got[i], want)
		}
	}
	if last, _ := r.s.LastSeqs("a0", wire.Epoch{1}); last[wire.LaneLogs] != 8 {
		t.Errorf("the lane stands at %d", last[wire.LaneLogs])
	}
}

func TestForgottenAgents(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	if got := r.apply(command.NewForgetAgent("a0")); got.Status != command.StatusConflict || got.Detail == "" {
		t.Errorf("an agent with series: %+v", got)
	}
	r.apply(command.NewOpenEpoch("b0", wire.Epoch{7}))
	commitMark(t, r.s, r.index)
	if got := r.apply(command.NewForgetAgent("b0")); got.Status != command.StatusOK {
		t.Errorf("%+v", got)
	}
	if _, ok := r.s.Agent("b0"); ok {
		t.Error("it is still there")
	}
	commitMark(t, r.s, r.index)
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := r.s.CopyTo(path); err != nil {
		t.Fatal(err)
	}
	back, err := meta.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if _, ok := back.Agent("b0"); ok {
		t.Error("it came back with the file")
	}
	if got := r.apply(command.NewForgetAgent("b0")); got.Status != command.StatusOK {
		t.Errorf("one that is not known: %+v", got)
	}
}

func TestMalformedBatchesAreRefused(t *testing.T) {
	r := newRig(t, machine.DefaultLimits())
	id := wire.Identity{Agent: "a0", Epoch: wire.Epoch{1}, Lane: wire.LaneMetrics, Seq: 1}
	for name, b := range map[string]wire.Batch{
		"no zstd":      {Identity: id, Codec: wire.CodecZstd, RawLen: 5, Body: []byte("hello")},
		"wrong length": {Identity: id, RawLen: 4, Body: []byte("hello")},
		"no metrics":   {Identity: id, RawLen: 5, Body: []byte("hello")},
	} {
		if got := r.apply(command.NewBatch(b, 0)); got.Status != command.StatusInvalid || got.Detail == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if got := r.scrape(start, 1); got.Accepted != 1 {
		t.Errorf("the lane does not go on: %+v", got)
	}
}

// Whatever bytes an entry holds, Apply neither fails nor panics unless a command is unknown.
func FuzzApply(f *testing.F) {
	r := newRig(f, machine.DefaultLimits())
	id := wire.Identity{Agent: "a0", Epoch: wire.Epoch{1}, Lane: wire.LaneMetrics, Seq: 1}
	logs := id
	logs.Lane = wire.LaneLogs
	for _, c := range []command.Command{
		command.NewBatch(wire.Batch{Identity: id, RawLen: 12, Body: wire.AppendMetrics(nil, []wire.Scrape{{T: 9, IDs: []uint64{1, 2}, Values: []float64{1, 2}}})}, 1),
		command.NewBatch(wire.Batch{Identity: logs, RawLen: 40, Body: wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{
			{Kind: 1, Labels: wire.Labels{{Name: "a", Value: "b"}}, Lines: []wire.LogLine{line(1<<62, "x")}},
		}})}, 1),
		command.NewDeliver(command.Deliver{Source: "a0", Lane: wire.LaneMetrics, RawLen: 12, Body: wire.AppendMetrics(nil, []wire.Scrape{{T: 9, IDs: []uint64{1, 2}, Values: []float64{1, 2}}})}),
		delivery(r.coder, "s0", wire.LaneLogs, command.RepeatsDropped, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{
			{Kind: 1, Labels: wire.Labels{{Name: "a", Value: "b"}}, Lines: []wire.LogLine{line(9, "x"), line(9, "x")}},
		}})),
		command.NewRegisterSeries("a0", []wire.Labels{series("a0", 77)}),
		command.NewCollectSeries([]uint64{1, 2, 3}),
		command.NewHeartbeats([]command.Heartbeat{{Agent: "a0", Status: []byte("{}")}}),
		command.NewMetaTxn(command.Txn{Ops: []command.Op{{Bucket: "b", Key: "k", Value: []byte("v"), Expires: 5}}}),
		command.NewMetaTxn(command.Txn{Audit: []command.AuditRecord{{Actor: "a", Action: "b", Detail: []byte("{}")}}}),
		command.NewRetentionCut(command.KindLogs, 1, command.CutAge),
	} {
		e := command.Entry{Stamp: 1000, Commands: []command.Command{c}}
		f.Add(e.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := command.Decode(b)
		if err != nil || e.Stamp > start+1e12 {
			return
		}
		r.group.Reset()
		r.index++
		rs, err := r.m.Apply(r.index, 1, e, &r.group)
		if err == nil && len(rs) != len(e.Commands) {
			t.Fatalf("%d results of %d commands", len(rs), len(e.Commands))
		}
		if _, err := command.DecodeResults(command.AppendResults(nil, rs)); err != nil {
			t.Fatal(err)
		}
		r.m.Finish(&r.group)
	})
}
