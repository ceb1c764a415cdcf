package lines

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
)

const (
	// addedLabels is how many labels the gateway sets itself: agent and host.
	addedLabels = 2
	// fieldBytes bounds the fields of a line together, so that any line with the labels of its stream fits in a batch.
	fieldBytes = 64 << 10
	// NameMax is how long a name is that a source took from what it reads: an identifier, a unit.
	NameMax = 256

	fieldTruncated = "truncated"
)

// Valid returns s as a label or a field may hold it: valid UTF-8 of at most limit bytes. A byte that is not part of
// a character is written as \xNN, so that names which differ there stay different.
func Valid(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+n]
		if r == utf8.RuneError && n == 1 {
			piece = fmt.Sprintf(`\x%02x`, s[i])
		}
		if b.Len()+len(piece) > limit {
			break
		}
		b.WriteString(piece)
		i += n
	}
	return b.String()
}

// Stream is the identity of the lines of one source.
type Stream struct {
	Kind   wire.StreamKind
	Labels wire.Labels
	key    string
}

// NewStream makes a stream. Labels that the gateway would refuse are an error: it refuses every line that has them.
func NewStream(kind wire.StreamKind, labels wire.Labels) (*Stream, error) {
	err := wire.CheckStreamLabels(labels)
	if n := wire.MaxStreamLabels - addedLabels; err == nil && len(labels) > n {
		err = fmt.Errorf("%d labels, at most %d are allowed besides agent and host", len(labels), n)
	}
	if err != nil {
		return nil, fmt.Errorf("labels of a stream: %w", err)
	}
	return &Stream{Kind: kind, Labels: labels, key: string(labels.AppendKey([]byte{byte(kind)}))}, nil
}

// sizeOf is what the line takes in a batch, or a little more.
func sizeOf(line *wire.LogLine) int {
	n := len(line.Text) + 24
	for _, f := range line.Fields {
		n += len(f.Name) + len(f.Value) + 6
	}
	return n
}

// bounded returns the line with its text and fields cut to what the wire allows; it says so in the field truncated.
func bounded(line wire.LogLine) wire.LogLine {
	text := len(line.Text) > wire.MaxLine
	if text {
		line.Text = line.Text[:wire.MaxLine]
	}
	if fields, cut := boundedFields(line.Fields); cut || text {
		line.Fields = withTruncated(fields)
	}
	return line
}

// boundedFields leaves out and cuts what is too much of fields, leaving room for one more.
func boundedFields(fields []wire.Label) (kept []wire.Label, cut bool) {
	n := 0
	fits := len(fields) <= wire.MaxFields
	for _, f := range fields {
		n += len(f.Name) + len(f.Value)
		fits = fits && f.Name != "" && len(f.Name) <= wire.MaxLabelName
	}
	if fits && n <= fieldBytes {
		return fields, false
	}
	left := fieldBytes
	for _, f := range fields {
		if f.Name == "" || len(f.Name) > min(wire.MaxLabelName, left) || len(kept) >= wire.MaxFields-1 {
			continue
		}
		left -= len(f.Name)
		if len(f.Value) > left {
			f.Value = Valid(f.Value, left)
		}
		left -= len(f.Value)
		kept = append(kept, f)
	}
	return kept, true
}

func withTruncated(fields []wire.Label) []wire.Label {
	i, found := slices.BinarySearchFunc(fields, fieldTruncated, func(f wire.Label, name string) int {
		return strings.Compare(f.Name, name)
	})
	if found || len(fields) >= wire.MaxFields {
		return fields
	}
	return slices.Insert(slices.Clone(fields), i, wire.Label{Name: fieldTruncated, Value: "true"})
}
