package tsdb

import (
	"errors"
	"fmt"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/util/features"
)

// Bounds of the text of a query. Beyond them the library's parser takes seconds or ends the process.
const (
	MaxQueryBytes = 16 << 10
	MaxQueryDepth = 100 // brackets within brackets, and signs in a row
	MaxSelectors  = 64  // series selectors in one request
)

// ErrQueryTooLong, ErrQueryTooDeep and ErrTooManySelectors are matched by errors of texts beyond the bounds.
var (
	ErrQueryTooLong     = fmt.Errorf("query is longer than %d bytes; split it", MaxQueryBytes)
	ErrQueryTooDeep     = fmt.Errorf("query nests deeper than %d; split it", MaxQueryDepth)
	ErrTooManySelectors = fmt.Errorf("more than %d selectors; ask in parts", MaxSelectors)
)

// TextError says that the text of a query is beyond the bounds. It matches ErrQueryTooLong or ErrQueryTooDeep.
type TextError struct {
	Pos int // byte offset
	Err error
}

// Error says which bound the text is beyond, and where.
func (e *TextError) Error() string { return fmt.Sprintf("parse error at byte %d: %v", e.Pos, e.Err) }

// Unwrap returns the bound.
func (e *TextError) Unwrap() error { return e.Err }

// NewParser returns the parser of PromQL, which refuses what is beyond the bounds before it reads it.
func NewParser() parser.Parser { return &boundedParser{parser.NewParser(parser.Options{})} }

type boundedParser struct{ next parser.Parser }

func (p *boundedParser) ParseExpr(input string) (parser.Expr, error) {
	if err := checkText(input); err != nil {
		return nil, err
	}
	return p.next.ParseExpr(input)
}

func (p *boundedParser) ParseMetric(input string) (labels.Labels, error) {
	if err := checkText(input); err != nil {
		return labels.EmptyLabels(), err
	}
	return p.next.ParseMetric(input)
}

func (p *boundedParser) ParseMetricSelector(input string) ([]*labels.Matcher, error) {
	if err := checkText(input); err != nil {
		return nil, err
	}
	return p.next.ParseMetricSelector(input)
}

func (p *boundedParser) ParseMetricSelectors(inputs []string) ([][]*labels.Matcher, error) {
	if len(inputs) > MaxSelectors {
		return nil, ErrTooManySelectors
	}
	for _, input := range inputs {
		if err := checkText(input); err != nil {
			return nil, err
		}
	}
	return p.next.ParseMetricSelectors(inputs)
}

func (p *boundedParser) ParseSeriesDesc(input string) (labels.Labels, []parser.SequenceValue, error) {
	if err := checkText(input); err != nil {
		return labels.EmptyLabels(), nil, err
	}
	return p.next.ParseSeriesDesc(input)
}

func (p *boundedParser) RegisterFeatures(r features.Collector) { p.next.RegisterFeatures(r) }

// checkText bounds length and nesting. It reads strings and comments as the parser does; text that is wrong anyway
// is left for the parser to explain.
func checkText(q string) error {
	if len(q) > MaxQueryBytes {
		return &TextError{Pos: MaxQueryBytes, Err: ErrQueryTooLong}
	}
	depth, signs := 0, 0
	for i := 0; i < len(q); i++ {
		switch c := q[i]; c {
		case '"', '\'', '`':
			i = endOfString(q, i)
			signs = 0
		case '#':
			for i < len(q) && q[i] != '\n' {
				i++
			}
		case '(', '[', '{':
			depth, signs = depth+1, 0
		case ')', ']', '}':
			depth, signs = depth-1, 0
		case '+', '-':
			signs++
		case ' ', '\t', '\n', '\r':
		default:
			signs = 0
		}
		if depth > MaxQueryDepth || signs > MaxQueryDepth {
			return &TextError{Pos: i, Err: ErrQueryTooDeep}
		}
	}
	return nil
}

// endOfString returns the place of the quote that ends the string starting at i, or the end of the text.
func endOfString(q string, i int) int {
	quote := q[i]
	for i++; i < len(q) && q[i] != quote; i++ {
		if q[i] == '\\' && quote != '`' {
			i++
		}
	}
	return i
}

// ErrorPosition returns the byte offset in the query that err is about, or false when it is about none.
func ErrorPosition(err error) (int, bool) {
	var text *TextError
	if errors.As(err, &text) {
		return text.Pos, true
	}
	var many parser.ParseErrors
	if errors.As(err, &many) && len(many) > 0 {
		return int(many[0].PositionRange.Start), true
	}
	var one *parser.ParseErr
	if errors.As(err, &one) {
		return int(one.PositionRange.Start), true
	}
	return 0, false
}
