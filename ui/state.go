package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// stateTopic shows a list of rows as it is now: a client that was slow or away gets what changed since, which is
// all that matters of a state. The hosts view is one; so is the cluster, with a single row.
type stateTopic struct {
	hub   *Hub
	kind  string
	every time.Duration
	// read returns the rows; full asks for everything a row can say, for first answers.
	read func(ctx context.Context, full bool) ([]Host, error)
	// single says that there is one row, whose value is sent bare and each tick.
	single bool
	// strict says that nothing may be left out: who is too slow to be told of everything is closed, to begin anew.
	strict bool

	mu     sync.Mutex
	subs   map[*stateSub]struct{}
	leftAt time.Time
	seq    uint64
	at     int64 // when the newest tick was, ms
	rows   map[string]*stateRow
	order  []string
	gone   []goneRow
	snap   json.RawMessage // of the tick snapSeq
	snapOK bool
	fails  bool
}

type stateRow struct {
	json    json.RawMessage
	changed uint64 // the tick that changed it
}

// maxGone is how many rows that are gone are remembered, however long ago they went.
const maxGone = 4096

type goneRow struct {
	id  string
	seq uint64
}

type stateSub struct {
	topic   *stateTopic
	conn    *conn
	id      string
	started bool
	snap    frame
	last    uint64
}

// hostColumns names the scalar columns of a host's row, for clients that draw a table.
var hostColumns = json.RawMessage(`["id","host","state","last_seen","os","version","tags","cpu","mem","disk","disk_mount","net_rx","net_tx","load1","cores","log_errors"]`)

func (h *Hub) startHosts(ctx context.Context, c *conn, req *request) (stream, error) {
	if h.cfg.Hosts == nil {
		return nil, errUnavailable
	}
	return h.startState(ctx, c, req, func() *stateTopic {
		return &stateTopic{
			hub: h, kind: KindHosts, every: h.cfg.HostsEvery,
			read: func(_ context.Context, full bool) ([]Host, error) { return h.cfg.Hosts.Hosts(full) },
		}
	})
}

func (h *Hub) startCluster(ctx context.Context, c *conn, req *request) (stream, error) {
	if h.cfg.Cluster == nil {
		return nil, errUnavailable
	}
	return h.startState(ctx, c, req, func() *stateTopic {
		return &stateTopic{
			hub: h, kind: KindCluster, every: h.cfg.ClusterEvery, single: true,
			read: func(ctx context.Context, _ bool) ([]Host, error) {
				body, err := h.cfg.Cluster.Cluster(ctx)
				return []Host{{Row: body}}, err
			},
		}
	})
}

func (h *Hub) startAlerts(ctx context.Context, c *conn, req *request) (stream, error) {
	if h.cfg.Alerts == nil {
		return nil, errUnavailable
	}
	return h.startState(ctx, c, req, func() *stateTopic {
		return &stateTopic{
			hub: h, kind: KindAlerts, every: h.cfg.AlertsEvery, strict: true,
			read: func(ctx context.Context, _ bool) ([]Host, error) { return h.cfg.Alerts.Alerts(ctx) },
		}
	})
}

func (h *Hub) startAgents(ctx context.Context, c *conn, req *request) (stream, error) {
	if h.cfg.Agents == nil {
		return nil, errUnavailable
	}
	return h.startState(ctx, c, req, func() *stateTopic {
		return &stateTopic{
			hub: h, kind: KindAgents, every: h.cfg.AgentsEvery,
			read: func(ctx context.Context, _ bool) ([]Host, error) { return h.cfg.Agents.Agents(ctx) },
		}
	})
}

func (h *Hub) startState(ctx context.Context, c *conn, req *request, create func() *stateTopic) (stream, error) {
	if p := bytes.TrimSpace(req.Params); len(p) > 0 && p[0] != '{' && !bytes.Equal(p, []byte("null")) {
		return nil, badParams("params want an object")
	}
	s := &stateSub{conn: c, id: req.ID}
	err := h.join(req.Kind, func() topic {
		t := create()
		t.subs = make(map[*stateSub]struct{})
		t.rows = make(map[string]*stateRow)
		return t
	}, func(t topic) {
		s.topic = t.(*stateTopic)
		s.topic.attach(s, req.Cursor)
	})
	if err != nil {
		return nil, err
	}
	if err := s.topic.begin(ctx, s); err != nil {
		s.detach()
		return nil, err
	}
	return s, nil
}

// cursor of a tick: it means something only to the process that made it.
func (t *stateTopic) cursor(seq uint64) string {
	return t.hub.epoch + ":" + strconv.FormatUint(seq, 10)
}

func (t *stateTopic) attach(s *stateSub, cursor string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subs[s] = struct{}{}
	epoch, seq, _ := strings.Cut(cursor, ":")
	n, err := strconv.ParseUint(seq, 10, 64)
	if err == nil && epoch == t.hub.epoch && n > 0 && n <= t.seq && n+ringTicks >= t.seq {
		s.started, s.last = true, n
	}
}

