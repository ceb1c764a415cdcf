package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"

	"github.com/triward/triward/logstore/logql/syntax"
)

// Bounds of what a template does with one line.
const (
	MaxOutput = 256 << 10 // bytes of what it makes, and of each value on the way
	maxSteps  = 10_000    // calls of functions and turns of loops
	maxMade   = 4 << 20   // bytes of all values on the way
)

var (
	errOutput = fmt.Errorf("it makes more than %d bytes", MaxOutput)
	errSteps  = fmt.Errorf("it takes more than %d steps", maxSteps)
)

// lineTemplate is a compiled template. Each run is bounded in steps, memory and output.
type lineTemplate struct {
	t     *template.Template
	p     *Pipeline
	fixed string // what it makes when it has no actions
	plain bool

	data  map[string]string
	out   []byte
	steps int
	made  int
	cache regexes
}

func newTemplate(text string, p *Pipeline) (*lineTemplate, error) {
	tree, err := syntax.TemplateTree(text)
	if err != nil {
		return nil, err
	}
	t := &lineTemplate{p: p, data: make(map[string]string, 32)}
	if t.plain = onlyText(tree.Root); t.plain {
		for _, n := range tree.Root.Nodes {
			t.fixed += string(n.(*parse.TextNode).Text)
		}
		return t, nil
	}
	step, err := syntax.TemplateTree("{{__step__}}")
	if err != nil {
		return nil, err
	}
	countTurns(tree.Root, step.Root.Nodes[0])
	t.t, err = template.New("line").Funcs(t.funcs()).Option("missingkey=zero").AddParseTree("line", tree)
	return t, err
}

func onlyText(l *parse.ListNode) bool {
	for _, n := range l.Nodes {
		if n.Type() != parse.NodeText {
			return false
		}
	}
	return true
}

// countTurns puts a call that counts at the beginning of each loop.
func countTurns(n parse.Node, step parse.Node) {
	branch := func(b *parse.BranchNode) {
		countTurns(b.List, step)
		if b.ElseList != nil {
			countTurns(b.ElseList, step)
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, k := range n.Nodes {
			countTurns(k, step)
		}
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
		n.List.Nodes = append([]parse.Node{step.Copy()}, n.List.Nodes...)
	}
}

// Write takes output up to the bound.
func (t *lineTemplate) Write(b []byte) (int, error) {
	if len(t.out)+len(b) > MaxOutput {
		return 0, errOutput
	}
	t.out = append(t.out, b...)
	return len(b), nil
}

// run returns what the template makes of the line at hand.
func (t *lineTemplate) run() (string, error) {
	if t.plain {
		return t.fixed, nil
	}
	ls := &t.p.labels
	clear(t.data)
	for i := range ls.list {
		t.data[ls.list[i].name] = ls.list[i].value
	}
	if ls.err != "" {
		t.data[syntax.ErrorLabel], t.data[syntax.ErrorDetails] = ls.err, ls.details
	}
	t.out, t.steps, t.made = t.out[:0], 0, 0
	if err := t.t.Execute(t, t.data); err != nil {
		return "", err
	}
	return string(t.out), nil
}

// step counts a call.
func (t *lineTemplate) step() error {
	if t.steps++; t.steps > maxSteps {
		return errSteps
	}
	return nil
}

// room checks that a value of n bytes may be made.
func (t *lineTemplate) room(n int) error {
	if err := t.step(); err != nil {
		return err
	}
	if t.made += n; n < 0 || n > MaxOutput || t.made > maxMade {
		return errOutput
	}
	return nil
}

// give counts a value that was made.
func (t *lineTemplate) give(s string) (string, error) {
	if err := t.room(len(s)); err != nil {
		return "", err
	}
	return s, nil
}

// short makes the message of a template's mistake fit a label.
func short(err error) string {
	for {
		in := errors.Unwrap(err)
		if in == nil {
			break
		}
		err = in
	}
	s := strings.TrimPrefix(err.Error(), "template: ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

type lineFormat struct{ t *lineTemplate }

func (s *lineFormat) run(p *Pipeline) bool {
	out, err := s.t.run()
	if err != nil {
		p.labels.fail(errTemplate, short(err))
		return true
	}
	p.setLine(out)
	return true
}

type labelFormat struct {
	items []syntax.FormatItem
	ts    []*lineTemplate
}

func newLabelFormat(s *syntax.LabelFormat, p *Pipeline) (stage, error) {
	f := &labelFormat{items: s.Items, ts: make([]*lineTemplate, len(s.Items))}
	for i, it := range s.Items {
		if !it.Template {
			continue
		}
		t, err := newTemplate(it.Text, p)
		if err != nil {
			return nil, err
		}
		f.ts[i] = t
	}
	return f, nil
}

func (s *labelFormat) run(p *Pipeline) bool {
	for i := range s.items {
		it := &s.items[i]
		if t := s.ts[i]; t != nil {
			v, err := t.run()
			if err != nil {
				p.labels.fail(errTemplate, short(err))
				continue
			}
			p.labels.set(it.Dst, strings.ToValidUTF8(v, "\uFFFD"))
			continue
		}
		if v, ok := p.labels.lookup(it.Src); ok && it.Src != it.Dst {
			p.labels.set(it.Dst, v)
			if k := p.labels.find(it.Src); k >= 0 {
				p.labels.remove(k)
			}
		}
	}
	return true
}
