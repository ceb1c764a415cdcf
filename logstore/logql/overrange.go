package logql

import (
	"fmt"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/pipeline"
	"github.com/triward/triward/logstore/logql/syntax"
)

// counting functions take lines; their windows hold whole numbers, from which what leaves is subtracted.
func counts(r *syntax.Range) bool {
	switch r.Op {
	case syntax.OpCount, syntax.OpBytes, syntax.OpBytesRate, syntax.OpAbsent:
		return true
	case syntax.OpRate:
		return r.Unwrap == nil
	}
	return false
}

// series is one series of a function over a range.
type series struct {
	*set
	live    bool
	samples int64 // counting: in the window
	sum     int64
	queue   []tally // of which the first `head` are gone
	head    int
	w       window
}

// tally is lines that enter and leave the windows together.
type tally struct {
	last   int
	n, sum int64
}

// overRange evaluates a function over a range of time.
type overRange struct {
	ev     *evaluation
	r      *syntax.Range
	group  *syntax.Grouping // nil for all labels
	names  []string         // of group, sorted
	pipe   *pipeline.Pipeline
	unwrap *pipeline.Unwrapper
	fold   fold
	counts bool
	out    emit

	k      int // the step at hand
	all    map[string]*series
	living []*series
	vec    []point
	labels wire.Labels
	key    []byte
	values []float64
	fast   map[streamKey]*series // series of lines whose labels are those of their stream
	err    error
}

type streamKey struct {
	first    *wire.Label
	severity wire.Severity
}

// overRange runs a function over a range. g replaces its grouping: an aggregation done early.
func (ev *evaluation) overRange(r *syntax.Range, g *syntax.Grouping, out emit) error {
	o := &overRange{ev: ev, r: r, group: r.Grouping, counts: counts(r), out: out, all: map[string]*series{}, fold: folds[r.Op]}
	if g != nil {
		o.group = g
	}
	if r.Op == syntax.OpAbsent {
		o.group = &syntax.Grouping{}
	}
	if o.group != nil {
		o.names = slices.Sorted(slices.Values(o.group.Names))
	}
	var err error
	if o.pipe, err = pipeline.New(r.Log.Stages, ev.e.options(ev.ctx)); err != nil {
		return badf("%v", err)
	}
	if r.Unwrap != nil {
		if o.unwrap, err = pipeline.NewUnwrap(r.Unwrap); err != nil {
			return badf("%v", err)
		}
	} else if o.pipe.KeepsLabels() {
		o.fast = map[streamKey]*series{}
	}
	o.want()
	if !o.counts && o.fold.one == nil {
		return badf("function %s is not known", r.Op)
	}
	last := ev.grid.at(ev.grid.n - 1)
	q := &Query{
		Selector: r.Log.Selector,
		Start:    ev.grid.start - int64(r.Offset) - int64(r.Range) + 1, // the window is open on the left
		End:      last - int64(r.Offset) + 1,
	}
	if !ev.e.wide {
		push(q, r.Log.Stages)
	}
	st, err := ev.e.Source.Lines(ev.ctx, q, o.line)
	ev.stats.add(st)
	if err == nil {
		err = ev.err() // first: what the pipeline made of lines means nothing then
	}
	if err == nil {
		err = o.err
	}
	if err == nil {
		err = o.until(ev.grid.n)
	}
	for _, s := range o.living { // what they hold is given back to the evaluation's account
		ev.memory -= s.held()
	}
	return err
}

// want tells the pipeline which labels are looked at, when the grouping names them.
func (o *overRange) want() {
	if o.ev.e.wide || o.group == nil || o.group.Without {
		return
	}
	names := o.group.Names
	if o.unwrap != nil {
		names = append(slices.Clone(names), o.unwrap.Names()...)
	}
	o.pipe.Want(names)
}

// held is what the windows of a series take, in bytes.
func (s *series) held() int64 {
	n := int64(len(s.queue)) * tallyBytes
	for _, list := range [][]pane{s.w.front, s.w.raw} {
		for i := range list {
			n += paneBytes + int64(len(list[i].all))*valueBytes
		}
	}
	return n
}

