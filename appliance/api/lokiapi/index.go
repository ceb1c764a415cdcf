package lokiapi

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
)

// Bounds of questions about how much there is.
const (
	maxGroups     = 50_000    // series that volumes are summed up for
	maxVolumes    = 4_000_000 // numbers of volume_range that are summed up at once
	maxSteps      = 11_000
	defaultVolume = 100 // series of an answer
)

// stats answers index/stats: how many streams, blocks, lines and bytes there are, from the headers of blocks. Of a block
// at the edge of the range the part within it counts, as if its lines were spread evenly.
func (a *API) stats(q *request) error {
	start, end, f, err := q.streamsAsked(true)
	if err != nil {
		return err
	}
	streams := map[*wire.Label]struct{}{}
	named := map[string]struct{}{}
	var lines, bytes float64
	blocks := 0
	st, err := a.opts.Store.Extents(q.ctx(), f, start, end, func(p *logstore.Extent) error {
		n, b := p.Within(start, end)
		lines, bytes = lines+n, bytes+b
		if p.Block {
			blocks++
		}
		// The streams are counted by their labels; those of one block after the other of a stream are the same slice.
		if len(p.Labels) > 0 {
			if _, known := streams[&p.Labels[0]]; known {
				return nil
			}
			if len(streams) >= maxGroups {
				clear(streams)
			}
			streams[&p.Labels[0]] = struct{}{}
		}
		if len(named) < logstore.MaxSeries {
			named[string(append(p.Labels.AppendKey(nil), byte(p.Kind)))] = struct{}{}
		}
		return nil
	})
	if err != nil || a.elsewhere(q, st.Partial) {
		return err
	}
	return q.answer(200, struct {
		Streams  int      `json:"streams"`
		Chunks   int      `json:"chunks"`
		Entries  int64    `json:"entries"`
		Bytes    int64    `json:"bytes"`
		Warnings []string `json:"warnings,omitempty"`
	}{len(named), blocks, int64(math.Round(lines)), int64(math.Round(bytes)), partial(&st)})
}

// volumes sums up bytes by labels and step.
type volumes struct {
	start, end int64
	step       int64
	steps      int
	by         func(ls wire.Labels) []wire.Labels // the series that a stream counts for
	groups     map[string]*volume
	ofStream   map[*wire.Label][]*volume
	numbers    int
	more       bool // there are others that were not counted
}

type volume struct {
	labels wire.Labels
	total  float64
	bytes  []float64 // by step
}

func (v *volumes) take(p *logstore.Extent) {
	for _, g := range v.groupsOf(p) {
		first, last := 0, 0
		if v.steps > 1 {
			first, last = v.at(max(p.MinT, v.start)), v.at(min(p.MaxT, v.end-1))
		}
		for i := first; i <= last; i++ {
			from := v.start + int64(i)*v.step
			to := v.end
			if v.steps > 1 && i < v.steps-1 {
				to = from + v.step
			}
			_, b := p.Within(from, to)
			g.total += b
			g.bytes[i] += b
		}
	}
}

func (v *volumes) at(t int64) int { return max(0, min(v.steps-1, int((t-v.start)/v.step))) }

func (v *volumes) groupsOf(p *logstore.Extent) []*volume {
	if len(p.Labels) == 0 {
		return nil
	}
	if list, ok := v.ofStream[&p.Labels[0]]; ok {
		return list
	}
	var list []*volume
	for _, ls := range v.by(p.Labels) {
		key := string(ls.AppendKey(nil))
		g, ok := v.groups[key]
		if !ok {
			if len(v.groups) >= maxGroups || v.numbers+v.steps > maxVolumes {
				v.more = true
				continue
			}
			v.numbers += v.steps
			g = &volume{labels: ls, bytes: make([]float64, v.steps)}
			v.groups[key] = g
		}
		list = append(list, g)
	}
	if len(v.ofStream) >= maxGroups {
		clear(v.ofStream)
	}
	v.ofStream[&p.Labels[0]] = list
	return list
}

// largest returns the groups with most bytes.
func (v *volumes) largest(n int) []*volume {
	list := make([]*volume, 0, len(v.groups))
	for _, g := range v.groups {
		if g.total > 0 {
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b *volume) int {
		return cmp.Or(cmp.Compare(b.total, a.total), slices.CompareFunc(a.labels, b.labels, func(x, y wire.Label) int {
			return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Value, y.Value))
		}))
	})
	return list[:min(n, len(list))]
}

