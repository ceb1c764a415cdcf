package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/problem"
	"github.com/triward/triward/appliance/queue"
)

// QueueConsumer is a consumer and how far it is behind.
type QueueConsumer struct {
	queue.Consumer
	Lag []queue.Lag `json:"lag"`
	// Gap is how many entries it has not read that no member holds any more.
	Gap uint64 `json:"gap_entries,omitempty"`
}

type queueConsumersAnswer struct {
	Consumers []QueueConsumer `json:"consumers"`
}

type queueConsumerBody struct {
	Name   string   `json:"name"`
	Topics []string `json:"topics,omitempty"` // metrics, logs, events, alerts or their other names; all when absent
	Agent  string   `json:"agent,omitempty"`  // only messages of this agent: its id, its host, or what the sender calls itself
	From   string   `json:"from,omitempty"`   // beginning, end (the default), a position or a time
}

type queueCreatedAnswer struct {
	QueueConsumer
	Notes []string `json:"notes,omitempty"` // about names of topics that are only other names
}

type queueOpenBody struct {
	Owner  string `json:"owner"`             // tells this reader from others
	LeaseS int64  `json:"lease_s,omitempty"` // 60 when absent
	Force  bool   `json:"force,omitempty"`   // take the consumer from another owner whose lease stands
}

type queueCommitBody struct {
	Token    uint64         `json:"token"`
	Position queue.Position `json:"position"`          // all before it was dealt with: `next` of an answer
	Release  bool           `json:"release,omitempty"` // nobody reads the consumer from then on
}

type queueReplayBody struct {
	From string `json:"from"` // beginning, end, a position, or a time as 2026-01-02T15:04:05Z
}

// QueueMessage describes a message; it is written by package queue.
type QueueMessage struct {
	Index     uint64           `json:"index"` // with item its identity, in this incarnation of the cluster
	Item      uint64           `json:"item"`
	Topic     string           `json:"topic"`
	Type      string           `json:"type"`      // metric, log, event, alert or notification
	Timestamp float64          `json:"timestamp"` // seconds since 1970
	TimeNS    string           `json:"time_ns"`   // the same, exactly
	LogTimeMS int64            `json:"log_time_ms"`
	Sender    string           `json:"sender,omitempty"`
	AgentID   string           `json:"agent_id"`
	Series    uint64           `json:"series,omitempty"`
	Severity  string           `json:"severity,omitempty"`
	Stream    json.RawMessage  `json:"stream,omitempty"`
	Data      queueMessageData `json:"data"`
	Record    json.RawMessage  `json:"record,omitempty"` // of alerts: as it stands in their history
	// Unverified says that no node knows any more whether the whole entry was applied: it may be a repeat.
	Unverified bool `json:"unverified,omitempty"`
}

type queueMessageData struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
	Tags  json.RawMessage `json:"tags"`
}

type queuePage struct {
	Items       []QueueMessage `json:"items"`
	Next        queue.Position `json:"next"` // where to read on, and what to commit once the items were dealt with
	Head        uint64         `json:"head"` // the last entry that this node has applied
	More        bool           `json:"more"` // there is more to look through now
	Incarnation string         `json:"incarnation"`
}

// queueGap is the body of 410: a problem document with what is gone.
type queueGap struct {
	problem.Problem
	Gap    queue.Gap `json:"gap"`
	Silent []string  `json:"silent,omitempty"` // members that did not answer and may still hold it
	// Again are requests that read the time of the gap from the stores.
	Again []string `json:"again,omitempty"`
}

