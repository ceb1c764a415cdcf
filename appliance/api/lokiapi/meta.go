package lokiapi

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/pipeline"
	"github.com/triward/triward/logstore/logql/storesource"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
)

// selector returns what a selector says of streams; its pipeline, if it has one, is not looked at. An empty text, or {}, is
// all streams.
func selector(text string) (*query.Filter, *syntax.Log, error) {
	if t := strings.ReplaceAll(text, " ", ""); t == "" || t == "{}" {
		return query.All(), nil, nil
	}
	x, err := syntax.ParseLog(text)
	if err != nil {
		return nil, nil, err
	}
	f, rest := storesource.Filter(&logql.Query{Selector: x.Selector})
	if len(rest) > 0 {
		return nil, nil, badf("the expression of label %s is too large here", rest[0].Name)
	}
	return f, x, nil
}

// endOf makes the end of a span exclusive, as the store wants it.
func endOf(start, end int64) int64 { return max(end, start+1) }

func (h *Handler) streams(q *request, text string) (*logstore.Streams, *syntax.Log, error) {
	start, end, err := q.span()
	if err != nil {
		return nil, nil, err
	}
	f, x, err := selector(text)
	if err != nil {
		return nil, nil, err
	}
	found, err := h.opts.Store.Series(q.Context(), f, start, endOf(start, end))
	return found, x, err
}

// labels answers with the names of labels.
func (h *Handler) labels(w http.ResponseWriter, q *request) error {
	start, end, err := q.span()
	if err != nil {
		return err
	}
	var names []string
	if text := q.form.Get("query"); text == "" {
		names, err = h.opts.Store.Labels(q.Context(), start, endOf(start, end))
	} else {
		names, err = h.distinct(q, text, func(ls wire.Labels, put func(string)) {
			for _, l := range ls {
				put(l.Name)
			}
		})
	}
	if err != nil {
		return err
	}
	return send(w, success(list(names)))
}

// list makes an empty list of none.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}

