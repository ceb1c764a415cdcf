package query

import (
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// A span rules out a number exactly where no value can match, the least and the greatest included.
func TestSpansRuleOutWhatNoValueMatches(t *testing.T) {
	c, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lines := []block.Line{
		{Text: []byte("x"), Fields: []wire.Label{{Name: "took", Value: "5"}}},
		{T: 1, Text: []byte("x"), Fields: []wire.Label{{Name: "took", Value: "9"}}},
	}
	out, err := c.Encode(lines, block.Version2, nil)
	var spans block.Spans
	if err == nil {
		err = c.Spans(&spans, out.Columns)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, cmp := range []Compare{Less, LessOrEqual, Greater, GreaterOrEqual} {
		for _, num := range []float64{4, 5, 6, 9, 10} {
			f := FieldNumber("took", cmp, num).stored()
			want := false
			for i := range lines {
				want = want || f.Match(&Line{Fields: lines[i].Fields, Text: lines[i].Text})
			}
			if got := f.MayBeWithin(&spans); got != want {
				t.Errorf("comparison %d with %v: a line may match: %v, want %v", cmp, num, got, want)
			}
		}
	}
}
