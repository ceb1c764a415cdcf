package syntax

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// canonical are queries and how they are printed; "" when as they are.
var canonical = [][2]string{
	{`{app="web"}`, ``},
	{` { app = "web" , host =~ "a|b" , } `, `{app="web", host=~"a|b"}`},
	{"{a=`x\\d`} # a comment\n|= \"b\"", "{a=`x\\d`} |= \"b\""},
	{`{a="b"} |= "x" or "y" != "z"`, ``},
	{`{a="b"} |= ip("10.0.0.0/8")`, ``},
	{`{a="b"} |> "<_> x <_>" !> "y<_>"`, ``},
	{`{a="b"} |~ "x+" !~ "y"`, ``},
	{`{a="b"}|json|logfmt|unpack|decolorize`, `{a="b"} | json | logfmt | unpack | decolorize`},
	{`{a="b"} | json x, y="a.b[0]", z="c[\"d e\"]"`, "{a=\"b\"} | json x, y=\"a.b[0]\", z=`c[\"d e\"]`"},
	{`{a="b"} | json x="x"`, `{a="b"} | json x`},
	{`{a="b"} | logfmt --strict --keep-empty x, y="z"`, ``},
	{`{a="b"} | regexp "(?P<x>.)" | pattern "<y> <_>"`, ``},
	{`{a="b"} | x="1" | y!="2" | z=~"3" | w!~"4"`, ``},
	{`{a="b"} | x == 1 | y = 2 | z>=1.5 | w<-3`, `{a="b"} | x == 1 | y == 2 | z >= 1.5 | w < -3`},
	{`{a="b"} | d > 1h30m and s <= 1.5GiB or n != 4`, ``},
	{`{a="b"} | x="1" or (y="2" and z="3")`, ``},
	{`{a="b"} | (x="1" or y="2") and z="3"`, `{a="b"} | x="1" or y="2" and z="3"`},
	{`{a="b"} | x="1", y="2" z="3"`, `{a="b"} | x="1" and y="2" and z="3"`},
	{`{a="b"} | json="1"`, ``},    // a label of the name of a stage
	{`{a="b"} | json != "x"`, ``}, // a line filter
	{`{a="b"} | (json != "x" or y="z")`, `{a="b"} | (json!="x" or y="z")`},
	{`{a="b"} | json x != "y"`, ``},
	{`{a="b"} | x=ip("::1") | y != ip("10.0.0.1-10.0.0.9")`, `{a="b"} | x = ip("::1") | y != ip("10.0.0.1-10.0.0.9")`},
	{"{a=\"b\"} | line_format `{{.x}} \"{{.y}}\"`", ``},
	{`{a="b"} | label_format x=y, z="{{.w}}"`, ``},
	{`{a="b"} | drop x, y="1" | keep z, w=~"2"`, ``},
	{`rate({a="b"}[5m])`, `rate({a="b"} [5m])`},
	{`rate(({a="b"} |= "x")[90s])`, `rate({a="b"} |= "x" [1m30s])`},
	{`rate({a="b"}[1d] |= "x")`, `rate({a="b"} |= "x" [24h])`},
	{`count_over_time({a="b"}[5m] offset 1h)`, `count_over_time({a="b"} [5m] offset 1h)`},
	{`count_over_time({a="b"}[5m] offset -1h30m)`, `count_over_time({a="b"} [5m] offset -1h30m)`},
	{`quantile_over_time(0.99, {a="b"} | json | unwrap duration(x) | __error__="" [1ms]) by (h)`, ``},
	{`sum_over_time({a="b"} | json | unwrap x [5m] offset 5m)`, ``},
	{`max_over_time by (h) ({a="b"} | unwrap bytes(x) [1s])`, `max_over_time({a="b"} | unwrap bytes(x) [1s]) by (h)`},
	{`sum_over_time({a="b"} | unwrap duration_seconds(x) [1s])`, `sum_over_time({a="b"} | unwrap duration(x) [1s])`},
	{`sum(rate({a="b"}[5m])) by (x,y)`, `sum by (x, y) (rate({a="b"} [5m]))`},
	{`sum by (x,) (rate({a="b"}[5m])) + on (y,) vector(1)`, `sum by (x) (rate({a="b"} [5m])) + on (y) vector(1)`},
	{`sum without () (rate({a="b"}[5m]))`, `sum without () (rate({a="b"} [5m]))`},
	{`topk(3, rate({a="b"}[5m])) without (x)`, `topk without (x) (3, rate({a="b"} [5m]))`},
	{`sort_desc(rate({a="b"}[5m]))`, `sort_desc(rate({a="b"} [5m]))`},
	{`approx_topk(2, rate({a="b"}[5m]))`, `approx_topk(2, rate({a="b"} [5m]))`},
	{`1 + 2 * 3 ^ 4 ^ 5 - 6`, ``},
	{`(1 + 2) * 3 ^ (4 - 5) - (6 - 7)`, ``},
	{`(2 ^ 3) ^ 4`, ``},
	{`vector(1) > bool 0`, ``},
	{`-1 + +2`, `-1 + 2`},
	{`(-1) ^ 2`, ``},
	{`0x1f + 1e3 + .5`, `31 + 1000 + 0.5`},
	{`vector(1)+vector(1)`, `vector(1) + vector(1)`},
	{`rate({a="b"}[1s]) / on (x) group_left (y) rate({a="c"}[1s])`, `rate({a="b"} [1s]) / on (x) group_left (y) rate({a="c"} [1s])`},
	{`rate({a="b"}[1s]) / ignoring(x) group_right (vector(1))`, `rate({a="b"} [1s]) / ignoring (x) group_right () vector(1)`},
	{`rate({a="b"}[1s]) and rate({a="c"}[1s]) or vector(1) unless vector(2)`, `rate({a="b"} [1s]) and rate({a="c"} [1s]) or vector(1) unless vector(2)`},
	{`label_replace(rate({a="b"}[1s]), "x", "$1", "y", "(.*)")`, `label_replace(rate({a="b"} [1s]), "x", "$1", "y", "(.*)")`},
	{`SUM BY (x) (RATE({a="b"}[1m]))`, `sum by (x) (rate({a="b"} [1m]))`},
	{`({a="b"} |= "x")`, `{a="b"} |= "x"`},
	{`vector(-1) + vector(Inf)`, ``},
	{`{a="b"} | x > .5KB`, ``},
	{`{a="b"} | x > + 5s`, `{a="b"} | x > 5s`},
	{`{a="b"} | x > 20kb`, ``},
	{`{a="b"} | x == "y" and z == ip("10.0.0.1")`, `{a="b"} | x="y" and z = ip("10.0.0.1")`},
	{`{a="b"} |= ip("10.0.0.1") or "x" or ip("10.0.0.2") or "y"`, ``},
	{`rate({a="b"} offset - 5m [1m])`, `rate({a="b"} [1m] offset -5m)`},
}

