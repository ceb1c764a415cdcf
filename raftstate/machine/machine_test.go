package machine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/audit"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

const start = int64(1_700_000_000_000)

func rfc3339(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

func newCoder(t testing.TB) *wire.Coder {
	t.Helper()
	c, err := wire.NewCoder()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func openStore(t testing.TB, path string) *meta.Store {
	t.Helper()
	s, err := meta.Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newMachine(t testing.TB) (*machine.Machine, *meta.Store) {
	t.Helper()
	return newMachineOf(t, machine.DefaultLimits())
}

func newMachineOf(t testing.TB, lim machine.Limits) (*machine.Machine, *meta.Store) {
	t.Helper()
	s := openStore(t, filepath.Join(t.TempDir(), "meta.db"))
	return machine.New(s, newCoder(t), lim), s
}

// modelLimits are so low that what is bounded by forgetting the oldest does forget.
func modelLimits() machine.Limits {
	lim := machine.DefaultLimits()
	lim.RetentionCuts, lim.AuditRecords, lim.RecentLines = 5, 12, 50
	return lim
}

func dump(t testing.TB, s *meta.Store) string {
	t.Helper()
	var b strings.Builder
	if err := s.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// batch makes a batch command from a body.
func batch(coder *wire.Coder, id wire.Identity, raw []byte) command.Command {
	codec, body := coder.Compress(nil, raw)
	return command.NewBatch(wire.Batch{Identity: id, Codec: codec, RawLen: len(raw), Body: body}, 1)
}

// delivery makes a deliver command from a body.
func delivery(coder *wire.Coder, source string, lane wire.Lane, flags command.DeliverFlags, raw []byte) command.Command {
	codec, body := coder.Compress(nil, raw)
	return command.NewDeliver(command.Deliver{
		Source: source, Lane: lane, Flags: flags, ConfigVersion: 1, Codec: codec, RawLen: len(raw), Body: body,
	})
}

func series(agent string, n int) wire.Labels {
	return wire.Labels{{Name: "__name__", Value: fmt.Sprint("m", n)}, {Name: "agent", Value: agent}}
}

// generator makes entries at random and what the model answers to them.
type generator struct {
	r              *rand.Rand
	m              *model
	coder          *wire.Coder
	now            int64
	index          uint64
	sent           []*wire.LogBatch // deliveries of lines, to be repeated
	fresh, repeats uint32           // lines of deliveries that drop repeats
	cut            int              // lines that selectors cut
	place          int              // of the next command in its entry
}

func (g *generator) agent() string { return fmt.Sprint("a", g.r.IntN(3)) }

// sender is an agent or a source of deliveries, which may be an agent as well.
func (g *generator) sender() string { return []string{"a0", "a1", "a2", "s0", "s1"}[g.r.IntN(5)] }

func (g *generator) identity(lane wire.Lane) wire.Identity {
	id := wire.Identity{Agent: g.agent(), Epoch: wire.Epoch{byte(g.r.IntN(3))}, Lane: lane, Hash: uint64(g.r.IntN(2))}
	id.Seq = uint64(g.r.IntN(4)) + 1
	if a := g.m.agents[id.Agent]; a != nil && len(a.epochs) > 0 && g.r.IntN(10) > 0 {
		id.Epoch = a.epochs[len(a.epochs)-1]
		id.Seq = a.last[lane][0] + 1
		if g.r.IntN(6) == 0 {
			id.Seq = max(1, id.Seq+uint64(g.r.IntN(3))-1)
		}
	}
	return id
}

// at gives times on a narrow grid, so that duplicates and late samples are many and runs few.
func (g *generator) at() int64 {
	switch g.r.IntN(20) {
	case 0:
		return g.now - meta.LateWindow - g.r.Int64N(1000)
	case 1:
		return g.now + machine.FutureWindow + g.r.Int64N(2000)
	case 2:
		return g.now - g.r.Int64N(3*86_400_000)/3_600_000*3_600_000
	}
	return (g.now - g.r.Int64N(120_000)) / 15_000 * 15_000
}

func (g *generator) scrapes(agent string) []wire.Scrape {
	var own []uint64
	for id := uint64(1); id < g.m.nextID; id++ {
		if s := g.m.series[id]; s != nil && (s.agent == agent || g.r.IntN(200) == 0) && g.r.IntN(4) > 0 {
			own = append(own, id)
		}
	}
	out := make([]wire.Scrape, g.r.IntN(3))
	for i := range out {
		ids := own
		if len(ids) > 2 {
			ids = ids[g.r.IntN(2):]
		}
		values := make([]float64, len(ids))
		for j := range values {
			values[j] = float64(g.r.IntN(1000)) / 4
		}
		out[i] = wire.Scrape{T: g.at(), IDs: ids, Values: values}
	}
	return out
}

func (g *generator) lines() *wire.LogBatch {
	b := &wire.LogBatch{Streams: make([]wire.LogStream, g.r.IntN(3))}
	for i := range b.Streams {
		st := &b.Streams[i]
		st.Kind = wire.StreamKind(1 + g.r.IntN(2))
		st.Labels = wire.Labels{{Name: "source", Value: fmt.Sprint(i)}}
		st.Lines = make([]wire.LogLine, 1+g.r.IntN(4))
		for j := range st.Lines {
			st.Lines[j] = wire.LogLine{T: g.at()*1e6 + g.r.Int64N(1e6), Severity: wire.SeverityInfo, Text: []byte(fmt.Sprint("line ", g.r.IntN(100)))}
		}
	}
	return b
}

func (g *generator) txn() command.Txn {
	var t command.Txn
	name := func() (string, string) { return fmt.Sprint("b", g.r.IntN(2)), fmt.Sprint("k", g.r.IntN(6)) }
	for range g.r.IntN(3) {
		b, k := name()
		t.Compares = append(t.Compares, command.Compare{Bucket: b, Key: k, ModIndex: g.m.keys[[2]string{b, k}].index * uint64(g.r.IntN(3)/2+g.r.IntN(2))})
	}
	for range g.r.IntN(3) {
		t.Audit = append(t.Audit, command.AuditRecord{Actor: g.agent(), Action: fmt.Sprint("did ", g.r.IntN(100)), Target: "b0/k1"})
		if g.r.IntN(2) == 0 {
			t.Audit[0].Detail = fmt.Appendf(nil, `{"n":%d}`, g.r.IntN(100))
		}
	}
	if g.r.IntN(10) == 0 {
		return t
	}
	if g.r.IntN(20) == 0 {
		own := []string{audit.BucketRecords, audit.BucketHead, machine.BucketRetentionCuts, command.BucketSelectorCuts}
		t.Ops = append(t.Ops, command.Op{Bucket: own[g.r.IntN(4)], Key: audit.Key(uint64(g.r.IntN(9))), Delete: g.r.IntN(2) == 0})
	}
	for range 1 + g.r.IntN(3) {
		b, k := name()
		op := command.Op{Bucket: b, Key: k, Delete: g.r.IntN(4) == 0}
		if !op.Delete {
			op.Value = []byte(fmt.Sprint(g.r.IntN(1000)))
			if g.r.IntN(2) == 0 {
				op.Expires = g.now + g.r.Int64N(60_000)
			}
		}
		t.Ops = append(t.Ops, op)
	}
	return t
}

// deliver makes a delivery: of lines often one that was sent before, whole or shortened.
func (g *generator) deliver() (command.Command, command.Result) {
	source := g.sender()
	if g.r.IntN(3) == 0 {
		s := g.scrapes(source)
		return delivery(g.coder, source, wire.LaneMetrics, 0, wire.AppendMetrics(nil, s)), g.m.deliverMetrics(source, s)
	}
	b := g.lines()
	if n := len(g.sent); n > 0 && g.r.IntN(2) == 0 {
		was := g.sent[max(0, n-1-g.r.IntN(20))]
		b = &wire.LogBatch{Streams: was.Streams[g.r.IntN(len(was.Streams)+1):]}
	}
	for i := range b.Streams { // a line twice
		if st := &b.Streams[i]; g.r.IntN(4) == 0 {
			st.Lines = append(slices.Clone(st.Lines), st.Lines[g.r.IntN(len(st.Lines))])
		}
	}
	g.sent = append(g.sent, b)
	flags := command.DeliverFlags(g.r.IntN(4)/3) ^ 1 // three times of four
	lane := []wire.Lane{wire.LaneLogs, wire.LaneEvents}[g.r.IntN(2)]
	r := g.m.deliverLogs(source, b, flags == command.RepeatsDropped)
	if flags == command.RepeatsDropped {
		g.fresh, g.repeats = g.fresh+r.Accepted, g.repeats+r.Duplicates
	}
	return delivery(g.coder, source, lane, flags, wire.AppendLogs(nil, b)), r
}

// selectorCut makes a cut of a day, now and then one that must be refused.
func (g *generator) selectorCut() (command.Command, command.Result) {
	cut := command.SelectorCut{Kind: []command.Kind{command.KindLogs, command.KindEvents}[g.r.IntN(2)], Day: g.now/86_400_000 - g.r.Int64N(5)}
	for _, d := range g.m.digests() { // mostly a day of which there is something
		if d.Kind == cut.Kind && (d.Day+1)*86_400_000 < g.now-machine.MinRetention && d.Day*86_400_000 >= g.m.floors[d.Kind] && g.r.IntN(3) > 0 {
			cut.Day = d.Day
		}
	}
	cut.Through = g.index - uint64(g.r.Int64N(int64(min(g.index, 9))))
	if g.r.IntN(10) > 0 {
		cut.Through = min(cut.Through, g.index-1)
	}
	cut.After = g.m.keys[[2]string{command.BucketSelectorCuts, command.CutKey(cut.Kind, cut.Day)}].index
	if g.r.IntN(10) == 0 {
		cut.After = g.index - 1
	}
	pool := []wire.Selector{
		{{Name: "source", Op: wire.MatchEqual, Value: "0"}},
		{{Name: "source", Op: wire.MatchNotRegex, Value: "0|2"}},
		{{Name: "source", Op: wire.MatchRegex, Value: "[01]"}},
		nil,
	}
	for range 1 + g.r.IntN(2) {
		cut.Cuts = append(cut.Cuts, command.CutLines{Selector: pool[g.r.IntN(4)]})
	}
	which := g.m.picked(&cut)
	wrong := g.r.IntN(10) == 0
	if wrong {
		cut.Cuts[0].Count += 1 << 30
	}
	status := g.m.cutSelected(&cut, which, wrong)
	if status == command.StatusOK {
		g.cut += len(which)
	}
	return command.NewSelectorCut(cut), command.Result{Status: status}
}

// next makes a command and the model's result, without what only the machine says (details and items).
func (g *generator) next() (command.Command, command.Result) {
	switch n := g.r.IntN(100); {
	case n < 36:
		id := g.identity([]wire.Lane{wire.LaneMetrics, wire.LaneBackfill}[g.r.IntN(2)])
		s := g.scrapes(id.Agent)
		return batch(g.coder, id, wire.AppendMetrics(nil, s)), g.m.metrics(id, s)
	case n < 54:
		id := g.identity([]wire.Lane{wire.LaneLogs, wire.LaneEvents}[g.r.IntN(2)])
		b := g.lines()
		raw := wire.AppendLogs(nil, b)
		return batch(g.coder, id, raw), g.m.logs(id, b)
	case n < 68:
		return g.deliver()
	case n < 69:
		agent := g.sender()
		return command.NewForgetAgent(agent), command.Result{Status: g.m.forget(agent)}
	case n < 71:
		agent, e := g.agent(), wire.Epoch{byte(g.r.IntN(200))}
		return command.NewOpenEpoch(agent, e), command.Result{Status: g.m.openEpoch(agent, e)}
	case n < 78:
		agent := g.sender()
		sets := make([]wire.Labels, g.r.IntN(5))
		for i := range sets {
			sets[i] = series(agent, g.r.IntN(40))
		}
		before := g.m.nextID
		r := command.Result{IDs: g.m.register(agent, sets)}
		r.Accepted = uint32(g.m.nextID - before)
		r.Duplicates = uint32(len(sets)) - r.Accepted
		return command.NewRegisterSeries(agent, sets), r
	case n < 81:
		ids := []uint64{1 + g.r.Uint64N(40), 1 + g.r.Uint64N(40)}
		c := command.NewCollectSeries(ids)
		slices.Sort(ids)
		ids = slices.Compact(ids)
		r := command.Result{Accepted: g.m.collect(ids)}
		r.Rejected = uint32(len(ids)) - r.Accepted
		return c, r
	case n < 84:
		k := command.Kinds[g.r.IntN(len(command.Kinds))]
		floor, reason := g.now-g.r.Int64N(4*86_400_000), command.CutReason(g.r.IntN(3))
		if g.r.IntN(4) > 0 {
			floor = (floor/86_400_000 - 3) * 86_400_000
		}
		return command.NewRetentionCut(k, floor, reason), command.Result{Status: g.m.cut(g.index, g.place, k, floor, reason)}
	case n < 88:
		agent := g.agent()
		g.m.keys[[2]string{machine.BucketHeartbeats, agent}] = modelValue{fmt.Sprintf(`{"at":%d,"status":{}}`, g.m.logTime), g.index, 0}
		return command.NewHeartbeats([]command.Heartbeat{{Agent: agent, Status: json.RawMessage("{}")}}), command.Result{Accepted: 1}
	case n < 90:
		return command.NewTick("n1"), command.Result{}
	case n < 92:
		return g.selectorCut()
	}
	t := g.txn()
	return command.NewMetaTxn(t), command.Result{Status: g.m.txn(g.index, t)}
}

// entry makes the next entry of up to 5 commands.
func (g *generator) entry() (command.Entry, []command.Result) {
	g.index++
	g.now += g.r.Int64N(20_000)
	if g.r.IntN(50) == 0 {
		g.now += 2 * 86_400_000
	}
	e := command.Entry{Stamp: g.now - g.r.Int64N(2)*g.r.Int64N(5000)} // log time must not go back
	g.m.begin(e.Stamp)
	g.m.index = g.index
	var want []command.Result
	for g.place = range 1 + g.r.IntN(5) {
		c, r := g.next()
		r.Index = g.index
		e.Commands = append(e.Commands, c)
		want = append(want, r)
	}
	return e, want
}

// comparable takes away what the model does not say.
func comparable(rs []command.Result) []command.Result {
	out := slices.Clone(rs)
	for i := range out {
		out[i].Items, out[i].Detail = nil, ""
		if out[i].Status == command.StatusConflict {
			out[i].Expected = 0
		}
		if len(out[i].IDs) == 0 {
			out[i].IDs = nil
		}
	}
	return out
}

func newGenerator(t testing.TB, seed uint64) *generator {
	return &generator{r: rand.New(rand.NewPCG(seed, 7)), m: newModel(), coder: newCoder(t), now: start}
}

// steps is how many entries the test against the model applies: TRIWARD_MODEL_STEPS, or few.
func steps(t *testing.T) (n, first uint64) {
	t.Helper()
	n = 9000
	for name, v := range map[string]*uint64{"TRIWARD_MODEL_STEPS": &n, "TRIWARD_MODEL_SEED": &first} {
		s := os.Getenv(name)
		if s == "" {
			continue
		}
		x, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("%s=%q: %v", name, s, err)
		}
		*v = x
	}
	return n, first
}

// Random commands, right and wrong ones, must be answered as the model answers them and leave its state. A seed gives
// exactly the same entries every time. Runs are short and, when many steps are asked for, some of them long.
func TestAgainstModel(t *testing.T) {
	left, seed := steps(t)
	var counts sync.Map // of commands by type and status
	t.Run("runs", func(t *testing.T) {
		for seed := seed; left > 0; seed++ {
			n := min(left, 1500)
			if seed%20 == 19 && left > 100_000 {
				n = 20_000
			}
			left -= n
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				againstModel(t, seed, int(n), &counts)
			})
		}
	})
	var said []string
	total := int64(0)
	counts.Range(func(k, v any) bool {
		n := v.(*atomic.Int64).Load()
		total += n
		said = append(said, fmt.Sprintf("%s %d", k, n))
		return true
	})
	slices.Sort(said)
	t.Logf("%d commands: %s", total, strings.Join(said, ", "))
}

func againstModel(t *testing.T, seed uint64, entries int, counts *sync.Map) {
	g := newGenerator(t, seed)
	m, s := newMachineOf(t, modelLimits())
	var group machine.Group
	var taken []modelSample
	var lines []modelLine
	for range entries {
		e, want := g.entry()
		if machine.EndsGroup(e) {
			taken, lines = drain(t, g.coder, &group, taken, lines)
			m.Finish(&group)
			group.Reset()
		}
		got, err := m.Apply(g.index, 1, e, &group)
		if err != nil {
			t.Fatal(err)
		}
		for i, result := range comparable(got) {
			if !reflect.DeepEqual(result, comparable(want[i : i+1])[0]) {
				t.Fatalf("entry %d, command %d, %s:\n got %+v\nwant %+v", g.index, i, e.Commands[i].Type, got[i], want[i])
			}
			n, _ := counts.LoadOrStore(e.Commands[i].Type.String()+" "+result.Status.String(), new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
		}
		if g.r.IntN(3) == 0 {
			taken, lines = drain(t, g.coder, &group, taken, lines)
			m.Finish(&group)
			group.Reset()
		}
	}
	taken, lines = drain(t, g.coder, &group, taken, lines)
	m.Finish(&group)
	compareWithModel(t, g, s, taken, lines, entries)
}

// drain takes what the stores would take.
func drain(t *testing.T, coder *wire.Coder, g *machine.Group, samples []modelSample, lines []modelLine) ([]modelSample, []modelLine) {
	t.Helper()
	if len(g.Samples.IDs) != len(g.Samples.T) || len(g.Samples.IDs) != len(g.Samples.Values) {
		t.Fatalf("columns of %d, %d and %d", len(g.Samples.IDs), len(g.Samples.T), len(g.Samples.Values))
	}
	for i, id := range g.Samples.IDs {
		samples = append(samples, modelSample{series: id, t: g.Samples.T[i], v: g.Samples.Values[i]})
	}
	for _, e := range g.Logs {
		for _, a := range e.Batches {
			raw, err := coder.Decompress(nil, &wire.Batch{Codec: a.Codec, RawLen: len(wire.AppendLogs(nil, a.Batch)), Body: a.Body})
			if err != nil {
				t.Fatal(err)
			}
			b, err := wire.DecodeLogs(raw)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(b, a.Batch) {
				t.Fatalf("the body holds\n%+v\nthe batch is\n%+v", b, a.Batch)
			}
			for _, st := range b.Streams {
				for _, l := range st.Lines {
					lines = append(lines, modelLine{command.Kind(st.Kind) + 1, meta.HashStream(st.Kind, st.Labels), l})
				}
			}
		}
	}
	return samples, lines
}

func compareWithModel(t *testing.T, g *generator, s *meta.Store, samples []modelSample, lines []modelLine, entries int) {
	t.Helper()
	if !slices.EqualFunc(samples, g.m.samples, func(a, b modelSample) bool {
		return a.series == b.series && a.t == b.t && a.v == b.v
	}) || len(samples) < entries*2/3 && entries == 1500 {
		t.Errorf("%d samples were accepted, the model has %d", len(samples), len(g.m.samples))
	}
	if !reflect.DeepEqual(lines, g.m.lines) || len(lines) < entries/3 && entries == 1500 {
		t.Errorf("%d lines were accepted, the model has %d", len(lines), len(g.m.lines))
	}
	if entries == 1500 && (g.fresh < 200 || g.repeats < 40 || len(g.m.recent) != modelLimits().RecentLines) {
		t.Errorf("of lines delivered %d were fresh and %d repeats, %d are remembered: the test tests little", g.fresh, g.repeats, len(g.m.recent))
	}
	if entries == 1500 && g.cut < 30 {
		t.Errorf("selectors cut %d lines: the test tests little", g.cut)
	}
	index, days := s.Digests()
	if want := g.m.digests(); !reflect.DeepEqual(days, want) || index != g.index {
		t.Errorf("digests at %d:\n%v\nwant at %d\n%v", index, days, g.index, want)
	}
	live := 0
	for id := uint64(1); id < g.m.nextID; id++ {
		want := g.m.series[id]
		got, ok := s.Series(id)
		if ok != (want != nil) || ok && (got.Agent != want.agent || string(got.Labels.AppendKey(nil)) != want.key) {
			t.Errorf("series %d is %+v, want %+v", id, got, want)
		}
		if ok {
			live++
		}
	}
	if s.SeriesCount() != live {
		t.Errorf("%d series counted, %d are there", s.SeriesCount(), live)
	}
	known := 0
	s.Agents(func(a meta.AgentState) bool {
		if known++; g.m.agents[a.Agent] == nil {
			t.Errorf("agent %s is known", a.Agent)
		}
		return true
	})
	if known != len(g.m.agents) {
		t.Errorf("%d agents are known, want %d", known, len(g.m.agents))
	}
	for name, a := range g.m.agents {
		if len(a.epochs) == 0 {
			continue
		}
		last, st := s.LastSeqs(name, a.epochs[len(a.epochs)-1])
		for _, l := range wire.Lanes {
			if last[l] != a.last[l][0] || st != meta.EpochOpen {
				t.Errorf("agent %s lane %s: %d (%s), want %d", name, l, last[l], st, a.last[l][0])
			}
		}
	}
	var rows []string
	verifyTrail(t, s)
	for _, b := range []string{"b0", "b1", machine.BucketHeartbeats, machine.BucketRetentionCuts, command.BucketSelectorCuts, audit.BucketRecords, audit.BucketHead} {
		s.Scan(b, "", func(key string, v meta.Value) bool {
			rows = append(rows, fmt.Sprintf("%s/%s at %d until %d: %s\n", b, key, v.ModIndex, v.Expires, v.Data))
			return true
		})
	}
	slices.Sort(rows)
	if got := strings.Join(rows, ""); got != g.m.dumpKeys() {
		t.Errorf("keys\n%s\nwant\n%s", got, g.m.dumpKeys())
	}
}

// applied is an entry of the log and how it was answered.
type applied struct{ entry, results []byte }

// replay applies what follows the mark of a store and holds answers and state against what they were.
func replay(t *testing.T, r *rand.Rand, s *meta.Store, log []applied, want string) {
	t.Helper()
	mark, ok := s.Mark()
	if !ok {
		t.Fatal("there is no mark")
	}
	m := machine.New(s, newCoder(t), modelLimits())
	var group machine.Group
	for i := int(mark.Index); i < len(log); i++ {
		e, err := command.Decode(log[i].entry)
		if err != nil {
			t.Fatal(err)
		}
		if machine.EndsGroup(e) {
			m.Finish(&group)
			group.Reset()
		}
		rs, err := m.Apply(uint64(i+1), 1, e, &group)
		if err != nil {
			t.Fatal(err)
		}
		if got := command.AppendResults(nil, rs); !slices.Equal(got, log[i].results) {
			t.Fatalf("entry %d is answered otherwise after the mark %d", i+1, mark.Index)
		}
		if r.IntN(4) == 0 || i == len(log)-1 {
			for shard := range 3 {
				group.HashShard(shard, 3)
			}
			m.Finish(&group)
			group.Reset()
		}
	}
	if got := dump(t, s); got != want {
		t.Errorf("state after replay from the mark %d differs", mark.Index)
	}
}

// From every mark on, whatever the grouping of entries, replay must give the same answers and the same state: on the
// node that made the mark as on one that installed it over another state.
func TestReplayFromAnyMark(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := newGenerator(t, 100+seed)
			m, s := newMachineOf(t, modelLimits())
			var log []applied
			marks := make(map[int]string) // by number of entries applied
			var frozen *meta.Frozen
			for i := range 600 {
				e, _ := g.entry()
				var group machine.Group
				rs, err := m.Apply(g.index, 1, e, &group)
				if err != nil {
					t.Fatal(err)
				}
				m.Finish(&group)
				log = append(log, applied{e.Append(nil), command.AppendResults(nil, rs)})
				switch i % 100 {
				case 40:
					frozen = s.Freeze(g.index, 1)
				case 70: // entries in between change what is frozen, but not in the file
					if err := frozen.Commit(meta.Mark{Index: frozen.Index, Term: frozen.Term}); err != nil {
						t.Fatal(err)
					}
					path := filepath.Join(t.TempDir(), "meta.db")
					if err := s.CopyTo(path); err != nil {
						t.Fatal(err)
					}
					marks[int(frozen.Index)] = path
				}
			}
			want := dump(t, s)
			_, installed := newMachine(t)
			for from, path := range marks {
				s := openStore(t, path)
				if mark, ok := s.Mark(); !ok || mark.Index != uint64(from) {
					t.Fatalf("mark %+v, want %d", mark, from)
				}
				image := filepath.Join(t.TempDir(), "image.db")
				if err := s.CopyTo(image); err != nil {
					t.Fatal(err)
				}
				replay(t, g.r, s, log, want)
				if err := installed.Reload(image); err != nil {
					t.Fatal(err)
				}
				replay(t, g.r, installed, log, want)
			}
		})
	}
}

