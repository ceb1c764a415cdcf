package architecture

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named finds what ARCHITECTURE.md names in code: `folder/package.Name`, `folder/package.Type.Method` or a test,
// `folder/package.TestName`.
var named = regexp.MustCompile("`((?:agent|appliance|logstore|raftstate|tsdb|ui)(?:/[a-z0-9-]+)*)\\.([A-Za-z][A-Za-z0-9]*)(?:\\.([A-Za-z][A-Za-z0-9]*))?`")

// symbols are the names declared at the top of each folder: Name, Type.Method, Type.Field.
func symbols(t *testing.T) map[string]map[string]bool {
	t.Helper()
	all := make(map[string]map[string]bool)
	for _, s := range tree(t) {
		dir := s.dir()
		if all[dir] == nil {
			all[dir] = make(map[string]bool)
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				all[dir][receiver(d)+d.Name.Name] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					addSpec(all[dir], spec)
				}
			}
		}
	}
	return all
}

func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if id, ok := typ.(*ast.Ident); ok {
		return id.Name + "."
	}
	return "?."
}

func addSpec(into map[string]bool, spec ast.Spec) {
	switch s := spec.(type) {
	case *ast.ValueSpec:
		for _, n := range s.Names {
			into[n.Name] = true
		}
	case *ast.TypeSpec:
		into[s.Name.Name] = true
		if i, ok := s.Type.(*ast.InterfaceType); ok {
			for _, m := range i.Methods.List {
				for _, n := range m.Names {
					into[s.Name.Name+"."+n.Name] = true
				}
			}
		}
	}
}

func TestWhatTheDocumentNamesExists(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := symbols(t)
	found := named.FindAllStringSubmatchIndex(string(body), -1)
	if len(found) < 30 {
		t.Fatalf("ARCHITECTURE.md names only %d things in code", len(found))
	}
	text := string(body)
	for _, m := range found {
		dir, name := text[m[2]:m[3]], text[m[4]:m[5]]
		if m[6] >= 0 {
			name += "." + text[m[6]:m[7]]
		}
		if !all[dir][name] {
			t.Errorf("ARCHITECTURE.md:%d names %s.%s, which does not exist", 1+strings.Count(text[:m[0]], "\n"), dir, name)
		}
	}
}

func TestEveryInvariantHasATest(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8"} {
		row := regexp.MustCompile(`(?m)^\| \*\*` + id + `\*\* .*$`).FindString(string(body))
		if row == "" {
			t.Errorf("ARCHITECTURE.md has no row for %s", id)
		} else if !regexp.MustCompile("\\.Test[A-Za-z0-9]+`").MatchString(row) {
			t.Errorf("%s has no test in ARCHITECTURE.md", id)
		}
	}
}
