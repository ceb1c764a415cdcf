package machine

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/meta"
)

// batch applies an agent's batch when it is the next one of its lane (DESIGN D4). A batch that is refused as a
// whole, for whatever reason, does not take its number.
func (m *Machine) batch(tx *meta.Tx, c command.Command, g *Group, r *command.Result) error {
	b, err := command.DecodeBatch(c)
	if err != nil {
		return err
	}
	if !inTurn(tx, &b.Identity, r) {
		return nil
	}
	if err := m.body(tx, &b.Batch, 0, g, r); err != nil {
		return fmt.Errorf("batch %d of lane %s: %w", b.Seq, b.Lane, err)
	}
	if r.Status == command.StatusOK {
		tx.Advance(b.Agent, b.Lane, b.Seq, b.Hash)
	}
	return nil
}

// deliver applies a batch of a sender without a sequence. Its source is an agent from then on, whose number is
// limited.
func (m *Machine) deliver(tx *meta.Tx, c command.Command, g *Group, r *command.Result) error {
	d, err := command.DecodeDeliver(c)
	if err != nil {
		return err
	}
	if m.tooManyAgents(tx, d.Source, r) {
		return nil
	}
	b := wire.Batch{Identity: wire.Identity{Agent: d.Source, Lane: d.Lane}, Codec: d.Codec, RawLen: d.RawLen, Body: d.Body}
	if err := m.body(tx, &b, d.Flags, g, r); err != nil {
		return fmt.Errorf("delivery of lane %s: %w", d.Lane, err)
	}
	if r.Status == command.StatusOK {
		tx.KnowAgent(d.Source)
	}
	return nil
}

// body applies what is in a batch, of whatever sender. Of the identity it asks for agent and lane only. An error, or a
// status other than OK, says that nothing was changed.
func (m *Machine) body(tx *meta.Tx, b *wire.Batch, flags command.DeliverFlags, g *Group, r *command.Result) error {
	if m.bodies += b.RawLen; m.bodies > command.MaxEntryRaw {
		r.Status = command.StatusLimit
		r.Detail = fmt.Sprintf("the bodies of one entry have more than %d bytes decompressed", command.MaxEntryRaw)
		return nil
	}
	if b.Lane.CarriesMetrics() {
		return m.samples(tx, b, g, r)
	}
	return m.lines(tx, b, flags&command.RepeatsDropped != 0, g, r)
}

// inTurn reports whether the batch is the next of its lane; if not it says in r what it is.
func inTurn(tx *meta.Tx, id *wire.Identity, r *command.Result) bool {
	switch tx.EpochState(id.Agent, id.Epoch) {
	case meta.EpochNew:
		r.Status = command.StatusUnknownEpoch
		return false
	case meta.EpochClosed:
		r.Status = command.StatusEpochClosed
		return false
	}
	last, hash := tx.Lane(id.Agent, id.Lane)
	switch {
	case id.Seq == last+1:
		return true
	case id.Seq > last:
		r.Status, r.Expected = command.StatusGap, last+1
	case id.Seq == last && id.Hash != hash:
		r.Status, r.Expected = command.StatusCloned, last
		r.Detail = fmt.Sprintf("batch %d of lane %s came before with other content: two agents use one identity",
			id.Seq, id.Lane)
		tx.CountClone(id.Agent)
	default:
		r.Status, r.Expected = command.StatusDuplicate, last
	}
	return false
}

