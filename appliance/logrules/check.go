// Package logrules answers the expressions in LogQL of alerting and recording rules: it reads what they look at, and evaluates
// them over any source of lines with the bounds of rules. The appliance gives it the store, unit tests of rules the lines
// that they make up, so both judge alike.
//
// It knows LogQL (logstore/logql) and the forms of package alerting; it must not know the store, the log or the API.
package logrules

import (
	"errors"
	"fmt"
	"strings"

	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/logstore/logql"
	"github.com/triward/triward/logstore/logql/syntax"
)

const (
	maxText   = 8 << 10 // bytes of an expression
	maxRanges = 16      // functions over ranges in one expression: each reads lines
)

// Check reads the expression of a rule. Its error says what is wrong and where.
func Check(text string) (rules.Shape, error) {
	x, err := parse(text)
	if err != nil {
		return rules.Shape{}, err
	}
	var out rules.Shape
	ranges := 0
	out.Keeps = true
	syntax.Walk(x, func(e syntax.Expr) {
		switch e := e.(type) {
		case *syntax.Range:
			if ranges++; ranges == 1 {
				out.Lines = e.Log.String()
			}
			out.Window = max(out.Window, e.Range)
			out.Reach = max(out.Reach, e.Range+e.Offset)
			out.Absent = out.Absent || e.Op == syntax.OpAbsent
		case *syntax.LabelReplace:
			out.Keeps = false
		}
	})
	switch {
	case ranges == 0:
		return rules.Shape{}, errors.New(`it looks at no lines: a function over a range of a selector is wanted, such as count_over_time({source="journal"}[5m])`)
	case ranges > maxRanges:
		return rules.Shape{}, fmt.Errorf("%d functions over ranges; at most %d, since each reads lines", ranges, maxRanges)
	}
	out.Keeps = out.Keeps && ranges == 1
	out.Compared, out.Threshold = compared(x)
	return out, nil
}

func parse(text string) (syntax.Metric, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%d bytes; at most %d", len(text), maxText)
	}
	x, err := logql.Parse(text)
	if bad, ok := errors.AsType[*logql.SyntaxError](err); ok && !strings.Contains(text, "\n") {
		return nil, fmt.Errorf("at byte %d: %s", bad.Pos, bad.Msg) // there is one line, and YAML has its own
	}
	if err != nil {
		return nil, err
	}
	m, ok := x.(syntax.Metric)
	if !ok {
		return nil, fmt.Errorf("it gives lines, and a rule wants numbers: put it in a function, such as count_over_time(%s [5m]) > 0", clip(text))
	}
	return m, nil
}

func clip(s string) string {
	const most = 200
	s = strings.Join(strings.Fields(s), " ")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// compared takes a comparison with a number apart. Of an expression that is none it returns the whole.
func compared(x syntax.Metric) (side string, threshold *float64) {
	for {
		b, ok := x.(*syntax.Binary)
		if !ok {
			return x.String(), nil
		}
		switch b.Op {
		case "and", "unless":
			x = b.Left
			continue
		case ">", "<", ">=", "<=", "==", "!=":
			if b.Bool {
				return x.String(), nil
			}
			if n, ok := b.Right.(*syntax.Number); ok {
				return b.Left.String(), &n.Value
			}
			if n, ok := b.Left.(*syntax.Number); ok {
				return b.Right.String(), &n.Value
			}
		}
		return x.String(), nil
	}
}
