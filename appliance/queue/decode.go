package queue

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/alerting"
	"github.com/triward/triward/appliance/alerting/state"
	"github.com/triward/triward/raftstate"
	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/machine"
)

// itemBits is how many bits of an item's number count within its command; those above are the command's place in the
// entry. So what a consumer does not want need not be decoded to number what it wants.
const itemBits = 20

// filter is what a reader wants.
type filter struct {
	topics [4]bool // by place
	agent  string
}

func newFilter(topics []Topic, agent string) (f filter) {
	for _, t := range topics {
		if i := t.place(); i >= 0 {
			f.topics[i] = true
		}
	}
	if len(topics) == 0 {
		f.topics = [4]bool{true, true, true, true}
	}
	f.agent = agent
	return f
}

func (f *filter) wants(t Topic) bool { return f.topics[t.place()] }

// maxSeriesKept bounds the series whose rendered labels are kept.
const maxSeriesKept = 100_000

// seriesCache renders the labels of a series once. An id means one set of labels for ever.
type seriesCache struct {
	dict Dictionary
	mu   sync.RWMutex
	held map[uint64]*Series
}

func (c *seriesCache) get(id uint64) *Series {
	c.mu.RLock()
	s := c.held[id]
	c.mu.RUnlock()
	if s != nil {
		return s
	}
	s = &Series{ID: id}
	ls, known := c.dict.SeriesLabels(id)
	if known {
		s.Labels = ls
	}
	s.render()
	if known {
		c.mu.Lock()
		if c.held == nil || len(c.held) >= maxSeriesKept {
			c.held = make(map[uint64]*Series)
		}
		c.held[id] = s
		c.mu.Unlock()
	}
	return s
}

// decoder turns entries into messages. It serves one reader at a time.
type decoder struct {
	coder   *wire.Coder
	series  *seriesCache
	metrics wire.MetricsBody
	raw     []byte
}

// entry gives emit the messages of an entry from number item on, until emit returns false; then it returns the number of
// the message that was not taken. An item is valid until emit returns; what it points to stays.
func (d *decoder) entry(e *raftstate.QueueEntry, item uint64, f *filter, emit func(*Item) bool) (stopped uint64, all bool, err error) {
	logTime := e.Stamp
	if e.Verdict != nil {
		logTime = e.Verdict.LogTime
	}
	for at := int(item >> itemBits); at < len(e.Commands); at++ {
		first := uint64(at) << itemBits
		from := 0
		if item > first {
			from = int(item - first)
		}
		v := e.Verdict.Of(at)
		if v != nil && v.Status != command.StatusOK {
			continue
		}
		x := &expand{
			d: d, f: f, from: from, verdict: v, first: first, emit: emit,
			it: Item{Position: Position{Index: e.Index}, LogTime: logTime, Unverified: !e.Judged},
		}
		if err := x.command(e.Commands[at]); err != nil {
			return 0, false, fmt.Errorf("entry %d, command %d: %w", e.Index, at, err)
		}
		if x.stopped {
			return first + uint64(x.at), false, nil
		}
	}
	return 0, true, nil
}

// expand walks over the items of one command.
type expand struct {
	d       *decoder
	f       *filter
	verdict *command.CommandVerdict
	run     int // of verdict.Refused that is not behind yet
	first   uint64
	from    int // items before it are passed over
	at      int // the item at hand
	it      Item
	emit    func(*Item) bool
	stopped bool
}

// stored reports whether the item at hand was stored. Items are asked for in order.
func (x *expand) stored() bool {
	if x.verdict == nil {
		return true
	}
	for ; x.run < len(x.verdict.Refused); x.run++ {
		r := x.verdict.Refused[x.run]
		if uint32(x.at) < r.From {
			return true
		}
		if uint32(x.at) < r.From+r.N {
			return false
		}
	}
	return true
}

// give hands the item at hand out; false when the reader has enough.
func (x *expand) give() bool {
	x.it.Position.Item = x.first + uint64(x.at)
	x.stopped = !x.emit(&x.it)
	return !x.stopped
}

