package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// Bounds of a tail.
const (
	maxBacklog   = 200
	tailMessage  = 200     // rows in one message
	tailPending  = 1000    // rows that wait for a slow client
	tailBytes    = 1 << 20 // and their bytes
	resumeRows   = 2000    // rows after a cursor; more is a gap
	tailTimeout  = 15 * time.Second
	unknownCount = -1
)

type tailParams struct {
	Query   string `json:"query"`
	Backlog int    `json:"backlog"`
}

// tailTopic matches new lines against one query for all who subscribe to it.
type tailTopic struct {
	hub     *Hub
	key     string
	kind    string
	source  TailSource
	matcher Matcher
	reader  *feedReader

	// strict says that nothing may be left out: who is too slow to be told of everything is closed, to resume by cursor.
	strict bool

	mu     sync.Mutex
	subs   map[*tailSub]struct{}
	leftAt time.Time
	head   Position // everything up to here was looked at
	giveUp func()   // the lines that are judged just now; nil before the first
}

// tailSub is a subscription; the topic's lock guards it.
type tailSub struct {
	topic   *tailTopic
	conn    *conn
	id      string
	started bool
	first   []frame
	seq     uint64

	after   Position // the client has everything up to here
	pending []Row
	bytes   int
	sampled int // rows thinned out since the last message
	dropped int // rows lost to slowness since the last message
	lostAt  [2]Position
	head    Position // looked at for this client
	told    Position // the cursor that the client has
	toldAt  time.Time
	budget  float64 // rows it may be sent
	refill  time.Time
	more    bool // there is more than the first answer holds: the client resumes behind it
	cut     bool // it was not told of everything: nothing more is written, so that its cursor stays where it is
}

func (h *Hub) startTail(ctx context.Context, c *conn, req *request) (stream, error) {
	return h.startLines(ctx, c, req, &tailTopic{kind: KindTail, source: h.cfg.Tail})
}

func (h *Hub) startEvents(ctx context.Context, c *conn, req *request) (stream, error) {
	return h.startLines(ctx, c, req, &tailTopic{kind: KindEvents, source: h.cfg.Events, strict: true})
}

// startLines subscribes to lines; t says of what kind.
func (h *Hub) startLines(ctx context.Context, c *conn, req *request, t *tailTopic) (stream, error) {
	if t.source == nil || h.cfg.Lines == nil {
		return nil, errUnavailable
	}
	p := tailParams{Backlog: 50}
	if err := json.Unmarshal(req.Params, &p); err != nil {
		return nil, badParams("params want {query, backlog}")
	}
	if len(p.Query) > maxQueryText {
		return nil, badParams("the query has %d bytes; at most %d", len(p.Query), maxQueryText)
	}
	if p.Backlog < 0 || p.Backlog > maxBacklog {
		return nil, badParams("backlog is %d; want 0 to %d", p.Backlog, maxBacklog)
	}
	var cursor *Position
	if req.Cursor != "" {
		at, err := ParsePosition(req.Cursor)
		if err != nil {
			return nil, badParams("cursor: %v", err)
		}
		cursor = &at
	}
	matcher, err := t.source.Compile(p.Query)
	if err != nil {
		return nil, err
	}
	s := &tailSub{conn: c, id: req.ID, budget: float64(h.cfg.TailRate), refill: time.Now()}
	t.hub, t.key, t.matcher, t.subs = h, t.kind+"\x00"+p.Query, matcher, make(map[*tailSub]struct{})
	err = h.join(t.key, func() topic {
		t.reader, t.head = h.cfg.Lines.reader()
		return t
	}, func(t topic) {
		s.topic = t.(*tailTopic)
		s.topic.attach(s, cursor)
	})
	if err != nil {
		return nil, err
	}
	leave, err := h.place(ctx)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, tailTimeout)
		err = s.begin(ctx, p, cursor)
		cancel()
		leave()
	}
	if err != nil {
		s.detach()
		return nil, err
	}
	return s, nil
}

// attach adds the subscription. From now on lines after the topic's head wait for it, so that with what the store
// holds up to the head nothing is lost or doubled.
func (t *tailTopic) attach(s *tailSub, cursor *Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subs[s] = struct{}{}
	s.head, s.after = t.head, t.head
	if cursor != nil && t.head.Less(*cursor) {
		s.after = *cursor // the client comes from a node that was ahead of this one
	}
}