// samples decides on each sample of a metrics body (DESIGN D2).
func (m *Machine) samples(tx *meta.Tx, b *wire.Batch, g *Group, r *command.Result) error {
	var err error
	if m.raw, err = m.coder.Decompress(m.raw[:0], b); err != nil {
		return err
	}
	if err := m.metrics.Decode(m.raw); err != nil {
		return err
	}
	scrapes := m.metrics.Scrapes
	m.ids = m.ids[:0]
	for i := range scrapes {
		m.ids = tx.Foreign(b.Agent, scrapes[i].IDs, m.ids, command.MaxUnknownIDs)
	}
	if len(m.ids) > 0 {
		slices.Sort(m.ids)
		r.Status, r.IDs = command.StatusUnknownIDs, slices.Clone(slices.Compact(m.ids))
		return nil
	}
	oldest := max(m.store.Floor(command.KindMetrics), tx.LogTime()-meta.LateWindow)
	newest := tx.LogTime() + FutureWindow
	item := 0
	for i := range scrapes {
		s := &scrapes[i]
		switch {
		case s.T < oldest:
			refuseAll(r, item, len(s.IDs), "older than the retention or than seven days before the cluster's time")
			m.verdict.Skip(item, len(s.IDs))
		case s.T > newest:
			refuseAll(r, item, len(s.IDs), "more than ten minutes before the cluster's time: check the clock")
			m.verdict.Skip(item, len(s.IDs))
		default:
			before := len(g.Samples.IDs)
			dup, late := tx.AcceptScrape(s.T, oldest, s.IDs, s.Values, &g.Samples, &g.hashes)
			r.Accepted += uint32(len(s.IDs) - dup - len(late))
			r.Duplicates += uint32(dup)
			for _, k := range late {
				r.Refuse(item+k, "too late: which samples the series holds at that time is no longer known")
			}
			if taken := g.Samples.IDs[before:]; len(taken) < len(s.IDs) {
				m.skipped(item, s.IDs, taken)
			}
		}
		item += len(s.IDs)
	}
	return nil
}

// skipped notes which of the ids, which ascend, were not taken.
func (m *Machine) skipped(item int, ids, taken []uint64) {
	for i, id := range ids {
		if len(taken) > 0 && taken[0] == id {
			taken = taken[1:]
			continue
		}
		m.verdict.Skip(item+i, 1)
	}
}

func refuseAll(r *command.Result, from, n int, reason string) {
	listed := min(n, command.MaxItemErrors-len(r.Items))
	for i := range listed {
		r.Refuse(from+i, reason)
	}
	r.Rejected += uint32(n - listed)
}

// lines decides on each line of a logs body: those before the retention floor are refused, those too far in the
// future stored at log time with their own time in the field time_sent. With dropRepeats those that are in the window
// of recent lines are dropped and the others put there.
func (m *Machine) lines(tx *meta.Tx, b *wire.Batch, dropRepeats bool, g *Group, r *command.Result) error {
	logs := m.decoded.Take(b)
	if logs == nil {
		raw, err := m.coder.Decompress(nil, b) // stores may keep it
		if err != nil {
			return err
		}
		if logs, err = wire.DecodeLogs(raw); err != nil {
			return err
		}
	}
	changed := m.keepLines(tx, logs, dropRepeats, r)
	if r.Accepted == 0 {
		return nil
	}
	if !changed {
		g.addLogs(g.LastIndex, wire.AcceptedLogs{Agent: b.Agent, Codec: b.Codec, Body: b.Body, Batch: logs})
		return nil
	}
	m.addChanged(b.Agent, logs, g)
	return nil
}

// keepLines takes refused and repeated lines out of logs, moves those in the future, counts all, and reports whether
// logs is not as it was. Lines are remembered as they were sent: a repeat would be moved to another time.
func (m *Machine) keepLines(tx *meta.Tx, logs *wire.LogBatch, dropRepeats bool, r *command.Result) (changed bool) {
	now := tx.LogTime() * 1e6
	newest := (tx.LogTime() + FutureWindow) * 1e6
	item := 0
	streams := logs.Streams[:0]
	for i := range logs.Streams {
		st := &logs.Streams[i]
		floor := m.store.Floor(kindOf(st.Kind))
		var stream uint64
		if dropRepeats {
			stream = meta.HashStream(st.Kind, st.Labels)
		}
		kept := st.Lines[:0]
		for j := range st.Lines {
			l := &st.Lines[j]
			switch {
			case l.T < 0 || floorMs(l.T) < floor:
				r.Refuse(item, "older than the retention")
				m.verdict.Skip(item, 1)
				changed = true
			case dropRepeats && !m.firstTime(tx, stream, l):
				r.Duplicates++
				m.verdict.Skip(item, 1)
				changed = true
			case l.T > newest:
				MoveLine(l, now)
				m.verdict.Moved, changed = true, true
				fallthrough
			default:
				kept = append(kept, *l)
				r.Accepted++
			}
			item++
		}
		st.Lines = kept
		if len(kept) > 0 {
			streams = append(streams, *st)
		}
	}
	logs.Streams = streams
	return changed
}