func (x *expand) command(c command.Command) error {
	switch c.Type &^ command.Ignorable {
	case command.TypeBatch:
		b, err := command.DecodeBatch(c)
		if err != nil {
			return x.invalid(err)
		}
		return x.body(b.Agent, b.Lane, b.Codec, b.RawLen, b.Body)
	case command.TypeDeliver:
		b, err := command.DecodeDeliver(c)
		if err != nil {
			return x.invalid(err)
		}
		return x.body(b.Source, b.Lane, b.Codec, b.RawLen, b.Body)
	case command.TypeMetaTxn:
		if !x.f.wants(Alerts) {
			return nil
		}
		t, err := command.DecodeMetaTxn(c)
		if err != nil {
			return x.invalid(err)
		}
		x.alerts(&t)
	}
	return nil
}

// invalid is an error about a command that cannot be decoded. Such a one was refused as it was applied; without a
// verdict it is passed over too.
func (x *expand) invalid(err error) error {
	if x.it.Unverified {
		return nil
	}
	return err
}

func (x *expand) body(sender string, lane wire.Lane, codec wire.Codec, rawLen int, body []byte) (err error) {
	x.it.Sender = sender
	if lane.CarriesMetrics() {
		if !x.f.wants(Metrics) {
			return nil
		}
	} else if !x.f.wants(Logs) && !x.f.wants(Events) {
		return nil
	}
	b := wire.Batch{Codec: codec, RawLen: rawLen, Body: body}
	if lane.CarriesMetrics() {
		if x.d.raw, err = x.d.coder.Decompress(x.d.raw[:0], &b); err != nil {
			return x.invalid(err)
		}
		if err := x.d.metrics.Decode(x.d.raw); err != nil {
			return x.invalid(err)
		}
		x.samples()
		return nil
	}
	raw, err := x.d.coder.Decompress(nil, &b) // lines point into it
	if err != nil {
		return x.invalid(err)
	}
	logs, err := wire.DecodeLogs(raw)
	if err != nil {
		return x.invalid(err)
	}
	x.lines(logs)
	return nil
}

func (x *expand) samples() {
	x.it.Topic = Metrics
	for i := range x.d.metrics.Scrapes {
		s := &x.d.metrics.Scrapes[i]
		if x.at+len(s.IDs) <= x.from {
			x.at += len(s.IDs)
			continue
		}
		x.it.T = s.T * 1e6
		for j, id := range s.IDs {
			if x.at < x.from || !x.stored() {
				x.at++
				continue
			}
			x.it.Series, x.it.Value = x.d.series.get(id), s.Values[j]
			if x.f.agent != "" && !isOf(x.f.agent, x.it.Sender, x.it.Series.Labels) {
				x.at++
				continue
			}
			if !x.give() {
				return
			}
			x.at++
		}
	}
}

func (x *expand) lines(b *wire.LogBatch) {
	newest := (x.it.LogTime + machine.FutureWindow) * 1e6
	for i := range b.Streams {
		st := &b.Streams[i]
		x.it.Topic = Logs
		if st.Kind == wire.StreamEvent {
			x.it.Topic = Events
		}
		if !x.f.wants(x.it.Topic) || x.f.agent != "" && !isOf(x.f.agent, x.it.Sender, st.Labels) {
			x.at += len(st.Lines)
			continue
		}
		x.it.Stream = st.Labels
		for j := range st.Lines {
			if x.at < x.from || !x.stored() {
				x.at++
				continue
			}
			l := &st.Lines[j]
			if x.verdict != nil && x.verdict.Moved && l.T > newest {
				machine.MoveLine(l, x.it.LogTime*1e6)
			}
			x.it.T, x.it.Line = l.T, l
			if !x.give() {
				return
			}
			x.at++
		}
	}
}

// alerts shows what alerting wrote down of alerts and notifications, and nothing else of the metadata: that holds
// passwords and tokens, if only hashed.
func (x *expand) alerts(t *command.Txn) {
	x.it.Topic = Alerts
	for i := range t.Ops {
		x.at = i
		op := &t.Ops[i]
		if i < x.from || op.Delete || op.Bucket != alerting.BucketHistory {
			continue
		}
		var h state.History
		if json.Unmarshal(op.Value, &h) != nil || h.What == "" {
			continue
		}
		a := &AlertMessage{
			Notification: h.Receiver != "", Name: h.Labels["alertname"], Agent: h.Labels["agent"], Labels: h.Labels, What: h.What,
			Raw: op.Value,
		}
		if a.Agent == "" {
			a.Agent = h.Labels["host"]
		}
		if x.f.agent != "" && x.f.agent != h.Labels["agent"] && x.f.agent != h.Labels["host"] {
			continue
		}
		x.it.T, x.it.Alert = h.T*1e6, a
		if !x.give() {
			return
		}
	}
}
