// Package lokigoldens holds questions of Loki's HTTP API, the lines that they are about, and what a real Loki answered: one of
// version 1.6.1, which has the licence of Apache. Its test asks this tree's API the same; its program record asks a Loki and
// writes the answers down. Nothing of a node may import it.
//
// Of the files in testdata corpora.json and questions.json are written by hand, answers.json by record, and differences.json says where
// we answer otherwise, and why.
package lokigoldens

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/snappy"
	"google.golang.org/protobuf/encoding/protowire"
)

// What the Loki that answered is built from.
const (
	LokiModule  = "github.com/grafana/loki"
	LokiVersion = "v1.6.1"
)

// Base is the time that times of questions count from, in seconds since 1970.
const Base = 1_700_000_000

// Prefix is the path that paths of questions stand below.
const Prefix = "/loki/api/v1/"

// Push is lines of one stream, which are pushed by one request, oldest first.
type Push struct {
	Stream map[string]string `json:"stream"`
	Quoted bool              `json:"quoted,omitempty"` // the texts are literals of Go, whose bytes need not be UTF-8: protobuf takes them
	Values [][2]string       `json:"values"`           // nanoseconds since 1970, text
}

// Request returns the type and the bytes of the body that pushes the lines.
func (p *Push) Request() (contentType string, body []byte, err error) {
	if !p.Quoted {
		body, err = json.Marshal(map[string]any{"streams": []*Push{p}})
		return "application/json", body, err
	}
	var labels []string
	for name, value := range p.Stream {
		labels = append(labels, name+"="+strconv.Quote(value))
	}
	slices.Sort(labels)
	stream := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "{"+strings.Join(labels, ", ")+"}")
	for _, v := range p.Values {
		ns, err := strconv.ParseInt(v[0], 10, 64)
		if err != nil {
			return "", nil, err
		}
		text, err := strconv.Unquote(v[1])
		if err != nil {
			return "", nil, fmt.Errorf("text %s: %w", v[1], err)
		}
		at := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(ns/int64(time.Second)))
		at = protowire.AppendVarint(protowire.AppendTag(at, 2, protowire.VarintType), uint64(ns%int64(time.Second)))
		entry := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), at)
		entry = protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), text)
		stream = protowire.AppendBytes(protowire.AppendTag(stream, 2, protowire.BytesType), entry)
	}
	return "application/x-protobuf", snappy.Encode(nil, protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), stream)), nil
}

// Question is one request. Times are seconds from Base with up to nine digits behind the point, or stand as they are sent behind an @.
type Question struct {
	Name      string   `json:"name"` // of this question alone
	Corpus    string   `json:"corpus"`
	Path      string   `json:"path"` // below Prefix
	Query     string   `json:"query,omitempty"`
	Match     []string `json:"match,omitempty"`
	Start     string   `json:"start,omitempty"`
	End       string   `json:"end,omitempty"`
	Time      string   `json:"time,omitempty"`
	Step      string   `json:"step,omitempty"`
	Interval  string   `json:"interval,omitempty"`
	Limit     string   `json:"limit,omitempty"`
	Direction string   `json:"direction,omitempty"`
	Then      []Push   `json:"then,omitempty"` // of a tail: pushed while it is open; no other question is about the corpus
}

// URL returns path and parameters of the request.
func (q *Question) URL() (string, error) {
	form := url.Values{}
	for name, value := range map[string]string{"query": q.Query, "step": q.Step, "interval": q.Interval, "limit": q.Limit, "direction": q.Direction} {
		if value != "" {
			form.Set(name, value)
		}
	}
	for name, value := range map[string]string{"start": q.Start, "end": q.End, "time": q.Time} {
		if value == "" {
			continue
		}
		at, raw := strings.CutPrefix(value, "@")
		if !raw {
			ns, err := nanoseconds(value)
			if err != nil {
				return "", fmt.Errorf("%s: %s: %w", q.Name, name, err)
			}
			at = strconv.FormatInt(ns, 10)
		}
		form.Set(name, at)
	}
	for _, m := range q.Match {
		form.Add("match[]", m)
	}
	return Prefix + q.Path + "?" + form.Encode(), nil
}

// nanoseconds returns the time that is some seconds from Base.
func nanoseconds(seconds string) (int64, error) {
	whole, frac, _ := strings.Cut(seconds, ".")
	s, err := strconv.ParseInt(whole, 10, 64)
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	if err != nil {
		return 0, err
	}
	return (Base+s)*int64(time.Second) + ns, nil
}

// Answer is what was answered to a question. One that was refused has a text, which is for people only.
type Answer struct {
	Ask     Question `json:"ask"`
	Data    any      `json:"data,omitempty"` // in normal form; from Loki's files
	Refused string   `json:"refused,omitempty"`
	Memory  any      `json:"memory,omitempty"` // Data while Loki had the lines in memory, where that was another
}

