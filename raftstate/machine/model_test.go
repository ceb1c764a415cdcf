package machine_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
	"github.com/triward/triward/raftstate/meta"
)

// model is the state machine written as plainly as can be: every sample and line is kept, nothing is shared or
// summed up.
type model struct {
	logTime int64
	agents  map[string]*modelAgent
	series  map[uint64]*modelSeries
	nextID  uint64
	floors  map[command.Kind]int64
	samples []modelSample
	lines   []modelLine
	origins []modelOrigin // of each line
	index   uint64        // of the entry at hand
	recent  []modelLine   // as they were sent, of deliveries that drop repeats
	keys    map[[2]string]modelValue
	trail   []string // hashes of all audit records
	kept    []string // audit records kept
	format  uint32
}

type modelAgent struct {
	epochs []wire.Epoch // the last is open
	last   map[wire.Lane][2]uint64
}

type modelSeries struct {
	agent string
	key   string
	held  map[int64]bool
	born  int64
}

type modelSample struct {
	series uint64
	key    uint64
	t      int64
	v      float64
}

type modelLine struct {
	kind   command.Kind
	stream uint64
	line   wire.LogLine
}

// modelOrigin is what selectors look at, and whether one has cut the line.
type modelOrigin struct {
	index  uint64
	labels wire.Labels
	gone   bool
}

type modelValue struct {
	data    string
	index   uint64
	expires int64
}

func newModel() *model {
	return &model{
		agents: make(map[string]*modelAgent), series: make(map[uint64]*modelSeries), nextID: 1,
		floors: make(map[command.Kind]int64), keys: make(map[[2]string]modelValue),
	}
}

func (m *model) begin(stamp int64) {
	m.logTime = max(m.logTime, stamp)
	for k, v := range m.keys {
		if v.expires != 0 && v.expires <= m.logTime {
			delete(m.keys, k)
		}
	}
}

func (m *model) agent(name string) *modelAgent {
	a := m.agents[name]
	if a == nil {
		a = &modelAgent{}
		m.agents[name] = a
	}
	return a
}

func (m *model) openEpoch(agent string, e wire.Epoch) command.Status {
	a := m.agent(agent)
	if i := slices.Index(a.epochs, e); i >= 0 {
		if i == len(a.epochs)-1 {
			return command.StatusOK
		}
		return command.StatusEpochClosed
	}
	a.epochs = append(a.epochs, e)
	a.last = make(map[wire.Lane][2]uint64)
	return command.StatusOK
}

// turn says what a batch is; OK when it is the next one.
func (m *model) turn(id wire.Identity) (command.Status, uint64) {
	a := m.agents[id.Agent]
	if a == nil || !slices.Contains(a.epochs, id.Epoch) {
		return command.StatusUnknownEpoch, 0
	}
	if a.epochs[len(a.epochs)-1] != id.Epoch {
		return command.StatusEpochClosed, 0
	}
	last := a.last[id.Lane]
	switch {
	case id.Seq == last[0]+1:
		return command.StatusOK, 0
	case id.Seq > last[0]:
		return command.StatusGap, last[0] + 1
	case id.Seq == last[0] && id.Hash != last[1]:
		return command.StatusCloned, last[0]
	}
	return command.StatusDuplicate, last[0]
}

func (m *model) took(id wire.Identity) { m.agents[id.Agent].last[id.Lane] = [2]uint64{id.Seq, id.Hash} }

func (m *model) register(agent string, sets []wire.Labels) []uint64 {
	ids := make([]uint64, len(sets))
	for i, ls := range sets {
		key := string(ls.AppendKey(nil))
		for id, s := range m.series {
			if s.key == key {
				ids[i] = id
			}
		}
		if ids[i] == 0 {
			m.agent(agent)
			ids[i] = m.nextID
			m.series[m.nextID] = &modelSeries{agent: agent, key: key, held: make(map[int64]bool), born: m.logTime}
			m.nextID++
		}
	}
	return ids
}

