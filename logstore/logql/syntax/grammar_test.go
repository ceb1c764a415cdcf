package syntax

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"
)

// A shape is what a query says, in a form that does not depend on who read it: lists whose first item names what they are.
// packaging/logqlgrammar/parse.mjs makes the same of the trees of Grafana's own grammar.
type shape = []any

func shapeOf(e Expr) shape {
	switch e := e.(type) {
	case *Log:
		return logShape(e)
	case *Range:
		var param, unwrap any
		if e.Op == OpQuantile {
			param = e.Param
		}
		if e.Unwrap != nil {
			after := shape{}
			for _, s := range e.Unwrap.After {
				after = append(after, predShape(s.(*LabelFilter).Pred))
			}
			unwrap = shape{"unwrap", e.Unwrap.Convert, e.Unwrap.Label, after}
		}
		return shape{"range", string(e.Op), param, logShape(e.Log), unwrap, float64(e.Range), float64(e.Offset), groupingShape(e.Grouping)}
	case *Vector:
		var param any
		if takesParam(e.Op) {
			param = float64(e.Param)
		}
		return shape{"aggregation", string(e.Op), param, groupingShape(e.Grouping), shapeOf(e.Expr)}
	case *Binary:
		var matching any
		if m := e.Matching; m != nil {
			how, side := "ignoring", ""
			if m.On {
				how = "on"
			}
			if m.Group != "" {
				side = "group_" + m.Group
			}
			matching = shape{how, namesShape(m.Names), side, namesShape(m.Include)}
		}
		return shape{"binary", e.Op, e.Bool, matching, shapeOf(e.Left), shapeOf(e.Right)}
	case *Number:
		return shape{"number", e.Value}
	case *Constant:
		return shape{"constant", e.Value}
	case *LabelReplace:
		return shape{"label_replace", shapeOf(e.Expr), e.Dst, e.Replacement, e.Src, e.Regex}
	}
	return shape{"other", fmt.Sprintf("%T", e)}
}

func namesShape(names []string) shape {
	out := shape{}
	for _, n := range names {
		out = append(out, n)
	}
	return out
}

func groupingShape(g *Grouping) any {
	switch {
	case g == nil:
		return nil
	case g.Without:
		return shape{"without", namesShape(g.Names)}
	}
	return shape{"by", namesShape(g.Names)}
}

func matcherShape(m *Matcher) shape { return shape{m.Name, matchOp(m.Type), m.Value} }

func logShape(e *Log) shape {
	selector, stages := shape{}, shape{}
	for _, m := range e.Selector {
		selector = append(selector, matcherShape(m))
	}
	for _, s := range e.Stages {
		stages = append(stages, stageShape(s))
	}
	return shape{"log", selector, stages}
}

func extractsShape(fields []Extract) shape {
	out := shape{}
	for _, f := range fields {
		out = append(out, shape{f.Label, f.Path})
	}
	return out
}

func stageShape(s Stage) shape {
	switch s := s.(type) {
	case *LineFilter:
		alts := shape{}
		for _, a := range s.Alts {
			alts = append(alts, shape{a.IP, a.Text})
		}
		return shape{"line", string(s.Op), alts}
	case *JSON:
		return shape{"json", extractsShape(s.Fields)}
	case *Logfmt:
		out := shape{"logfmt", extractsShape(s.Fields)}
		if s.KeepEmpty {
			out = append(out, "--keep-empty")
		}
		if s.Strict {
			out = append(out, "--strict")
		}
		return out
	case *Regexp:
		return shape{"regexp", s.Pattern}
	case *Pattern:
		return shape{"pattern", s.Pattern}
	case *Unpack:
		return shape{"unpack", shape{}}
	case *Decolorize:
		return shape{"decolorize", shape{}}
	case *LineFormat:
		return shape{"line_format", s.Template}
	case *LabelFormat:
		items := shape{}
		for _, it := range s.Items {
			if it.Template {
				items = append(items, shape{it.Dst, "template", it.Text})
			} else {
				items = append(items, shape{it.Dst, "label", it.Src})
			}
		}
		return shape{"label_format", items}
	case *Drop:
		return shape{"drop", nameMatchesShape(s.Items)}
	case *Keep:
		return shape{"keep", nameMatchesShape(s.Items)}
	case *LabelFilter:
		return shape{"filter", predShape(s.Pred)}
	}
	return shape{"other", fmt.Sprintf("%T", s)}
}