func queueRoutes() []Route {
	token := Param{Name: "token", Kind: paramInt, Min: 0, Max: 1 << 53, Doc: "refuse the read when this is not the consumer's token any more"}
	return []Route{
		{
			Method: "GET", Path: "/v1/queue/consumers", Permission: auth.Read, Summary: "The consumers of the queue and how far each is behind",
			Fresh: true, Answer: queueConsumersAnswer{}, serve: (*API).queueConsumers,
		},
		{
			Method: "POST", Path: "/v1/queue/consumers", Permission: auth.Operate, Summary: "Make a consumer", Body: queueConsumerBody{},
			MaxBody: 8 << 10, Answer: queueCreatedAnswer{}, Status: http.StatusCreated, serve: (*API).createConsumer,
		},
		{
			Method: "GET", Path: "/v1/queue/consumers/{name}", Permission: auth.Read, Summary: "One consumer", Fresh: true,
			Answer: QueueConsumer{}, serve: (*API).queueConsumer,
		},
		{
			Method: "DELETE", Path: "/v1/queue/consumers/{name}", Permission: auth.Operate, Summary: "Remove a consumer",
			Status: http.StatusNoContent, serve: (*API).deleteConsumer,
		},
		{
			Method: "POST", Path: "/v1/queue/consumers/{name}/open", Permission: auth.Operate,
			Summary: "Become the reader of a consumer; the token of the answer is wanted by commits, and all given out before are refused then",
			Body:    queueOpenBody{}, MaxBody: 4 << 10, Answer: QueueConsumer{}, serve: (*API).openConsumer,
		},
		{
			Method: "GET", Path: "/v1/queue/consumers/{name}/read", Permission: auth.Read, Fresh: true, Long: true,
			Summary: "Messages from a consumer's cursor on, in the order of the log; the cursor does not move. 410 when the log was not retained so long",
			Params: []Param{
				{Name: "max", Kind: paramInt, Min: 1, Max: queue.MaxItems, Default: itoa(queue.DefaultItems), Doc: "how many at most"},
				{Name: "wait", Kind: paramDuration, Min: 0, Max: queue.MaxWait.Milliseconds(), Doc: "how long to wait for the first one"},
				{Name: "from", Kind: paramText, MaxLen: 60, Doc: "read from this position instead, `next` of a page that is not committed yet"},
				token,
			},
			Answer: queuePage{}, serve: (*API).readConsumer,
		},
		{
			Method: "POST", Path: "/v1/queue/consumers/{name}/commit", Permission: auth.Operate,
			Summary: "Move a consumer's cursor forward; a position behind it changes nothing", Body: queueCommitBody{}, MaxBody: 4 << 10,
			Answer: QueueConsumer{}, serve: (*API).commitConsumer,
		},
		{
			Method: "POST", Path: "/v1/queue/consumers/{name}/replay", Permission: auth.Operate,
			Summary: "Put a consumer's cursor anywhere; nothing is stored again", Body: queueReplayBody{}, MaxBody: 4 << 10,
			Answer: QueueConsumer{}, serve: (*API).replayConsumer,
		},
		{
			Method: "GET", Path: "/v1/queue/peek", Permission: auth.Read, Fresh: true,
			Summary: "Messages of the queue without a consumer; long texts are cut",
			Params: []Param{
				{Name: "from", Kind: paramText, MaxLen: 60, Doc: "beginning, end, a position or a time; the newest 1000 entries when absent"},
				{Name: "topic", Kind: paramText, MaxLen: 200, Doc: "topics or their other names, with commas; all when absent"},
				{Name: "agent", Kind: paramText, MaxLen: 253, Doc: "only of this agent"},
				limitParam(100, 1000),
			},
			Answer: queuePage{}, serve: (*API).peekQueue,
		},
	}
}

func queueErrors() []problem.Rule {
	return []problem.Rule{
		{Is: queue.ErrInvalid, Status: http.StatusBadRequest},
		{Is: queue.ErrNoConsumer, Status: http.StatusNotFound, Hint: "`triward queue consumer list` shows those that there are"},
		{Is: queue.ErrExists, Status: http.StatusConflict, Hint: "choose another name, or delete it first"},
		{Is: queue.ErrHeld, Status: http.StatusConflict, Code: "held", Hint: "end that reader, or take the consumer from it with force"},
		{Is: queue.ErrFenced, Status: http.StatusConflict, Code: "fenced", Hint: "another reader opened it, or it was replayed: open it again and read from its cursor"},
		{Is: queue.ErrBehind, Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Hint: "ask again, or another node"},
		{Is: queue.ErrTooMany, Status: http.StatusTooManyRequests, RetryAfter: 5 * time.Second},
		{Is: queue.ErrElsewhere, Status: http.StatusConflict, Hint: "its place is what its target holds: change it there"},
	}
}

