package intake

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/triward/triward/agent/lines"
	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

const (
	bytesPerBody  = 256 << 10 // of lines, before compression
	linesPerBody  = 8 << 10
	fieldsPerBody = 32 << 10
	fieldBytes    = 64 << 10 // of the fields of one line together
)

// linePush collects the lines of one request into bodies of bounded length.
type linePush struct {
	in     *Intake
	agent  Agent // who sends, when it is one of ours
	masked map[maskedLine][]uint64
	cmds   []command.Command
	bodies []*wire.LogBatch // of the commands, to name what is refused
	open   map[openKey]*openBody
	tally
}

// openKey tells apart what cannot go into one delivery.
type openKey struct {
	lane  wire.Lane
	flags command.DeliverFlags
}

// openBody is a delivery that still takes lines.
type openBody struct {
	batch                *wire.LogBatch
	at                   map[string]int // key of the labels to place in batch
	bytes, lines, fields int
}

// stream is a stream of the request: its labels, checked, and their key.
type stream struct {
	kind   wire.StreamKind
	labels wire.Labels
	key    string
	level  wire.Severity // what the labels say of all its lines
}

// newStream checks the labels of a stream; source says where its lines come from, unless they do so themselves.
func (p *linePush) newStream(kind wire.StreamKind, ls wire.Labels, source string) (*stream, error) {
	ls, _ = p.in.opts.Redactor.Labels(p.agent.own(ls))
	if source != "" && ls.Get("source") == "" && len(ls) < wire.MaxStreamLabels {
		ls = ls.With("source", source)
	}
	if err := wire.CheckStreamLabels(ls); err != nil {
		return nil, err
	}
	s := &stream{kind: kind, labels: ls, key: string(ls.AppendKey([]byte{byte(kind)}))}
	for _, name := range levelNames {
		if s.level = lines.SeverityOf(ls.Get(name)); s.level != wire.SeverityUnknown {
			break
		}
	}
	return s, nil
}

// levelNames are the labels and fields that say how severe a line is.
var levelNames = [...]string{"level", "severity", "detected_level", "lvl"}

// add puts a line into the body that its stream belongs to. Text must stay as it is until push returns.
func (p *linePush) add(s *stream, l wire.LogLine, flags command.DeliverFlags) {
	p.redact(s, &l, flags)
	l.Fields = fieldsOf(l.Fields)
	if len(l.Text) > wire.MaxLine {
		l.Text = l.Text[:wire.MaxLine]
		if len(l.Fields) == wire.MaxFields { // the last one makes room
			l.Fields = l.Fields[:wire.MaxFields-1]
		}
		l.Fields = wire.Labels(l.Fields).With("truncated", "true")
	}
	if l.Severity == wire.SeverityUnknown {
		l.Severity = severity(s, &l)
	}
	size := len(l.Text) + 24
	for _, f := range l.Fields {
		size += len(f.Name) + len(f.Value) + 4
	}
	k := openKey{wire.LaneLogs, flags}
	if s.kind == wire.StreamEvent {
		k.lane = wire.LaneEvents
	}
	b := p.open[k]
	if b != nil && (b.bytes+size > bytesPerBody || b.lines == linesPerBody || b.fields+len(l.Fields) > fieldsPerBody) {
		p.close(k)
		b = nil
	}
	if b != nil && len(b.batch.Streams) == wire.MaxStreams {
		if _, ok := b.at[s.key]; !ok {
			p.close(k)
			b = nil
		}
	}
	if b == nil {
		b = &openBody{batch: &wire.LogBatch{}, at: make(map[string]int)}
		if p.open == nil {
			p.open = make(map[openKey]*openBody)
		}
		p.open[k] = b
	}
	i, ok := b.at[s.key]
	if !ok {
		i = len(b.batch.Streams)
		b.at[s.key] = i
		b.batch.Streams = append(b.batch.Streams, wire.LogStream{Kind: s.kind, Labels: s.labels})
		size += len(s.key) + 8
	}
	b.batch.Streams[i].Lines = append(b.batch.Streams[i].Lines, l)
	b.bytes += size
	b.lines++
	b.fields += len(l.Fields)
}

// maskedLine is a line that was changed by redaction.
type maskedLine struct {
	stream string
	t      int64
	line   uint64 // hash
}

// fieldNth tells lines apart that differed in their secrets only.
const fieldNth = "redacted_nth"

