package syntax

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template/parse"
)

var (
	errKey = errors.New("a key of logfmt has no space, quote or equals sign in it")
	errIP  = errors.New("not an address, a range (192.168.0.1-192.168.0.23) or a network (192.168.0.0/16)")
)

// PatternPart is a literal or a capture of a pattern; the capture _ has no name.
type PatternPart struct {
	Capture bool
	Text    string
}

// SplitPattern cuts `<ip> - <_> "<method>"` into its parts.
func SplitPattern(s string) ([]PatternPart, error) {
	if s == "" {
		return nil, errors.New("the pattern is empty")
	}
	var out []PatternPart
	lit := 0
	for i := 0; i < len(s); {
		n := captureAt(s[i:])
		if n == 0 {
			i++
			continue
		}
		if lit < i {
			out = append(out, PatternPart{false, s[lit:i]})
		} else if len(out) > 0 {
			return nil, fmt.Errorf("between <%s> and %s there must be something to tell where one ends", out[len(out)-1].Text, s[i:i+n])
		}
		out = append(out, PatternPart{true, s[i+1 : i+n-1]})
		i += n
		lit = i
	}
	if lit < len(s) {
		out = append(out, PatternPart{false, s[lit:]})
	}
	if len(out) > 256 {
		return nil, errors.New("the pattern has more than 256 parts")
	}
	return out, nil
}

// captureAt returns the length of <name> at the beginning of s, or 0.
func captureAt(s string) int {
	if len(s) < 3 || s[0] != '<' || !isNameStart(s[1]) {
		return 0
	}
	for i := 2; i < len(s); i++ {
		if s[i] == '>' {
			return i + 1
		}
		if !isName(s[i]) {
			return 0
		}
	}
	return 0
}

// PathStep is the name of a member, or the place in an array when Name is "" and Array set.
type PathStep struct {
	Name  string
	Array bool
	Index int
}

// ParsePath reads where a value is in a JSON document: a.b, servers[0], headers["User-Agent"].
func ParsePath(s string) ([]PathStep, error) {
	var out []PathStep
	bad := func(i int, what string) error {
		return fmt.Errorf("bad path %s at byte %d: %s; paths look like a.b, servers[0] or headers[\"User-Agent\"]", quoteShort(s), i, what)
	}
	for i := 0; i < len(s); {
		if len(out) >= maxDepth {
			return nil, bad(i, "it is too deep")
		}
		switch {
		case s[i] == '[':
			end := i + 1
			if end < len(s) && s[end] == '"' {
				q, err := strconv.QuotedPrefix(s[end:])
				if err != nil {
					return nil, bad(end, "the string does not end")
				}
				name, _ := strconv.Unquote(q)
				end += len(q)
				out = append(out, PathStep{Name: name})
			} else {
				for end < len(s) && isDigit(s[end]) {
					end++
				}
				n, err := strconv.Atoi(s[i+1 : end])
				if err != nil {
					return nil, bad(i, "a number or a string in quotes is expected")
				}
				out = append(out, PathStep{Array: true, Index: n})
			}
			if end >= len(s) || s[end] != ']' {
				return nil, bad(end, "] is expected")
			}
			i = end + 1
		case s[i] == '.' && len(out) > 0 && i+1 < len(s) && isNameStart(s[i+1]):
			i++
			fallthrough
		case len(out) == 0 && isNameStart(s[i]), i > 0 && s[i-1] == '.':
			end := i
			for end < len(s) && (isName(s[end]) || s[end] == '-') {
				end++
			}
			if end == i {
				return nil, bad(i, "a name is expected")
			}
			out = append(out, PathStep{Name: s[i:end]})
			i = end
		default:
			return nil, bad(i, "unexpected "+strconv.QuoteRune(rune(s[i])))
		}
	}
	if len(out) == 0 {
		return nil, bad(0, "it is empty")
	}
	return out, nil
}

// checkTemplate reads a template only for its form.
func checkTemplate(s string) error {
	_, err := TemplateTree(s)
	return err
}

// Functions of templates, besides those of Go's text/template. The package that runs templates has each of them, and a
// test says so.
var templateFuncs = strings.Fields(`
	__line__ __timestamp__ now
	ToLower ToUpper Replace Trim TrimLeft TrimRight TrimPrefix TrimSuffix TrimSpace
	lower upper title trunc substr replace trim trimAll trimSuffix trimPrefix alignLeft alignRight indent nindent repeat
	contains hasPrefix hasSuffix regexReplaceAll regexReplaceAllLiteral count default
	add sub mul div mod min max addf subf mulf divf minf maxf ceil floor round int float64
	fromJson toDate toDateInZone date unixEpoch unixEpochMillis unixEpochNanos unixToTime
	duration duration_seconds bytes b64enc b64dec urlencode urldecode
	print printf println html js urlquery and or not eq ne lt le gt ge len index slice
	__step__`)

// TemplateFuncs returns the names of the functions that templates may use.
func TemplateFuncs() []string { return templateFuncs }

// TemplateTree reads a template. Definitions and calls of other templates are refused, as they can recurse.
func TemplateTree(s string) (*parse.Tree, error) {
	if len(s) > 16<<10 {
		return nil, errors.New("it is longer than 16 KiB")
	}
	if err := nesting(s); err != nil {
		return nil, err
	}
	known := make(map[string]any, len(templateFuncs))
	for _, f := range templateFuncs {
		known[f] = true
	}
	trees, err := parse.Parse("line", s, "", "", known)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: line:"))
	}
	if len(trees) > 1 {
		return nil, errors.New("define and block are not for templates of queries")
	}
	tree := trees["line"]
	if tree == nil || tree.Root == nil { // nothing but white space
		tree = &parse.Tree{Name: "line", Root: &parse.ListNode{NodeType: parse.NodeList}}
		if s != "" {
			tree.Root.Nodes = []parse.Node{&parse.TextNode{NodeType: parse.NodeText, Text: []byte(s)}}
		}
		return tree, nil
	}
	return tree, check(tree.Root)
}

// nesting refuses what would make the parser of templates recurse deeply.
func nesting(s string) error {
	if strings.Count(s, "(") > maxDepth*4 || strings.Count(s, "{{") > 1024 {
		return errors.New("it has too many actions or parentheses")
	}
	return nil
}

func check(n parse.Node) error {
	switch n := n.(type) {
	case *parse.TemplateNode:
		return errors.New("template is not for templates of queries")
	case *parse.ListNode:
		if n == nil {
			return nil
		}
		for _, k := range n.Nodes {
			if err := check(k); err != nil {
				return err
			}
		}
	case *parse.IfNode:
		return errors.Join(check(n.List), check(n.ElseList))
	case *parse.WithNode:
		return errors.Join(check(n.List), check(n.ElseList))
	case *parse.RangeNode:
		return errors.Join(check(n.List), check(n.ElseList))
	}
	return nil
}