func (a *API) shownConsumer(c queue.Consumer) QueueConsumer {
	q := a.cfg.Queue
	return QueueConsumer{Consumer: c, Lag: q.LagOf(&c), Gap: q.Behind(&c)}
}

// ShownConsumers are the consumers of a queue as the API shows them.
func ShownConsumers(s *queue.Service) []QueueConsumer {
	out := []QueueConsumer{}
	for _, c := range s.List() {
		out = append(out, QueueConsumer{Consumer: c, Lag: s.LagOf(&c), Gap: s.Behind(&c)})
	}
	return out
}

func (a *API) queueConsumers(q *request) error {
	return q.answer(http.StatusOK, queueConsumersAnswer{Consumers: ShownConsumers(a.cfg.Queue)})
}

func (a *API) queueConsumer(q *request) error {
	return a.answerConsumer(q, http.StatusOK)(a.cfg.Queue.Get(q.r.PathValue("name")))
}

// answerConsumer answers with a consumer, or its error.
func (a *API) answerConsumer(q *request, status int) func(queue.Consumer, error) error {
	return func(c queue.Consumer, err error) error {
		if err != nil {
			return err
		}
		return q.answer(status, a.shownConsumer(c))
	}
}

func (a *API) createConsumer(q *request) error {
	var b queueConsumerBody
	if err := q.body(&b); err != nil {
		return err
	}
	c, notes, err := a.cfg.Queue.Create(q.ctx(), queue.Wish(b), q.audit())
	if err != nil {
		return err
	}
	return q.answer(http.StatusCreated, queueCreatedAnswer{QueueConsumer: a.shownConsumer(c), Notes: notes})
}

func (a *API) deleteConsumer(q *request) error {
	return q.done(a.cfg.Queue.Delete(q.ctx(), q.r.PathValue("name"), q.audit()))
}

func (a *API) openConsumer(q *request) error {
	var b queueOpenBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.LeaseS < 0 || b.LeaseS > 86400 {
		return problem.New(http.StatusBadRequest, "lease_s: want 5 to 3600 seconds")
	}
	if b.Owner == "" {
		b.Owner = q.p.Actor()
	}
	return a.answerConsumer(q, http.StatusOK)(a.cfg.Queue.Open(q.ctx(), q.r.PathValue("name"), b.Owner, time.Duration(b.LeaseS)*time.Second, b.Force, q.audit()))
}

func (a *API) commitConsumer(q *request) error {
	var b queueCommitBody
	if err := q.body(&b); err != nil {
		return err
	}
	if b.Position.Index == 0 {
		return problem.New(http.StatusBadRequest, "position is missing: want `next` of an answer")
	}
	return a.answerConsumer(q, http.StatusOK)(a.cfg.Queue.Commit(q.ctx(), q.r.PathValue("name"), b.Token, b.Position, b.Release))
}

func (a *API) replayConsumer(q *request) error {
	var b queueReplayBody
	if err := q.body(&b); err != nil {
		return err
	}
	return a.answerConsumer(q, http.StatusOK)(a.cfg.Queue.Replay(q.ctx(), q.r.PathValue("name"), b.From, q.audit()))
}

// messages collects a page as it is written.
type messages struct {
	buf   []byte
	count int
	clip  int
}

func (m *messages) sink(it *queue.Item) int {
	from := len(m.buf)
	if m.count > 0 {
		m.buf = append(m.buf, ',', '\n')
	}
	m.buf = it.AppendJSON(m.buf, m.clip)
	m.count++
	return len(m.buf) - from
}