func commitMark(t testing.TB, s *meta.Store, index uint64) {
	t.Helper()
	if err := s.Freeze(index, 1).Commit(meta.Mark{Index: index, Term: 1}); err != nil {
		t.Fatal(err)
	}
}

func TestUnknownCommands(t *testing.T) {
	m, s := newMachine(t)
	put := command.NewMetaTxn(command.Txn{Ops: []command.Op{{Bucket: "b", Key: "k", Value: []byte("v")}}})
	newer := put
	newer.Version = 9
	var g machine.Group
	for name, c := range map[string]command.Command{
		"type": {Type: 99, Version: 1}, "version": newer, "format": command.NewSetFormat(machine.Format + 1),
	} {
		_, err := m.Apply(1, 1, command.Entry{Stamp: start, Commands: []command.Command{put, c}}, &g)
		if !errors.Is(err, machine.ErrUnknownCommand) {
			t.Errorf("unknown %s: %v", name, err)
		}
	}
	if _, ok := s.Get("b", "k"); ok || s.LogTime() != 0 {
		t.Error("an entry with an unknown command was applied in part")
	}
	e := command.Entry{Stamp: start, Commands: []command.Command{{Type: 99 | command.Ignorable, Version: 1}, put}}
	rs, err := m.Apply(1, 1, e, &g)
	if err != nil || rs[0].Status != command.StatusOK || rs[1].Status != command.StatusOK {
		t.Fatalf("%+v, %v", rs, err)
	}
	if _, ok := s.Get("b", "k"); !ok {
		t.Error("what stood beside a command passed over was not applied")
	}
}