func TestCanonicalForm(t *testing.T) {
	for _, c := range canonical {
		want := c[1]
		if want == "" {
			want = c[0]
		}
		e, err := Parse(c[0])
		if err != nil {
			t.Errorf("%s: %v", c[0], err)
			continue
		}
		if got := e.String(); got != want {
			t.Errorf("%s\n is printed %s\n not        %s", c[0], got, want)
		}
		again, err := Parse(e.String())
		if err != nil || again.String() != e.String() {
			t.Errorf("%s: printed form reads as %v, %v", c[0], again, err)
		}
	}
}

// mistakes are queries, where they are wrong, and a piece of what is said.
var mistakes = []struct {
	text string
	pos  int
	says string
}{
	{``, 0, "empty"},
	{`  # nothing`, 11, "empty"},
	{`{}`, 0, "at least one label"},
	{`{a=~".*"}`, 0, "at least one label"},
	{`{a!="b"}`, 0, "at least one label"},
	{`{a="b"`, 6, "expected between the parts"},
	{`{a="b}`, 3, "does not end"},
	{`{a='b'}`, 3, "double quotes"},
	{`{a="b"} foo`, 8, "unexpected"},
	{`{a="b"} | foo`, 10, "no stage"},
	{`{a="b"} | json x=`, 15, `unexpected "x"`},
	{`{a="b"} |~ "("`, 11, "regular expression"},
	{`{a=~"("}`, 4, "regular expression"},
	{`{a="b"} | regexp "(.)"`, 17, "named group"},
	{`{a="b"} | regexp "(?P<x>.)(?P<x>.)"`, 17, "twice"},
	{`{a="b"} | pattern "abc"`, 18, "named capture"},
	{`{a="b"} | pattern "<a><b>"`, 18, "between"},
	{`{a="b"} | pattern "<a> <a>"`, 18, "twice"},
	{`{a="b"} |> "<a> x"`, 11, "only <_>"},
	{`{a="b"} |= ip("1.2.3")`, 14, "address"},
	{`{a="b"} |~ ip("1.2.3.4")`, 11, "|= and !="},
	{`{a="b"} | x > foo`, 14, "number"},
	{`{a="b"} | x > 5parsecs`, 14, "duration"},
	{`{a="b"} | x > 250msor y="z"`, 14, "duration"},
	{`{a="b"} | x =~ 5`, 15, "string"},
	{`{a="b"} | (x="1"`, 16, "close the parenthesis"},
	{`{a="b"} | logfmt --fast`, 17, "--strict"},
	{`{a="b"} | line_format "{{.x"`, 22, "template"},
	{`{a="b"} | line_format "{{nope .x}}"`, 22, "template"},
	{`{a="b"} | line_format "{{call .x}}"`, 22, "template"},
	{`{a="b"} | line_format "{{define \"x\"}}{{template \"x\"}}{{end}}"`, 22, "template"},
	{`{a="b"} | line_format "{{template \"line\"}}"`, 22, "template"},
	{`{a="b"} | label_format x=y, x="z"`, 28, "only once"},
	{`{a="b"} | label_format __error__="x"`, 23, "not for setting"},
	{`{a="b"} | unwrap x`, 8, "makes numbers"},
	{`{a="b"} | json a="b[c"`, 17, "path"},
	{`{a="b"} | json a="b", a="c"`, 22, "twice"},
	{`rate({a="b"})`, 12, "needs a range"},
	{`rate({a="b"}[5x])`, 13, "duration"},
	{`rate({a="b"}[0s])`, 12, "longer than 0"},
	{`rate({a="b"}[5m][5m])`, 16, "second range"},
	{`rate({a="b"}[5m]) by (x)`, 0, "takes no by"},
	{`sum_over_time({a="b"}[5m])`, 0, "unwrap"},
	{`count_over_time({a="b"} | unwrap x [5m])`, 0, "takes no unwrap"},
	{`sum_over_time({a="b"} | unwrap x | json [5m])`, 33, "only label filters"},
	{`sum_over_time({a="b"} | unwrap x | unwrap y [5m])`, 33, "second unwrap"},
	{`sum_over_time({a="b"} | unwrap size(x) [5m])`, 31, "duration(label)"},
	{`quantile_over_time({a="b"} | unwrap x [5m])`, 19, "number"},
	{`sum({a="b"})`, 4, "takes numbers"},
	{`sum by (a) (vector(1)) by (b)`, 23, "grouped twice"},
	{`sort by (a) (vector(1))`, 0, "no by"},
	{`topk(0, vector(1))`, 5, "whole number"},
	{`topk(1.5, vector(1))`, 5, "whole number"},
	{`topk(vector(1))`, 5, "number is expected"},
	{`{a="b"} + 1`, 0, "between numbers"},
	{`1 + {a="b"}`, 4, "between numbers"},
	{`1 and vector(1)`, 2, "series on both sides"},
	{`1 + on (a) vector(1)`, 2, "series on both sides"},
	{`vector(1) + bool vector(1)`, 10, "comparisons"},
	{`vector(1) and on (a) group_left () vector(1)`, 21, "takes no"},
	{`vector(1) + on (a) group_left (a) vector(1)`, 0, ""},
	{`label_replace(vector(1), "0x", "", "", "")`, 25, "label name"},
	{`label_replace(vector(1), "x", "", "y", "(")`, 39, "regular expression"},
	{`foo(1)`, 0, "no function"},
	{`approx_count_distinct(user, {a="b"}[5m])`, 0, "no function"},
	{`(1`, 2, "close"},
	{`1)`, 1, "unexpected"},
	{"{a=\"b\"}\n| x", 10, "no stage"},
	{`{a="b"} ; x`, 8, "unexpected character"},
	{`{a="\q"}`, 3, "escape"},
}

