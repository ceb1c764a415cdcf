package pipeline

import (
	"bytes"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

// A stage that is at a long line stops when nobody waits for the answer.
func TestSlowStagesStop(t *testing.T) {
	long := bytes.Repeat([]byte("x"), 256<<10)
	for _, text := range []string{
		"{a=\"b\"} |~ `(x?x?x?x?){200}y`", "{a=\"b\"} !~ `(x?x?x?x?){200}y`", "{a=\"b\"} | regexp `(?P<n>(x?x?x?x?){200}y)`",
		"{a=\"b\"} | f=~`(x?x?x?x?){200}x*y`", "{a=\"b\"} | f!~`(x?x?x?x?){200}x*y`", "{a=\"b\"} | drop f=~`(x?x?x?x?){200}x*y`", "{a=\"b\"} | keep f=~`(x?x?x?x?){200}x*y`",
		`{a="b"} | line_format "{{ regexReplaceAll \"x.*y|x\" __line__ \"z\" }}"`, `{a="b"} | line_format "{{ __line__ | count \"x.*y|x\" }}"`,
		"{a=\"b\"} | regexp `(?P<n>.*)` | n =~ `.*(x?x?x?x?){200}y`", "{a=\"b\"} | regexp `(?P<n>.*)` | n !~ `.*(x?x?x?x?){200}y`",
	} {
		x, err := syntax.ParseLog(text)
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		p, err := New(x.Stages, Options{Stop: func() bool { asked++; return true }})
		if err != nil {
			t.Fatal(err)
		}
		p.Process(&Line{Text: long, Fields: []wire.Label{{Name: "f", Value: string(long)}}})
		if asked == 0 || asked > 2 {
			t.Errorf("%s: asked %d times whether to go on", text, asked)
		}
	}
}
