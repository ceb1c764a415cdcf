package query

import (
	"bytes"
	"regexp"
	"testing"

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
