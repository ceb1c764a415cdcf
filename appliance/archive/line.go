package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore"
	"github.com/triward/triward/raftstate/meta"
)

// A line of a part has the form of a row of the API's answers:
//
//	{"t":"1730419200000000000","pos":"4711.3","severity":"error","labels":{...},"fields":{...},"text":"..."}
//
// with "kind":"event" for events. Bytes that JSON cannot carry are in text_b64 in place of text; fields that an object cannot
// carry, for their bytes or because names repeat, are pairs of base64 in fields_b64 in place of fields.
type lineJSON struct {
	T         string          `json:"t"`
	Pos       string          `json:"pos"`
	Kind      string          `json:"kind"`
	Severity  string          `json:"severity"`
	Labels    json.RawMessage `json:"labels"`
	Fields    json.RawMessage `json:"fields"`
	FieldsB64 [][2][]byte     `json:"fields_b64"`
	Text      string          `json:"text"`
	TextB64   []byte          `json:"text_b64"`
}

const kindEvent = "event"

// lineWriter appends lines as JSON.
type lineWriter struct {
	of     wire.Labels
	labels []byte // of, as JSON
}

func (w *lineWriter) append(dst []byte, r *logstore.Row) []byte {
	dst = append(dst, `{"t":"`...)
	dst = strconv.AppendInt(dst, r.T, 10)
	dst = append(dst, `","pos":"`...)
	dst = append(dst, r.Position.String()...)
	if r.Kind == wire.StreamEvent {
		dst = append(dst, `","kind":"`+kindEvent...)
	}
	dst = append(dst, `","severity":"`...)
	dst = append(dst, r.Severity.String()...)
	dst = append(dst, `","labels":`...)
	if w.labels == nil || len(r.Labels) != len(w.of) || unsafe.SliceData(r.Labels) != unsafe.SliceData(w.of) {
		w.of, w.labels = r.Labels, appendObject(w.labels[:0], r.Labels)
	}
	dst = append(dst, w.labels...)
	switch {
	case len(r.Fields) == 0:
	case asObject(r.Fields):
		dst = appendObject(append(dst, `,"fields":`...), r.Fields)
	default:
		dst = append(dst, `,"fields_b64":[`...)
		for i, f := range r.Fields {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, `["`...)
			dst = base64.StdEncoding.AppendEncode(dst, []byte(f.Name))
			dst = append(dst, `","`...)
			dst = base64.StdEncoding.AppendEncode(dst, []byte(f.Value))
			dst = append(dst, `"]`...)
		}
		dst = append(dst, ']')
	}
	if utf8.Valid(r.Text) {
		dst = appendText(append(dst, `,"text":`...), r.Text)
	} else {
		dst = append(dst, `,"text_b64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, r.Text)
		dst = append(dst, '"')
	}
	return append(dst, "}\n"...)
}

// asObject reports whether an object holds the fields as they are: decoding sorts names and keeps one of each.
func asObject(fields []wire.Label) bool {
	for i, f := range fields {
		if i > 0 && fields[i-1].Name >= f.Name || !utf8.ValidString(f.Name) || !utf8.ValidString(f.Value) {
			return false
		}
	}
	return true
}

func appendObject(dst []byte, ls []wire.Label) []byte {
	dst = append(dst, '{')
	for i, l := range ls {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendText(dst, l.Name), ':')
		dst = appendText(dst, l.Value)
	}
	return append(dst, '}')
}

// appendText appends valid UTF-8 as a text of JSON.
func appendText[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"')
}

var severities = func() map[string]wire.Severity {
	out := make(map[string]wire.Severity)
	for s := wire.SeverityUnknown; s <= wire.SeverityCritical; s++ {
		out[s.String()] = s
	}
	return out
}()

// lineReader reads lines. Rows of one stream that follow each other share their labels.
type lineReader struct {
	of     []byte // labels as JSON
	labels wire.Labels
}

func (d *lineReader) read(line []byte, r *logstore.Row) error {
	var l lineJSON
	if err := json.Unmarshal(line, &l); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	t, err := strconv.ParseInt(l.T, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: time %.40q", ErrDamaged, l.T)
	}
	pos, err := logstore.ParsePosition(l.Pos)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	severity, ok := severities[l.Severity]
	if !ok || l.Kind != "" && l.Kind != kindEvent || l.Text != "" && l.TextB64 != nil || l.Fields != nil && l.FieldsB64 != nil {
		return fmt.Errorf("%w: severity %.20q, kind %.20q, or text or fields twice", ErrDamaged, l.Severity, l.Kind)
	}
	if d.of == nil || !bytes.Equal(d.of, l.Labels) {
		ls, err := readObject(l.Labels)
		if err != nil {
			return err
		}
		d.of, d.labels = bytes.Clone(l.Labels), ls
	}
	*r = logstore.Row{T: t, Position: pos, Kind: wire.StreamLog, Severity: severity, Labels: d.labels, Text: l.TextB64}
	if l.Kind == kindEvent {
		r.Kind = wire.StreamEvent
	}
	if l.TextB64 == nil {
		r.Text = []byte(l.Text)
	}
	if l.Fields != nil {
		if r.Fields, err = readObject(l.Fields); err != nil {
			return err
		}
	}
	for _, f := range l.FieldsB64 {
		r.Fields = append(r.Fields, wire.Label{Name: string(f[0]), Value: string(f[1])})
	}
	return nil
}

func readObject(raw []byte) (wire.Labels, error) {
	var m map[string]string
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	out := make(wire.Labels, 0, len(m))
	for name, value := range m { // unlike LabelsFromMap with empty values, which fields may have
		out = append(out, wire.Label{Name: name, Value: value})
	}
	slices.SortFunc(out, func(a, b wire.Label) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out, nil
}

// hasher computes meta.HashLine of rows, those of one stream with its hash once.
type hasher struct {
	of     wire.Labels
	kind   wire.StreamKind
	stream uint64
	buf    []byte
	line   wire.LogLine
}

func (h *hasher) sum(r *logstore.Row) (sum meta.Sum) {
	if h.kind != r.Kind || len(r.Labels) != len(h.of) || unsafe.SliceData(r.Labels) != unsafe.SliceData(h.of) {
		h.of, h.kind, h.stream = r.Labels, r.Kind, meta.HashStream(r.Kind, r.Labels)
	}
	h.line = wire.LogLine{T: r.T, Severity: r.Severity, Fields: r.Fields, Text: r.Text}
	sum, h.buf = meta.HashLine(h.stream, &h.line, h.buf)
	return sum
}
