package regex

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
)

// Read character by character an expression finds what it finds in the whole text, whatever its bytes are.
func TestSlowlyReadIsTheSame(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	alphabet := []string{"a", "b", "1", " ", "\n", "é", "中", "\xc3", "\xa9", "\xff", "\ufffd", "K", "\u212a"}
	exprs := []string{
		`a+b`, `^a`, `b$`, `(?m)^b$`, `\bab\b`, `\B1`, `(?i)k`, `é|中`, `[^a]1`, `(a|b)*1(.)`, `.\z`, `\x{fffd}`, `(?s)a.b`, `()`, `(?P<x>a*)(?P<y>1?)$`,
	}
	for range 5_000 {
		var text []byte
		for range rng.IntN(12) {
			text = append(text, alphabet[rng.IntN(len(alphabet))]...)
		}
		r := New(regexp.MustCompile(exprs[rng.IntN(len(exprs))]))
		r.steps = mostAll * 2 // whatever it is of
		goOn := func() bool { return false }
		if got, want := r.Match(text, goOn), r.re.Match(text); got != want {
			t.Fatalf("%s in %q: %v, want %v", r.re, text, got, want)
		}
		if got, want := r.FindStringSubmatchIndex(string(text), goOn), r.re.FindStringSubmatchIndex(string(text)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s in %q: %v, want %v", r.re, text, got, want)
		}
		all, err := r.FindAllStringSubmatchIndex(string(text), 5, goOn)
		want := r.re.FindAllStringSubmatchIndex(string(text), 5)
		if len(text) > 0 && !r.free {
			want = nil
			if !errors.Is(err, ErrSlow) {
				t.Fatalf("%s in %q: %v", r.re, text, err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(all) != fmt.Sprint(want) {
			t.Fatalf("all of %s in %q: %v, want %v", r.re, text, all, want)
		}
	}
}

// The longest line under an expression of many steps ends as soon as nobody waits for it, and is not asked about again.
func TestSlowExpressionStops(t *testing.T) {
	text := bytes.Repeat([]byte("x"), 256<<10)
	r := New(regexp.MustCompile(`(x?x?x?x?){200}y`))
	for name, find := range map[string]func(stop func() bool){
		"match": func(stop func() bool) { r.Match(text, stop) },
		"find":  func(stop func() bool) { r.FindStringSubmatchIndex(string(text), stop) },
		"all": func(stop func() bool) {
			if _, err := New(regexp.MustCompile(`x.*y|x`)).FindAllStringSubmatchIndex(string(text), 10_000, stop); err != nil {
				t.Error(err)
			}
		},
	} {
		asked := 0
		find(func() bool {
			asked++
			return asked == 2
		})
		if asked != 2 {
			t.Errorf("%s: asked %d times whether to go on", name, asked)
		}
	}
	few := 0
	New(regexp.MustCompile(`y`)).Match(text, func() bool { few++; return true })
	if few > 0 {
		t.Error("what is quick is asked whether to go on")
	}
}

// What an expression compiles to is known, about, before it is compiled, and nothing overflows.
func TestSizeIsAboutThatOfTheProgram(t *testing.T) {
	for _, expr := range []string{
		"", "x", "word", "(?i)word", "a|b|word", "(a|b)+", "x{1000}", "(abc|d){2,300}", `\pL{500}\d*`, `^a\b.*$`, "(x?x?x?x?){200}y", "((a{10}){10}){10}", "a{3,}",
	} {
		tree, err := syntax.Parse(expr, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		size := Size(tree)
		prog, err := syntax.Compile(tree.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		if n := len(prog.Inst); size*2+8 < n || size > n+n/2 {
			t.Errorf("%s: %d, its program has %d instructions", expr, size, n)
		}
	}
	tree, err := syntax.Parse(strings.Repeat("(?:word|x){1000}", 200), syntax.Perl)
	if err != nil {
		t.Fatal(err)
	}
	if n := Size(tree); n < mostSize {
		t.Errorf("of a very large one: %d", n)
	}
}
