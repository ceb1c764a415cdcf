package query

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
)

func matcher(t testing.TB, name string, op MatchOp, value string) *Matcher {
	t.Helper()
	m, err := NewMatcher(name, op, value)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMatchersMeanWhatTheyMeanInPrometheus(t *testing.T) {
	for _, c := range []struct {
		op          MatchOp
		want, value string
		is          bool
	}{
		{MatchEqual, "Web", "Web", true},
		{MatchEqual, "Web", "web", false},
		{MatchEqual, "", "", true},
		{MatchNotEqual, "Web", "", true},
		{MatchNotEqual, "", "", false},
		{MatchRegex, "web-.", "web-1", true},
		{MatchRegex, "web", "web-1", false}, // the whole value
		{MatchRegex, "web.*", "web\n1", true},
		{MatchRegex, ".+", "", false},
		{MatchRegex, ".*", "", true},
		{MatchRegex, "a|b|", "", true},
		{MatchRegex, "(?i)WEB", "web", true},
		{MatchNotRegex, "web|db", "db", false},
		{MatchNotRegex, "web|db", "dbx", true},
		{MatchNotRegex, ".+", "", true},
	} {
		m := matcher(t, "n", c.op, c.want)
		if m.Matches(c.value) != c.is {
			t.Errorf("%s with %q: %v", m, c.value, !c.is)
		}
	}
	if s := matcher(t, "a", MatchNotRegex, "x\"y").String(); s != `a!~"x\"y"` {
		t.Error(s)
	}
}

func TestLargeExpressionsAreRefused(t *testing.T) {
	for _, expr := range []string{
		"(", "a{1001}", "(?<n", "[z-a]", strings.Repeat("x", MaxLongRegex+1), "((a{100}){100}){100}", "(x{1000}){30}", "(abcdefghij){501}|(abcdefghij){501}",
	} {
		if _, err := NewMatcher("n", MatchRegex, expr); err == nil {
			t.Errorf("matcher %.40q is taken", expr)
		} else if len(err.Error()) > 400 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
		if _, err := LongRegex(expr); err == nil {
			t.Errorf("filter %.40q is taken", expr)
		}
	}
	long := "pod-" + strings.Repeat("0123456789|pod-", 200) + "x"
	if _, err := LongRegex(long); err != nil {
		t.Errorf("a list of %d bytes: %v", len(long), err)
	}
	if _, err := NewMatcher("pod", MatchRegex, long); err != nil {
		t.Errorf("a list of %d bytes: %v", len(long), err)
	}
	if f, err := LongRegex(""); err != nil || !f.IsAll() {
		t.Errorf("an empty expression: %v", err)
	}
}

// A filter decides the same whether it sees one line, is reduced to its stream, or to a block.
func TestLeavesAreTheSameReduced(t *testing.T) {
	streams := []wire.Labels{nil, {{Name: "app", Value: "web"}}, {{Name: "app", Value: "Web"}, {Name: "user", Value: "kim"}}}
	fields := [][]wire.Label{nil, {{Name: "user", Value: "bo"}}, {{Name: "app", Value: "web"}}, {{Name: "user", Value: ""}}}
	var leaves []*Filter
	for _, name := range []string{"app", "user", "none"} {
		for _, value := range []string{"", "web", "kim", "bo", "w.*|k.*", ".+", "b?o?"} {
			for op := MatchEqual; op <= MatchNotRegex; op++ {
				m := matcher(t, name, op, value)
				leaves = append(leaves, Label(m), Value(m))
			}
		}
	}
	for _, a := range leaves {
		for _, f := range []*Filter{a, Not(a), Or(a, leaves[7]), And(Not(a), leaves[11])} {
			for _, ls := range streams {
				r := f.Reducer()
				st := r.Stream(wire.StreamLog, ls.Get)
				for _, some := range [][][]wire.Label{{nil, nil}, fields} {
					has := len(some) > 2
					b := Lines{N: len(some), Severities: make([]byte, len(some)), Ends: make([]uint32, len(some))}
					if has {
						b.Fields = some
					}
					got := r.Block(st, headerOf(wire.SeverityUnknown, has)).Select(&b, Range(b.N, 0, b.N))
					if r.Block(st, headerOf(wire.SeverityUnknown, has)).IsNone() {
						got = make(Bits, 1)
					}
					for i, fs := range some {
						want := f.Match(&Line{Kind: wire.StreamLog, Labels: ls, Fields: fs})
						if got.Has(i) != want {
							t.Fatalf("%v %v labels %v fields %v: %v, want %v", f.op, a.matcher, ls, fs, got.Has(i), want)
						}
					}
				}
			}
		}
	}
}

func TestSelectGivesUp(t *testing.T) {
	gone := false
	stop := func() bool { return gone }
	b := Lines{N: 1000}
	for range b.N {
		b.Text = append(b.Text, "some text "...)
		b.Ends = append(b.Ends, uint32(len(b.Text)))
	}
	for name, f := range map[string]*Filter{
		"regex": Regex(regexp.MustCompile("[st]")), "literal": Regex(regexp.MustCompile("some .e")), "phrase": Phrase("some text", false), "or": Or(Literal("nothing"), Regex(regexp.MustCompile("[st]"))),
	} {
		b.Stop = nil
		all := slices.Clone(f.Select(&b, Range(b.N, 0, b.N)))
		b.Stop = stop
		if n := f.Select(&b, Range(b.N, 0, b.N)).Count(); n != b.N || all.Count() != b.N {
			t.Errorf("%s: %d of %d", name, n, b.N)
		}
	}
	gone = true
	for name, f := range map[string]*Filter{"regex": Regex(regexp.MustCompile("[st]")), "literal": Regex(regexp.MustCompile("some .e")), "phrase": Phrase("some text", false)} {
		if n := f.Select(&b, Range(b.N, 0, b.N)).Count(); n > 16 {
			t.Errorf("%s: %d lines were looked at after the end", name, n)
		}
	}
}
