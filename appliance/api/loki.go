package api

import (
	"net/http"

	"github.com/triward/triward/appliance/auth"
)

// The parameters of Loki's routes are read by their handler; here they are described only.
var (
	lokiQuery = Param{Name: "query", Kind: paramText, MaxLen: 64 << 10, Doc: "LogQL"}
	lokiStart = Param{Name: "start", Kind: paramText, Doc: "from this time on: s, ms or ns since 1970, or RFC 3339"}
	lokiEnd   = Param{Name: "end", Kind: paramText, Doc: "before this time; now when absent"}
	lokiSince = Param{Name: "since", Kind: paramText, Doc: "how long before the end the start is, when that is absent"}
	lokiLimit = func(what string) Param {
		return Param{Name: "limit", Kind: paramInt, Min: 1, Max: 5000, Doc: "how many " + what + " at most"}
	}
	lokiStep = Param{Name: "step", Kind: paramText, Doc: "15s, 5m, or a number of seconds; chosen for about 250 steps when absent"}
)

// lokiRoutes are those with which Loki's clients ask. Each takes its parameters in the URL or as a form.
func lokiRoutes() []Route {
	span := []Param{lokiStart, lokiEnd, lokiSince}
	streams := with([]Param{lokiQuery}, span...)
	rows := []struct {
		path, summary string
		params        []Param
	}{
		{"query", "Numbers of a LogQL query at one time, for Loki's clients", []Param{
			lokiQuery,
			{Name: "time", Kind: paramText, Doc: "now when absent"},
			lokiLimit("series"),
			{Name: "direction", Kind: paramChoice, Choices: []string{"forward", "backward"}, Doc: "taken, without effect on numbers"},
		}},
		{"query_range", "Lines or numbers of a LogQL query over a range of time, for Loki's clients", with(
			streams, lokiStep, lokiLimit("lines"),
			Param{Name: "interval", Kind: paramText, Doc: "of each stream at most one line within this time"},
			Param{Name: "direction", Kind: paramChoice, Choices: []string{"forward", "backward"}, Doc: "oldest or newest lines first; backward when absent"},
		)},
		{"labels", "Names of the labels of streams, for Loki's clients", streams},
		{"label/{name}/values", "Values of a label, for Loki's clients", streams},
		{"series", "Labels of streams, for Loki's clients", with(span, Param{
			Name: "match[]", Kind: paramText, MaxLen: 64 << 10, Doc: "selector of streams; may be repeated; all when absent",
		})},
		{"index/stats", "How many streams, blocks, lines and bytes a selector takes in, for Loki's clients", streams},
		{"index/volume", "Bytes by series, for Loki's clients", with(
			streams, lokiLimit("series"),
			Param{Name: "targetLabels", Kind: paramText, MaxLen: 8 << 10, Doc: "names of labels to sum up by; those of the selector when absent"},
			Param{Name: "aggregateBy", Kind: paramChoice, Choices: []string{"series", "labels"}, Doc: "by values of labels, or by their names"},
		)},
		{"index/volume_range", "Bytes by series and step, for Loki's clients", with(
			streams, lokiStep, lokiLimit("series"),
			Param{Name: "targetLabels", Kind: paramText, MaxLen: 8 << 10, Doc: "names of labels to sum up by; those of the selector when absent"},
			Param{Name: "aggregateBy", Kind: paramChoice, Choices: []string{"series", "labels"}, Doc: "by values of labels, or by their names"},
		)},
		{"patterns", "The patterns of lines and how many lines each has by step, for Loki's clients", with(streams, lokiStep)},
		{"detected_labels", "Names of labels and how many values each has, for Loki's clients", streams},
		{"detected_fields", "Fields that the newest lines hold, for Loki's clients", with(
			streams, lokiLimit("fields"), Param{Name: "line_limit", Kind: paramInt, Min: 1, Max: 5000, Doc: "how many lines are looked at (100)"},
		)},
		{"detected_field/{name}/values", "Values of a field that the newest lines hold, for Loki's clients", with(
			streams, lokiLimit("values"), Param{Name: "line_limit", Kind: paramInt, Min: 1, Max: 5000, Doc: "how many lines are looked at (100)"},
		)},
		{"format_query", "A LogQL query in its canonical form, for Loki's clients", []Param{lokiQuery}},
		{"status/buildinfo", "The release of Loki whose API this is, and that of Triward", nil},
	}
	mount := func(a *API) http.Handler { return a.cfg.Loki }
	var out []Route
	for _, row := range rows {
		for _, method := range []string{"GET", "POST"} {
			if method == "POST" && row.path == "status/buildinfo" {
				continue
			}
			r := Route{
				Method: method, Path: "/loki/api/v1/" + row.path, Permission: auth.Read, Summary: row.summary,
				Fresh: true, Params: row.params, Type: "application/json", mount: mount,
			}
			if method == "POST" {
				r.Summary += "; parameters as a form, consistency and min_index in the URL"
				r.MaxBody, r.Takes = 1<<20, "application/x-www-form-urlencoded"
			}
			out = append(out, r)
		}
	}
	return append(out, Route{
		Method: "GET", Path: "/loki/api/v1/tail", Permission: auth.Read, Fresh: true,
		Summary: "Lines as they come, over a websocket, for Loki's clients",
		Params: []Param{
			lokiQuery, lokiStart, lokiLimit("older lines"),
			{Name: "delay_for", Kind: paramInt, Min: 0, Max: 5, Doc: "seconds that lines wait for earlier ones"},
		},
		Status: http.StatusSwitchingProtocols, mount: mount,
	})
}
