package pipeline

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// Origin says where a label comes from.
type Origin uint8

// Origins of labels.
const (
	Stream Origin = iota // the stream's own
	Field                // structured field of the line
	Parsed               // made by a stage
)

// MaxLabels bounds the labels of a line; a parser that finds more leaves the rest out.
const MaxLabels = 256

type label struct {
	name, value string
	origin      Origin
	gen         int  // number of the stage that set it
	bare        bool // kept although empty (logfmt --keep-empty)
}

// Labels are those of the line at hand. Names and values are valid until the next line.
type Labels struct {
	list         []label
	err, details string
}

func (ls *Labels) find(name string) int {
	for i := range ls.list {
		if ls.list[i].name == name {
			return i
		}
	}
	return -1
}

// Get returns the value of a label, "" when there is none.
func (ls *Labels) Get(name string) string {
	v, _ := ls.lookup(name)
	return v
}

func (ls *Labels) lookup(name string) (string, bool) {
	switch name {
	case syntax.ErrorLabel:
		return ls.err, ls.err != ""
	case syntax.ErrorDetails:
		return ls.details, ls.details != ""
	}
	if i := ls.find(name); i >= 0 {
		return ls.list[i].value, true
	}
	return "", false
}

// Err returns the name of the mistake a stage made with the line, or "", and what it said.
func (ls *Labels) Err() (name, details string) { return ls.err, ls.details }

// fail notes the first mistake.
func (ls *Labels) fail(name, details string) {
	if ls.err == "" {
		ls.err, ls.details = name, details
	}
}

func (ls *Labels) remove(i int) { ls.list = slices.Delete(ls.list, i, i+1) }

// set makes or replaces a label whatever it was; an empty value takes it away.
func (ls *Labels) set(name, value string) {
	i := ls.find(name)
	switch {
	case value == "" && i >= 0:
		ls.remove(i)
	case value == "":
	case i >= 0:
		ls.list[i].value, ls.list[i].origin, ls.list[i].bare = value, Parsed, false
	case len(ls.list) < MaxLabels:
		ls.list = append(ls.list, label{name: name, value: value, origin: Parsed})
	}
}

// extract is what parsers do: a name of the stream or of a field gets the suffix _extracted; of two values that one stage
// finds the first counts, that of a later stage replaces it.
func (ls *Labels) extract(name, value string, gen int, bare bool, suffixed func(string) string) {
	if value == "" && !bare || name == "" {
		return
	}
	if !utf8.ValidString(value) {
		value = strings.ToValidUTF8(value, "\uFFFD")
	}
	i := ls.find(name)
	if i >= 0 && ls.list[i].origin != Parsed {
		name = suffixed(name)
		i = ls.find(name)
	}
	switch {
	case i < 0:
		if len(ls.list) < MaxLabels {
			ls.list = append(ls.list, label{name, value, Parsed, gen, bare})
		}
	case ls.list[i].gen != gen:
		ls.list[i] = label{name, value, Parsed, gen, bare}
	}
}

// Append appends all labels, sorted by name, with the mistake if there is one. They share memory with the line.
func (ls *Labels) Append(dst wire.Labels) wire.Labels {
	from := len(dst)
	for i := range ls.list {
		if ls.list[i].value != "" || ls.list[i].bare {
			dst = append(dst, wire.Label{Name: ls.list[i].name, Value: ls.list[i].value})
		}
	}
	if ls.err != "" {
		dst = append(dst, wire.Label{Name: syntax.ErrorLabel, Value: ls.err})
		if ls.details != "" {
			dst = append(dst, wire.Label{Name: syntax.ErrorDetails, Value: ls.details})
		}
	}
	slices.SortFunc(dst[from:], func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) })
	return dst
}

// AppendOf appends the labels of one origin.
func (ls *Labels) AppendOf(dst []wire.Label, o Origin) []wire.Label {
	for i := range ls.list {
		if ls.list[i].origin == o {
			dst = append(dst, wire.Label{Name: ls.list[i].name, Value: ls.list[i].value})
		}
	}
	return dst
}

// reset begins a line: the labels of its stream, its fields, and its severity as detected_level.
func (ls *Labels) reset(l *Line, names *names, levels bool) {
	ls.list, ls.err, ls.details = ls.list[:0], "", ""
	for i := range l.Stream {
		ls.list = append(ls.list, label{name: names.sanitized(l.Stream[i].Name), value: l.Stream[i].Value, origin: Stream})
	}
	n := len(ls.list)
	for i := range l.Fields {
		if len(ls.list) >= MaxLabels {
			break
		}
		name := names.sanitized(l.Fields[i].Name)
		if k := ls.find(name); k >= 0 {
			if k >= n { // two fields with one name
				continue
			}
			if name = names.suffixed(name); ls.find(name) >= 0 {
				continue
			}
		}
		if l.Fields[i].Value != "" {
			ls.list = append(ls.list, label{name: name, value: l.Fields[i].Value, origin: Field})
		}
	}
	if levels && l.Severity != wire.SeverityUnknown && ls.find(DetectedLevel) < 0 {
		ls.list = append(ls.list, label{name: DetectedLevel, value: levelName(l.Severity), origin: Field})
	}
}

// DetectedLevel is the label under which the severity of a line shows.
const DetectedLevel = "detected_level"

func levelName(s wire.Severity) string {
	if s == wire.SeverityWarning {
		return "warn" // as Grafana's colours and Loki's own detection say
	}
	return s.String()
}

// names makes label names and keeps those it has made.
type names struct {
	clean map[string]string
	ext   map[string]string
	buf   []byte
}

const maxNames = 8192

func (n *names) sanitized(name string) string {
	if s, ok := n.clean[name]; ok {
		return s
	}
	s := strings.Clone(syntax.Sanitize(name))
	if n.clean == nil || len(n.clean) >= maxNames {
		n.clean = make(map[string]string, 64)
	}
	n.clean[strings.Clone(name)] = s
	return s
}

func (n *names) suffixed(name string) string {
	if s, ok := n.ext[name]; ok {
		return s
	}
	s := name + "_extracted"
	if n.ext == nil || len(n.ext) >= maxNames {
		n.ext = make(map[string]string, 8)
	}
	n.ext[strings.Clone(name)] = s
	return s
}