func nameMatchesShape(items []NameMatch) shape {
	out := shape{}
	for _, it := range items {
		if it.Matcher != nil {
			out = append(out, matcherShape(it.Matcher))
		} else {
			out = append(out, shape{it.Name})
		}
	}
	return out
}

func predShape(f Pred) shape {
	switch f := f.(type) {
	case *PredBoth:
		if f.Or {
			return shape{"both", "or", predShape(f.Left), predShape(f.Right)}
		}
		return shape{"both", "and", predShape(f.Left), predShape(f.Right)}
	case *PredMatch:
		return append(shape{"match"}, matcherShape(f.Matcher)...)
	case *PredNumber:
		return shape{"number", f.Name, f.Op, f.Text}
	case *PredIP:
		if f.Not {
			return shape{"ip", f.Name, "!=", f.Spec}
		}
		return shape{"ip", f.Name, "=", f.Spec}
	}
	return shape{"other", fmt.Sprintf("%T", f)}
}

// flat is a shape without the order in which operators are applied: operands and operators as they follow each other.
func flat(s any) any {
	list, ok := s.(shape)
	if !ok {
		return s
	}
	switch {
	case len(list) == 6 && list[0] == "binary":
		return append(append(chain(list[4]), shape{list[1], list[2], list[3]}), chain(list[5])...)
	case len(list) == 4 && list[0] == "both":
		return append(append(chain(list[2]), list[1]), chain(list[3])...)
	}
	out := shape{}
	for _, x := range list {
		out = append(out, flat(x))
	}
	return out
}

func chain(s any) shape {
	if list := s.(shape); list[0] == "binary" || list[0] == "both" {
		return flat(s).(shape)
	}
	return shape{flat(s)}
}

// grammar is Grafana's own grammar of LogQL, which its editor of queries uses.
type grammar struct{ dir string }

// startGrammar finds the grammar where `make` puts it; without it npm brings it to a folder of the test's.
func startGrammar(t testing.TB) *grammar {
	t.Helper()
	source := filepath.Join("..", "..", "..", "packaging", "logqlgrammar")
	if _, err := os.Stat(filepath.Join(source, "node_modules", ".package-lock.json")); err == nil {
		return &grammar{source}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "parse.mjs"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci: %v\n%s", err, said)
	}
	return &grammar{dir}
}

// ask returns the shape of each query, nil where the grammar refuses it.
func (g *grammar) ask(t testing.TB, queries []string) []shape {
	t.Helper()
	in, err := json.Marshal(queries)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "parse.mjs")
	cmd.Dir, cmd.Stdin = g.dir, bytes.NewReader(in)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the grammar: %v\n%s", err, said.Bytes())
	}
	var shapes []shape
	if err := json.Unmarshal(out, &shapes); err != nil || len(shapes) != len(queries) {
		t.Fatalf("%d answers to %d queries: %v", len(shapes), len(queries), err)
	}
	return shapes
}

