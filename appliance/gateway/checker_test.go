package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/auth"
)

// TestBadStreamDoesNotTakeItsNeighbours: lines of a stream whose labels cannot be taken are refused one by one, under
// the numbers that the sender knows them by; the other streams of the batch are taken.
func TestBadStreamDoesNotTakeItsNeighbours(t *testing.T) {
	r := newRig(t)
	epoch := wire.Epoch{1}
	r.register(epoch)
	now := time.Now().UnixNano()
	stream := func(kind wire.StreamKind, file string, times ...int64) wire.LogStream {
		s := wire.LogStream{Kind: kind, Labels: wire.Labels{{Name: "file", Value: file}}}
		for _, at := range times {
			s.Lines = append(s.Lines, wire.LogLine{T: at, Text: []byte("x")})
		}
		return s
	}
	body := func(streams ...wire.LogStream) []byte { return wire.AppendLogs(nil, &wire.LogBatch{Streams: streams}) }
	batch := r.batch(wire.LaneLogs, epoch, 1, body(
		stream(wire.StreamLog, "/a.log", now, now), stream(wire.StreamLog, "/\xb2\xe2.log", now, now, now),
		stream(wire.StreamLog, "/b.log", -1, now), stream(wire.StreamEvent, "/c.log", now), stream(wire.StreamLog, "/d.log", now, -1),
	))
	res := r.send(epoch, batch)[0]
	if res.Status != "ok" || res.Accepted != 4 || res.Rejected != 6 || len(res.Items) != 6 {
		t.Fatalf("%+v", res)
	}
	for i, want := range []struct {
		item   uint32
		reason string
	}{{2, "UTF-8"}, {3, "UTF-8"}, {4, "UTF-8"}, {5, "retention"}, {7, "kind"}, {9, "retention"}} {
		if got := res.Items[i]; got.Item != want.item || !strings.Contains(got.Reason, want.reason) {
			t.Errorf("item %d: %+v, want %+v", i, got, want)
		}
	}
	// The answer was lost: the repeat tells what the first one would have told of these lines.
	if res := r.send(epoch, batch)[0]; res.Status != "duplicate" || res.Rejected != 4 {
		t.Errorf("repeat: %+v", res)
	}
	// Nothing is left of this one; its sequence is used all the same.
	if res := r.send(epoch, r.batch(wire.LaneLogs, epoch, 2, body(stream(wire.StreamLog, "\xff", now))))[0]; res.Status != "ok" || res.Rejected != 1 || res.Accepted != 0 {
		t.Errorf("all refused: %+v", res)
	}
	if res := r.send(epoch, r.batch(wire.LaneLogs, epoch, 4, body(stream(wire.StreamLog, "\xff", now))))[0]; res.Status != "gap" || res.Rejected != 0 {
		t.Errorf("gap: %+v", res)
	}
}

// Events of the cluster are the cluster's alone: no agent tells of a lost node.
func TestAgentsTellNoEventsOfTheCluster(t *testing.T) {
	c := checker{agent: &auth.Agent{ID: "a1", Hostname: "web1"}}
	for from, want := range map[string]string{"cluster": "agent", "alerts": "agent", "agent": "agent", "app": "app", "": ""} {
		ls := map[string]string{"name": "node_lost", "host": "n1", "agent": "a2", "source": from}
		if from == "" {
			delete(ls, "source")
		}
		s := wire.LogStream{Kind: wire.StreamEvent, Labels: wire.LabelsFromMap(ls)}
		if changed, err := c.stream(wire.LaneEvents, &s); err != nil || !changed || s.Labels.Get("source") != want || s.Labels.Get("host") != "web1" || s.Labels.Get("agent") != "a1" {
			t.Errorf("source %q became %v, %v", from, s.Labels, err)
		}
	}
}
