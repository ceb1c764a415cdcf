package logql

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/agent/wire"
)

// Kind says what a result holds.
type Kind string

// Kinds of results, with the names that Loki's API gives them.
const (
	Streams Kind = "streams"
	Vector  Kind = "vector"
	Matrix  Kind = "matrix"
	Scalar  Kind = "scalar"
)

// Result is the answer to a query. It shares no memory with the source.
type Result struct {
	Kind     Kind
	Streams  []Stream
	Vector   []Sample
	Matrix   []Series
	Scalar   Point
	Warnings []string
	Stats    Stats

	apart bool // streams: labels stand apart beside each line
}

// Stats tell what an evaluation cost.
type Stats struct {
	SourceStats
	Kept     int64 // lines that passed the pipelines
	Duration time.Duration
}

// Stream is lines with the same labels, in the order of the answer.
type Stream struct {
	Labels  wire.Labels
	Entries []Entry
}

// Entry is a line. Fields and Parsed are there when the labels were to be told apart (Params.Categorize).
type Entry struct {
	T              int64
	Line           string
	Fields, Parsed []wire.Label
}

// Point is a number at a time, in nanoseconds since 1970.
type Point struct {
	T int64
	V float64
}

// Sample is a number of a series at the time of the query.
type Sample struct {
	Labels wire.Labels
	Point
}

// Series is the numbers of a series, oldest first.
type Series struct {
	Labels wire.Labels
	Points []Point
}

// AppendJSON appends resultType and result as Loki's API writes them below "data", without braces around them. Labels
// that were asked for apart stand in an object behind each line.
func (r *Result) AppendJSON(dst []byte) []byte {
	dst = append(append(append(dst, `"resultType":"`...), r.Kind...), `","result":`...)
	switch r.Kind {
	case Scalar:
		return appendPoint(dst, r.Scalar)
	case Streams:
		return appendList(dst, len(r.Streams), func(dst []byte, i int) []byte { return appendStream(dst, &r.Streams[i], r.apart) })
	case Vector:
		return appendList(dst, len(r.Vector), func(dst []byte, i int) []byte {
			dst = appendObject(append(dst, `{"metric":`...), r.Vector[i].Labels)
			return append(appendPoint(append(dst, `,"value":`...), r.Vector[i].Point), '}')
		})
	}
	return appendList(dst, len(r.Matrix), func(dst []byte, i int) []byte {
		s := &r.Matrix[i]
		dst = append(appendObject(append(dst, `{"metric":`...), s.Labels), `,"values":`...)
		return append(appendList(dst, len(s.Points), func(dst []byte, k int) []byte { return appendPoint(dst, s.Points[k]) }), '}')
	})
}

func appendList(dst []byte, n int, one func([]byte, int) []byte) []byte {
	dst = append(dst, '[')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = one(dst, i)
	}
	return append(dst, ']')
}

func appendStream(dst []byte, s *Stream, apart bool) []byte {
	dst = append(appendObject(append(dst, `{"stream":`...), s.Labels), `,"values":`...)
	return append(appendList(dst, len(s.Entries), func(dst []byte, i int) []byte { return AppendEntry(dst, &s.Entries[i], apart) }), '}')
}

// AppendEntry appends ["time","line"], and when labels stand apart an object of them.
func AppendEntry(dst []byte, e *Entry, apart bool) []byte {
	dst = append(strconv.AppendInt(append(dst, `["`...), e.T, 10), `",`...)
	dst = appendString(dst, e.Line)
	if apart {
		dst = append(dst, `,{`...)
		if len(e.Fields) > 0 {
			dst = appendObject(append(dst, `"structuredMetadata":`...), e.Fields)
		}
		if len(e.Parsed) > 0 {
			if len(e.Fields) > 0 {
				dst = append(dst, ',')
			}
			dst = appendObject(append(dst, `"parsed":`...), e.Parsed)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// AppendStreams appends a list of streams, as the values of a live tail are written.
func AppendStreams(dst []byte, streams []Stream) []byte {
	return appendList(dst, len(streams), func(dst []byte, i int) []byte { return appendStream(dst, &streams[i], false) })
}

func appendObject(dst []byte, ls []wire.Label) []byte {
	dst = append(dst, '{')
	for i := range ls {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendString(dst, ls[i].Name), ':')
		dst = appendString(dst, ls[i].Value)
	}
	return append(dst, '}')
}

// appendString appends a JSON string; what is no UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	plain := true
	for i := 0; i < len(s) && plain; i++ {
		plain = s[i] >= 0x20 && s[i] < 0x80 && s[i] != '"' && s[i] != '\\' && s[i] != '<' && s[i] != '>' && s[i] != '&'
	}
	if plain {
		return append(append(append(dst, '"'), s...), '"')
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string cannot fail
	return append(dst, strings.TrimSuffix(b.String(), "\n")...)
}

func appendPoint(dst []byte, p Point) []byte {
	ms := p.T / int64(time.Millisecond)
	dst = strconv.AppendInt(append(dst, '['), ms/1000, 10)
	if frac := ms % 1000; frac > 0 {
		s := strconv.FormatInt(1000+frac, 10)
		dst = append(append(dst, '.'), strings.TrimRight(s[1:], "0")...)
	}
	return append(appendValue(append(dst, `,"`...), p.V), `"]`...)
}

func appendValue(dst []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, "NaN"...)
	case math.IsInf(v, 1):
		return append(dst, "+Inf"...)
	case math.IsInf(v, -1):
		return append(dst, "-Inf"...)
	}
	return strconv.AppendFloat(dst, v, 'f', -1, 64)
}
