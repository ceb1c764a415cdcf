package query

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

// A single line under an expression of many steps is left as soon as nobody waits, wherever it lies: alone, among the texts of a
// block, or in a block of templates.
func TestSlowLineIsLeft(t *testing.T) {
	f := Regex(regexp.MustCompile(`(x?x?x?x?){200}[yz]`))
	long := bytes.Repeat([]byte("x"), 256<<10)
	asked := 0
	stop := func() bool { asked++; return true }
	f.Match(&Line{Text: long, Stop: stop})
	if asked != 1 {
		t.Errorf("a line: asked %d times whether to go on", asked)
	}
	asked = 0
	b := Lines{N: 1, Text: long, Ends: []uint32{uint32(len(long))}, Stop: stop}
	f.Select(&b, Range(1, 0, 1))
	if asked == 0 {
		t.Error("a text of a block: nobody is asked whether to go on")
	}
	codec, err := block.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	defer codec.Close()
	lines := []block.Line{{T: 1, Index: 1, Text: append([]byte("- "), long...)}, {T: 2, Index: 2, Text: []byte("- 1")}}
	var voc block.Vocabulary
	out, err := codec.Encode(lines, block.Version2, &voc)
	if err != nil {
		t.Fatal(err)
	}
	var v block.View
	if ok, err := codec.View(&v, out.Text, len(lines)); err != nil || !ok {
		t.Fatalf("no templates: %v", err)
	}
	asked = 0
	var plans Plans
	b = Lines{N: 2, View: &v, Plans: &plans, Stop: stop}
	f.Select(&b, Range(2, 0, 2))
	if asked == 0 {
		t.Error("a template: nobody is asked whether to go on")
	}
}

// So is one under a condition on a field, a matcher of LogQL, words in a row that it repeats, and very many conditions.
func TestSlowConditionsAreLeft(t *testing.T) {
	const expr = `(x?x?x?x?){200}[yz]`
	re := regexp.MustCompile(expr)
	not, err := NewMatcher("f", MatchNotRegex, ".*"+expr+".*")
	if err != nil {
		t.Fatal(err)
	}
	long, repeats := strings.Repeat("x", 256<<10), strings.Repeat("a ", 128<<10)
	var many []*Filter
	for range 200 {
		many = append(many, Not(Regex(regexp.MustCompile(`(x?x?x?x?)[yz]`)))) // each takes less than is worth asking
	}
	sequenceOf := make([]wordTest, 4000)
	for i := range sequenceOf {
		sequenceOf[i].word = "a"
	}
	sequenceOf[3999].word = "b"
	for _, c := range []struct {
		name   string
		filter *Filter
		line   Line
	}{
		{"structured field", FieldRegex("f", re), Line{Fields: []wire.Label{{Name: "f", Value: long}}}},
		{"matcher", Value(not), Line{Fields: []wire.Label{{Name: "f", Value: long}}}},
		{"words", sequence(sequenceOf), Line{Text: []byte(repeats)}},
		{"and", And(many...), Line{Text: []byte(long)}},
		{"or", Or(Not(And(many...)), Regex(regexp.MustCompile(`y`))), Line{Text: []byte(long)}},
	} {
		for _, patience := range []int{0, 3} {
			asked := 0
			stop := func() bool { asked++; return asked > patience }
			c.line.Stop = stop
			c.filter.Match(&c.line)
			if asked == 0 || asked > patience+2 {
				t.Errorf("%s, a line: asked %d times whether to go on, %d is patience", c.name, asked, patience)
			}
			asked = 0
			b := Lines{N: 1, Text: c.line.Text, Ends: []uint32{uint32(len(c.line.Text))}, Fields: [][]wire.Label{c.line.Fields}, Stop: stop}
			c.filter.Select(&b, Range(1, 0, 1))
			if asked == 0 || asked > patience+len(many) {
				t.Errorf("%s, of a block: asked %d times whether to go on, %d is patience", c.name, asked, patience)
			}
		}
	}
}

// Nor does anything but the end of the question end a comparison with a long value of a field.
func TestSlowValueIsLeft(t *testing.T) {
	const expr = `(x?x?x?x?){200}x*[yz]`
	m, err := NewMatcher("f", MatchRegex, expr)
	if err != nil {
		t.Fatal(err)
	}
	value := string(bytes.Repeat([]byte("x"), 256<<10))
	fields := []wire.Label{{Name: "f", Value: value}}
	for what, f := range map[string]*Filter{"a field": FieldRegex("f", regexp.MustCompile(expr)), "a matcher": Value(m)} {
		asked := 0
		stop := func() bool { asked++; return true }
		f.Match(&Line{Fields: fields, Stop: stop})
		if asked != 1 {
			t.Errorf("%s of a line: asked %d times whether to go on", what, asked)
		}
		asked = 0
		f.Select(&Lines{N: 1, Fields: [][]wire.Label{fields}, Stop: stop}, Range(1, 0, 1))
		if asked == 0 {
			t.Errorf("%s of a block: nobody is asked whether to go on", what)
		}
	}
	if !m.Matches("xxy") || m.Matches("xxyx") || m.Matches("") {
		t.Error("a matcher does not match whole values")
	}
	if stop := func() bool { return false }; !m.matches(value+"z", stop) || m.matches(value+"z\n", stop) {
		t.Error("a long value is not matched as a short one")
	}
}
