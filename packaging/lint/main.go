//go:build ignore

// Command lint is the set of linters that `make check` runs over the tree. It is a tool for `go vet -vettool`, so
// that packages which did not change are not looked at again. It is built with packaging/tools.mod, which keeps
// its modules out of the product's (hence the build tag).
//
// A line may be excused with a comment that says why: //nolint:NAME // reason
package main

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"

	"github.com/gordonklaus/ineffassign/pkg/ineffassign"
	"github.com/kisielk/errcheck/errcheck"
	"github.com/polyfloyd/go-errorlint/errorlint"
	"github.com/timakin/bodyclose/passes/bodyclose"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/passes/nilness"
	"golang.org/x/tools/go/analysis/unitchecker"
	"honnef.co/go/tools/simple"
	"honnef.co/go/tools/staticcheck"
	"honnef.co/go/tools/unused"
)

// notAsked are checks of staticcheck that we do not follow, each with its reason.
var notAsked = map[string]string{
	"SA1019": "deprecated names: the pinned libraries decide when they can be left",
}

// unread are calls whose error changes nothing for whoever makes them: closing what was read, clearing up, printing
// for people.
var unread = []string{"Close", "Remove", "RemoveAll", "Fprint", "Fprintf", "Fprintln"}

var excuse = regexp.MustCompile(`^//nolint:([a-z0-9,]+) // \S`)

func main() {
	list := []*analysis.Analyzer{
		filtered(ineffassign.Analyzer, nil), filtered(errcheck.Analyzer, worthAnswering), filtered(bodyclose.Analyzer, notInTests),
		filtered(nilness.Analyzer, nil), filtered(unused.Analyzer.Analyzer, nil), filtered(errorlint.NewAnalyzer(), notInTests),
	}
	for _, a := range staticcheck.Analyzers {
		if notAsked[a.Analyzer.Name] == "" {
			list = append(list, filtered(a.Analyzer, nil))
		}
	}
	for _, a := range simple.Analyzers {
		if strings.HasPrefix(a.Analyzer.Name, "S1") {
			list = append(list, filtered(a.Analyzer, nil))
		}
	}
	unitchecker.Main(list...)
}

// filtered is an analyzer that reports what wanted (nil: all) lets through and no comment excuses.
func filtered(a *analysis.Analyzer, wanted func(*analysis.Pass, token.Pos) bool) *analysis.Analyzer {
	quiet := *a
	quiet.Run = func(pass *analysis.Pass) (any, error) {
		inner := *pass
		inner.Report = func(d analysis.Diagnostic) {
			if (wanted == nil || wanted(pass, d.Pos)) && !excused(pass, d.Pos, a.Name) {
				pass.Report(d)
			}
		}
		return a.Run(&inner)
	}
	return &quiet
}

func excused(pass *analysis.Pass, at token.Pos, name string) bool {
	line := pass.Fset.Position(at).Line
	for _, c := range fileAt(pass, at).Comments {
		if pass.Fset.Position(c.Pos()).Line != line {
			continue
		}
		if m := excuse.FindStringSubmatch(c.List[0].Text); m != nil && slices.Contains(strings.Split(m[1], ","), strings.ToLower(name)) {
			return true
		}
	}
	return false
}

func fileAt(pass *analysis.Pass, at token.Pos) *ast.File {
	for _, f := range pass.Files {
		if f.FileStart <= at && at <= f.FileEnd {
			return f
		}
	}
	return &ast.File{}
}

func notInTests(pass *analysis.Pass, at token.Pos) bool {
	return !strings.HasSuffix(pass.Fset.Position(at).Filename, "_test.go")
}

// worthAnswering is false for tests, which fail by other means, and for calls that are unread.
func worthAnswering(pass *analysis.Pass, at token.Pos) bool {
	name := ""
	ast.Inspect(fileAt(pass, at), func(n ast.Node) bool {
		if n == nil || at < n.Pos() || at > n.End() {
			return n == nil || n.Pos() == token.NoPos
		}
		if call, ok := n.(*ast.CallExpr); ok && call.Lparen >= at { // the innermost call that is meant begins at or before its parenthesis
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
				name = sel.Sel.Name
			}
		}
		return true
	})
	return notInTests(pass, at) && !slices.Contains(unread, name)
}
