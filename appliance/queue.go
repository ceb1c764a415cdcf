package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/api"
	"github.com/triward/triward/appliance/events"
	"github.com/triward/triward/appliance/queue"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/meta"
)

// newQueue puts together the queue as consumers see it. It works once the node is open.
func (a *App) newQueue() (*queue.Service, error) {
	return queue.New(queue.Config{
		Log: queueLog{a}, Meta: &metadata{app: a}, Series: a.state, Leading: func() bool { _, self := a.node.Leader(); return self },
		Incarnation: a.identity.Incarnation, OnGap: a.consumerOvertaken, Logger: a.part("queue"), Registerer: a.registry,
	})
}

// queueLog is the log of the node, which is there by the time that somebody reads it. Metrics are asked for earlier.
type queueLog struct{ app *App }

// ReadQueue implements queue.Log.
func (l queueLog) ReadQueue(ctx context.Context, from uint64, limit int, maxBytes int64) ([]raftstate.QueueEntry, uint64, error) {
	return l.app.node.ReadQueue(ctx, from, limit, maxBytes)
}

// EntryAt implements queue.Log.
func (l queueLog) EntryAt(ctx context.Context, ms int64) (uint64, error) {
	return l.app.node.EntryAt(ctx, ms)
}

// OldestEntry implements queue.Log.
func (l queueLog) OldestEntry(ctx context.Context) (first uint64, silent []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	return l.app.node.OldestEntry(ctx)
}

// AppliedIndex implements queue.Log.
func (l queueLog) AppliedIndex() uint64 { return l.app.node.AppliedIndex() }

// WaitApplied implements queue.Log.
func (l queueLog) WaitApplied(ctx context.Context, index uint64) error {
	return l.app.node.WaitApplied(ctx, index)
}

// QueuedBytes implements queue.Log.
func (l queueLog) QueuedBytes(from, to uint64) int64 { return l.app.node.QueuedBytes(from, to) }

// consumerOvertaken tells that retention of the log has overtaken a consumer, once wherever its cursor stands.
func (a *App) consumerOvertaken(c *queue.Consumer, g queue.Gap) {
	a.events.Tell(events.Event{
		ID: fmt.Sprintf("queue_gap/%s/%d", c.Name, g.From.Index), Kind: "queue_gap", Key: c.Name, Severity: wire.SeverityError,
		Text: fmt.Sprintf("consumer %s of the queue was overtaken by the log's retention: it has not read entries %d to %d, which are gone", c.Name, g.From.Index, g.To),
		Tags: map[string]string{"consumer": c.Name, "from": g.From.String(), "to": fmt.Sprint(g.To), "owner": c.Owner},
	})
}

// arrived counts what entries brought, by topic.
func arrived(a *raftstate.Applied) queue.Arrived {
	out := queue.Arrived{Index: a.Index, LogTime: a.LogTime}
	const metrics, logs, events, alerts = 0, 1, 2, 3
	if a.Samples != nil {
		out.Items[metrics] = uint64(len(a.Samples.IDs))
	}
	for i := range a.Logs {
		for j := range a.Logs[i].Batches {
			for k := range a.Logs[i].Batches[j].Batch.Streams {
				st := &a.Logs[i].Batches[j].Batch.Streams[k]
				topic := logs
				if st.Kind == wire.StreamEvent {
					topic = events
				}
				out.Items[topic] += uint64(len(st.Lines))
			}
		}
	}
	for _, m := range a.Meta {
		if m.Bucket == alerting.BucketHistory {
			out.Items[alerts]++
		}
	}
	return out
}

// queueTopic is a topic in the state of the queue.
type queueTopic struct {
	queue.TopicState
	Entries uint64 `json:"entries"` // items in the stores, within retention
}

// Queue implements api.Cluster.
func (c *clusterView) Queue(ctx context.Context) (json.RawMessage, error) {
	a := c.app
	st := a.node.Status()
	_, sums := a.node.Digest()
	counts := make(map[string]uint64)
	for _, d := range sums {
		counts[d.Kind.String()] += d.Count
	}
	var topics []queueTopic
	for _, t := range a.queue.TopicStates() {
		topics = append(topics, queueTopic{t, counts[string(t.Name)]})
	}
	for i := range topics {
		if topics[i].Name == queue.Alerts {
			topics[i].Entries = c.alertsHeld.count(a)
		}
	}
	first := st.FirstIndex
	if first == 0 {
		first = st.MarkIndex + 1
	}
	retention := map[string]any{
		"bytes": st.QueueBytes, "age_s": int64(time.Duration(a.cfg.Queue.Retention.Time).Seconds()), "held_bytes": st.LogBytes,
		"held_entries": st.LastIndex + 1 - min(first, st.LastIndex+1),
	}
	for index := first; index < first+8; index++ { // entries of raft's own have no time
		entries, _, err := a.node.Entries(index, 1, 1)
		if err != nil || len(entries) == 0 {
			break
		}
		if entries[0].Stamp > 0 {
			retention["since_ms"] = entries[0].Stamp
			break
		}
	}
	return json.Marshal(map[string]any{
		"node": st.Node, "first_index": st.FirstIndex, "last_index": st.LastIndex, "commit_index": st.CommitIndex,
		"applied_index": st.AppliedIndex, "mark_index": st.MarkIndex, "bytes": st.LogBytes, "segments": st.LogSegments,
		"topics": topics, "consumers": api.ShownConsumers(a.queue), "in_flight_bytes": st.InFlightBytes, "retention": retention,
		"limits":      map[string]int64{"in_flight_bytes": st.InFlightLimit, "retention_bytes": st.QueueBytes},
		"incarnation": a.identity.Incarnation(), "log_time_ms": st.LogTime,
	})
}

// countEvery is how long a count of the records of alerts is shown.
const countEvery = 30 * time.Second

// heldAlerts counts the records of alerts now and then.
type heldAlerts struct {
	mu sync.Mutex
	n  uint64
	at time.Time
}

func (h *heldAlerts) count(a *App) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at.IsZero() || time.Since(h.at) > countEvery {
		h.n, h.at = 0, time.Now()
		a.state.Scan(alerting.BucketHistory, "", func(string, meta.Value) bool { h.n++; return true })
	}
	return h.n
}