const (
	tallyBytes = 24
	paneBytes  = 96
	valueBytes = 16
	labelBytes = 32
)

// line takes one line. It returns false when the evaluation is over.
func (o *overRange) line(l *Line) bool {
	ev := o.ev
	if ev.taken++; ev.taken&1023 == 0 {
		if o.err = ev.err(); o.err != nil {
			return false
		}
	}
	if ev.taken > ev.limits.Samples {
		o.err = &LimitError{fmt.Sprintf("more than %d lines are to be counted", ev.limits.Samples), "use a shorter time or a narrower selector"}
		return false
	}
	t := l.T + int64(o.r.Offset)
	if o.err = o.before(t); o.err != nil {
		return false
	}
	if o.k >= ev.grid.n {
		return true
	}
	if t <= ev.grid.at(o.k)-int64(o.r.Range) { // between two windows
		return true
	}
	if !o.pipe.Process(&pipeline.Line{T: l.T, Stream: l.Labels, Severity: l.Severity, Fields: l.Fields, Text: l.Text}) {
		return true
	}
	v := 0.0
	if o.unwrap != nil {
		var ok bool
		if v, ok = o.unwrap.Take(o.pipe); !ok {
			return true
		}
	}
	if o.fast == nil { // otherwise no stage can make a mistake
		if name, details := o.pipe.Labels().Err(); name != "" {
			o.err = &PipelineError{name, details, cloneLabels(l.Labels)}
			return false
		}
	}
	ev.stats.Kept++
	s := o.series(l)
	if s != nil {
		o.take(s, t, v)
	}
	return o.err == nil
}

// take puts a sample into the windows of its series.
func (o *overRange) take(s *series, t int64, v float64) {
	ev := o.ev
	if !s.live {
		s.live = true
		o.living = append(o.living, s)
	}
	// the last step whose window, which begins behind step-range, holds it
	last := min(int((t+int64(o.r.Range)-1-ev.grid.start)/ev.grid.step), ev.grid.n-1)
	if !o.counts {
		grown := int64(s.w.add(&o.fold, last, o.fold.one(t, v))) * paneBytes
		if o.fold.keeps {
			grown += valueBytes
		}
		o.grow(grown)
		return
	}
	weight := int64(1)
	if o.r.Op == syntax.OpBytes || o.r.Op == syntax.OpBytesRate {
		weight = int64(o.pipe.Bytes())
	}
	s.samples++
	s.sum += weight
	if n := len(s.queue); n > s.head && s.queue[n-1].last == last {
		s.queue[n-1].n++
		s.queue[n-1].sum += weight
		return
	}
	s.queue = append(s.queue, tally{last, 1, weight})
	o.grow(tallyBytes)
}

func (o *overRange) grow(n int64) {
	if o.ev.memory += n; o.ev.memory > o.ev.limits.Memory {
		o.err = &LimitError{fmt.Sprintf("the windows and labels of %s take more than %d MiB", o.r.Op, o.ev.limits.Memory>>20), "use a shorter range, a longer step, fewer series or fewer labels"}
	}
}

// series returns the series of the line at hand.
func (o *overRange) series(l *Line) *series {
	var fk streamKey
	fast := o.fast != nil && len(l.Fields) == 0 && len(l.Labels) > 0
	if fast {
		fk = streamKey{&l.Labels[0], l.Severity}
		if s, ok := o.fast[fk]; ok {
			return s
		}
	}
	ls := o.labels[:0]
	switch g := o.group; {
	case g == nil:
		ls = o.pipe.Labels().Append(ls)
	case g.Without:
		ls = o.pipe.Labels().Append(ls)
		ls = group(ls[:0], ls, g) // in place: it only leaves out
	default:
		for _, n := range o.names { // sorted
			if v := o.pipe.Labels().Get(n); v != "" {
				ls = append(ls, wire.Label{Name: n, Value: v})
			}
		}
	}
	ls = slices.DeleteFunc(ls, func(l wire.Label) bool { return l.Value == "" }) // of a series an empty label is none
	o.labels = ls
	o.key = appendKey(o.key[:0], ls)
	s, ok := o.all[string(o.key)]
	if !ok {
		if len(o.all) >= o.ev.limits.Series {
			o.err = &LimitError{
				fmt.Sprintf("%s makes more than %d series", o.r.Op, o.ev.limits.Series),
				"leave out labels that differ from line to line (| keep, | drop, or name the labels behind | json), or use sum by (…)",
			}
			return nil
		}
		s = &series{set: o.ev.intern(ls)}
		o.all[s.key] = s
	}
	if fast && len(o.fast) < 4*o.ev.limits.Series {
		o.fast[fk] = s
	}
	return s
}