func (m *model) collect(ids []uint64) (removed uint32) {
	const margin = 3_600_000
	for _, id := range ids {
		s := m.series[id]
		if s == nil {
			continue
		}
		busy := len(s.held) == 0 && s.born >= m.logTime-meta.LateWindow-margin
		for t := range s.held {
			busy = busy || t >= m.logTime-meta.LateWindow-margin
		}
		if !busy {
			delete(m.series, id)
			removed++
		}
	}
	return removed
}

func (m *model) metrics(id wire.Identity, scrapes []wire.Scrape) (r command.Result) {
	if r.Status, r.Expected = m.turn(id); r.Status != command.StatusOK {
		return r
	}
	if r = m.scrapes(id.Agent, scrapes); r.Status == command.StatusOK {
		m.took(id)
	}
	return r
}

func (m *model) deliverMetrics(source string, scrapes []wire.Scrape) command.Result {
	r := m.scrapes(source, scrapes)
	if r.Status == command.StatusOK {
		m.agent(source)
	}
	return r
}

func (m *model) scrapes(agent string, scrapes []wire.Scrape) (r command.Result) {
	for _, s := range scrapes {
		for _, x := range s.IDs {
			if m.series[x] == nil || m.series[x].agent != agent {
				r.IDs = append(r.IDs, x)
			}
		}
	}
	if len(r.IDs) > 0 {
		slices.Sort(r.IDs)
		r.IDs, r.Status = slices.Compact(r.IDs), command.StatusUnknownIDs
		return r
	}
	for _, s := range scrapes {
		for i, x := range s.IDs {
			se := m.series[x]
			switch {
			case s.T < m.floors[command.KindMetrics] || s.T < m.logTime-meta.LateWindow || s.T > m.logTime+600_000:
				r.Rejected++
			case se.held[s.T]:
				r.Duplicates++
			default:
				r.Accepted++
				se.held[s.T] = true
				ls, _, _ := wire.LabelsFromKey([]byte(se.key))
				m.samples = append(m.samples, modelSample{x, meta.HashLabels(ls), s.T, s.Values[i]})
			}
		}
	}
	return r
}

func (m *model) logs(id wire.Identity, b *wire.LogBatch) (r command.Result) {
	if r.Status, r.Expected = m.turn(id); r.Status != command.StatusOK {
		return r
	}
	m.took(id)
	return m.linesOf(b, false)
}

func (m *model) deliverLogs(source string, b *wire.LogBatch, dropRepeats bool) command.Result {
	m.agent(source)
	return m.linesOf(b, dropRepeats)
}

func (m *model) linesOf(b *wire.LogBatch, dropRepeats bool) (r command.Result) {
	for _, st := range b.Streams {
		kind := command.KindLogs
		if st.Kind == wire.StreamEvent {
			kind = command.KindEvents
		}
		for _, l := range st.Lines {
			if l.T/1e6 < m.floors[kind] {
				r.Rejected++
				continue
			}
			if sent := (modelLine{kind, meta.HashStream(st.Kind, st.Labels), l}); dropRepeats {
				if slices.ContainsFunc(m.recent, func(o modelLine) bool { return reflect.DeepEqual(o, sent) }) {
					r.Duplicates++
					continue
				}
				m.recent = append(m.recent, sent)
				m.recent = m.recent[max(0, len(m.recent)-modelLimits().RecentLines):]
			}
			if l.T > (m.logTime+600_000)*1e6 {
				l.Fields = []wire.Label{{Name: "time_sent", Value: rfc3339(l.T)}}
				l.T = m.logTime * 1e6
			}
			r.Accepted++
			m.lines = append(m.lines, modelLine{kind, meta.HashStream(st.Kind, st.Labels), l})
			m.origins = append(m.origins, modelOrigin{index: m.index, labels: st.Labels})
		}
	}
	return r
}