func TestMistakesHaveAPlace(t *testing.T) {
	for _, c := range mistakes {
		_, err := Parse(c.text)
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%s: error %v", c.text, err)
			continue
		}
		if c.says == "" {
			continue
		}
		if e.Pos != c.pos || !strings.Contains(e.Msg, c.says) {
			t.Errorf("%s: at %d %q, expected at %d: %q", c.text, e.Pos, e.Msg, c.pos, c.says)
		}
	}
	_, err := Parse("{a=\"b\"}\n  | x")
	if err == nil || !strings.Contains(err.Error(), "line 2, col 5") {
		t.Error("place in lines:", err)
	}
}

// hostile texts must be refused, or read, at a cost that their length bounds.
func TestHostileTexts(t *testing.T) {
	began := time.Now()
	for name, text := range map[string]string{
		"parentheses":        strings.Repeat("(", 60000),
		"closed parentheses": strings.Repeat("(", 30000) + "1" + strings.Repeat(")", 30000),
		"long":               `{a="` + strings.Repeat("b", MaxText) + `"}`,
		"functions":          strings.Repeat("sum(", 10000),
		"operators":          strings.Repeat("1+", 4000) + "1",
		"powers":             strings.Repeat("1^", 4000) + "1",
		"predicates":         `{a="b"} | ` + strings.Repeat("(", 30000),
		"many predicates":    `{a="b"} | ` + strings.Repeat(`x="1" or `, 7000) + `x="1"`,
		"stages":             `{a="b"} ` + strings.Repeat("| json ", 9000),
		"repetition":         `{a="b"} |~ "((((a{100}){100}){100}){100})"`,
		"unfolding":          `{a="b"} |~ "` + strings.Repeat("(a{500}){2}", 100) + `"`,
		"ranges":             `rate(` + strings.Repeat("(", 30000) + `{a="b"}`,
		"named labels":       `{a="b"} | json ` + labelNames(maxExtracts+1),
		"labels of stages":   `{a="b"} | json ` + labelNames(maxExtracts) + ` | logfmt x`,
		"template":           `{a="b"} | line_format "` + strings.Repeat("{{if .x}}", 1500) + `"`,
		"template in depth":  `{a="b"} | line_format "{{` + strings.Repeat("(", 5000) + `}}"`,
	} {
		if _, err := Parse(text); err == nil {
			t.Errorf("%s was read", name)
		}
	}
	t.Logf("%v", time.Since(began))
	if _, err := Parse(`{a="b"} | json ` + labelNames(maxExtracts)); err != nil {
		t.Error(err)
	}
	// As long as a list of alternatives that a dashboard sends.
	if _, err := Parse(`{a=~"` + strings.Repeat("host-1234|", 400) + `x"}`); err != nil {
		t.Error(err)
	}
}

