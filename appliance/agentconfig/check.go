package agentconfig

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/pmezard/go-difflib/difflib"
	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/agent/config"
)

// Problem is one thing that is wrong with a text.
type Problem struct {
	Line int    `json:"line,omitempty"` // from 1; 0 when unknown
	Key  string `json:"key,omitempty"`  // such as logs.files[2].include[0]
	Text string `json:"text"`
}

// String is the problem in one line.
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Text
}

// Error is a text that agents would refuse.
type Error struct{ Problems []Problem }

// Error lists the problems.
func (e *Error) Error() string {
	all := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		all[i] = p.String()
	}
	return strings.Join(all, "\n")
}

var (
	lineOf = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	keyOf  = regexp.MustCompile(`^([a-z_]+(?:\.[A-Za-z0-9_-]+|\[\d+\])+): (.*)$`)
	stepOf = regexp.MustCompile(`[A-Za-z0-9_-]+`)
)

// Check reads a text as every agent does. What is wrong is an *Error with the place of each problem.
func Check(body []byte) (*config.Group, error) {
	g, err := config.ParseGroup(body)
	if err == nil {
		return g, nil
	}
	var doc yaml.Node
	known := len(body) <= config.MaxGroup && yaml.Unmarshal(body, &doc) == nil && len(doc.Content) > 0
	out := &Error{}
	for text := range strings.SplitSeq(err.Error(), "\n") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		p := Problem{Text: text}
		if m := lineOf.FindStringSubmatch(text); m != nil {
			p.Line, _ = strconv.Atoi(m[1]) // digits
			p.Text = m[2]
		} else if m := keyOf.FindStringSubmatch(text); m != nil {
			p.Key, p.Text = m[1], m[2]
			if known {
				p.Line = place(doc.Content[0], stepOf.FindAllString(p.Key, -1))
			}
		}
		out.Problems = append(out.Problems, p)
	}
	return nil, out
}

// place returns the line of the key at the end of the path, or of the last part of it that is there.
func place(n *yaml.Node, path []string) int {
	line := n.Line
	for _, step := range path {
		for n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		var next *yaml.Node
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == step {
					next, line = n.Content[i+1], n.Content[i].Line
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(step); err == nil && i < len(n.Content) {
				next, line = n.Content[i], n.Content[i].Line
			}
		}
		if next == nil {
			return line
		}
		n = next
	}
	return line
}

// DiffLine is a line of a comparison.
type DiffLine struct {
	Op   string `json:"op"` // " " in both, "-" in the first, "+" in the second, "@" something was left out
	Text string `json:"text"`
}

// maxDiff is how many lines are compared; of longer texts all lines are given, for comparing takes the square of them.
const maxDiff = 4000

// diffContext is how many equal lines are shown around a change.
const diffContext = 3

// Diff compares two texts line by line; nil when they are equal.
func Diff(a, b string) []DiffLine {
	x, y := splitLines(a), splitLines(b)
	var out []DiffLine
	if len(x)+len(y) > maxDiff {
		for _, l := range x {
			out = append(out, DiffLine{"-", l})
		}
		for _, l := range y {
			out = append(out, DiffLine{"+", l})
		}
		return out
	}
	for i, group := range difflib.NewMatcher(x, y).GetGroupedOpCodes(diffContext) {
		if i > 0 || group[0].I1 > 0 {
			out = append(out, DiffLine{"@", fmt.Sprintf("%d", group[0].I1+1)})
		}
		for _, c := range group {
			if c.Tag == 'e' {
				for _, l := range x[c.I1:c.I2] {
					out = append(out, DiffLine{" ", l})
				}
				continue
			}
			for _, l := range x[c.I1:c.I2] {
				out = append(out, DiffLine{"-", l})
			}
			for _, l := range y[c.J1:c.J2] {
				out = append(out, DiffLine{"+", l})
			}
		}
	}
	return out
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}