// redact masks what is secret in a line. Two lines of one time that differ in nothing else are alike then, and the
// second would be dropped as a repeat: it says which of them it is, in the order of the request, which is the same when
// that is repeated.
func (p *linePush) redact(s *stream, l *wire.LogLine, flags command.DeliverFlags) {
	r := p.in.opts.Redactor
	if r == nil {
		return
	}
	before := *l
	before.Fields = slices.Clone(l.Fields)
	if !r.Line(l) || flags&command.RepeatsDropped == 0 {
		return
	}
	k := maskedLine{s.key, l.T, hashLine(l)}
	was := hashLine(&before)
	nth := slices.Index(p.masked[k], was)
	if nth < 0 {
		if p.masked == nil {
			p.masked = make(map[maskedLine][]uint64)
		}
		nth = len(p.masked[k])
		p.masked[k] = append(p.masked[k], was)
	}
	if nth > 0 {
		l.Fields = append(l.Fields, wire.Label{Name: fieldNth, Value: strconv.Itoa(nth + 1)})
	}
}

func hashLine(l *wire.LogLine) uint64 {
	h := xxh3.New()
	_, _ = h.Write(l.Text) // never fails
	for _, f := range l.Fields {
		_, _ = h.WriteString("\x00" + f.Name + "\x00" + f.Value)
	}
	return h.Sum64()
}

// severity is what the fields, the labels or the text of a line say, in this order.
func severity(s *stream, l *wire.LogLine) wire.Severity {
	for _, name := range levelNames {
		if v := lines.SeverityOf(wire.Labels(l.Fields).Get(name)); v != wire.SeverityUnknown {
			return v
		}
	}
	if s.level != wire.SeverityUnknown {
		return s.level
	}
	return lines.Severity(l.Text)
}

// fieldsOf makes fields sorted, without doubles and within the bounds of a line: what is too much is left out, and
// bytes that are no text are written as \xNN.
func fieldsOf(fs []wire.Label) []wire.Label {
	if len(fs) == 0 {
		return nil
	}
	slices.SortStableFunc(fs, func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) })
	fs = slices.CompactFunc(fs, func(a, b wire.Label) bool { return a.Name == b.Name })
	left, kept := fieldBytes, fs[:0]
	for _, f := range fs {
		f.Name, f.Value = lines.Valid(f.Name, wire.MaxLabelName), lines.Valid(f.Value, wire.MaxLabelValue)
		again := len(kept) > 0 && kept[len(kept)-1].Name >= f.Name // cut to the same name
		if left -= len(f.Name) + len(f.Value); f.Name == "" || f.Value == "" || again || left < 0 || len(kept) == wire.MaxFields {
			continue
		}
		kept = append(kept, f)
	}
	return kept
}

// close makes a command of an open body.
func (p *linePush) close(k openKey) {
	b := p.open[k]
	delete(p.open, k)
	raw := wire.AppendLogs(nil, b.batch)
	d := command.Deliver{Source: cmp.Or(p.agent.ID, sourceOfLines), Lane: k.lane, Flags: k.flags, RawLen: len(raw), ConfigVersion: p.in.opts.Redactor.Version()}
	d.Codec, d.Body = p.in.opts.Coder.CompressLogs(nil, raw)
	p.cmds = append(p.cmds, command.NewDeliver(d))
	p.bodies = append(p.bodies, b.batch)
}

// push delivers everything. The error is one of the log; what was refused is in the tally.
func (p *linePush) push(ctx context.Context) error {
	for _, lane := range [...]wire.Lane{wire.LaneLogs, wire.LaneEvents} {
		for _, flags := range [...]command.DeliverFlags{0, command.RepeatsDropped} {
			if k := (openKey{lane, flags}); p.open[k] != nil {
				p.close(k)
			}
		}
	}
	results, err := p.in.propose(ctx, p.cmds)
	if err != nil {
		return err
	}
	for i := range results {
		switch r := &results[i]; r.Status {
		case command.StatusOK:
			p.accepted += int(r.Accepted)
			p.duplicates += int(r.Duplicates)
			for _, it := range r.Items {
				p.refuse(1, nameLine(p.bodies[i], int(it.Item)), it.Reason)
			}
			p.rejected += int(r.Rejected) - len(r.Items)
		case command.StatusLimit:
			n := 0
			for _, s := range p.bodies[i].Streams {
				n += len(s.Lines)
			}
			p.refuse(n, nameLine(p.bodies[i], 0), r.Detail)
		default:
			return fmt.Errorf("deliver lines: %s %s", r.Status, r.Detail)
		}
	}
	return nil
}

// nameLine is a line, counted over all streams of a body, as the answer names it.
func nameLine(b *wire.LogBatch, item int) string {
	for i := range b.Streams {
		s := &b.Streams[i]
		if item < len(s.Lines) {
			return fmt.Sprintf("line of %s at %s", labelText(s.Labels), time.Unix(0, s.Lines[item].T).UTC().Format(time.RFC3339Nano))
		}
		item -= len(s.Lines)
	}
	return "a line"
}
