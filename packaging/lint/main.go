//go:build ignore

// Command lint is the set of linters that `make check` runs over the tree. It is a tool for `go vet -vettool`, so
// that packages which did not change are not looked at again. It is built with packaging/tools.mod, which keeps
// its modules out of the product's (hence the build tag).
package main

import (
	"go/ast"
	"go/token"
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

// withoutNoise passes on of errcheck what is worth an answer: not a Close that was put off until the end of a
// reader's work, and nothing in tests, which fail by other means.
func withoutNoise(a *analysis.Analyzer) *analysis.Analyzer {
	quiet := *a
	quiet.Run = func(pass *analysis.Pass) (any, error) {
		inner := *pass
		inner.Report = func(d analysis.Diagnostic) {
			at := pass.Fset.Position(d.Pos)
			if !strings.HasSuffix(at.Filename, "_test.go") && !deferredClose(pass, d.Pos) {
				pass.Report(d)
			}
		}
		return a.Run(&inner)
	}
	return &quiet
}

func deferredClose(pass *analysis.Pass, at token.Pos) bool {
	found := false
	for _, f := range pass.Files {
		if at < f.Pos() || at > f.End() {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			d, ok := n.(*ast.DeferStmt)
			if !ok || at < d.Pos() || at > d.End() {
				return true
			}
			if sel, ok := d.Call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Close" {
				found = true
			}
			return true
		})
	}
	return found
}

func main() {
	list := []*analysis.Analyzer{
		ineffassign.Analyzer, withoutNoise(errcheck.Analyzer), bodyclose.Analyzer, nilness.Analyzer, unused.Analyzer.Analyzer,
		errorlint.NewAnalyzer(),
	}
	for _, a := range staticcheck.Analyzers {
		if notAsked[a.Analyzer.Name] == "" {
			list = append(list, a.Analyzer)
		}
	}
	for _, a := range simple.Analyzers {
		if strings.HasPrefix(a.Analyzer.Name, "S1") {
			list = append(list, a.Analyzer)
		}
	}
	unitchecker.Main(list...)
}