// firstTime reports whether the line is not in the window of recent lines, and puts it there.
func (m *Machine) firstTime(tx *meta.Tx, stream uint64, l *wire.LogLine) bool {
	var sum meta.Sum
	sum, m.line = meta.HashLine(stream, l, m.line)
	return tx.Remember(sum, m.lim.RecentLines)
}

const fieldTimeSent = "time_sent"

// MoveLine sets the time of a line to now and keeps its own in a field, as long as it may have one more: what becomes of
// a line that claims to be more than FutureWindow ahead of log time. Both are nanoseconds since 1970.
func MoveLine(l *wire.LogLine, now int64) {
	sent := time.Unix(0, l.T).UTC().Format(time.RFC3339Nano)
	l.T = now
	i, found := slices.BinarySearchFunc(l.Fields, fieldTimeSent, func(f wire.Label, name string) int {
		return strings.Compare(f.Name, name)
	})
	switch {
	case found:
		l.Fields[i].Value = sent
	case len(l.Fields) < wire.MaxFields:
		l.Fields = slices.Insert(slices.Clip(l.Fields), i, wire.Label{Name: fieldTimeSent, Value: sent})
	}
}

// addChanged writes a batch anew and appends it to g, as several when the added fields make it longer than a
// body may be.
func (m *Machine) addChanged(agent string, logs *wire.LogBatch, g *Group) {
	raw := wire.AppendLogs(nil, logs)
	if len(raw) > wire.MaxBatchRaw || fieldCount(logs) > wire.MaxBatchFields {
		if a, b, ok := halves(logs); ok {
			m.addChanged(agent, a, g)
			m.addChanged(agent, b, g)
			return
		}
		// One line that fills a body alone: it goes without the field.
		l := &logs.Streams[0].Lines[0]
		l.Fields = slices.DeleteFunc(l.Fields, func(f wire.Label) bool { return f.Name == fieldTimeSent })
		raw = wire.AppendLogs(nil, logs)
	}
	codec, body := m.coder.Compress(nil, raw)
	g.addLogs(g.LastIndex, wire.AcceptedLogs{Agent: agent, Codec: codec, Body: body, Batch: logs})
}

func fieldCount(b *wire.LogBatch) (n int) {
	for i := range b.Streams {
		for j := range b.Streams[i].Lines {
			n += len(b.Streams[i].Lines[j].Fields)
		}
	}
	return n
}

// halves splits a batch into two of about as many lines; false when there is but one.
func halves(b *wire.LogBatch) (first, second *wire.LogBatch, ok bool) {
	total := 0
	for i := range b.Streams {
		total += len(b.Streams[i].Lines)
	}
	if total < 2 {
		return nil, nil, false
	}
	first, second = &wire.LogBatch{}, &wire.LogBatch{}
	left := total / 2
	for _, st := range b.Streams {
		k := min(left, len(st.Lines))
		left -= k
		if k > 0 {
			first.Streams = append(first.Streams, wire.LogStream{Kind: st.Kind, Labels: st.Labels, Lines: st.Lines[:k]})
		}
		if k < len(st.Lines) {
			second.Streams = append(second.Streams, wire.LogStream{Kind: st.Kind, Labels: st.Labels, Lines: st.Lines[k:]})
		}
	}
	return first, second, true
}
