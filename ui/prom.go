package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Bounds of a PromQL subscription.
const (
	maxQueryText  = 16 << 10
	minStep       = 1000        // ms
	maxStep       = 3600 * 1000 // ms
	maxPoints     = 4000        // of a series in a snapshot
	maxLiveSeries = 500
	maxCells      = 500_000 // series x points of a snapshot
	queryTimeout  = 10 * time.Second
)

type promParams struct {
	Query  string `json:"query"`
	Step   int64  `json:"step"`   // ms
	Window int64  `json:"window"` // ms
}

func (p *promParams) check() error {
	switch {
	case p.Query == "":
		return badParams("params need a query")
	case len(p.Query) > maxQueryText:
		return badParams("the query has %d bytes; at most %d", len(p.Query), maxQueryText)
	case p.Step < minStep || p.Step > maxStep:
		return badParams("step is %d ms; want %d to %d", p.Step, minStep, maxStep)
	case p.Window < 0 || p.Window/p.Step+1 > maxPoints:
		return badParams("window / step is more than %d points; choose a greater step", maxPoints)
	}
	return nil
}

// promTopic evaluates one query at every multiple of its step, for all who subscribe to it. Ticks lie on multiples
// of the step since 1970 on every node, so that the time of the last tick is a cursor everywhere.
type promTopic struct {
	hub   *Hub
	key   string
	query string
	step  int64

	mu       sync.Mutex
	subs     map[*promSub]struct{}
	leftAt   time.Time // when the last subscriber went
	set      *seriesSet
	lastSeen map[string]int64 // when a series of the set had a value last
	ring     []promTick       // ascending, at most ringTicks
	snaps    map[int64]*promSnap
	failing  bool
}

// seriesSet is an ordered set of series. It is not changed once made.
type seriesSet struct {
	keys  []string // the series' labels as JSON, which has sorted names
	index map[string]int
	json  json.RawMessage
}