// begin prepares the first answer: the lines after the cursor, or the newest ones.
func (s *tailSub) begin(ctx context.Context, p tailParams, cursor *Position) error {
	src := s.topic.source
	s.topic.mu.Lock()
	head := s.head
	s.topic.mu.Unlock()
	var first []frame
	if cursor != nil {
		rows, complete, err := src.ReadAfter(ctx, p.Query, *cursor, resumeRows)
		if err != nil {
			return fmt.Errorf("read lines after %s: %w", cursor, err)
		}
		if rows = upTo(rows, head); s.topic.strict && !complete && len(rows) > 0 {
			s.more = true // nothing is left out: these first, and what follows when it resumes behind them
			s.publish(chunks(rows, func(part []Row, _ bool) frame { return s.delta(part, part[len(part)-1].Pos, 0) }))
			return nil
		}
		if complete {
			s.publish(chunks(rows, func(part []Row, last bool) frame { return s.delta(part, at(part, last, head, *cursor), 0) }))
			return nil
		}
		to := head
		if len(rows) > 0 {
			to = rows[0].Pos
		}
		gap, _ := json.Marshal(msgGap{Op: "gap", ID: s.id, From: cursor.String(), To: to.String(), Dropped: unknownCount})
		first = append(first, frame{gap})
	}
	var rows []Row
	var lacks Lack
	if p.Backlog > 0 {
		var err error
		if rows, lacks, err = src.Newest(ctx, p.Query, p.Backlog); err != nil {
			return fmt.Errorf("read newest lines: %w", err)
		}
		rows = upTo(rows, head)
	}
	s.seq++
	snap, err := json.Marshal(msgSnap{
		Op: "snap", ID: s.id, Seq: s.seq, Series: json.RawMessage("[]"),
		V: json.RawMessage("0"), Cursor: head.String(), T0: time.Now().UnixMilli(), Lacks: lacks,
	})
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	s.publish(append(first, splice(snap, appendRows(nil, rows, func(r Row) json.RawMessage { return r.Row }))))
	return nil
}

// upTo cuts off the rows after the position, which come with the live lines.
func upTo(rows []Row, head Position) []Row {
	for i, r := range rows {
		if head.Less(r.Pos) {
			return rows[:i]
		}
	}
	return rows
}

// at is the cursor of a part of the rows after a cursor: its last row, or for the last part everything looked at.
func at(part []Row, last bool, head, cursor Position) Position {
	switch {
	case !last:
		return part[len(part)-1].Pos
	case head.Less(cursor):
		return cursor
	}
	return head
}

// chunks makes messages of at most tailMessage rows, at least one.
func chunks(rows []Row, message func(part []Row, last bool) frame) []frame {
	var out []frame
	for len(rows) > tailMessage {
		out = append(out, message(rows[:tailMessage], false))
		rows = rows[tailMessage:]
	}
	return append(out, message(rows, true))
}

func (s *tailSub) publish(first []frame) {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	s.first, s.started = first, true
	s.told, s.toldAt = s.head, time.Now()
}

func (s *tailSub) detach() {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	delete(s.topic.subs, s)
	s.topic.leftAt = time.Now()
	if len(s.topic.subs) == 0 && s.topic.giveUp != nil {
		s.topic.giveUp()
	}
}

// delta makes a message of rows; nothing else is making one for this subscription at the time.
func (s *tailSub) delta(rows []Row, cursor Position, sampled int) frame {
	s.seq++
	head, _ := json.Marshal(msgDelta{
		Op: "delta", ID: s.id, Seq: s.seq, T: time.Now().UnixMilli(),
		V: json.RawMessage("0"), Sampled: sampled, Cursor: cursor.String(),
	})
	return splice(head, appendRows(nil, rows, func(r Row) json.RawMessage { return r.Row }))
}

// next returns the first answer, what was lost to slowness, and the rows that wait.
func (s *tailSub) next() []frame {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	if !s.started || s.cut {
		return nil
	}
	out := s.first
	s.first = nil
	if s.more {
		if out == nil {
			s.conn.stop(websocket.CloseTryAgainLater, "there is more: resume from the cursor")
		}
		return out
	}
	if s.dropped != 0 {
		gap, _ := json.Marshal(msgGap{Op: "gap", ID: s.id, From: s.lostAt[0].String(), To: s.lostAt[1].String(), Dropped: s.dropped})
		out = append(out, frame{gap})
		s.topic.hub.metrics.dropped.WithLabelValues(s.topic.kind).Add(float64(max(1, s.dropped)))
		s.dropped = 0
	}
	if len(s.pending) == 0 && (s.head == s.told || time.Since(s.toldAt) < s.topic.hub.cfg.Tick) {
		return out
	}
	rows := s.pending // none when only the cursor is told, so that a quiet tail resumes cheaply
	s.pending, s.bytes = nil, 0
	sampled := s.sampled
	s.sampled = 0
	return append(out, chunks(rows, func(part []Row, last bool) frame {
		thinned, cursor := sampled, s.head
		if !last {
			thinned, cursor = 0, part[len(part)-1].Pos
		}
		s.told, s.toldAt = cursor, time.Now()
		return s.delta(part, cursor, thinned)
	})...)
}

