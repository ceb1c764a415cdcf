package lokiapi

import (
	"cmp"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/pipeline"
	"github.com/triward/triward/logstore/logql/syntax"
)

// Bounds of the detection of fields.
const (
	defaultLines = 100      // lines that are looked at
	mostLines    = 5000     // and most that may be asked for
	mostValues   = 10_000   // values of a field that are told apart
	detectBytes  = 16 << 20 // of names and values that are kept
	mostDetected = 100_000  // names and values
	maxValueText = 1024     // bytes of a value that is kept
)

// field is a field that was found in lines.
type field struct {
	values  map[string]struct{}
	parsers map[string]struct{} // what found it; none for fields that lines came with
	kind    string
}

// detector looks for fields in lines.
type detector struct {
	json, logfmt *pipeline.Pipeline
	only         string // the field whose values are wanted; all when empty
	fields       map[string]*field
	bytes, n     int
	buf          []wire.Label
}

func newDetector(only string) (*detector, error) {
	d := &detector{only: only, fields: map[string]*field{}}
	var err error
	if d.json, err = pipeline.New([]syntax.Stage{&syntax.JSON{}}, pipeline.Options{}); err != nil {
		return nil, err
	}
	d.logfmt, err = pipeline.New([]syntax.Stage{&syntax.Logfmt{}}, pipeline.Options{})
	return d, err
}

// line takes the fields of a line. When the query has made none by itself, its text is read as JSON, and if it is none, as
// logfmt.
func (d *detector) line(e *logql.Entry) {
	for _, l := range e.Fields {
		d.note(l.Name, l.Value, "")
	}
	made := false
	for _, l := range e.Parsed {
		if l.Name != syntax.ErrorLabel && l.Name != syntax.ErrorDetails {
			d.note(l.Name, l.Value, "")
			made = true
		}
	}
	if !made && !d.parse(d.json, "json", e.Line) {
		d.parse(d.logfmt, "logfmt", e.Line)
	}
}

// parse notes what a parser makes of the text and reports whether that was anything.
func (d *detector) parse(p *pipeline.Pipeline, name, text string) bool {
	p.Process(&pipeline.Line{Text: []byte(text)})
	if failed, _ := p.Labels().Err(); failed != "" {
		return false
	}
	d.buf = p.Labels().AppendOf(d.buf[:0], pipeline.Parsed)
	for _, l := range d.buf {
		d.note(l.Name, l.Value, name)
	}
	return len(d.buf) > 0
}

func (d *detector) note(name, value, parser string) {
	if value == "" || d.only != "" && name != d.only {
		return
	}
	if d.n >= mostDetected || d.bytes >= detectBytes {
		return
	}
	f, ok := d.fields[name]
	if !ok {
		f = &field{values: map[string]struct{}{}, parsers: map[string]struct{}{}, kind: kindOf(value)}
		d.fields[string([]byte(name))] = f
		d.bytes += len(name)
		d.n++
	}
	if parser != "" {
		f.parsers[parser] = struct{}{}
	}
	if k := kindOf(value); k != f.kind {
		f.kind = wider(f.kind, k)
	}
	if len(value) > maxValueText {
		value = value[:maxValueText]
	}
	if _, ok := f.values[value]; ok || len(f.values) >= mostValues {
		return
	}
	f.values[string([]byte(value))] = struct{}{}
	d.bytes += len(value)
	d.n++
}

// kindOf guesses what a value is, by the names that Loki gives kinds.
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
	if _, err := syntax.ParseBytes(v); err == nil && net.ParseIP(v) == nil {
		return "bytes"
	}
	return "string"
}

// wider is the kind that holds values of both.
func wider(a, b string) string {
	if a == "int" && b == "float" || a == "float" && b == "int" {
		return "float"
	}
	return "string"
}

// detect reads lines of the query and looks for fields in them. It returns nil when another node has answered.
func (a *API) detect(q *request, only string) (*detector, []string, error) {
	expr, err := q.expr()
	if err != nil {
		return nil, nil, err
	}
	if !logql.IsLog(expr) {
		return nil, nil, badf("fields are detected in lines: a query for lines is wanted, not one for numbers")
	}
	p := logql.Params{Categorize: true}
	if p.Start, p.End, err = q.span(time.Hour); err != nil {
		return nil, nil, err
	}
	if p.Limit, err = q.number("line_limit", defaultLines, mostLines); err != nil {
		return nil, nil, err
	}
	r, err := a.engine.Range(q.ctx(), expr, p)
	if err != nil || a.elsewhere(q, r.Stats.Partial) {
		return nil, nil, err
	}
	d, err := newDetector(only)
	if err != nil {
		return nil, nil, err
	}
	for i := range r.Streams {
		for k := range r.Streams[i].Entries {
			if k%256 == 0 && q.ctx().Err() != nil {
				return nil, nil, q.ctx().Err()
			}
			d.line(&r.Streams[i].Entries[k])
		}
	}
	return d, r.Warnings, nil
}

// detectedFields answers detected_fields: the fields of the newest lines, as JSON or logfmt hold them or as they came with
// the lines.
func (a *API) detectedFields(q *request) error {
	limit, err := q.fieldLimit()
	if err != nil {
		return err
	}
	d, warnings, err := a.detect(q, "")
	if err != nil || d == nil {
		return err
	}
	type detected struct {
		Label       string   `json:"label"`
		Type        string   `json:"type"`
		Cardinality int      `json:"cardinality"`
		Parsers     []string `json:"parsers"`
	}
	list := make([]detected, 0, len(d.fields))
	for _, name := range slices.Sorted(maps.Keys(d.fields)) {
		f := d.fields[name]
		list = append(list, detected{name, f.kind, len(f.values), slices.Sorted(maps.Keys(f.parsers))})
	}
	if len(list) > limit { // those that tell most
		slices.SortStableFunc(list, func(a, b detected) int { return cmp.Compare(b.Cardinality, a.Cardinality) })
		list = list[:limit]
		slices.SortFunc(list, func(a, b detected) int { return cmp.Compare(a.Label, b.Label) })
	}
	return q.answer(200, struct {
		Fields   []detected `json:"fields"`
		Limit    int        `json:"limit"`
		Warnings []string   `json:"warnings,omitempty"`
	}{list, limit, warnings})
}

// fieldLimit reads how many fields or values are wanted; older clients say field_limit.
func (q *request) fieldLimit() (int, error) {
	if q.form.Get("limit") == "" && q.form.Get("field_limit") != "" {
		return q.number("field_limit", defaultFields, maxLimit)
	}
	return q.number("limit", defaultFields, maxLimit)
}

// detectedValues answers detected_field/{name}/values.
func (a *API) detectedValues(q *request) error {
	limit, err := q.fieldLimit()
	if err != nil {
		return err
	}
	d, warnings, err := a.detect(q, q.name)
	if err != nil || d == nil {
		return err
	}
	values := []string{}
	if f := d.fields[q.name]; f != nil {
		values = slices.Sorted(maps.Keys(f.values))
	}
	return q.answer(200, struct {
		Values   []string `json:"values"`
		Limit    int      `json:"limit"`
		Warnings []string `json:"warnings,omitempty"`
	}{values[:min(limit, len(values))], limit, warnings})
}
