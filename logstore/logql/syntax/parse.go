package syntax

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	resyntax "regexp/syntax"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/triward/triward/logstore/regex"
)

// Parse reads an expression. Errors are of type *Error.
func Parse(text string) (Expr, error) { return new(Reader).Parse(text) }

// Reader reads the queries of one question, whose regular expressions are bounded together as those of one query are.
type Reader struct{ progs int }

// Parse is the function Parse.
func (r *Reader) Parse(text string) (Expr, error) {
	if len(text) > MaxText {
		return nil, errorAt(text, MaxText, fmt.Sprintf("the query is longer than %d bytes", MaxText))
	}
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := &parser{text: text, tokens: tokens, progs: r.progs}
	defer func() { r.progs = p.progs }()
	if p.peek().kind == tokEnd {
		return nil, p.fail(p.peek(), "the query is empty: a selector such as {source=\"journal\"} is expected")
	}
	e, err := p.expr(0, 0)
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != tokEnd {
		return nil, p.fail(t, "unexpected %s", t)
	}
	return e, nil
}

// ParseLog reads a log query; that of a metric query is an error.
func ParseLog(text string) (*Log, error) {
	e, err := Parse(text)
	if err != nil {
		return nil, err
	}
	l, ok := e.(*Log)
	if !ok {
		return nil, errorAt(text, 0, "a log query is expected here, not one for numbers")
	}
	return l, nil
}

// ParseSelector reads a selector alone: {name="value", …}.
func ParseSelector(text string) ([]*Matcher, error) {
	l, err := ParseLog(text)
	if err != nil {
		return nil, err
	}
	if len(l.Stages) > 0 {
		return nil, errorAt(text, 0, "a selector without a pipeline is expected here")
	}
	return l.Selector, nil
}

type parser struct {
	text   string
	tokens []token
	at     int
	progs  int // instructions of the regular expressions so far
	named  int // labels that parsers name so far
}

func (p *parser) peek() token { return p.tokens[p.at] }

// ahead returns the token n places behind the next one.
func (p *parser) ahead(n int) token { return p.tokens[min(p.at+n, len(p.tokens)-1)] }

func (p *parser) take() token {
	t := p.tokens[p.at]
	if t.kind != tokEnd {
		p.at++
	}
	return t
}

func (p *parser) accept(op string) bool {
	if p.peek().is(op) {
		p.at++
		return true
	}
	return false
}

func (p *parser) acceptWord(name string) bool {
	if p.peek().word(name) {
		p.at++
		return true
	}
	return false
}

func (p *parser) fail(t token, format string, args ...any) error {
	return errorAt(p.text, t.pos, fmt.Sprintf(format, args...))
}

func (p *parser) expect(op, where string) error {
	if t := p.peek(); !t.is(op) {
		return p.fail(t, "%s is expected %s, not %s", op, where, t)
	}
	p.at++
	return nil
}

func (p *parser) str(where string) (string, token, error) {
	t := p.peek()
	if t.kind != tokString {
		return "", t, p.fail(t, "a string is expected %s, not %s", where, t)
	}
	p.at++
	return t.text, t, nil
}

func (p *parser) name(where string) (string, token, error) {
	t := p.peek()
	if t.kind != tokIdent {
		return "", t, p.fail(t, "a name is expected %s, not %s", where, t)
	}
	p.at++
	return t.text, t, nil
}

// precedence of binary operators; ^ binds to the right.
var precedence = map[string]int{
	"or": 1, "and": 2, "unless": 2,
	"==": 3, "!=": 3, ">": 3, ">=": 3, "<": 3, "<=": 3,
	"+": 4, "-": 4, "*": 5, "/": 5, "%": 5, "^": 6,
}

func (p *parser) operator() (string, bool) {
	t := p.peek()
	op := t.text
	switch t.kind {
	case tokIdent:
		op = strings.ToLower(op)
	case tokOp:
	default:
		return "", false
	}
	_, ok := precedence[op]
	return op, ok
}