func (h *Handler) distinct(q *request, text string, each func(wire.Labels, func(string))) ([]string, error) {
	found, _, err := h.streams(q, text)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for i := range found.Streams {
		each(found.Streams[i].Labels, func(s string) { seen[s] = true })
	}
	return sortedKeys(seen), nil
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// values answers with the values of a label.
func (h *Handler) values(w http.ResponseWriter, q *request) error {
	start, end, err := q.span()
	if err != nil {
		return err
	}
	var values []string
	if text := q.form.Get("query"); text == "" {
		values, err = h.opts.Store.LabelValues(q.Context(), q.name, start, endOf(start, end))
	} else {
		values, err = h.distinct(q, text, func(ls wire.Labels, put func(string)) {
			if v := ls.Get(q.name); v != "" {
				put(v)
			}
		})
	}
	if err != nil {
		return err
	}
	return send(w, success(list(values)))
}

const maxMatches = 32 // selectors in one request for series

// series answers with the labels of streams.
func (h *Handler) series(w http.ResponseWriter, q *request) error {
	matches := slices.Concat(q.form["match[]"], q.form["match"])
	if len(matches) == 0 {
		matches = []string{""}
	}
	if len(matches) > maxMatches {
		return badf("%d selectors, at most %d are allowed", len(matches), maxMatches)
	}
	all := []map[string]string{}
	seen := map[string]bool{}
	var key []byte
	for _, text := range matches {
		found, _, err := h.streams(q, text)
		if err != nil {
			return err
		}
		for i := range found.Streams {
			ls := found.Streams[i].Labels
			if key = ls.AppendKey(key[:0]); !seen[string(key)] {
				seen[string(key)] = true
				all = append(all, ls.Map())
			}
		}
	}
	return send(w, success(all))
}

// stats answers with how much a selector stands for.
func (h *Handler) stats(w http.ResponseWriter, q *request) error {
	v, _, err := h.volumes(q.Context(), q, 0)
	if err != nil {
		return err
	}
	var lines, bytes int64
	for i := range v.Streams {
		lines += v.Streams[i].Lines
		bytes += v.Streams[i].Bytes
	}
	return send(w, marshal(map[string]int64{"streams": int64(len(v.Streams)), "chunks": int64(v.Stats.Considered), "entries": lines, "bytes": bytes}))
}

func (h *Handler) volumes(ctx context.Context, q *request, step int64) (*logstore.Volumes, *syntax.Log, error) {
	start, end, err := q.span()
	if err != nil {
		return nil, nil, err
	}
	f, x, err := selector(q.form.Get("query"))
	if err != nil {
		return nil, nil, err
	}
	v, err := h.opts.Store.Volumes(ctx, f, start, endOf(start, end), step)
	return v, x, err
}

// volume answers with the bytes that streams hold, put together by labels.
func (h *Handler) volume(w http.ResponseWriter, q *request) error {
	_, end, err := q.span()
	if err != nil {
		return err
	}
	v, x, err := h.volumes(q.Context(), q, 0)
	if err != nil {
		return err
	}
	groups, err := q.groups(v, x)
	if err != nil {
		return err
	}
	r := &logql.Result{Kind: logql.Vector}
	for _, g := range groups {
		r.Vector = append(r.Vector, logql.Sample{Labels: g.labels, Point: logql.Point{T: end, V: float64(g.bytes)}})
	}
	return send(w, envelope(cut(r, v), false))
}

// volumeRange is volume in steps.
func (h *Handler) volumeRange(w http.ResponseWriter, q *request) error {
	start, end, err := q.span()
	if err != nil {
		return err
	}
	step, err := q.duration("step", max(time.Duration((end-start)/250).Truncate(time.Second), time.Second))
	if err != nil {
		return err
	}
	if step <= 0 {
		return badf("parameter step must be greater than 0")
	}
	v, x, err := h.volumes(q.Context(), q, int64(step))
	if err != nil {
		return err
	}
	groups, err := q.groups(v, x)
	if err != nil {
		return err
	}
	r := &logql.Result{Kind: logql.Matrix}
	for _, g := range groups {
		s := logql.Series{Labels: g.labels}
		for i, n := range g.per {
			if n > 0 {
				s.Points = append(s.Points, logql.Point{T: v.T0 + int64(i+1)*v.Step, V: float64(n)})
			}
		}
		r.Matrix = append(r.Matrix, s)
	}
	return send(w, envelope(cut(r, v), false))
}

// cut says so when streams were left out.
func cut(r *logql.Result, v *logstore.Volumes) *logql.Result {
	r.Stats.Considered, r.Stats.Blocks, r.Stats.Lines, r.Stats.Bytes = int64(v.Stats.Considered), int64(v.Stats.Blocks), v.Stats.Lines, v.Stats.Bytes
	if v.More {
		r.Warnings = append(r.Warnings, "there are more streams than are counted: narrow the selector or take a longer step")
	}
	if v.Stats.Partial {
		r.Stats.Partial, r.Stats.Damaged = true, v.Stats.Damaged
		r.Warnings = append(r.Warnings, "the answer is partial: damaged parts of the log store were left out")
	}
	return r
}

type volumeGroup struct {
	labels wire.Labels
	bytes  int64
	per    []int64
}

// groups puts volumes together: by the labels of targetLabels, or those that the selector names, or the names of labels.
func (q *request) groups(v *logstore.Volumes, x *syntax.Log) ([]*volumeGroup, error) {
	limit, err := q.number("limit", 100, MaxEntries)
	if err != nil {
		return nil, err
	}
	var names []string
	if t := q.form.Get("targetLabels"); t != "" {
		names = strings.Split(t, ",")
	} else if x != nil {
		for _, m := range x.Selector {
			names = append(names, m.Name)
		}
	}
	byName := false
	switch by := q.form.Get("aggregateBy"); by {
	case "", "series":
	case "labels":
		byName = true
	default:
		return nil, badf("parameter aggregateBy: %.40q, series or labels is expected", by)
	}
	of := map[string]*volumeGroup{}
	put := func(ls wire.Labels, s *logstore.Volume) {
		key := string(ls.AppendKey(nil))
		g := of[key]
		if g == nil {
			g = &volumeGroup{labels: ls, per: make([]int64, len(s.Per))}
			of[key] = g
		}
		g.bytes += s.Bytes
		for i, n := range s.Per {
			g.per[i] += n
		}
	}
	for i := range v.Streams {
		s := &v.Streams[i]
		var ls wire.Labels
		for _, l := range s.Labels {
			if names != nil && !slices.Contains(names, l.Name) {
				continue
			}
			if byName {
				put(wire.Labels{{Name: l.Name}}, s)
			}
			ls = append(ls, l)
		}
		if !byName && len(ls) > 0 {
			put(ls, s)
		}
	}
	out := make([]*volumeGroup, 0, len(of))
	for _, k := range sortedKeys(of) {
		out = append(out, of[k])
	}
	slices.SortStableFunc(out, func(a, b *volumeGroup) int { return cmp.Compare(b.bytes, a.bytes) })
	return out[:min(limit, len(out))], nil
}

// detectedLabels answers with the labels of streams and how many values each has.
func (h *Handler) detectedLabels(w http.ResponseWriter, q *request) error {
	found, _, err := h.streams(q, q.form.Get("query"))
	if err != nil {
		return err
	}
	values := map[string]map[string]bool{}
	for i := range found.Streams {
		for _, l := range found.Streams[i].Labels {
			if values[l.Name] == nil {
				values[l.Name] = map[string]bool{}
			}
			values[l.Name][l.Value] = true
		}
	}
	type detected struct {
		Label       string `json:"label"`
		Cardinality int    `json:"cardinality"`
	}
	out := []detected{}
	for _, n := range sortedKeys(values) {
		out = append(out, detected{n, len(values[n])})
	}
	return send(w, append(append([]byte(`{"detectedLabels":`), marshal(out)...), "}\n"...))
}

// field is what is known of a field of lines.
type field struct {
	values  map[string]bool
	kind    string
	parsers map[string]bool
}

const (
	maxFields      = 1000
	maxFieldValues = 1000
)

// sample looks for fields in the newest lines that a query finds.
func (h *Handler) sample(q *request) (map[string]*field, int, error) {
	x, err := q.parse()
	if err != nil {
		return nil, 0, err
	}
	if !logql.IsLog(x) {
		return nil, 0, badf("a query for lines is expected here, not one for numbers")
	}
	start, end, err := q.span()
	if err != nil {
		return nil, 0, err
	}
	lines, err := q.number("line_limit", 1000, MaxEntries)
	if err != nil {
		return nil, 0, err
	}
	limit, err := q.number("limit", maxFields, maxFields)
	if err != nil {
		return nil, 0, err
	}
	ctx, leave, err := h.opts.Store.Admit(q.Context(), logstore.WalkBytes)
	if err != nil {
		return nil, 0, err
	}
	defer leave()
	r, err := h.engine.Range(ctx, x, logql.Params{Start: start, End: end, Limit: lines, Categorize: true})
	if err != nil {
		return nil, 0, err
	}
	d, err := newDetector()
	if err != nil {
		return nil, 0, err
	}
	for i := range r.Streams {
		for k := range r.Streams[i].Entries {
			d.look(&r.Streams[i], &r.Streams[i].Entries[k])
		}
	}
	return d.fields, limit, nil
}

// detector finds fields in lines: structured ones, what the query itself parsed, and members of JSON or pairs of logfmt.
type detector struct {
	fields       map[string]*field
	json, logfmt *pipeline.Pipeline
}

func newDetector() (*detector, error) {
	d := &detector{fields: map[string]*field{}}
	var err error
	if d.json, err = pipeline.New([]syntax.Stage{&syntax.JSON{}}, pipeline.Options{}); err != nil {
		return nil, err
	}
	d.logfmt, err = pipeline.New([]syntax.Stage{&syntax.Logfmt{Strict: true}}, pipeline.Options{})
	return d, err
}

func (d *detector) put(l wire.Label, parser string) {
	if strings.HasPrefix(l.Name, "__") || l.Value == "" {
		return
	}
	f := d.fields[l.Name]
	if f == nil {
		if len(d.fields) >= maxFields {
			return
		}
		f = &field{values: map[string]bool{}, parsers: map[string]bool{}}
		d.fields[strings.Clone(l.Name)] = f
	}
	if parser != "" {
		f.parsers[parser] = true
	}
	if kind := kindOf(l.Value); f.kind == "" {
		f.kind = kind
	} else if f.kind != kind {
		f.kind = widest(f.kind, kind)
	}
	if len(f.values) < maxFieldValues {
		f.values[strings.Clone(l.Value)] = true
	}
}

func (d *detector) look(s *logql.Stream, e *logql.Entry) {
	for _, l := range e.Fields {
		d.put(l, "")
	}
	for _, l := range e.Parsed {
		d.put(l, "")
	}
	p, name := d.logfmt, "logfmt"
	if strings.HasPrefix(strings.TrimSpace(e.Line), "{") {
		p, name = d.json, "json"
	} else if !strings.Contains(e.Line, "=") {
		return
	}
	p.Process(&pipeline.Line{Stream: s.Labels, Text: []byte(e.Line)})
	if err, _ := p.Labels().Err(); err != "" {
		return
	}
	for _, l := range p.Labels().AppendOf(nil, pipeline.Parsed) {
		d.put(l, name)
	}
}

func kindOf(v string) string {
	if _, err := strconv.ParseInt(v, 10, 64); err == nil {
		return "int"
	}
	if _, err := strconv.ParseFloat(v, 64); err == nil {
		return "float"
	}
	if v == "true" || v == "false" {
		return "boolean"
	}
	if _, err := syntax.ParseDuration(v); err == nil {
		return "duration"
	}
	if _, err := syntax.ParseBytes(v); err == nil {
		return "bytes"
	}
	return "string"
}

func widest(a, b string) string {
	if a == "int" && b == "float" || a == "float" && b == "int" {
		return "float"
	}
	return "string"
}

// detectedFields answers with the fields of a sample of lines.
func (h *Handler) detectedFields(w http.ResponseWriter, q *request) error {
	fields, limit, err := h.sample(q)
	if err != nil {
		return err
	}
	type detected struct {
		Label       string   `json:"label"`
		Type        string   `json:"type"`
		Cardinality int      `json:"cardinality"`
		Parsers     []string `json:"parsers"`
	}
	out := []detected{}
	for _, n := range sortedKeys(fields) {
		f := fields[n]
		d := detected{Label: n, Type: f.kind, Cardinality: len(f.values)}
		if len(f.parsers) > 0 {
			d.Parsers = sortedKeys(f.parsers)
		}
		if out = append(out, d); len(out) == limit {
			break
		}
	}
	return send(w, append(append(append([]byte(`{"fields":`), marshal(out)...), `,"limit":`...), strconv.Itoa(limit)+"}\n"...))
}

// detectedValues answers with the values of one field in a sample of lines.
func (h *Handler) detectedValues(w http.ResponseWriter, q *request) error {
	fields, limit, err := h.sample(q)
	if err != nil {
		return err
	}
	values := []string{}
	if f := fields[q.name]; f != nil {
		values = sortedKeys(f.values)
	}
	return send(w, marshal(map[string]any{"values": values[:min(limit, len(values))], "limit": limit}))
}