func (t *tailTopic) idle(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	// The log store holds what a tail needs to resume, so an unused one goes at once.
	return len(t.subs) == 0 && now.After(t.leftAt)
}

// run gathers new lines for a moment, matches them and hands them out.
func (t *tailTopic) run(ctx context.Context) {
	defer t.reader.close()
	wake := time.NewTimer(t.hub.cfg.TailEvery)
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake.C:
		}
		if t.hub.retire(t.key, t) {
			return
		}
		began := time.Now()
		lines, lost, head := t.reader.read()
		rows, left := t.judge(ctx, lines)
		if ctx.Err() != nil {
			return
		}
		if lost >= 0 {
			lost += left
		}
		t.deliver(rows, lost, head)
		// A query that is slow to judge takes at most half of a processor; what it misses meanwhile it is told.
		wake.Reset(max(t.hub.cfg.TailEvery, time.Since(began)))
	}
}

// judge matches lines for as long as somebody is subscribed: a long line may take seconds. It returns how many it left out.
func (t *tailTopic) judge(ctx context.Context, lines []Line) (rows []Row, left int) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.giveUp = cancel
	if len(t.subs) == 0 {
		cancel()
	}
	t.mu.Unlock()
	for i := range lines {
		row, ok := t.matcher.Match(ctx, &lines[i])
		if ctx.Err() != nil {
			return rows, len(lines) - i
		}
		if ok {
			rows = append(rows, Row{Pos: lines[i].Pos, Row: row})
		}
	}
	return rows, 0
}

// deliver gives the rows to every subscription, thinned to what each may be sent.
func (t *tailTopic) deliver(rows []Row, lost int, head Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.head
	t.head = head
	for s := range t.subs {
		s.take(rows, lost, before, head, float64(t.hub.cfg.TailRate))
		if len(s.pending) > 0 || s.dropped != 0 {
			s.conn.wakeUp()
		}
	}
}

// take adds rows to what waits for the client.
func (s *tailSub) take(rows []Row, lost int, before, head Position, perSecond float64) {
	s.head = head
	if s.head.Less(s.after) {
		s.head = s.after
	}
	for len(rows) > 0 && !s.after.Less(rows[0].Pos) {
		rows = rows[1:]
	}
	if lost != 0 {
		s.lose(lost, before, head)
	}
	if s.topic.strict {
		s.takeAll(rows)
		return
	}
	now := time.Now()
	s.budget = min(perSecond, s.budget+perSecond*now.Sub(s.refill).Seconds())
	s.refill = now
	keep := len(rows)
	if float64(keep) > s.budget {
		keep = int(s.budget)
	}
	s.budget -= float64(keep)
	s.sampled += len(rows) - keep
	for i := range keep {
		r := rows[(i+1)*len(rows)/keep-1] // evenly spread, the newest among them
		s.pending = append(s.pending, r)
		s.bytes += len(r.Row)
	}
	for len(s.pending) > tailPending || s.bytes > tailBytes && len(s.pending) > 1 {
		s.lose(1, s.pending[0].Pos, s.pending[0].Pos)
		s.bytes -= len(s.pending[0].Row)
		s.pending = s.pending[1:]
	}
}

// takeAll adds all rows, or has the client resume from its cursor when it does not take them.
func (s *tailSub) takeAll(rows []Row) {
	if s.cut {
		return
	}
	for i := range rows {
		s.pending = append(s.pending, rows[i])
		s.bytes += len(rows[i].Row)
	}
	if s.dropped != 0 || len(s.pending) > tailPending || s.bytes > tailBytes && len(s.pending) > 1 {
		s.pending, s.bytes, s.dropped = nil, 0, 0
		s.cut = true
		s.conn.stop(websocket.CloseTryAgainLater, "the client was not told of everything: resume from the cursor")
	}
}

// lose counts rows that the client does not get.
func (s *tailSub) lose(n int, from, to Position) {
	if s.dropped == 0 {
		s.lostAt[0] = from
	}
	s.lostAt[1] = to
	if n < 0 || s.dropped < 0 {
		s.dropped = unknownCount
		return
	}
	s.dropped += n
}