// grouping returns by what volumes are told apart: the labels that targetLabels names, or the selector when it is absent.
// aggregateBy=labels sums up by the names of labels instead of by their values.
func (q *request) grouping() (func(ls wire.Labels) []wire.Labels, error) {
	byName := false
	switch by := q.form.Get("aggregateBy"); by {
	case "", "series":
	case "labels":
		byName = true
	default:
		return nil, badf("parameter aggregateBy: %.40q is neither series nor labels", by)
	}
	var targets []string
	if s := q.form.Get("targetLabels"); s != "" {
		for name := range strings.SplitSeq(s, ",") {
			if name = strings.TrimSpace(name); name != "" && !slices.Contains(targets, name) {
				targets = append(targets, name)
			}
		}
	}
	if len(targets) > wire.MaxLabels {
		return nil, badf("parameter targetLabels names %d labels, at most %d are allowed", len(targets), wire.MaxLabels)
	}
	if targets == nil && !byName {
		sel, err := q.selector(true)
		if err != nil {
			return nil, err
		}
		for _, m := range sel {
			if !slices.Contains(targets, m.Name) {
				targets = append(targets, m.Name)
			}
		}
	}
	return func(ls wire.Labels) (out []wire.Labels) {
		var of wire.Labels
		for _, l := range ls {
			if targets != nil && !slices.Contains(targets, l.Name) {
				continue
			}
			if byName {
				out = append(out, wire.Labels{{Name: l.Name}})
			}
			of = append(of, l)
		}
		if byName || of == nil && targets != nil {
			return out
		}
		return []wire.Labels{of}
	}, nil
}

// volumes reads a question about volumes and sums them up. It returns nil when another node has answered.
func (a *API) volumes(q *request, steps bool) (*volumes, []*volume, []string, error) {
	start, end, f, err := q.streamsAsked(true)
	if err != nil {
		return nil, nil, nil, err
	}
	limit, err := q.number("limit", defaultVolume, maxLimit)
	if err != nil {
		return nil, nil, nil, err
	}
	v := &volumes{start: start, end: end, step: max(1, end-start), steps: 1, groups: map[string]*volume{}, ofStream: map[*wire.Label][]*volume{}}
	if v.by, err = q.grouping(); err != nil {
		return nil, nil, nil, err
	}
	if steps {
		step, err := q.step(start, end)
		if err != nil {
			return nil, nil, nil, err
		}
		v.step = int64(step)
		n := stepsOf(end-start, v.step)
		if n > maxSteps {
			return nil, nil, nil, badf("exceeded maximum resolution of %d points per time series: %d steps were asked for, use a greater step", maxSteps, n)
		}
		v.steps = max(1, int(n))
	}
	st, err := a.opts.Store.Extents(q.ctx(), f, start, end, func(p *logstore.Extent) error { v.take(p); return nil })
	if err != nil || a.elsewhere(q, st.Partial) {
		return nil, nil, nil, err
	}
	warnings := partial(&st)
	if v.more {
		warnings = append(warnings, fmt.Sprintf("there are more series than are summed up (%d, or fewer with many steps): not all are here", maxGroups))
	}
	return v, v.largest(limit), warnings, nil
}

// volume answers index/volume: bytes by series over the whole range.
func (a *API) volume(q *request) error {
	v, list, warnings, err := a.volumes(q, false)
	if err != nil || v == nil {
		return err
	}
	r := &logql.Result{Kind: logql.Vector, Warnings: warnings}
	for _, g := range list {
		r.Vector = append(r.Vector, logql.Sample{Labels: g.labels, Point: logql.Point{T: v.end, V: math.Round(g.total)}})
	}
	return q.result(r)
}

// volumeRange answers index/volume_range: bytes by series and step. The time of a number is where its step begins.
func (a *API) volumeRange(q *request) error {
	v, list, warnings, err := a.volumes(q, true)
	if err != nil || v == nil {
		return err
	}
	r := &logql.Result{Kind: logql.Matrix, Warnings: warnings}
	for _, g := range list {
		s := logql.Series{Labels: g.labels}
		for i, b := range g.bytes {
			if b > 0 {
				s.Points = append(s.Points, logql.Point{T: v.start + int64(i)*v.step, V: math.Round(b)})
			}
		}
		r.Matrix = append(r.Matrix, s)
	}
	return q.result(r)
}

// detectedLabels answers detected_labels: the names of labels and how many values each has, the fewest first.
func (a *API) detectedLabels(q *request) error {
	start, end, f, err := q.streamsAsked(false)
	if err != nil {
		return err
	}
	found, err := a.opts.Store.Series(q.ctx(), f, start, end)
	if err != nil || a.elsewhere(q, found.Stats.Partial) {
		return err
	}
	values := map[string]map[string]struct{}{}
	for i := range found.Streams {
		for _, l := range found.Streams[i].Labels {
			if values[l.Name] == nil {
				values[l.Name] = map[string]struct{}{}
			}
			values[l.Name][l.Value] = struct{}{}
		}
	}
	type detected struct {
		Label       string `json:"label"`
		Cardinality int    `json:"cardinality"`
	}
	list := make([]detected, 0, len(values))
	for name, set := range values {
		list = append(list, detected{name, len(set)})
	}
	slices.SortFunc(list, func(a, b detected) int {
		return cmp.Or(cmp.Compare(a.Cardinality, b.Cardinality), cmp.Compare(a.Label, b.Label))
	})
	warnings := partial(&found.Stats)
	if found.More {
		warnings = append(warnings, fmt.Sprintf("there are more than %d streams: not all were looked at", logstore.MaxSeries))
	}
	return q.answer(200, struct {
		Labels   []detected `json:"detectedLabels"`
		Warnings []string   `json:"warnings,omitempty"`
	}{list, warnings})
}
