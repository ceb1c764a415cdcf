package cli

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestErrorsOfQueriesShowTheirPlace(t *testing.T) {
	long := strings.Repeat("x", 100)
	for _, c := range []struct {
		query string
		pos   int
		want  string
	}{
		{"a AND (b", 6, "  a AND (b\n        ^\n"},
		{"a (", 3, "  a (\n     ^\n"},
		{"", 0, "  \n  ^\n"},
		{"数据库 AND (失败", len("数据库 AND "), "  数据库 AND (失败\n             ^\n"},
		{"first\nsecond )\nthird", len("first\nsecond "), "  second )\n         ^\n"},
		{"a\tb )", 4, "  a b )\n      ^\n"},
		{long + ")" + long, 100, "  …" + long[:36] + ")" + long[:35] + "…\n" + strings.Repeat(" ", 39) + "^\n"},
		{"e\u0301 )", len("e\u0301 "), "  e\u0301 )\n    ^\n"},
		{"数", 1, ""},
		{"a", 2, ""},
	} {
		err := fmt.Errorf("ask: %w", &apiError{Status: http.StatusBadRequest, Pos: &c.pos, query: c.query})
		if got := caretAt(err); got != c.want {
			t.Errorf("%q at %d: got\n%s\nwant\n%s", c.query, c.pos, got, c.want)
		}
	}
	if got := caretAt(&apiError{Status: http.StatusBadRequest}); got != "" {
		t.Errorf("an error without a place shows %q", got)
	}
}
