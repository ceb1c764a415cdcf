package architecture

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "github.com/triward/triward"
	root   = "../../.."
)

// source is one Go file of the tree.
type source struct {
	path string // from the root, with slashes
	file *ast.File
	fset *token.FileSet
}

func (s *source) dir() string {
	return strings.TrimSuffix(s.path[:strings.LastIndex(s.path, "/")+1], "/")
}
func (s *source) test() bool  { return strings.HasSuffix(s.path, "_test.go") }
func (s *source) top() string { t, _, _ := strings.Cut(s.path, "/"); return t }
func (s *source) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(p).Line)
}

// tree reads all Go files of the repository.
func tree(t *testing.T) []*source {
	t.Helper()
	var all []*source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || d.Name() == "bin" || path != root && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		all = append(all, &source{filepath.ToSlash(rel), f, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("only %d Go files found: the test looks in the wrong place", len(all))
	}
	return all
}

// importRule says what files of a folder must not import, by prefix of the path within the module.
type importRule struct {
	from   string
	not    []string
	except []string
	why    string
}

var importRules = []importRule{
	{from: "agent/wire", not: []string{""}, except: []string{"agent/wire"}, why: "the wire format is a leaf"},
	{from: "agent", not: []string{""}, except: []string{"agent"}, why: "the agent has nothing of the server in it"},
	{from: "raftstate", not: []string{""}, except: []string{"raftstate", "agent/wire"}, why: "the log knows its sinks by the interfaces that it declares"},
	{from: "tsdb", not: []string{""}, except: []string{"tsdb", "agent/wire"}, why: "stores do not see each other"},
	{from: "logstore", not: []string{""}, except: []string{"logstore", "agent/wire"}, why: "stores do not see each other"},
	{from: "ui", not: []string{""}, except: []string{"ui", "agent/wire"}, why: "the hub reaches the rest through its sources"},
	{from: "raftstate/command", not: []string{""}, except: []string{"raftstate/command", "agent/wire"}, why: "the vocabulary of the log is a leaf"},
	{from: "raftstate/meta", not: []string{"raftstate"}, except: []string{"raftstate/meta", "raftstate/command", "raftstate/boltcheck"}, why: "the state knows no Raft"},
	{from: "raftstate/machine", not: []string{"raftstate"}, except: []string{"raftstate/machine", "raftstate/meta", "raftstate/audit", "raftstate/command"}, why: "the state machine knows no Raft"},
	{from: "raftstate/audit", not: []string{"raftstate"}, except: []string{"raftstate/audit", "raftstate/command"}, why: "the chain is pure"},
	{from: "appliance/gateway", not: []string{"tsdb", "logstore", "ui", "appliance/api"}, why: "a gateway has no stores"},
	{from: "appliance/intake", not: []string{"tsdb", "logstore", "ui", "appliance/api"}, why: "what senders push reaches the stores through the log alone"},
	{from: "appliance/auth", not: []string{"raftstate", "tsdb", "logstore", "ui", "appliance/api"}, why: "access works over any metadata"},
	{from: "appliance/record", not: []string{""}, except: []string{"appliance/record", "appliance/auth"}, why: "records work over any metadata"},
	{from: "appliance/claim", not: []string{""}, except: []string{"appliance/claim", "appliance/record", "appliance/auth"}, why: "claims work over any metadata"},
	{from: "appliance/fleet", not: []string{"raftstate", "tsdb", "logstore", "ui", "appliance/api"}, why: "the view is fed through its own interfaces"},
	{from: "appliance/alerting", not: []string{""}, except: []string{"appliance/alerting"}, why: "alerting works over any metadata and stores"},
	{from: "appliance/retention", not: []string{""}, except: []string{"appliance/retention", "raftstate/command", "agent/wire"}, why: "the plan is a pure function"},
	{from: "appliance/selfmon", not: []string{""}, except: []string{"appliance/selfmon", "appliance/intake", "agent/wire"}, why: "what a node says of itself goes the way of all senders"},
	{from: "appliance/problem", not: []string{""}, except: []string{"appliance/problem"}, why: "a leaf"},
	{from: "appliance/pki", not: []string{""}, except: []string{"appliance/pki"}, why: "a leaf"},
	{from: "appliance/systemtest", not: []string{""}, except: []string{"appliance/systemtest", "agent/wire"}, why: "system tests see what a user sees"},
}

func within(path, prefix string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

func TestImportRules(t *testing.T) {
	for _, s := range tree(t) {
		for _, imp := range s.file.Imports {
			path, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			in, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				continue
			}
			for _, r := range importRules {
				// A test may use its neighbours in the same part of the tree.
				if !within(s.dir(), r.from) || s.test() && within(in, s.top()) {
					continue
				}
				forbidden := slices.ContainsFunc(r.not, func(p string) bool { return within(in, p) })
				allowed := slices.ContainsFunc(r.except, func(p string) bool { return within(in, p) })
				if forbidden && !allowed {
					t.Errorf("%s imports %s, which %s must not: %s", s.at(imp.Pos()), in, r.from, r.why)
				}
			}
		}
	}
}

// belowApply are the packages whose code decides replicated state: the same entries must give the same state.
var belowApply = []string{"raftstate/command", "raftstate/audit", "raftstate/meta", "raftstate/machine"}

// notBelowApply are functions whose answer differs between nodes or runs.
var notBelowApply = map[string][]string{
	"time":         {"Now", "Since", "Until", "After", "NewTimer", "NewTicker", "AfterFunc", "Sleep"},
	"math/rand":    nil, // nothing of it
	"math/rand/v2": nil,
	"crypto/rand":  nil,
	"os":           {"Getenv", "Hostname", "Getpid"},
	"net":          nil,
	"maps":         {"Keys", "Values", "All"},
}

func TestNothingBelowApplyDependsOnTheNode(t *testing.T) {
	for _, s := range tree(t) {
		if s.test() || !slices.Contains(belowApply, s.dir()) {
			continue
		}
		for _, imp := range s.file.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			names, watched := notBelowApply[path]
			if !watched {
				continue
			}
			if names == nil {
				t.Errorf("%s imports %s below Apply", s.at(imp.Pos()), path)
				continue
			}
			local := path[strings.LastIndex(path, "/")+1:]
			ast.Inspect(s.file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == local && x.Obj == nil && slices.Contains(names, sel.Sel.Name) && !sorted(s, n) {
					t.Errorf("%s uses %s.%s below Apply", s.at(n.Pos()), local, sel.Sel.Name)
				}
				return true
			})
		}
	}
}