func (a *API) page(q *request, m *messages, pr queue.Progress) error {
	head := fmt.Appendf(nil, `{"next":%q,"head":%d,"more":%t,"incarnation":%s,"items":[`, pr.Next, pr.Head, pr.More, strconv.Quote(a.cfg.Queue.Incarnation()))
	h := q.w.Header()
	h.Set("Content-Type", "application/json")
	q.w.WriteHeader(http.StatusOK)
	for _, part := range [][]byte{head, m.buf, []byte("]}")} {
		if _, err := q.w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func (a *API) readConsumer(q *request) error {
	var from queue.Position
	if text := q.v.str("from"); text != "" {
		var err error
		if from, err = queue.ParsePosition(text); err != nil {
			return err
		}
	}
	m := &messages{}
	c, pr, err := a.cfg.Queue.ReadAs(q.ctx(), q.r.PathValue("name"), uint64(q.v.int("token")), from,
		queue.Ask{Max: int(q.v.int("max")), Wait: time.Duration(q.v.int("wait")), Sink: m.sink})
	if g, ok := errors.AsType[*queue.GapError](err); ok {
		return answerGap(q, g, c.Topics)
	}
	if err != nil {
		return err
	}
	return a.page(q, m, pr)
}

// answerGap says what is gone and how to read its time from the stores.
func answerGap(q *request, g *queue.GapError, topics []queue.Topic) error {
	body := queueGap{Problem: *problem.New(http.StatusGone, g.Error()), Gap: g.Gap, Silent: g.Silent}
	body.Code = "gap"
	body.Hint = "commit `gap.next` to go on behind it; what was gone is in the stores, see `again`"
	if g.FromTime > 0 && g.ToTime > 0 {
		span := fmt.Sprintf("start=%d&end=%d", g.FromTime, g.ToTime+1)
		for _, t := range topics {
			switch t {
			case queue.Metrics:
				body.Again = append(body.Again, fmt.Sprintf("/api/v1/query?query=%s&time=%d.%03d", url.QueryEscape(fmt.Sprintf(`{__name__!=""}[%dms]`, max(1, g.ToTime-g.FromTime))), g.ToTime/1000, g.ToTime%1000))
			case queue.Logs:
				body.Again = append(body.Again, "/v1/logs/query?"+span)
			case queue.Events:
				body.Again = append(body.Again, "/v1/events?"+span)
			case queue.Alerts:
				body.Again = append(body.Again, "/v1/alerts/history?"+span)
			}
		}
	}
	data, err := json.Marshal(&body)
	if err != nil {
		return fmt.Errorf("encode the gap: %w", err)
	}
	q.w.Header().Set("Content-Type", "application/problem+json")
	q.w.WriteHeader(http.StatusGone)
	_, err = q.w.Write(data)
	return err
}

// peekClip is how long the texts of messages are that peek shows.
const peekClip = 4 << 10

// peekBack is how many entries peek goes back unless it is told where to begin.
const peekBack = 1000

func (a *API) peekQueue(q *request) error {
	ask := queue.Ask{Max: int(q.v.int("limit")), Agent: q.v.str("agent")}
	for _, name := range strings.Split(q.v.str("topic"), ",") {
		if name == "" {
			continue
		}
		t, _, err := queue.ParseTopic(name)
		if err != nil {
			return err
		}
		ask.Topics = append(ask.Topics, t)
	}
	var err error
	if ask.From, err = a.cfg.Queue.Place(q.ctx(), q.v.str("from"), peekBack); err != nil {
		return err
	}
	m := &messages{clip: peekClip}
	ask.Sink = m.sink
	pr, err := a.cfg.Queue.Read(q.ctx(), ask)
	if g, ok := errors.AsType[*queue.GapError](err); ok {
		return answerGap(q, g, ask.Topics)
	}
	if err != nil {
		return err
	}
	return a.page(q, m, pr)
}
