package appliance

import (
	"strings"
	"testing"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting/state"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/logstore"
)

func TestEventIsReadFromItsLine(t *testing.T) {
	e := apiEvent(&logstore.Row{
		T: 1_700_000_000_000_000_001, Position: logstore.Position{Index: 5, Ord: 1}, Severity: wire.SeverityError, Text: []byte("first line\nsecond"),
		Labels: wire.LabelsFromMap(map[string]string{"source": "agent", "name": "unit_failed", "host": "web1", "agent": "a1", "rack": "4"}),
		Fields: wire.LabelsFromMap(map[string]string{"key": "x.service", "count": "7", "unit": "x.service", "severity": "error"}),
	})
	if e.ID != "5.1" || e.T != "1700000000000000001" || e.Kind != "unit_failed" || e.Title != "first line" || e.Message != "first line\nsecond" ||
		e.Key != "x.service" || e.Count != 7 || e.Agent != "a1" || len(e.Tags) != 2 || e.Tags["rack"] != "4" || e.Tags["unit"] != "x.service" {
		t.Errorf("%+v", e)
	}
	// From a sender: no agent of ours, a title of its own, a count that is none, a text without an end.
	e = apiEvent(&logstore.Row{
		T: 1, Position: logstore.Position{Index: 1}, Severity: wire.SeverityInfo, Text: []byte(strings.Repeat("é", 1000)),
		Labels: wire.LabelsFromMap(map[string]string{"source": "api", "name": "deploy", "agent_id": "door-7"}),
		Fields: wire.LabelsFromMap(map[string]string{"title": "Deployed", "count": "-3"}),
	})
	if e.Host != "door-7" || e.Title != "Deployed" || e.Count != 1 || e.Tags["count"] != "-3" || len(e.Tags) != 1 {
		t.Errorf("%+v", e)
	}
	if got := titleOf(strings.Repeat("é", 1000)); len(got) > maxTitle+4 || !strings.HasSuffix(got, "é…") {
		t.Errorf("title %q", got)
	}
}

func TestFilterOfEvents(t *testing.T) {
	line := func(kind wire.StreamKind, labels map[string]string, sev wire.Severity, text string) (wire.StreamKind, wire.Labels, *wire.LogLine) {
		return kind, wire.LabelsFromMap(labels), &wire.LogLine{Severity: sev, Text: []byte(text)}
	}
	web := map[string]string{"source": "agent", "name": "oom_kill", "host": "web1"}
	door := map[string]string{"source": "api", "name": "opened", "agent_id": "door-7"}
	for _, c := range []struct {
		q    api.EventQuery
		web  bool
		door bool
	}{
		{api.EventQuery{}, true, true},
		{api.EventQuery{Hosts: []string{"web1"}}, true, false},
		{api.EventQuery{Hosts: []string{"door-7", "web9"}}, false, true},
		{api.EventQuery{Kinds: []string{"oom_kill", "reboot"}}, true, false},
		{api.EventQuery{Sources: []string{"api"}}, false, true},
		{api.EventQuery{Severity: "error"}, true, false},
		{api.EventQuery{Severity: "info"}, true, true},
		{api.EventQuery{Query: "badge OR java", Severity: "critical"}, true, false},
	} {
		f, err := eventFilter(&c.q)
		if err != nil {
			t.Fatal(err)
		}
		match := func(kind wire.StreamKind, ls wire.Labels, l *wire.LogLine) bool {
			return logstore.Matches(t.Context(), f, kind, ls, l)
		}
		if got := match(line(wire.StreamEvent, web, wire.SeverityCritical, "java was killed")); got != c.web {
			t.Errorf("%+v of web: %v", c.q, got)
		}
		if got := match(line(wire.StreamEvent, door, wire.SeverityInfo, "by badge 12")); got != c.door {
			t.Errorf("%+v of door: %v", c.q, got)
		}
		if match(line(wire.StreamLog, web, wire.SeverityCritical, "java badge")) {
			t.Errorf("%+v takes a line of a log", c.q)
		}
	}
}

func TestRecordsAreToldAsEvents(t *testing.T) {
	for _, c := range []struct {
		read func([]byte) (string, wire.Severity, bool)
		data string
		kind string
		sev  wire.Severity
	}{
		{readCut, `{"at":5,"kind":"logs","floor":1,"reason":"size"}`, "data_cut", wire.SeverityWarning},
		{readCut, `{"at":5,"kind":"logs","floor":1,"reason":"operator"}`, "data_cut", wire.SeverityNotice},
		{readCut, `{"at":5,"kind":"logs","floor":1,"reason":"age"}`, "", 0},
		{readBackup, `{"id":"x","node":"n1","started":1}`, "", 0},
		{readBackup, `{"id":"x","node":"n1","started":1,"ended":2,"ok":true}`, "backup_done", wire.SeverityInfo},
		{readBackup, `{"id":"x","node":"n1","started":1,"ended":2,"error":"full"}`, "backup_failed", wire.SeverityError},
		{readAlert, `{"t":1,"what":"` + state.WhatFired + `","alert":"a","labels":{"alertname":"X","severity":"critical"}}`, "alert_fired", wire.SeverityCritical},
		{readAlert, `{"t":1,"what":"` + state.WhatResolved + `","alert":"a"}`, "alert_resolved", wire.SeverityInfo},
		{readAlert, `{"t":1,"what":"` + state.WhatSent + `","alert":"a"}`, "", 0},
		{readRun, `{"date":"2026-01-01","node":"n1","ended":2,"ok":true,"attempt":3}`, "logs_archived", wire.SeverityInfo},
		{readRun, `{"date":"2026-01-01","node":"n1","ended":2,"error":"full","attempt":1}`, "logs_archive_failed", wire.SeverityError},
		{readRun, `{"date":"2026-01-01","node":"n1","ended":2,"error":"full","attempt":2}`, "", 0},
		{readRun, `{"date":"2026-01-01","node":"n1","ended":2,"error":"full","attempt":13,"tell":true}`, "logs_archive_failed", wire.SeverityError},
		{readRun, `nonsense`, "", 0},
		{readLost, `{"date":"2026-01-01","at":2,"why":"size"}`, "logs_not_archived", wire.SeverityError},
		{readAlert, `nonsense`, "", 0},
	} {
		kind, sev, ok := c.read([]byte(c.data))
		if ok != (c.kind != "") || ok && (kind != c.kind || sev != c.sev) {
			t.Errorf("%s: %s %s %v", c.data, kind, sev, ok)
		}
	}
}

func readCut(b []byte) (string, wire.Severity, bool) {
	e, ok := eventOfCut(b)
	return e.Kind, e.Severity, ok
}

func readBackup(b []byte) (string, wire.Severity, bool) {
	e, ok := eventOfBackup(b)
	return e.Kind, e.Severity, ok
}

func readRun(b []byte) (string, wire.Severity, bool) {
	e, ok := eventOfArchive("run/1-x", b)
	return e.Kind, e.Severity, ok
}

func readLost(b []byte) (string, wire.Severity, bool) {
	e, ok := eventOfArchive("lost/2026-01-01", b)
	return e.Kind, e.Severity, ok
}

func readAlert(b []byte) (string, wire.Severity, bool) {
	e, ok := eventOfAlert(b)
	return e.Kind, e.Severity, ok
}
