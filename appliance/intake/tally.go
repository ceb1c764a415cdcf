package intake

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/triward/triward/appliance/problem"
)

// maxNamed is how many refused items an answer names.
const maxNamed = 3

// tally counts what became of the items of one request.
type tally struct {
	accepted, duplicates, rejected int
	named                          []string
}

// refuse counts n items and names the first.
func (t *tally) refuse(n int, what, reason string) {
	if n == 0 {
		return
	}
	t.rejected += n
	if len(t.named) < maxNamed {
		t.named = append(t.named, clip(what, 120)+": "+clip(reason, 160))
	}
}

// done counts the items and is the error that names those refused, if any were. items is their name in the plural.
func (t *tally) done(in *Intake, protocol, items string) error {
	in.met.items.WithLabelValues(protocol, "accepted").Add(float64(t.accepted))
	in.met.items.WithLabelValues(protocol, "duplicate").Add(float64(t.duplicates))
	in.met.items.WithLabelValues(protocol, "rejected").Add(float64(t.rejected))
	if t.rejected == 0 {
		return nil
	}
	more := ""
	if n := t.rejected - len(t.named); n > 0 {
		more = fmt.Sprintf("; %d in all", t.rejected)
	}
	return problem.New(http.StatusBadRequest, fmt.Sprintf("%d of %d %s were refused: %s%s",
		t.rejected, t.accepted+t.duplicates+t.rejected, items, strings.Join(t.named, "; "), more)).
		WithHint("do not repeat the request: everything else in it is stored")
}

// clip shortens text that a stranger sent before it is repeated.
func clip(s string, most int) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