func (m *model) txn(index uint64, t command.Txn) command.Status {
	for _, op := range t.Ops {
		if op.Bucket == "audit" || op.Bucket == "audit_head" || op.Bucket == "retention_cuts" || op.Bucket == "selector_cuts" {
			return command.StatusInvalid
		}
	}
	for _, c := range t.Compares {
		if m.keys[[2]string{c.Bucket, c.Key}].index != c.ModIndex {
			return command.StatusConflict
		}
	}
	for _, op := range t.Ops {
		k := [2]string{op.Bucket, op.Key}
		if op.Delete || op.Expires != 0 && op.Expires <= m.logTime {
			delete(m.keys, k)
		} else {
			m.keys[k] = modelValue{string(op.Value), index, op.Expires}
		}
	}
	for _, a := range t.Audit {
		m.audit(index, a)
	}
	return command.StatusOK
}

// audit adds a record to the chain, all of it written out here once more.
func (m *model) audit(index uint64, a command.AuditRecord) {
	prev := strings.Repeat("0", 64)
	if len(m.trail) > 0 {
		prev = m.trail[len(m.trail)-1]
	}
	seq := len(m.trail) + 1
	sum := sha256.New()
	fmt.Fprintf(sum, "\x01")
	raw, _ := hex.DecodeString(prev)
	sum.Write(raw)
	for _, v := range []uint64{uint64(seq), index, uint64(m.logTime)} {
		_ = binary.Write(sum, binary.LittleEndian, v)
	}
	for _, s := range []string{a.Actor, a.Address, a.Action, a.Target, string(a.Detail)} {
		fmt.Fprintf(sum, "%c%s", rune(len(s)), s) // shorter than 128 bytes
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	detail := ""
	if len(a.Detail) > 0 {
		detail = fmt.Sprintf(`"detail":%s,`, a.Detail)
	}
	rec := fmt.Sprintf(`{"seq":%d,"index":%d,"time":%d,"actor":%q,"address":%q,"action":%q,"target":%q,%s"prev":"%s","hash":"%s"}`,
		seq, index, m.logTime, a.Actor, a.Address, a.Action, a.Target, detail, prev, hash)
	m.trail, m.kept = append(m.trail, hash), append(m.kept, rec)
	m.keys[[2]string{"audit", fmt.Sprintf("%020d", seq)}] = modelValue{rec, index, 0}
	if len(m.kept) > modelLimits().AuditRecords {
		delete(m.keys, [2]string{"audit", m.names("audit")[0]})
		m.kept = m.kept[1:]
	}
	head := fmt.Sprintf(`{"first":%d,"seq":%d,"bytes":%d,"hash":"%s"}`, seq-len(m.kept)+1, seq, len(strings.Join(m.kept, "")), hash)
	m.keys[[2]string{"audit_head", "head"}] = modelValue{head, index, 0}
}

func (m *model) forget(agent string) command.Status {
	for _, s := range m.series {
		if s.agent == agent {
			return command.StatusConflict
		}
	}
	delete(m.agents, agent)
	return command.StatusOK
}

func (m *model) cut(index uint64, place int, k command.Kind, floor int64, reason command.CutReason) command.Status {
	if floor > m.logTime-machine.MinRetention {
		return command.StatusInvalid
	}
	if floor <= m.floors[k] {
		return command.StatusOK
	}
	m.floors[k] = floor
	for _, key := range m.names("selector_cuts") {
		var day int64
		if _, err := fmt.Sscanf(key, k.String()+"/%d", &day); err == nil && (day+1)*86_400_000 <= floor {
			delete(m.keys, [2]string{"selector_cuts", key})
		}
	}
	name := [2]string{machine.BucketRetentionCuts, fmt.Sprintf("%020d.%04d", index, place)}
	m.keys[name] = modelValue{fmt.Sprintf(`{"at":%d,"kind":%q,"floor":%d,"reason":%q}`, m.logTime, k, floor, reason), index, 0}
	if cuts := m.names(machine.BucketRetentionCuts); len(cuts) > modelLimits().RetentionCuts {
		delete(m.keys, [2]string{machine.BucketRetentionCuts, cuts[0]})
	}
	return command.StatusOK
}

// picked counts the lines that a cut of these selectors would hide, those of each without those of the ones before it.
func (m *model) picked(cut *command.SelectorCut) (which []int) {
	for i := range cut.Cuts {
		p, err := wire.NewPicker(cut.Cuts[i].Selector)
		if err != nil {
			panic(err)
		}
		var d meta.Digests
		for j := range m.lines {
			l, o := &m.lines[j], &m.origins[j]
			if l.kind != cut.Kind || meta.DayOf(l.line.T/1e6) != cut.Day || o.gone || o.index > cut.Through || slices.Contains(which, j) || !p.Picks(o.labels.Get) {
				continue
			}
			sum, _ := meta.HashLine(l.stream, &l.line, nil)
			d.Add(l.kind, l.line.T/1e6, sum)
			which = append(which, j)
		}
		for _, sum := range d.List() {
			cut.Cuts[i].Count, cut.Cuts[i].Hi, cut.Cuts[i].Lo = sum.Count, sum.Sum.Hi, sum.Sum.Lo
		}
	}
	return which
}

// cutSelected applies a cut that says the truth, or one that does not.
func (m *model) cutSelected(cut *command.SelectorCut, which []int, wrong bool) command.Status {
	end, key := (cut.Day+1)*86_400_000, [2]string{"selector_cuts", fmt.Sprintf("%s/%06d", cut.Kind, cut.Day)}
	switch {
	case cut.Through >= m.index || end > m.logTime-machine.MinRetention:
		return command.StatusInvalid
	case end <= m.floors[cut.Kind]:
		return command.StatusOK
	case cut.Day*86_400_000 < m.floors[cut.Kind]:
		return command.StatusInvalid
	case m.keys[key].index != cut.After:
		return command.StatusConflict
	case wrong:
		return command.StatusInvalid
	}
	for _, j := range which {
		m.origins[j].gone = true
	}
	var rec command.CutRecord
	if cut.After != 0 {
		rec, _ = command.DecodeCutRecord([]byte(m.keys[key].data))
	}
	if err := rec.Add(cut, m.logTime); err != nil {
		panic(err) // there are few selectors
	}
	m.keys[key] = modelValue{string(rec.Append(nil)), m.index, 0}
	return command.StatusOK
}

// names are the keys of a bucket in order.
func (m *model) names(bucket string) []string {
	var out []string
	for k := range m.keys {
		if k[0] == bucket {
			out = append(out, k[1])
		}
	}
	slices.Sort(out)
	return out
}

// digests sums up what is there now.
func (m *model) digests() []meta.Digest {
	var d meta.Digests
	for _, s := range m.samples {
		if (meta.DayOf(s.t)+1)*86_400_000 > m.floors[command.KindMetrics] {
			d.Add(command.KindMetrics, s.t, meta.HashSample(s.key, s.t, s.v))
		}
	}
	for i := range m.lines {
		l := &m.lines[i]
		if ms := l.line.T / 1e6; !m.origins[i].gone && (meta.DayOf(ms)+1)*86_400_000 > m.floors[l.kind] {
			sum, _ := meta.HashLine(l.stream, &l.line, nil)
			d.Add(l.kind, ms, sum)
		}
	}
	return d.List()
}

func (m *model) dumpKeys() string {
	var rows []string
	for k, v := range m.keys {
		rows = append(rows, fmt.Sprintf("%s/%s at %d until %d: %s\n", k[0], k[1], v.index, v.expires, v.data))
	}
	slices.Sort(rows)
	return strings.Join(rows, "")
}
