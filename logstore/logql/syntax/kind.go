package syntax

import (
	"regexp"
	"strings"
)

// ForLines reports whether a text that may be in another language is meant as a query for lines.
func ForLines(text string) bool { return strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") }

var (
	function = regexp.MustCompile(`(?i)^[\s(]*([a-z_]+)\s*(?:\(|(?:by|without)\s*\()`)
	apart    = regexp.MustCompile("\"(?:\\\\.|[^\"\\\\])*(?:\"|$)|`[^`]*(?:`|$)|#[^\n]*") // strings and comments
)

// ForNumbers reports whether a text that may be in another language is meant as a query for numbers: it begins with a
// function and has a selector in it. Without one it would find nothing, and "sort(list)" is something that people look for.
func ForNumbers(text string) bool {
	m := function.FindStringSubmatch(text)
	if m == nil {
		return false
	}
	name := strings.ToLower(m[1])
	if name == "vector" {
		return true
	}
	_, isRange := rangeOps[RangeOp(name)]
	_, isVector := vectorOps[VectorOp(name)]
	return (isRange || isVector || name == "label_replace") && strings.Contains(apart.ReplaceAllString(text, ""), "{")
}