func labelNames(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("l", i)
	}
	return strings.Join(names, ", ")
}

func TestValues(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1s": time.Second, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute, "250ms": 250 * time.Millisecond, "1d": 24 * time.Hour,
		"1w2d": 9 * 24 * time.Hour, "-5m": -5 * time.Minute, "0": 0, "3µs": 3 * time.Microsecond, "1h15m30.918273645s": time.Hour + 15*time.Minute + 30*time.Second + 918273645,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "s", "1x", "1h-1m", "9999999y", "1.2.3s", "-"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
	for text, want := range map[string]float64{"5": 5, "20KB": 20000, "1.5GiB": 1.5 * (1 << 30), "2 MB": 2e6, "10kib": 10240} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for name, want := range map[string]string{"a.b": "a_b", "0x": "_0x", "ok_1": "ok_1", "User-Agent": "User_Agent", "名": "_", "": ""} {
		if got := Sanitize(name); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

func TestPath(t *testing.T) {
	got, err := ParsePath(`a.b-c["d e"][12].f`)
	want := []PathStep{{Name: "a"}, {Name: "b-c"}, {Name: "d e"}, {Array: true, Index: 12}, {Name: "f"}}
	if err != nil || !slices.Equal(got, want) {
		t.Error(got, err)
	}
	for _, bad := range []string{"", ".a", "a.", "a[", "a[x]", `a["b]`, "a b", "a[1", "a..b"} {
		if got, err := ParsePath(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// FuzzParse looks for texts that break the parser, take long, or print as something else.
func FuzzParse(f *testing.F) {
	for _, c := range canonical {
		f.Add(c[0])
	}
	for _, c := range mistakes {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		began := time.Now()
		e, err := Parse(text)
		if d := time.Since(began); d > 5*time.Second {
			t.Fatalf("%d bytes took %v", len(text), d)
		}
		var se *Error
		if err != nil {
			if !errors.As(err, &se) || se.Pos < 0 || se.Pos > len(text) {
				t.Fatalf("error %v", err)
			}
			return
		}
		again, err := Parse(e.String())
		if err != nil || again.String() != e.String() {
			t.Fatalf("%q is printed %q, which reads as %v, %v", text, e.String(), again, err)
		}
	})
}

// A query that is small and whose expressions are large takes little time and memory to read, wherever they stand in it.
func TestExpressionsOfAQueryAreBounded(t *testing.T) {
	large := strings.Repeat("x{1000}", 4)
	for _, q := range []string{
		`{a="b"} |~ "` + strings.Repeat("x{1000}", 500) + `"`, `{a="b"}` + strings.Repeat(` |~ "`+large+`"`, 13), `{a="b"} |~ "x"` + strings.Repeat(` or "`+large+`"`, 13),
		"{a" + strings.Repeat(`=~"`+large+`",a`, 13) + `="b"}`, `{a="b"}` + strings.Repeat(` | a=~"`+large+`"`, 13), `{a="b"}` + strings.Repeat(` | regexp "(?P<a>`+large+`)"`, 13),
		"count_over_time(" + `{a="b"}` + strings.Repeat(` |~ "`+large+`"`, 7) + "[1m]) + count_over_time(" + `{a="b"}` + strings.Repeat(` |~ "`+large+`"`, 7) + "[1m])",
	} {
		_, err := Parse(q)
		if bad, ok := errors.AsType[*Error](err); !ok || !strings.Contains(bad.Msg, "unfold") {
			t.Errorf("%.60q: %v", q, err)
		}
	}
	var together Reader
	for i := range 14 {
		if _, err := together.Parse(`{a=~"` + large + `"}`); (err != nil) != (i >= 12) {
			t.Errorf("query %d of a question: %v", i, err)
		}
	}
	list := "pod-" + strings.Repeat("0123456789|pod-", 250) + "x"
	if _, err := Parse(`{a="b"}` + strings.Repeat(` | a=~"`+list+`"`, 10)); err != nil {
		t.Error(err)
	}
}
