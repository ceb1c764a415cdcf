package logql

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
	"github.com/triward/triward/logstore/logql/syntax"
	"github.com/triward/triward/logstore/query"
	"github.com/triward/triward/logstore/words"
)

// The filter that is given for a pattern lets all its lines pass.
func TestFilterOfAPatternFindsItsLines(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	pieces := []string{
		"1", "22", "be", "word", "=x", "Nov", "Mon", "AM", " PM", " ", "  ", "   ", "-", ":", ".", ", ", "+", "\n", "\r\n", "\xff", "\x01", "\t", "磁", "é", "[", "<*>", "<_>", "<a>", "<", ">", "`",
		`"`, `\`, "⏎", "\ufffd", strings.Repeat("long ", 450), strings.Repeat("7 x ", 150),
	}
	labels := wire.LabelsFromMap(map[string]string{"a": "b"})
	filters := 0
	for range 20_000 {
		var line bytes.Buffer
		for range rng.IntN(9) {
			line.WriteString(pieces[rng.IntN(len(pieces))])
		}
		pattern := string(block.AppendPattern(nil, line.Bytes()))
		if !query.Pattern(pattern).Match(&query.Line{Text: line.Bytes()}) {
			t.Fatalf("pattern %q does not find %q", pattern, line.Bytes())
		}
		have := words.Split(line.String())
		need := query.Pattern(pattern).Need()
		if !need.May(func(w string) bool { return slices.Contains(have, w) }) {
			t.Fatalf("pattern %q is looked up by words that %q does not have: %+v", pattern, line.Bytes(), need)
		}
		filter := query.PatternLogQL(pattern)
		if filter == "" {
			continue
		}
		filters++
		x, err := syntax.ParseLog(`{a="b"} ` + filter)
		if err != nil {
			t.Fatalf("filter %s of %q: %v", filter, pattern, err)
		}
		m, err := Tail(x, true, nil)
		if err != nil {
			t.Fatalf("filter %s of %q: %v", filter, pattern, err)
		}
		if _, _, ok := m.Match(&Line{Labels: labels, Text: line.Bytes()}); !ok {
			t.Fatalf("filter %s of %q does not let %q pass", filter, pattern, line.Bytes())
		}
	}
	if filters < 10_000 {
		t.Errorf("only %d lines have a filter", filters)
	}
}