// begin gives the subscription its first answer unless it goes on from a cursor.
func (t *stateTopic) begin(ctx context.Context, s *stateSub) error {
	t.mu.Lock()
	started, fresh := s.started, t.seq > 0
	t.mu.Unlock()
	if started {
		return nil
	}
	leave, err := t.hub.place(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if !fresh {
		t.tick(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if row, ok := t.rows[""]; ok && t.single {
		t.snap, t.snapOK = row.json, true
	}
	if !t.snapOK {
		rows, err := t.read(ctx, true)
		if err != nil {
			return fmt.Errorf("read %s: %w", t.kind, err)
		}
		t.snap = t.body(rows)
		t.snapOK = true
	}
	series := json.RawMessage("[]")
	if t.kind == KindHosts {
		series = hostColumns
	}
	head, err := json.Marshal(msgSnap{
		Op: "snap", ID: s.id, Seq: t.seq, T0: t.at, Step: t.every.Milliseconds(),
		Series: series, V: json.RawMessage("0"), Cursor: t.cursor(t.seq),
	})
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	s.snap, s.started, s.last = splice(head, t.snap), true, t.seq
	return nil
}

// body is the value of a message: the rows, or the single one bare.
func (t *stateTopic) body(rows []Host) json.RawMessage {
	if t.single {
		if len(rows) == 0 {
			return json.RawMessage("null")
		}
		return rows[0].Row
	}
	return appendRows(nil, rows, func(h Host) json.RawMessage { return h.Row })
}

func (s *stateSub) detach() {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	delete(s.topic.subs, s)
	s.topic.leftAt = time.Now()
}

// next returns the first answer and, in one delta, all that changed since what the client has.
func (s *stateSub) next() []frame {
	t := s.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	if !s.started {
		return nil
	}
	var out []frame
	if s.snap != nil {
		out = append(out, s.snap)
		s.snap = nil
	}
	if s.last >= t.seq {
		return out
	}
	if t.strict && s.last+ringTicks < t.seq { // rows that are gone since are no longer known
		s.conn.stop(websocket.CloseTryAgainLater, "the client was not told of all alerts; it begins anew")
		return nil
	}
	if left := t.seq - s.last - 1; left > 0 && !t.strict {
		t.hub.metrics.dropped.WithLabelValues(t.kind).Add(float64(left))
	}
	var changed []Host
	for _, id := range t.order {
		if r := t.rows[id]; r.changed > s.last {
			changed = append(changed, Host{ID: id, Row: r.json})
		}
	}
	msg := msgDelta{Op: "delta", ID: s.id, Seq: t.seq, T: t.at, V: json.RawMessage("0"), Cursor: t.cursor(t.seq)}
	for _, g := range t.gone {
		if _, back := t.rows[g.id]; g.seq > s.last && !back {
			msg.Gone = append(msg.Gone, g.id)
		}
	}
	s.last = t.seq
	if len(changed) == 0 && len(msg.Gone) == 0 && (t.single || t.strict) {
		return out
	}
	head, _ := json.Marshal(msg)
	return append(out, splice(head, t.body(changed)))
}

func (t *stateTopic) idle(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.subs) == 0 && now.Sub(t.leftAt) >= t.hub.cfg.Linger
}

func (t *stateTopic) run(ctx context.Context) {
	ticker := time.NewTicker(t.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if t.hub.retire(t.kind, t) {
			return
		}
		t.tick(ctx)
	}
}

// tick reads the rows, notes which of them changed and wakes the subscribers.
func (t *stateTopic) tick(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, max(t.every, 2*time.Second))
	defer cancel()
	rows, err := t.read(ctx, false)
	t.mu.Lock()
	subs := make([]*stateSub, 0, len(t.subs))
	for s := range t.subs {
		subs = append(subs, s)
	}
	if err != nil {
		first := !t.fails && ctx.Err() != context.Canceled
		t.fails = t.fails || first
		t.mu.Unlock()
		for _, s := range subs {
			if first {
				s.conn.send(msgErr{Op: "err", ID: s.id, Code: codeUnavailable, Message: err.Error()})
			}
		}
		return
	}
	t.fails = false
	t.apply(rows)
	t.mu.Unlock()
	for _, s := range subs {
		s.conn.wakeUp()
	}
}

// apply takes the rows of a new tick.
func (t *stateTopic) apply(rows []Host) {
	t.seq++
	t.at = time.Now().UnixMilli()
	t.snapOK, t.snap = false, nil
	seen := make(map[string]bool, len(rows))
	order := make([]string, 0, len(rows))
	for _, h := range rows {
		seen[h.ID] = true
		order = append(order, h.ID)
		r, ok := t.rows[h.ID]
		switch {
		case !ok:
			t.rows[h.ID] = &stateRow{json: h.Row, changed: t.seq}
		case t.single || !bytes.Equal(r.json, h.Row):
			r.json, r.changed = h.Row, t.seq
		}
	}
	for id := range t.rows {
		if !seen[id] {
			delete(t.rows, id)
			t.gone = append(t.gone, goneRow{id, t.seq})
		}
	}
	t.order = order
	// A page in the background reads nothing for as long as it likes, and must still hear of them; those of strict
	// topics begin anew instead.
	keep := 0
	if !t.strict {
		keep = maxGone
	}
	for len(t.gone) > keep && t.gone[0].seq+ringTicks < t.seq {
		t.gone = t.gone[1:]
	}
}