// before finishes all steps before time t.
func (o *overRange) before(t int64) error {
	for o.k < o.ev.grid.n && o.ev.grid.at(o.k) < t {
		if err := o.until(o.k + 1); err != nil {
			return err
		}
	}
	return nil
}

// until finishes all steps before step k.
func (o *overRange) until(k int) error {
	for ; o.k < k; o.k++ {
		if o.k&255 == 0 {
			if err := o.ev.err(); err != nil {
				return err
			}
		}
		o.step()
		if err := o.out(o.k, o.vec); err != nil {
			return err
		}
		if o.grow(0); o.err != nil { // by the labels of what was made of the vector
			return o.err
		}
	}
	return nil
}

// step makes the vector of the step at hand.
func (o *overRange) step() {
	o.vec = o.vec[:0]
	t := o.ev.grid.at(o.k)
	w := span{t - int64(o.r.Range), t, o.r.Range.Seconds()}
	n := 0
	for _, s := range o.living {
		if o.leave(s) {
			s.live = false
			continue
		}
		o.living[n] = s
		n++
		if o.r.Op == syntax.OpAbsent {
			continue
		}
		if v, ok := o.value(s, w); ok {
			o.vec = append(o.vec, point{s.set, v})
		}
	}
	clear(o.living[n:])
	o.living = o.living[:n]
	if o.r.Op == syntax.OpAbsent && n == 0 {
		o.vec = append(o.vec, point{o.ev.intern(o.absent()), 1})
	}
}

// leave takes what is too old out of the windows of a series and reports whether nothing is left.
func (o *overRange) leave(s *series) bool {
	if !o.counts {
		kept := 0
		if o.fold.keeps {
			kept = s.w.held()
		}
		gone := s.w.drop(&o.fold, o.k)
		o.ev.memory -= int64(gone) * paneBytes
		if o.fold.keeps {
			o.ev.memory -= int64(kept-s.w.held()) * valueBytes
		}
		return s.w.empty()
	}
	for s.head < len(s.queue) && s.queue[s.head].last < o.k {
		s.samples -= s.queue[s.head].n
		s.sum -= s.queue[s.head].sum
		s.head++
	}
	if s.head == len(s.queue) || s.head >= 64 && s.head*2 >= len(s.queue) {
		o.ev.memory -= int64(s.head) * tallyBytes
		s.queue = slices.Delete(s.queue, 0, s.head)
		s.head = 0
	}
	return s.samples == 0
}

func (o *overRange) value(s *series, w span) (float64, bool) {
	switch {
	case o.r.Op == syntax.OpCount, o.r.Op == syntax.OpBytes:
		return float64(s.sum), true
	case o.counts:
		return float64(s.sum) / w.seconds, true
	case o.fold.keeps:
		o.values = s.w.values(o.values[:0])
		return quantile(o.r.Param, o.values), true
	}
	a := s.w.sum(&o.fold)
	if o.r.Op == syntax.OpRateCounter && (a.n < 2 || a.t0 == a.t1) {
		return 0, false
	}
	return o.fold.result(&a, w), true
}

// absent returns the labels of absent_over_time: those that the selector fixes.
func (o *overRange) absent() wire.Labels { return wire.LabelsFromMap(equalities(o.r.Log.Selector)) }