// compare asks both of the same queries. It returns how often each known difference was met, and fails at others.
func (g *grammar) compare(t *testing.T, queries []string) map[string]int {
	t.Helper()
	met, other := map[string]int{}, 0
	report := func(format string, args ...any) {
		if other++; other <= 20 {
			t.Errorf(format, args...)
		}
	}
	var printed []string
	var ours []shape
	for i, theirs := range g.ask(t, queries) {
		q := queries[i]
		e, err := Parse(q)
		if err != nil {
			if theirs == nil {
				continue
			}
			if d := onlyTheirs(err); d != nil {
				met[d.what]++
			} else {
				report("only Grafana's grammar reads %s: %v", q, err)
			}
			continue
		}
		got := shapeOf(e)
		if theirs == nil {
			d := onlyOurs(q)
			if d == nil {
				report("only we read %s", q)
				continue
			}
			met[d.what]++
			if d.words {
				continue
			}
		} else if !reflect.DeepEqual(got, theirs) {
			if !reflect.DeepEqual(flat(got), flat(theirs)) {
				report("%s\n  is to us   %s\n  to Grafana %s", q, text1(got), text1(theirs))
			}
			met[orderOfOperators]++
		}
		printed, ours = append(printed, e.String()), append(ours, got)
	}
	for i, theirs := range g.ask(t, printed) {
		if !reflect.DeepEqual(flat(ours[i]), flat(theirs)) {
			report("the canonical form %s\n  is to us   %s\n  to Grafana %s", printed[i], text1(ours[i]), text1(theirs))
		}
	}
	if other > 20 {
		t.Errorf("and %d more", other-20)
	}
	return met
}

func text1(s shape) string {
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Our parser and Grafana's grammar of LogQL read the same queries, and read the same in them, but for what is listed.
func TestAgainstGrafanasGrammar(t *testing.T) {
	g := startGrammar(t)
	met := map[string]int{}
	add := func(m map[string]int) {
		for why, n := range m {
			met[why] += n
		}
	}
	var known []string
	for _, name := range []string{"../testdata/queries.json", "../../../appliance/internal/testcluster/testdata/explore.json", "../../../appliance/internal/testcluster/testdata/logcli.json"} {
		known = append(known, queriesIn(t, name)...)
	}
	for _, c := range canonical {
		known = append(known, c[0])
	}
	for _, c := range mistakes {
		known = append(known, c.text)
	}
	if len(known) < 350 {
		t.Fatalf("only %d queries are known", len(known))
	}
	add(g.compare(t, known))
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("TRIWARD_GRAMMAR_SEED"), "7"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 11))
	gen := &generator{r: r}
	var loose, full, broken []string
	var meant []shape
	n := 600
	if testing.Short() {
		n = 50
	}
	for range n {
		s := gen.expr(3)
		meant = append(meant, s)
		loose, full = append(loose, gen.text(s, false)), append(full, gen.text(s, true))
	}
	for i, s := range g.ask(t, full) {
		e, err := Parse(full[i])
		if err != nil || !reflect.DeepEqual(shapeOf(e), meant[i]) || !reflect.DeepEqual(s, meant[i]) {
			t.Fatalf("%s\n  means      %s\n  is to us   %v, %v\n  to Grafana %s", full[i], text1(meant[i]), e, err, text1(s))
		}
	}
	for i, q := range loose {
		if e, err := Parse(q); err != nil || !reflect.DeepEqual(shapeOf(e), meant[i]) {
			t.Fatalf("%s\n  means    %s\n  is to us %v, %v", q, text1(meant[i]), e, err)
		}
	}
	add(g.compare(t, loose))
	for _, q := range slices.Concat(known, loose, loose) {
		broken = append(broken, gen.mutilate(q))
	}
	add(g.compare(t, broken))
	for _, d := range differences {
		t.Logf("%6d times: %s", met[d.what], d.what)
		if met[d.what] == 0 && !testing.Short() {
			t.Errorf("the difference %q is listed and was not met", d.what)
		}
	}
}

// queriesIn returns the values of all members "query" and "match[]" of a JSON document.
func queriesIn(t testing.TB, path string) (out []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(path, err)
	}
	var walk func(v any, wanted bool)
	walk = func(v any, wanted bool) {
		switch v := v.(type) {
		case string:
			if wanted {
				out = append(out, v)
			}
		case []any:
			for _, x := range v {
				walk(x, wanted)
			}
		case map[string]any:
			for k, x := range v {
				walk(x, k == "query" || k == "match[]")
			}
		}
	}
	walk(doc, false)
	return out
}