// expr reads operators that bind tighter than low.
func (p *parser) expr(low, depth int) (Expr, error) {
	if depth > maxDepth {
		return nil, p.fail(p.peek(), "nested deeper than %d", maxDepth)
	}
	first := p.peek()
	left, err := p.primary(depth)
	if err != nil {
		return nil, err
	}
	height := 0
	for {
		op, ok := p.operator()
		if !ok || precedence[op] <= low {
			return left, nil
		}
		if height++; depth+height > maxDepth { // a long chain is a deep tree
			return nil, p.fail(p.peek(), "more than %d operators in a row", maxDepth)
		}
		sign := p.take()
		b := &Binary{Op: op}
		if err := p.modifiers(b, sign); err != nil {
			return nil, err
		}
		next := precedence[op]
		if op == "^" {
			next--
		}
		start := p.peek()
		right, err := p.expr(next, depth+height)
		if err != nil {
			return nil, err
		}
		if left, err = p.binary(b, left, right, first, start, sign); err != nil {
			return nil, err
		}
	}
}

func (p *parser) binary(b *Binary, left, right Expr, first, start, sign token) (Metric, error) {
	l, ok := left.(Metric)
	if !ok {
		return nil, p.fail(first, "%s is between numbers; put the log query into a function such as count_over_time(… [5m])", b.Op)
	}
	r, ok := right.(Metric)
	if !ok {
		return nil, p.fail(start, "%s is between numbers; put the log query into a function such as count_over_time(… [5m])", b.Op)
	}
	b.Left, b.Right = l, r
	_, lnum := l.(*Number)
	_, rnum := r.(*Number)
	if (lnum || rnum) && b.Matching != nil {
		return nil, p.fail(sign, "on, ignoring and group need series on both sides of %s", b.Op)
	}
	if (lnum || rnum) && setOperator(b.Op) {
		return nil, p.fail(sign, "%s needs series on both sides", b.Op)
	}
	return b, nil
}

func setOperator(op string) bool { return op == "and" || op == "or" || op == "unless" }

func comparison(op string) bool { return precedence[op] == 3 }

// modifiers reads bool, on, ignoring, group_left and group_right.
func (p *parser) modifiers(b *Binary, sign token) error {
	if p.acceptWord("bool") {
		if !comparison(b.Op) {
			return p.fail(sign, "bool goes with comparisons only")
		}
		b.Bool = true
	}
	on, ignoring := p.peek().word("on"), p.peek().word("ignoring")
	if !on && !ignoring {
		return nil
	}
	p.at++
	names, err := p.names()
	if err != nil {
		return err
	}
	b.Matching = &Matching{On: on, Names: names}
	for _, side := range []string{"left", "right"} {
		t := p.peek()
		if !t.word("group_" + side) {
			continue
		}
		p.at++
		if setOperator(b.Op) {
			return p.fail(t, "%s takes no %s", b.Op, t.text)
		}
		b.Matching.Group = side
		if p.peek().is("(") && p.namesFollow() {
			if b.Matching.Include, err = p.names(); err != nil {
				return err
			}
		}
		if on {
			for _, n := range b.Matching.Include {
				if slices.Contains(names, n) {
					return p.fail(t, "label %s must not be both in on and in %s", n, t.text)
				}
			}
		}
		break
	}
	return nil
}

// namesFollow tells the names of group_left from an operand in parentheses.
func (p *parser) namesFollow() bool {
	for i := 1; ; i++ {
		switch t := p.ahead(i); {
		case t.is(")"):
			n := p.ahead(i + 1)
			return i == 1 || n.is("(") || n.kind == tokIdent || n.kind == tokNumber || n.is("-") || n.is("+")
		case t.kind == tokIdent, t.is(","):
		default:
			return false
		}
	}
}

