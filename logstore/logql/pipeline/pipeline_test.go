package pipeline

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/logstore/logql/syntax"
)

func compile(t testing.TB, stages string) *Pipeline {
	t.Helper()
	e, err := syntax.ParseLog(`{a="b"} ` + stages)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(e.Stages, Options{Levels: true, Now: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every function that the parser lets pass exists, and the other way round.
func TestTemplateFunctionsAreThoseOfTheParser(t *testing.T) {
	have := (&lineTemplate{p: &Pipeline{}}).funcs()
	builtin := map[string]bool{"and": true, "or": true, "not": true, "eq": true, "ne": true, "lt": true, "le": true, "gt": true, "ge": true, "len": true, "index": true, "slice": true}
	want := map[string]bool{}
	for _, name := range syntax.TemplateFuncs() {
		want[name] = true
		if _, ok := have[name]; !ok && !builtin[name] {
			t.Errorf("%s is known to the parser only", name)
		}
	}
	for name := range have {
		if !want[name] {
			t.Errorf("the parser does not know %s", name)
		}
	}
}

func TestTemplateFunctions(t *testing.T) {
	line := &Line{
		T: 1_700_000_000_123_456_789, Text: []byte("the line"),
		Stream: wire.Labels{{Name: "j", Value: `{"a":[1,{"b":"c"}]}`}, {Name: "n", Value: "7"}, {Name: "s", Value: "Hello wörld"}},
	}
	for tmpl, want := range map[string]string{
		`{{.s}}|{{.none}}|`: "Hello wörld||", `{{.s | lower | replace "hello" "bye"}}`: "bye wörld",
		`{{ToUpper .s}} {{upper .n}}`: "HELLO WÖRLD 7", `{{title "the end"}}`: "The End",
		`{{trunc 3 .s}} {{trunc -4 .s}}`: "Hel örld", `{{substr 0 5 .s}} {{substr 6 -1 .s}} {{substr -1 2 .s}}`: "Hello wörld He",
		`{{alignLeft 7 "ab"}}|{{alignRight 4 "ab"}}|{{alignLeft 1 "ab"}}`:                                                                  "ab     |  ab|a",
		`{{trim "  x "}}{{trimAll "$" "$5$"}}{{trimPrefix "-" "-a"}}{{trimSuffix "-" "a-"}}`:                                               "x5aa",
		`{{Trim " x " " "}}{{TrimLeft "xxa" "x"}}{{TrimRight "axx" "x"}}{{TrimPrefix "ab" "a"}}{{TrimSuffix "ab" "b"}}{{TrimSpace " y "}}`: "xaabay",
		`{{Replace "aaa" "a" "b" 2}}`: "bba", `{{repeat 3 "ab"}}`: "ababab", `{{indent 2 "a\nb"}}{{nindent 1 "c"}}`: "  a\n  b\n c",
		`{{if contains "ell" .s}}y{{end}}{{if hasPrefix "He" .s}}y{{end}}{{if hasSuffix "ld" .s}}y{{end}}`:                                                          "yyy",
		`{{regexReplaceAll "(l+)o" .s "<$1>"}} {{regexReplaceAllLiteral "l+" .s "$1"}}`:                                                                             "He<ll> wörld He$1o wör$1d",
		`{{__line__ | count "e"}} {{default "d" .none}}{{default "d" .n}}`:                                                                                          "2 d7",
		`{{add .n 1 2}} {{sub 5 .n}} {{mul 2 .n}} {{div .n 2}} {{mod .n 4}} {{max 1 .n}} {{min 1 .n}} {{add "x" 1}}`:                                                "10 -2 14 3 3 7 1 1",
		`{{addf 1.5 2}} {{subf 5 1.5}} {{mulf 2 1.5}} {{divf 3 2}} {{maxf 1 2.5}} {{minf 1 2.5}}`:                                                                   "3.5 3.5 3 1.5 2.5 1",
		`{{ceil 1.2}} {{floor 1.8}} {{round 1.2567 2}} {{int "7"}} {{float64 "1.5"}}`:                                                                               "2 1 1.26 7 1.5",
		`{{range $i, $x := (fromJson .j).a}}{{$i}}:{{if not $i}}{{$x}}{{else}}{{$x.b}}{{end}} {{end}}`:                                                              "0:1 1:c ",
		`{{__timestamp__ | date "2006-01-02T15:04:05.000Z07:00"}} {{__timestamp__ | unixEpoch}} {{unixEpochMillis __timestamp__}} {{unixEpochNanos __timestamp__}}`: "2023-11-14T22:13:20.123Z 1700000000 1700000000123 1700000000123456789",
		`{{unixToTime "19675" | date "2006-01-02"}} {{unixToTime "1700000000" | unixEpoch}} {{toDate "2006-01-02" "2023-11-14" | unixEpoch}}`:                       "2023-11-14 1700000000 1699920000",
		`{{duration "1m30s"}} {{duration_seconds "250ms"}} {{bytes "2KB"}}`:                                                                                         "90 0.25 2000",
		`{{b64enc "hi"}} {{b64dec "aGk="}} {{urlencode "a b"}} {{urldecode "a+b"}}`:                                                                                 "aGk= hi a+b a b",
		`{{printf "%-4s|%05.1f" .n 1.25}} {{print 1 2}} {{html "<"}} {{js "'"}} {{urlquery "a b"}}`:                                                                 `7   |001.2 1 2 &lt; \' a+b`,
		`{{len .n}}{{index "abc" 1}}{{slice "abc" 1 2}}{{if and (eq .n "7") (or (ne 1 2) (lt 2 1))}}y{{end}}`:                                                       "198by",
		`{{range $i := 3}}{{$i}}{{end}}`: "012",
	} {
		p := compile(t, "| line_format "+syntax.Quote(tmpl))
		p.Process(line)
		if err, details := p.Labels().Err(); err != "" || p.Text() != want {
			t.Errorf("%s\n gives %q, not %q; %s %s", tmpl, p.Text(), want, err, details)
		}
	}
}

// What a template could do to a node is bounded, and shows as a mistake of the line.
func TestHostileTemplates(t *testing.T) {
	for _, tmpl := range []string{
		`{{range $i := 1000000000}}{{end}}`,
		`{{range $i := 9000}}{{range $j := 9000}}{{range $k := 9000}}x{{end}}{{end}}{{end}}`,
		`{{range $i := 1000000000}}{{if $i}}{{continue}}{{end}}{{end}}`,
		`{{repeat 1000000000 "x"}}`, `{{repeat 200000 "xxxx"}}`, `{{repeat -1 "x"}}`,
		`{{printf "%1000000000d" 1}}`, `{{printf "%*d" 1000000000 1}}`, `{{printf "%.99999f" 1.5}}`,
		`{{$x := repeat 200000 "x"}}{{$x}}{{$x}}`,
		`{{$x := repeat 200000 "x"}}{{print $x $x $x $x $x $x $x}}`,
		`{{$x := repeat 200000 "x"}}{{replace "" $x $x}}`,
		`{{$x := repeat 200000 "x"}}{{regexReplaceAll "" $x "yyyyyy"}}`,
		`{{$x := repeat 9000 "x"}}{{regexReplaceAll "(.)" $x "$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1$1"}}`,
		`{{alignLeft 1000000000 "x"}}`, `{{indent 1000000 "x"}}`, `{{range 9}}{{range 9999}}{{upper "x"}}{{end}}{{end}}`,
		`{{$x := repeat 200000 "x"}}{{range 9000}}{{$y := upper $x}}{{end}}`,
		`{{div 1 0}}`, `{{mod 1 0}}`, `{{.a.b}}`, `{{index "abc" 7}}`, `{{slice "abc" 2 1}}`, `{{fromJson "{"}}`, `{{unixToTime "7"}}`,
		`{{regexReplaceAll "(" "x" "y"}}`, `{{toDateInZone "2006" "../../etc/passwd" "2023"}}`, `{{b64dec "!"}}`,
		`{{html (repeat 200000 "<")}}`, `{{round 1 99}}`,
	} {
		p := compile(t, "| line_format "+syntax.Quote(tmpl))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if !p.Process(&Line{Stream: wire.Labels{{Name: "a", Value: "b"}}, Text: []byte("line")}) {
			t.Errorf("%s: the line is gone", tmpl)
		}
		runtime.ReadMemStats(&after)
		if err, details := p.Labels().Err(); err != errTemplate || details == "" || len(details) > 250 {
			t.Errorf("%s: %q %q, line %.20q", tmpl, err, details, p.Text())
		}
		if p.Text() != "line" {
			t.Errorf("%s: the line is %.40q", tmpl, p.Text())
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 128<<20 {
			t.Errorf("%s: took %d MiB", tmpl, n>>20)
		}
	}
}

func TestHostileDocuments(t *testing.T) {
	many := "{"
	for i := range 5000 {
		many += fmt.Sprintf(`"k%d":%d,`, i, i)
	}
	many += `"z":1}`
	for name, text := range map[string]string{
		"deep":       strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000),
		"deep array": strings.Repeat(`[`, 10000) + strings.Repeat("]", 10000),
		"many names": many,
		"long name":  `{"` + strings.Repeat("a", 100000) + `":1}`,
		"open":       `{"a":"` + strings.Repeat(`\`, 99999),
	} {
		for _, stages := range []string{"| json", `| json x="a"`, "| unpack", "| logfmt", "| logfmt --strict"} {
			p := compile(t, stages)
			p.Process(&Line{Text: []byte(text)})
			if n := len(p.Labels().list); n > MaxLabels {
				t.Errorf("%s %s: %d labels", name, stages, n)
			}
		}
	}
}

func TestJSONIsReadStrictly(t *testing.T) {
	for text, ok := range map[string]bool{
		`{}`: true, ` { } `: true, `{"a":1}`: true, `{"a":-1.5e+3}`: true, `{"a":[{}, [], "x", null, true]}`: true, `{"a":"\ud83d\ude00\u00e4\n"}`: true,
		"{\"a\":\"tab\there\"}": true, `{"a":"\ud83d"}`: true,
		``: false, `[]`: false, `1`: false, `{`: false, `{"a"}`: false, `{"a":}`: false, `{"a":1,}`: false, `{"a":01}`: false, `{"a":1.}`: false,
		`{"a":+1}`: false, `{"a":nul}`: false, `{"a":1} x`: false, `{"a":[1,]}`: false, `{"a":[1 2]}`: false, `{a:1}`: false, `{"a":"\x"}`: false,
		`{"a":1e}`: false, `{"a":"\u12"}`: false, `{"a":tru}`: false, `{"a":-}`: false, `{,}`: false, `{"a":1 "b":2}`: false,
	} {
		p := compile(t, "| json")
		p.Process(&Line{Text: []byte(text)})
		if err, _ := p.Labels().Err(); (err == "") != ok {
			t.Errorf("%s: %q", text, err)
		}
	}
	p := compile(t, "| json")
	p.Process(&Line{Text: []byte(`{"a":"\ud83d\ude00\u00e4\t\/\\\"","b":"x` + "\xff" + `"}`)})
	if p.Labels().Get("a") != "😀ä\t/\\\"" || p.Labels().Get("b") != "x\uFFFD" {
		t.Error(p.Labels().list)
	}
}

// A line that does not parse leaves no labels behind, not even in place of others.
func TestBrokenJSONLeavesNothing(t *testing.T) {
	p := compile(t, `| logfmt | line_format "{\"x\":\"new\",\"y\":1" | json`)
	p.Process(&Line{Text: []byte(`x=old`)})
	if p.Labels().Get("x") != "old" || p.Labels().Get("y") != "" {
		t.Error(p.Labels().list)
	}
}

func TestDetectedLevel(t *testing.T) {
	p := compile(t, "")
	p.Process(&Line{Severity: wire.SeverityWarning})
	if p.Labels().Get(DetectedLevel) != "warn" {
		t.Error(p.Labels().list)
	}
	p.Process(&Line{Severity: wire.SeverityWarning, Fields: []wire.Label{{Name: DetectedLevel, Value: "odd"}}})
	if p.Labels().Get(DetectedLevel) != "odd" {
		t.Error("a field of the name comes first:", p.Labels().list)
	}
	p.Process(&Line{})
	if p.Labels().Get(DetectedLevel) != "" {
		t.Error(p.Labels().list)
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":{"c":[1,"x"]},"_entry":"y"}`))
	f.Add([]byte("level=info msg=\"a \\\"b\\\"\" x=1=2 =3 4\" \x1b[31mred\x1b[0m 10.0.0.1:80 ::1"))
	var pipes []*Pipeline
	for _, s := range []string{
		"| json", `| json x="b.c[0]", y="a"`, "| logfmt", "| logfmt --strict --keep-empty", "| unpack", "| decolorize", `| pattern "<a> <b>:<_>"`,
		`| regexp "(?P<a>.)(?P<b>.*)"`, `|= ip("10.0.0.0/8")`, `|> "<_>a<_>b<_>"`, `| logfmt | json | line_format "{{.a}}{{__line__ | trunc 5 | alignRight 9}}" | a > 1 | keep a`,
	} {
		pipes = append(pipes, compile(f, s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, p := range pipes {
			if p.Process(&Line{Stream: wire.Labels{{Name: "a", Value: "b"}}, Text: text}) {
				for _, l := range p.Labels().Append(nil) {
					if l.Name == "" || strings.ToValidUTF8(l.Value, "") != l.Value {
						t.Fatalf("label %q=%q", l.Name, l.Value)
					}
				}
				_ = p.Text()
			}
		}
	})
}
