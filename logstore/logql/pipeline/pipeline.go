// Package pipeline runs lines through the stages of a LogQL query: line filters, parsers, label filters and formats. What
// a stage does with a line is decided on that line alone, so a pipeline can stand behind any store.
//
// A stage that cannot do its work notes the mistake in the label __error__ and lets the line pass. All work on one line is
// bounded: labels, templates and their output, nesting of documents.
//
// The package must not import the store.
package pipeline

import (
	"fmt"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// Line is a line as it comes. It is only read, and only during Process.
type Line struct {
	T        int64 // nanoseconds since 1970
	Stream   wire.Labels
	Severity wire.Severity
	Fields   []wire.Label
	Text     []byte
}

// Options of pipelines.
type Options struct {
	Levels bool // show the severity of a line as its label detected_level
	Now    time.Time
	// Stop is asked now and then while a regular expression of a stage is at a long line; once it returns true what Process makes of
	// lines means nothing. nil goes on to the end.
	Stop func() bool
}

// Pipeline is the stages of one query. It holds one line at a time and is not safe for concurrent use.
type Pipeline struct {
	stages []stage
	opts   Options
	names  names

	labels  Labels
	wanted  map[string]bool // labels that anybody looks at; nil for all
	line    Line
	started bool // labels are those of the line
	t       int64
	raw     []byte // the line, unless whole says that text is it
	text    string
	whole   bool
	gen     int
}

// stage does one step and reports whether the line stays.
type stage interface{ run(p *Pipeline) bool }

// New makes a pipeline of stages that the parser returned.
func New(stages []syntax.Stage, o Options) (*Pipeline, error) {
	p := &Pipeline{opts: o}
	for _, s := range stages {
		st, err := p.compile(s)
		if err != nil {
			return nil, err
		}
		p.stages = append(p.stages, st)
	}
	return p, nil
}

func (p *Pipeline) compile(s syntax.Stage) (stage, error) {
	switch s := s.(type) {
	case *syntax.LineFilter:
		return newLineFilter(s)
	case *syntax.LabelFilter:
		return newPred(s.Pred)
	case *syntax.JSON:
		return newJSON(s)
	case *syntax.Logfmt:
		return &logfmt{strict: s.Strict, keepEmpty: s.KeepEmpty, fields: s.Fields}, nil
	case *syntax.Regexp:
		return newRegexp(s)
	case *syntax.Pattern:
		return newPattern(s)
	case *syntax.Unpack:
		return &unpack{}, nil
	case *syntax.Decolorize:
		return decolorize{}, nil
	case *syntax.LineFormat:
		t, err := newTemplate(s.Template, p)
		return &lineFormat{t}, err
	case *syntax.LabelFormat:
		return newLabelFormat(s, p)
	case *syntax.Drop:
		items, err := newNameMatches(s.Items)
		return &drop{items}, err
	case *syntax.Keep:
		items, err := newNameMatches(s.Items)
		return &keep{items}, err
	}
	return nil, fmt.Errorf("stage %T is not known", s)
}

// Process runs a line through the stages and reports whether it stays. Text and Labels are of this line until the next call.
func (p *Pipeline) Process(l *Line) bool {
	p.line, p.started = *l, false
	p.t, p.raw, p.text, p.whole, p.gen = l.T, l.Text, "", false, 0
	for _, s := range p.stages {
		if _, ok := s.(*lineFilter); !ok { // those need no labels
			p.start()
			p.gen++
		}
		if !s.run(p) {
			return false
		}
	}
	return true
}

// start takes the labels that the line came with, once they are needed.
func (p *Pipeline) start() {
	if !p.started {
		p.started = true
		p.labels.reset(&p.line, &p.names, p.opts.Levels)
	}
}

// Want says that of labels that parsers make only these are looked at, besides those that the stages themselves name. It
// saves the work for the others. It reports whether that could be said: not when a stage looks at any label.
func (p *Pipeline) Want(names []string) bool {
	wanted := map[string]bool{}
	for _, n := range names {
		wanted[n] = true
	}
	for _, s := range p.stages {
		if !named(s, wanted) {
			return false
		}
	}
	p.wanted = wanted
	return true
}

// named adds the labels that a stage looks at; it returns false when that may be any.
func named(s stage, into map[string]bool) bool {
	switch s := s.(type) {
	case *matchPred:
		into[s.m.Name] = true
	case *numberPred:
		into[s.Name] = true
	case *ipPred:
		into[s.name] = true
	case *bothPred:
		return named(s.left, into) && named(s.right, into)
	case *labelFormat, *lineFormat:
		return false
	}
	return true // drop and keep only take away
}

// wants reports whether a label that a parser found is looked at, under its own name or the one it gets when that is taken.
func (p *Pipeline) wants(name string) bool {
	return p.wanted == nil || p.wanted[name] || p.wanted[p.names.suffixed(name)]
}

// extract makes a label of what a parser found.
func (p *Pipeline) extract(name, value string, bare bool) {
	if p.wanted == nil || p.wants(name) {
		p.labels.extract(name, value, p.gen, bare, p.names.suffixed)
	}
}

// KeepsLabels reports whether no stage makes, changes or takes labels, so that those of a line are the ones it came with.
func (p *Pipeline) KeepsLabels() bool {
	for _, s := range p.stages {
		switch s := s.(type) {
		case *lineFilter, decolorize:
		case *matchPred:
			_ = s
		default:
			return false
		}
	}
	return true
}

// Labels returns the labels of the line.
func (p *Pipeline) Labels() *Labels {
	p.start()
	return &p.labels
}

// Text returns the line after the stages. It shares memory with the line that came.
func (p *Pipeline) Text() string { return p.str() }

// Bytes returns the length of the line after the stages.
func (p *Pipeline) Bytes() int {
	if p.whole {
		return len(p.text)
	}
	return len(p.raw)
}

// str returns the line as a string, of which parsers take pieces. It is a copy, so they outlive the store's buffer.
func (p *Pipeline) str() string {
	if !p.whole {
		p.text, p.whole = string(p.raw), true
	}
	return p.text
}

func (p *Pipeline) setLine(s string) { p.text, p.raw, p.whole = s, nil, true }

// Names of mistakes, as they show in the label __error__.
const (
	errJSON     = "JSONParserErr"
	errLogfmt   = "LogfmtParserErr"
	errFilter   = "LabelFilterErr"
	errTemplate = "TemplateFormatErr"
	errSample   = "SampleExtractionErr"
)
