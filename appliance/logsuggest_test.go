package appliance

import (
	"slices"
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
)

// What a suggestion stands for goes into its place in the query.
func TestSuggestionsGoIntoTheQuery(t *testing.T) {
	store, err := logstore.New(logstore.Options{Manual: true})
	if err == nil {
		err = store.Open(t.TempDir())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	b := &wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "web-1", "file": "/var/log/a b.log"}),
		Lines: []wire.LogLine{
			{T: 1, Severity: wire.SeverityError, Text: []byte("Connection refused 磁盘空间"), Fields: []wire.Label{{Name: "code", Value: "503"}}},
			{T: 2, Text: []byte("connection closed")},
		},
	}}}
	if err := store.ApplyLogs(1, []wire.LogEntry{{Index: 1, Batches: []wire.AcceptedLogs{{Agent: "a", Batch: b}}}}); err != nil {
		t.Fatal(err)
	}
	l := &logQueries{store: store}
	for text, want := range map[string][]string{ // | is where somebody types
		"con|":                {"connection|"},
		"x (conn|ect OR y)":   {"x (connection| OR y)"},
		"c|":                  {"connection|", "closed|", "code:|"},
		`"connection re|`:     {`"connection refused|`},
		"-ho|":                {"-host:|"},
		"host:|":              {"host:web-1|"},
		"host:WE|x sev":       {"host:web-1| sev"},
		"file:/var|":          {`file:"/var/log/a b.log"|`},
		"severity:e|":         {"severity:error|"},
		"磁盘|":                 {"磁盘空|"},
		"code:5|":             {"code:503|"},
		"code>5|":             nil,
		"@1970-01-01T00|":     nil,
		"connection~|":        nil,
		"nothing-like-this|z": nil,
	} {
		before, after, _ := strings.Cut(text, "|")
		found, err := l.Suggest(t.Context(), api.LogSuggestQuery{Query: before + after, At: len(before), Start: 0, End: 10, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, it := range found.Items {
			q := before + after
			got = append(got, q[:it.From]+it.Insert+"|"+q[it.To:])
			if it.Lines == 0 || it.Lead {
				t.Errorf("%q: %+v", text, it)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
