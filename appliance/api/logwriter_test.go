package api

import (
	"strings"
	"testing"
)

// A column takes the field that the text holds where the line has no other of its name.
func TestColumnsOfFieldsInTexts(t *testing.T) {
	var out strings.Builder
	w := NewLogWriter(&out, FormCSV, []string{"host", "status", "req.path", "field.status"})
	for _, r := range []LogRow{
		{Text: `{"host":"x","status":503,"req":{"path":"=1"}}`, Labels: map[string]string{"host": "web-1"}},
		{Text: `status=200`, Fields: map[string]string{"status": "404"}},
		{Text: "plain"},
	} {
		if err := w.Line(&r); err != nil {
			t.Fatal(err)
		}
	}
	if want := "web-1,503,'=1,\n,404,,404\n,,,\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
