package appliance

import (
	"maps"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
)

// Fields that texts hold are found, counted, shown beside a line and exported under their names.
func TestFieldsOfTexts(t *testing.T) {
	l := linesForLogQL(t)
	b := wire.LogBatch{Streams: []wire.LogStream{{
		Kind: wire.StreamLog, Labels: wire.LabelsFromMap(map[string]string{"host": "h9"}),
		Lines: []wire.LogLine{{T: 50e9, Text: []byte(`{"host":"other","status":503,"req":{"path":"/api/v1"},"状态":"异常"}`)}},
	}}}
	e := wire.LogEntry{Index: 100, Batches: []wire.AcceptedLogs{{Agent: "a", Body: wire.AppendLogs(nil, &b), Batch: &b}}}
	if err := l.store.ApplyLogs(e.Index, []wire.LogEntry{e}); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]int{
		"n>=30": 10, "n:7": 1, "kind:log n<3": 3, "status:>499": 1, "req.path:/api*": 1, `"状态":异常`: 1, "host:other": 0, `"kind":odd`: 20, `-n:* status:""`: 0,
	} {
		page, err := l.Query(t.Context(), api.LogQuery{Query: text, End: 100e9, Limit: 100})
		if err != nil || len(page.Rows) != want {
			t.Errorf("%s: %d lines, want %d: %v", text, len(page.Rows), want, err)
		}
	}
	if top, err := l.Facets(t.Context(), "", 0, 100e9, "status", 10); err != nil || top.Lines != 1 || top.Values[0].Value != "503" {
		t.Errorf("top values: %+v %v", top, err)
	}
	if hits, err := l.HitsBy(t.Context(), "n:*", 0, 100e9, 100e9, "n", 3); err != nil || hits.Total != 40 || len(hits.Series) != 3 {
		t.Errorf("hits: %+v %v", hits, err)
	}
	around, err := l.Context(t.Context(), logstore.Position{Index: 100}.String(), 50e9, 0, 0)
	if want := map[string]string{"status": "503", "req.path": "/api/v1", "状态": "异常"}; err != nil || !maps.Equal(around.Members, want) {
		t.Errorf("members %v %v, want %v", around.Members, err, want)
	}
	if around, err = l.Context(t.Context(), logstore.Position{Index: 8}.String(), 7e9, 0, 0); err != nil || around.Members["n"] != "7" {
		t.Errorf("members %v %v", around.Members, err)
	}
}