func newSeriesSet(keys []string) *seriesSet {
	s := &seriesSet{keys: keys, index: make(map[string]int, len(keys))}
	var b bytes.Buffer
	b.WriteByte('[')
	for i, k := range keys {
		s.index[k] = i
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"labels":`)
		b.WriteString(k)
		b.WriteByte('}')
	}
	b.WriteByte(']')
	s.json = b.Bytes()
	return s
}

type promTick struct {
	t   int64
	set *seriesSet
	v   json.RawMessage
}

// promSnap is a first answer, made once for all who ask for it in the same tick.
type promSnap struct {
	end  int64
	done chan struct{}
	err  error
	set  *seriesSet
	t0   int64
	v    json.RawMessage
}

// promSub is a subscription; the topic's lock guards it.
type promSub struct {
	topic   *promTopic
	conn    *conn
	id      string
	started bool
	snap    frame // to be sent first
	last    int64 // the newest tick that the client has
	set     *seriesSet
	catchUp bool // send every tick since last, not the newest alone
}

func seriesKey(labels map[string]string) string {
	if labels == nil {
		labels = map[string]string{}
	}
	b, err := json.Marshal(labels)
	if err != nil {
		panic(fmt.Sprintf("ui: encode labels: %v", err)) // a map of strings: cannot fail
	}
	return string(b)
}

func (h *Hub) startProm(ctx context.Context, c *conn, req *request) (stream, error) {
	if h.cfg.Ranges == nil {
		return nil, errUnavailable
	}
	var p promParams
	if err := json.Unmarshal(req.Params, &p); err != nil {
		return nil, badParams("params want {query, step, window}, step and window in ms")
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	s := &promSub{conn: c, id: req.ID}
	key := KindPromQL + "\x00" + strconv.FormatInt(p.Step, 10) + "\x00" + p.Query
	err := h.join(key, func() topic {
		return &promTopic{
			hub: h, key: key, query: p.Query, step: p.Step, subs: make(map[*promSub]struct{}),
			set: newSeriesSet(nil), lastSeen: make(map[string]int64), snaps: make(map[int64]*promSnap),
		}
	}, func(t topic) {
		s.topic = t.(*promTopic)
		s.topic.attach(s, req.Cursor)
	})
	if err != nil {
		return nil, err
	}
	if s.isStarted() {
		return s, nil
	}
	snap, err := s.topic.snapshot(ctx, p.Window)
	if err != nil {
		s.abandon()
		return nil, err
	}
	s.begin(snap)
	return s, nil
}

var errUnavailable = errors.New("this node cannot answer that now")

// attach adds the subscription; with a cursor that the ring still reaches it goes on from there.
func (t *promTopic) attach(s *promSub, cursor string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subs[s] = struct{}{}
	at, err := strconv.ParseInt(cursor, 10, 64)
	if err != nil || at%t.step != 0 || len(t.ring) == 0 {
		return
	}
	if at >= t.ring[0].t-t.step && at <= t.ring[len(t.ring)-1].t+t.step {
		s.started, s.last, s.catchUp = true, at, true
	}
}

func (s *promSub) isStarted() bool {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	return s.started
}

// begin hands the first answer to the subscription; ticks after it follow, none of them left out.
func (s *promSub) begin(snap *promSnap) {
	t := s.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	head, err := json.Marshal(msgSnap{
		Op: "snap", ID: s.id, Seq: uint64(snap.end / t.step), T0: snap.t0, Step: t.step,
		Series: snap.set.json, V: json.RawMessage("0"), Cursor: strconv.FormatInt(snap.end, 10),
	})
	if err != nil {
		panic(fmt.Sprintf("ui: encode snapshot: %v", err))
	}
	s.snap = splice(head, snap.v)
	s.started, s.last, s.set, s.catchUp = true, snap.end, snap.set, true
}

// splice puts a shared value in the place of the 0 that stands for it as "v" near the end of the message.
func splice(msg []byte, v json.RawMessage) frame {
	mark := []byte(`"v":0,`)
	i := bytes.LastIndex(msg, mark)
	return frame{msg[:i+4], v, msg[i+5:]}
}

func (s *promSub) detach() {
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	delete(s.topic.subs, s)
	s.topic.leftAt = time.Now()
}

// abandon is detach after a first answer that failed: nobody will resume what never began.
func (s *promSub) abandon() {
	s.detach()
	s.topic.mu.Lock()
	defer s.topic.mu.Unlock()
	if len(s.topic.ring) == 0 {
		s.topic.leftAt = time.Time{}
	}
}

// next returns the first answer and the ticks that the client does not have. A client that was slow gets the newest
// tick and is told of the ones left out.
func (s *promSub) next() []frame {
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
	i, found := slices.BinarySearchFunc(t.ring, s.last, func(a promTick, at int64) int { return int(a.t - at) })
	if found {
		i++
	}
	due := t.ring[i:]
	if !s.catchUp && len(due) > 1 {
		left := due[:len(due)-1]
		gap, _ := json.Marshal(msgGap{
			Op: "gap", ID: s.id, From: strconv.FormatInt(left[0].t, 10),
			To: strconv.FormatInt(left[len(left)-1].t, 10), Dropped: len(left),
		})
		out = append(out, frame{gap})
		t.hub.metrics.dropped.WithLabelValues(KindPromQL).Add(float64(len(left)))
		due = due[len(due)-1:]
	}
	s.catchUp = false
	for _, tick := range due {
		msg := msgDelta{
			Op: "delta", ID: s.id, Seq: uint64(tick.t / t.step), T: tick.t, V: json.RawMessage("0"),
			Cursor: strconv.FormatInt(tick.t, 10),
		}
		if s.set == nil || s.set != tick.set && !slices.Equal(s.set.keys, tick.set.keys) {
			msg.Series = tick.set.json
		}
		s.set, s.last = tick.set, tick.t
		head, _ := json.Marshal(msg)
		out = append(out, splice(head, tick.v))
	}
	return out
}

func (t *promTopic) idle(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.subs) == 0 && now.Sub(t.leftAt) >= t.hub.cfg.Linger
}

// run evaluates at each multiple of the step. A tick that takes longer than the step leaves the next ones out.
func (t *promTopic) run(ctx context.Context) {
	next := t.after(time.Now())
	look := max(t.hub.cfg.Linger/2, time.Second) // a topic of a long step must not outlive its use until the next tick
	timer := time.NewTimer(min(time.Until(next), look))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if t.hub.retire(t.key, t) {
			return
		}
		if now := time.Now(); !now.Before(next) {
			t.tick(ctx, now.UnixMilli()/t.step*t.step)
			next = t.after(time.Now())
		}
		timer.Reset(min(time.Until(next), look))
	}
}

// after is the first tick after now.
func (t *promTopic) after(now time.Time) time.Time {
	return time.UnixMilli((now.UnixMilli()/t.step + 1) * t.step)
}

// tick evaluates the query at one time and wakes the subscribers.
func (t *promTopic) tick(ctx context.Context, at int64) {
	ctx, cancel := context.WithTimeout(ctx, min(queryTimeout, max(time.Duration(t.step)*time.Millisecond, 2*time.Second)))
	defer cancel()
	result, err := t.hub.cfg.Ranges.QueryRange(ctx, t.query, at, at, t.step)
	if err == nil && len(result) > maxLiveSeries {
		err = fmt.Errorf("the query gives %d series; at most %d can be live", len(result), maxLiveSeries)
	}
	t.mu.Lock()
	if err != nil {
		first := !t.failing && ctx.Err() != context.Canceled
		t.failing = t.failing || first
		subs := t.list()
		t.mu.Unlock()
		for _, s := range subs {
			if first {
				s.conn.send(msgErr{Op: "err", ID: s.id, Code: codeUnavailable, Message: err.Error()})
			}
		}
		return
	}
	t.failing = false
	values := make(map[string]float64, len(result))
	for i := range result {
		if n := len(result[i].V); n > 0 {
			values[seriesKey(result[i].Labels)] = result[i].V[n-1]
		}
	}
	t.grow(values, at)
	v := []byte{'['}
	for i, k := range t.set.keys {
		if i > 0 {
			v = append(v, ',')
		}
		if x, ok := values[k]; ok {
			v = appendNumber(v, x)
		} else {
			v = append(v, "null"...)
		}
	}
	v = append(v, ']')
	if len(t.ring) == 0 || t.ring[len(t.ring)-1].t < at { // a clock set back waits until it is there again
		if len(t.ring) == ringTicks {
			t.ring = slices.Delete(t.ring, 0, 1)
		}
		t.ring = append(t.ring, promTick{t: at, set: t.set, v: v})
	}
	subs := t.list()
	t.mu.Unlock()
	for _, s := range subs {
		s.conn.wakeUp()
	}
}

func (t *promTopic) list() []*promSub {
	subs := make([]*promSub, 0, len(t.subs))
	for s := range t.subs {
		subs = append(subs, s)
	}
	return subs
}

// grow makes the set hold every series that has a value and drops those without one for as long as the ring.
func (t *promTopic) grow(values map[string]float64, at int64) {
	changed := false
	for k := range values {
		if _, ok := t.set.index[k]; !ok {
			changed = true
		}
		t.lastSeen[k] = at
	}
	oldest := at - ringTicks*t.step
	for k, seen := range t.lastSeen {
		if seen < oldest {
			delete(t.lastSeen, k)
			changed = true
		}
	}
	if !changed {
		return
	}
	keys := make([]string, 0, len(t.lastSeen))
	for _, k := range t.set.keys {
		if _, ok := t.lastSeen[k]; ok {
			keys = append(keys, k)
		}
	}
	var added []string
	for k := range values {
		if _, ok := t.set.index[k]; !ok {
			added = append(added, k)
		}
	}
	slices.Sort(added)
	t.set = newSeriesSet(append(keys, added...))
}

// snapshot evaluates the window up to the newest tick, once for all who ask for the same window in that tick.
func (t *promTopic) snapshot(ctx context.Context, window int64) (*promSnap, error) {
	t.mu.Lock()
	end := time.Now().UnixMilli() / t.step * t.step
	if n := len(t.ring); n > 0 {
		end = max(end, t.ring[n-1].t)
	}
	snap, ok := t.snaps[window]
	mine := !ok || snap.end != end
	if mine {
		if len(t.snaps) >= 16 {
			clear(t.snaps)
		}
		snap = &promSnap{end: end, t0: end - window/t.step*t.step, done: make(chan struct{})}
		t.snaps[window] = snap
	}
	t.mu.Unlock()
	if mine {
		t.evaluate(snap)
	}
	select {
	case <-snap.done:
		return snap, snap.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// evaluate fills the snapshot. It does not end with the client that happened to ask first.
func (t *promTopic) evaluate(snap *promSnap) {
	defer close(snap.done)
	leave, err := t.hub.place(t.hub.ctx)
	if err != nil {
		snap.err = errUnavailable
		return
	}
	defer leave()
	ctx, cancel := context.WithTimeout(t.hub.ctx, 3*queryTimeout)
	defer cancel()
	result, err := t.hub.cfg.Ranges.QueryRange(ctx, t.query, snap.t0, snap.end, t.step)
	if err == nil {
		points := int((snap.end-snap.t0)/t.step) + 1
		if len(result) > maxLiveSeries || len(result)*points > maxCells {
			err = &paramError{codeLimit, fmt.Sprintf("the query gives %d series of %d points; at most %d series and %d points together can be live: aggregate, or choose a greater step",
				len(result), points, maxLiveSeries, maxCells)}
		}
	}
	if err != nil {
		snap.err = err
		t.mu.Lock()
		for w, s := range t.snaps {
			if s == snap {
				delete(t.snaps, w) // the next one tries again
			}
		}
		t.mu.Unlock()
		return
	}
	keys := make([]string, len(result))
	v := []byte{'['}
	for i := range result {
		keys[i] = seriesKey(result[i].Labels)
		if i > 0 {
			v = append(v, ',')
		}
		v = appendGrid(v, &result[i], snap.t0, snap.end, t.step)
	}
	snap.set, snap.v = newSeriesSet(keys), append(v, ']')
}

// appendGrid writes one number or null for each step from t0 to end.
func appendGrid(dst []byte, s *Series, t0, end, step int64) []byte {
	dst = append(dst, '[')
	i := 0
	for t := t0; t <= end; t += step {
		if t > t0 {
			dst = append(dst, ',')
		}
		for i < len(s.T) && s.T[i] < t {
			i++
		}
		if i < len(s.T) && s.T[i] == t {
			dst = appendNumber(dst, s.V[i])
		} else {
			dst = append(dst, "null"...)
		}
	}
	return append(dst, ']')
}