// Read makes an answer of a response.
func (q *Question) Read(status int, body []byte) (*Answer, error) {
	if status >= 400 {
		return &Answer{Ask: *q, Refused: strings.TrimSpace(string(body))}, nil
	}
	var v struct {
		Status string
		Data   any
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil || status != 200 || v.Status != "success" {
		return nil, fmt.Errorf("%s: status %d (%w): %.300s", q.Name, status, err, body)
	}
	return &Answer{Ask: *q, Data: normal(v.Data)}, nil
}

// normal leaves out statistics and sorts series, streams, names and values, whose order Loki's documentation leaves open. Lines and
// points stay in the order of the answer.
func normal(data any) any {
	list, ok := data.([]any)
	if m, is := data.(map[string]any); is {
		delete(m, "stats")
		if m["result"] == nil {
			m["result"] = []any{}
		}
		list, ok = m["result"].([]any)
		ok = ok && m["resultType"] != "scalar"
	}
	if data == nil {
		return []any{}
	}
	round(data)
	if ok {
		slices.SortStableFunc(list, func(a, b any) int { return strings.Compare(sortKey(a), sortKey(b)) })
	}
	return data
}

// round cuts values to what is the same in whichever order they were added up.
func round(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, of := range v {
			round(of)
		}
	case []any:
		if f, ok := point(v); ok && f != math.Trunc(f) {
			if short, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 13, 64), 64); err == nil {
				v[1] = strconv.FormatFloat(short, 'f', -1, 64)
			}
			return
		}
		for _, of := range v {
			round(of)
		}
	}
}

func sortKey(v any) string {
	if m, ok := v.(map[string]any); ok {
		for _, of := range []string{"stream", "metric"} {
			if labels, ok := m[of]; ok {
				v = labels
			}
		}
	}
	b, _ := json.Marshal(v) // it was made of JSON
	return string(b)
}

// Goldens are the questions with what they are about.
type Goldens struct {
	Corpora   map[string][]Push
	Questions []Question
}

// Load reads corpora and questions of a folder.
func Load(dir string) (*Goldens, error) {
	g := &Goldens{}
	for name, into := range map[string]any{"corpora.json": &g.Corpora, "questions.json": &g.Questions} {
		if err := ReadJSON(filepath.Join(dir, name), into); err != nil {
			return nil, err
		}
	}
	seen := map[string]bool{}
	for i := range g.Questions {
		q := &g.Questions[i]
		if seen[q.Name] || g.Corpora[q.Corpus] == nil {
			return nil, fmt.Errorf("question %q: there are two of them, or no corpus %q", q.Name, q.Corpus)
		}
		seen[q.Name] = true
	}
	return g, nil
}

// ReadJSON reads a file in which nothing may be that is not known.
func ReadJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Recorded is the file of answers.
type Recorded struct {
	Loki    string   `json:"loki"` // the version
	Answers []Answer `json:"answers"`
}

// Encode writes the file, one answer a line.
func (r *Recorded) Encode() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"loki\": %q, \"answers\": [\n", r.Loki)
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	for i := range r.Answers {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := e.Encode(&r.Answers[i]); err != nil {
			return nil, err
		}
	}
	b.WriteString("]}\n")
	return b.Bytes(), nil
}

// Alike compares data in normal form. Values may differ in their last digits: Loki adds up series in the order of a map.
func Alike(a, b any) bool {
	points := func(a, b []any) bool {
		_, first := point(a)
		_, second := point(b)
		return first && second
	}
	return cmp.Equal(a, b, cmp.FilterValues(points, cmp.Comparer(func(a, b []any) bool {
		x, _ := point(a)
		y, _ := point(b)
		return sameTime(a[0], b[0]) && near(x, y)
	})))
}

// point returns the value of [seconds, "value"].
func point(l []any) (float64, bool) {
	if len(l) != 2 {
		return 0, false
	}
	_, timed := l[0].(json.Number)
	s, ok := l[1].(string)
	v, err := strconv.ParseFloat(s, 64)
	return v, timed && ok && err == nil
}

func near(a, b float64) bool {
	return a == b || math.IsNaN(a) && math.IsNaN(b) || math.Abs(a-b) <= 1e-12*max(math.Abs(a), math.Abs(b))
}

// sameTime compares seconds, which may be written with zeros at the end.
func sameTime(a, b any) bool {
	x, _ := a.(json.Number)
	y, _ := b.(json.Number)
	f, err := x.Float64()
	g, other := y.Float64()
	return err == nil && other == nil && f == g
}
