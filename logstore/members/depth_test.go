package members

import (
	"strings"
	"testing"
)

// A form says that a text has a field only where the text has it: not in a document that is nested too deeply at its end.
func TestFormsOfDeepDocuments(t *testing.T) {
	name := NewName("user")
	for depth := MaxDepth - 4; depth < MaxDepth+4; depth++ {
		for _, inner := range []string{"{}", "[]", "[1]", `["a"]`, `{"x":[1]}`, `{"x":1}`, "1", `"a"`, "null"} {
			text := `{"user":"u","x":` + strings.Repeat(`{"x":`, depth) + inner + strings.Repeat("}", depth) + "}"
			var r Reader
			value := string(r.Get([]byte(text), &name))
			form, sure := Locate(text, &name)
			if !sure {
				continue
			}
			located := ""
			if form.Found {
				located = text[form.Value.From:form.Value.To]
			}
			if located != value {
				t.Errorf("depth %d, %s: the form has %q, the text %q", depth, inner, located, value)
			}
		}
	}
}