// sorted reports whether the use stands within slices.Sorted, which makes an order of what has none.
func sorted(s *source, use ast.Node) bool {
	found := false
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || use.Pos() < call.Pos() || use.End() > call.End() {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && strings.HasPrefix(sel.Sel.Name, "Sorted") {
			found = true
		}
		return true
	})
	return found
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	said := make(map[string]bool)
	for _, s := range tree(t) {
		if s.test() {
			continue
		}
		said[s.dir()] = said[s.dir()] || s.file.Doc != nil
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: no init functions: App wires everything", s.at(f.Pos()))
			}
			if ok && f.Doc == nil && f.Name.IsExported() && exportedReceiver(f) && !within(s.dir(), "packaging") {
				t.Errorf("%s: %s is exported and says nothing", s.at(f.Pos()), f.Name.Name)
			}
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
				for _, spec := range g.Specs {
					if ts, ok := spec.(*ast.TypeSpec); ok && ts.Name.IsExported() && g.Doc == nil && ts.Doc == nil {
						t.Errorf("%s: type %s is exported and says nothing", s.at(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
	}
	for dir, ok := range said {
		if !ok {
			t.Errorf("package %s has no comment", dir)
		}
	}
}

// usual are methods that say what they are by the interface that they implement.
var usual = []string{"Error", "String", "Unwrap", "Len", "Less", "Swap", "Next", "At", "Err", "Close"}

func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil {
		return true
	}
	if slices.Contains(usual, f.Name.Name) {
		return false
	}
	typ := f.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if index, ok := typ.(*ast.IndexExpr); ok {
		typ = index.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

// Bounds of what a reader must hold in mind at once.
const (
	maxFileLines = 700
	maxFuncLines = 100
)

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	for _, s := range tree(t) {
		if n := s.fset.Position(s.file.End()).Line; n > maxFileLines && !s.test() {
			t.Errorf("%s has %d lines, at most %d", s.path, n, maxFileLines)
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && !s.test() {
				if n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; n > maxFuncLines {
					t.Errorf("%s: %s has %d lines, at most %d", s.at(f.Pos()), f.Name.Name, n, maxFuncLines)
				}
			}
		}
	}
}

var vague = []string{"util", "utils", "common", "helpers", "helper", "types", "misc"}

func TestPackagesAreNamedForWhatTheyProvide(t *testing.T) {
	for _, s := range tree(t) {
		if slices.Contains(vague, s.file.Name.Name) {
			t.Errorf("%s: package %s says nothing", s.path, s.file.Name.Name)
		}
	}
}

// unwanted are texts that may stand nowhere in the tree. They are written here so that this file has none of them.
var unwanted = []struct {
	pattern, why string
	inTests      bool // not in tests either
}{
	{`\bTO` + `DO\b|\bFIX` + `ME\b|not implem` + `ented`, "what is not done is an issue, not a comment", true},
	{`\btime\.Sl` + `eep\(`, "wait for what is meant, not for a time", false},
	{`\bt\.Sk` + `ip`, "a test that is skipped tests nothing", true},
	{`/wo` + `rk/|/ro` + `ot/`, "names a path of one machine", true},
	{`proxy\.go` + `lang\.org|registry\.npm` + `js\.org`, "names a registry", true},
}

func TestUnwantedTexts(t *testing.T) {
	for _, u := range unwanted {
		re := regexp.MustCompile(u.pattern)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			name := d.Name()
			if d.IsDir() && (name == "node_modules" || name == "bin" || name == "dist" || path != root && strings.HasPrefix(name, ".") && name != ".ci") {
				return filepath.SkipDir
			}
			if !d.Type().IsRegular() || !slices.Contains([]string{".go", ".ts", ".svelte", ".md", ".yaml", ".yml", ".sh", ".mod", ".json", ".mjs", ""}, filepath.Ext(name)) {
				return nil
			}
			if !u.inTests && strings.HasSuffix(name, "_test.go") {
				return nil
			}
			body, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if at := re.FindIndex(body); at != nil {
				t.Errorf("%s:%d has %q: %s", path, 1+strings.Count(string(body[:at[0]]), "\n"), body[at[0]:at[1]], u.why)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
