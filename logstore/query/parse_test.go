package query

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/block"
)

func TestParseDecidesLines(t *testing.T) {
	line := &Line{
		Kind: wire.StreamLog, Severity: wire.SeverityError,
		Labels: wire.Labels{{Name: "host", Value: "web-1"}, {Name: "unit", Value: "nginx.service"}},
		Fields: []wire.Label{{Name: "code", Value: "503"}, {Name: "host", Value: "hidden"}, {Name: "path", Value: "/a b"}},
		Text:   []byte("Upstream timed-out: user_id=42 GET https://x.test/a/b 磁盘空间不足 id 9f86d081-deadbeef C:\\tmp"),
	}
	for text, want := range map[string]bool{
		"": true, "*": true, "upstream": true, "up": false, "up*": true, `"timed out"`: true, "timed-out": true, "out timed": true,
		`"out timed"`: false, "user_id=42": true, "user_id=4": false, "user_id=4*": true, "https://x.test/a": true, "/a/b": true,
		"磁盘": true, "空间不足": true, "盘间": false, "磁*": true, "deadbeef": true, "dead": false, "9f86d081-dead*": true,
		"host:web-1": true, "HOST:web-1": false, "host:WEB-1": true, "host:hidden": false, "host:web*": true, "unit:nginx": false,
		"code:503": true, "code>500": true, "code>=503": true, "code<503": false, "code<=503.0": true, "code>abc": false,
		`path:"/a b"`: true, "path:/a/": true, "path:*": true, "nothing:*": false, `nothing:""`: true, `path:""`: false,
		"severity:error": true, "level:err": true, "severity>=warning": true, "severity>error": false, "severity<critical": true,
		"kind:log": true, "kind:event": false, "-upstream": false, "NOT foo": true, "-(foo OR bar)": true, "- foo": false,
		"foo OR upstream": true, "foo OR bar upstream": false, "(foo OR upstream) get": true, "get AND upstream": true, "--upstream": true,
		`/user_id=\d+/`: true, `/https?:\/\/x/`: true, "/GET$/": false, "/(?i)get/": true, `"=42"`: true, `"://"`: true, `"##"`: false,
		"get\u3000upstream": true, `"C:\\tmp"`: true, "time:": false, "id": true,
	} {
		f, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := f.Match(line); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
		reducer := f.Reducer()
		r := reducer.Stream(line.Kind, line.Labels.Get)
		if r.Match(line) != want || reducer.Block(r, headerOf(line.Severity, true)).Match(line) != want {
			t.Errorf("%q: reduced it decides otherwise", text)
		}
	}
}

func TestParseErrorsNameThePlace(t *testing.T) {
	for text, pos := range map[string]int{
		"a )": 2, "(a": 0, "a OR": 4, "OR": 0, "AND a": 0, `x "abc`: 2, "a /(/": 3, "severity:loud": 9, "kind:x": 5, "()": 1,
		"NOT": 3, "severity:/e/": 9, strings.Repeat("(", 100) + "a": 65, strings.Repeat("-", 200) + "a": 65,
		strings.Repeat("x", MaxText+1): MaxText, "/" + strings.Repeat("a", 300) + "/": 0, strings.Repeat("a ", 600): 1024,
	} {
		_, err := Parse(text)
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%.40q: %v", text, err)
		} else if se.Pos < pos-2 || se.Pos > pos+4 {
			t.Errorf("%.40q: position %d, want about %d: %v", text, se.Pos, pos, err)
		}
	}
}

// A query that is small and whose expressions are large takes little time and memory to read, wherever they stand in it.
func TestExpressionsOfAQueryAreBounded(t *testing.T) {
	large := strings.Repeat("x{1000}", 4)
	for _, q := range []string{
		"/" + strings.Repeat(`\pL{1000}`, 25) + "/", strings.Repeat("/"+large+"/ OR ", 6) + "x", strings.Repeat("a:/"+large+"/ ", 6), "-(" + strings.Repeat("/"+large+"/ -a:/"+large+"/ ", 3) + ")",
	} {
		_, err := Parse(q)
		if bad, ok := errors.AsType[*SyntaxError](err); !ok || q[bad.Pos] != '/' || !strings.Contains(bad.Msg, "steps long") {
			t.Errorf("%.60q: %v", q, err)
		}
	}
	for _, q := range []string{"/" + large + "/", strings.Repeat(`/user_id=\d{1,40} (GET|POST) \/[a-z]+/ OR `, 100) + "x"} {
		if _, err := Parse(q); err != nil {
			t.Errorf("%.60q: %v", q, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a b", `(a OR "b c"*) -host:x code>5 /r\/e/`, "磁盘 severity>=warning", "((((", `"`, "/a{1000}{1000}/"} {
		f.Add(s, "some text 磁盘 x")
	}
	f.Fuzz(func(t *testing.T, text, line string) {
		p, err := Parse(text)
		if err != nil {
			var se *SyntaxError
			if !errors.As(err, &se) || se.Pos < 0 || se.Pos > len(text) {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		l := &Line{Text: []byte(line)}
		got := p.Match(l)
		r := p.Reducer().Stream(wire.StreamLog, wire.Labels(nil).Get)
		b := &Lines{N: 1, Severities: []byte{0}, Text: l.Text, Ends: []uint32{uint32(len(line))}}
		if k := Line(*l); p.Match(&Line{Kind: wire.StreamLog, Text: k.Text}) != r.Select(b, Range(1, 0, 1)).Has(0) {
			t.Fatalf("%q on %q: Select and Match differ (%v)", text, line, got)
		}
	})
}

// Many streams that differ in labels which the filter does not tell apart share a few filters.
func TestReducerSharesFilters(t *testing.T) {
	f, err := Parse("host:web-1* (unit:sshd OR kind:event OR code:503) -file:/tmp/ error")
	if err != nil {
		t.Fatal(err)
	}
	r := f.Reducer()
	filters := map[*Filter]bool{}
	for i := range 5000 {
		labels := wire.LabelsFromMap(map[string]string{
			"host": fmt.Sprint("web-", i%20), "unit": []string{"sshd", "cron", ""}[i%3], "file": fmt.Sprint("/var/", i),
		})
		one := r.Stream(wire.StreamLog, labels.Get)
		filters[one] = true
		filters[r.Block(one, headerOf(wire.SeverityInfo, i%2 == 0))] = true
		for _, text := range []string{"error", "fine"} {
			line := &Line{Kind: wire.StreamLog, Labels: labels, Severity: wire.SeverityInfo, Text: []byte(text)}
			if i%2 == 0 {
				line.Fields = []wire.Label{{Name: "code", Value: "503"}}
			}
			if want := f.Match(line); one.Match(line) != want || r.Block(one, headerOf(wire.SeverityInfo, i%2 == 0)).Match(line) != want {
				t.Fatalf("stream %v, %q: not %t", labels, text, want)
			}
		}
	}
	if len(filters) > 20 {
		t.Errorf("%d filters", len(filters))
	}
}

func headerOf(s wire.Severity, fields bool) *block.Header {
	h := &block.Header{HasFields: fields}
	h.Severities[s] = 1
	return h
}