// names reads (a, b, …), which may be empty or end with a comma.
func (p *parser) names() ([]string, error) {
	if err := p.expect("(", "before label names"); err != nil {
		return nil, err
	}
	var out []string
	for !p.accept(")") {
		if len(out) > 0 {
			if err := p.expect(",", "between label names"); err != nil {
				return nil, err
			}
			if p.accept(")") {
				break
			}
		}
		n, _, err := p.name("in a list of labels")
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out, nil
}

func (p *parser) number() (float64, error) {
	t := p.take()
	sign := 1.0
	if t.is("-") || t.is("+") {
		if t.is("-") {
			sign = -1
		}
		t = p.take()
	}
	if t.kind == tokNumber {
		if v, err := parseNumber(t.text); err == nil {
			return sign * v, nil
		}
	}
	if t.word("inf") {
		return sign * math.Inf(1), nil
	}
	if t.word("nan") {
		return math.NaN(), nil
	}
	return 0, p.fail(t, "a number is expected, not %s", t)
}

func parseNumber(s string) (float64, error) {
	if i, err := strconv.ParseInt(s, 0, 64); err == nil && strings.ContainsAny(s, "xX") {
		return float64(i), nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, err
	}
	return v, nil
}

// regex checks the expression of a line filter or parser.
func (p *parser) regex(expr string, t token) (*regexp.Regexp, error) {
	n, err := regexSize(expr)
	if err != nil {
		return nil, p.fail(t, "%v", err)
	}
	if p.progs += n; p.progs > maxProgs {
		return nil, p.fail(t, "the regular expressions of the query unfold to %d steps, %d are allowed: use smaller repetitions, or fewer of them", p.progs, maxProgs)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, p.fail(t, "bad regular expression: %v", err)
	}
	return re, nil
}

// CompileRegex compiles an expression within the bounds of queries.
func CompileRegex(expr string) (*regexp.Regexp, error) {
	if _, err := regexSize(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(expr)
}

// regexSize returns regex.Size of an expression that is within the bounds of one.
func regexSize(expr string) (int, error) {
	if len(expr) > MaxRegex {
		return 0, fmt.Errorf("the regular expression is longer than %d bytes", MaxRegex)
	}
	tree, err := resyntax.Parse(expr, resyntax.Perl)
	if err != nil {
		return 0, fmt.Errorf("bad regular expression: %w", err)
	}
	n := regex.Size(tree)
	if n > maxProg {
		return 0, fmt.Errorf("the regular expression unfolds to %d steps, %d are allowed: use smaller repetitions", n, maxProg)
	}
	return n, nil
}

// matcher reads `op "value"` behind the name of a label.
func (p *parser) matcher(name string) (*Matcher, error) {
	op := p.take()
	var mt labels.MatchType
	switch {
	case op.is("=") || op.is("=="):
		mt = labels.MatchEqual
	case op.is("!="):
		mt = labels.MatchNotEqual
	case op.is("=~"):
		mt = labels.MatchRegexp
	case op.is("!~"):
		mt = labels.MatchNotRegexp
	default:
		return nil, p.fail(op, "one of = != =~ !~ is expected behind label %s, not %s", name, op)
	}
	v, t, err := p.str("behind " + op.text)
	if err != nil {
		return nil, err
	}
	if mt == labels.MatchRegexp || mt == labels.MatchNotRegexp {
		if _, err := p.regex(v, t); err != nil {
			return nil, err
		}
	}
	m, err := labels.NewMatcher(mt, name, v)
	if err != nil {
		return nil, p.fail(t, "bad regular expression: %v", err)
	}
	return m, nil
}

func (p *parser) selector() ([]*Matcher, error) {
	open := p.peek()
	if err := p.expect("{", "at the beginning of a selector"); err != nil {
		return nil, err
	}
	var out []*Matcher
	for !p.accept("}") {
		if len(out) > 0 {
			if err := p.expect(",", "between the parts of a selector"); err != nil {
				return nil, err
			}
			if p.accept("}") {
				break
			}
		}
		name, _, err := p.name("in a selector")
		if err != nil {
			return nil, err
		}
		m, err := p.matcher(name)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	if !slices.ContainsFunc(out, func(m *Matcher) bool { return !m.Matches("") }) {
		return nil, p.fail(open, "a selector must name at least one label that has to be there, such as {source=\"journal\"} or {host=~\".+\"}")
	}
	return out, nil
}
