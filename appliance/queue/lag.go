package queue

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// point is a place on the way of a topic: the newest entry with a message of it, its log time, and how many messages came
// until then since the node started.
type point struct {
	index uint64
	t     int64 // milliseconds since 1970
	items uint64
}

// Bounds of what is remembered of a topic.
const (
	maxPoints  = 512
	pointEvery = 2_000 // milliseconds, at first; doubled whenever all points are taken
)

// trail remembers when which entries of a topic came, more coarsely the longer the node runs.
type trail struct {
	points []point
	every  int64
	last   point
}

func (t *trail) add(index uint64, at int64, items uint64) {
	if t.every == 0 {
		t.every = pointEvery
	}
	first := t.last.index == 0
	t.last = point{index: index, t: at, items: t.last.items + items}
	if n := len(t.points); !first && n > 0 && at-t.points[n-1].t < t.every {
		return
	}
	t.points = append(t.points, t.last)
	if len(t.points) < maxPoints {
		return
	}
	kept := t.points[:0]
	for i := 1; i < len(t.points); i += 2 {
		kept = append(kept, t.points[i])
	}
	t.points, t.every = kept, 2*t.every
}

// unread returns the log time of about the first message at or behind index; 0 when the node does not know.
func (t *trail) unread(index uint64) int64 {
	i, _ := slices.BinarySearchFunc(t.points, index, func(p point, index uint64) int {
		if p.index < index {
			return -1
		}
		return 1
	})
	switch {
	case i == len(t.points):
		return t.last.t
	case i == 0 && t.points[0].index > index:
		return 0
	}
	return t.points[i].t
}

// rate is how many messages came a second over about the last span of milliseconds before now.
func (t *trail) rate(now, span int64) float64 {
	if t.last.index == 0 {
		return 0
	}
	i, _ := slices.BinarySearchFunc(t.points, now-span, func(p point, at int64) int {
		if p.t < at {
			return -1
		}
		return 1
	})
	i = max(0, i-1)
	base := t.points[i]
	seconds := float64(max(span, now-base.t)) / 1000
	return float64(t.last.items-base.items) / seconds
}

// Arrived is what entries brought, as Apply saw it.
type Arrived struct {
	Index   uint64 // the last of them
	LogTime int64
	Items   [4]uint64 // by place in Topics
}

// Observe is told of entries that were applied, in order, also when they brought nothing. It never blocks for long.
func (s *Service) Observe(a Arrived) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began == 0 {
		s.began = a.Index
	}
	for i, n := range a.Items {
		if n > 0 {
			s.topics[i].add(a.Index, a.LogTime, n)
		}
	}
}

// Installed is told that the state is that of another node now, as of an entry: what came before is not known by topic.
func (s *Service) Installed(index uint64, logTime int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = index
	for i := range s.topics {
		s.topics[i].points = nil
		s.topics[i].add(index, logTime, 0)
	}
}

// TopicState is what is known of a topic.
type TopicState struct {
	Name    Topic    `json:"name"`
	Aliases []string `json:"aliases"`
	Note    string   `json:"note,omitempty"`
	// LastIndex is the newest entry with a message of the topic since the node started, LastTime its log time in ms.
	LastIndex uint64  `json:"last_index,omitempty"`
	LastTime  int64   `json:"last_time_ms,omitempty"`
	PerSecond float64 `json:"per_second"` // messages, over about the last minute
}

// TopicStates returns the topics in their order.
func (s *Service) TopicStates() []TopicState {
	now := s.cfg.Meta.LogTime()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []TopicState
	for i, t := range Topics() {
		tr := &s.topics[i]
		st := TopicState{Name: t, Aliases: t.Aliases(), LastIndex: tr.last.index, LastTime: tr.last.t, PerSecond: tr.rate(now, 60_000)}
		if t != Alerts {
			st.Note = rawNote
		}
		out = append(out, st)
	}
	return out
}

// Lag is how far a consumer is behind in a topic. All is 0 when it has read every message of it.
type Lag struct {
	Topic   Topic   `json:"topic"`
	Entries uint64  `json:"entries"` // of the log, from its cursor to the newest with a message of the topic
	Bytes   int64   `json:"bytes"`   // these take in the log
	Seconds float64 `json:"seconds"` // since the first message that was not read came, by log time
}

// LagOf returns how far a consumer is behind, for each of its topics.
func (s *Service) LagOf(c *Consumer) []Lag {
	now := s.cfg.Meta.LogTime()
	head := s.cfg.Log.AppliedIndex()
	var out []Lag
	for _, t := range c.Topics {
		i := t.place()
		if i < 0 {
			continue
		}
		s.mu.Lock()
		last := s.topics[i].last.index
		since := int64(0)
		if len(s.topics[i].points) > 0 {
			since = s.topics[i].unread(c.Position.Index)
		}
		known := s.began > 0 && s.began <= c.Position.Index
		s.mu.Unlock()
		l := Lag{Topic: t}
		if !known && last < c.Position.Index { // what came before the node started is not known by topic
			last, since = head, 0
		}
		if last >= c.Position.Index {
			if since == 0 {
				since = c.Time
			}
			l.Entries, l.Bytes = last-c.Position.Index+1, s.cfg.Log.QueuedBytes(c.Position.Index, last)
			if since > 0 {
				l.Seconds = float64(max(0, now-since)) / 1000
			}
		}
		out = append(out, l)
	}
	return out
}

// Behind returns how many entries a consumer was overtaken by, as the last look at the members' logs found.
func (s *Service) Behind(c *Consumer) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.firsts.index <= c.Position.Index || time.Since(s.firsts.at) > time.Minute {
		return 0
	}
	return s.firsts.index - c.Position.Index
}

// collector shows how far consumers are behind.
type collector struct{ s *Service }

var (
	lagEntriesDesc = prometheus.NewDesc("triward_queue_consumer_lag_entries", "Entries of the log from a consumer's cursor to the newest with a message of the topic.", []string{"consumer", "topic"}, nil)
	lagBytesDesc   = prometheus.NewDesc("triward_queue_consumer_lag_bytes", "Bytes that these entries take in the log.", []string{"consumer", "topic"}, nil)
	lagSecondsDesc = prometheus.NewDesc("triward_queue_consumer_lag_seconds", "Time since the first message of the topic came that the consumer has not committed.", []string{"consumer", "topic"}, nil)
	gapDesc        = prometheus.NewDesc("triward_queue_consumer_gap_entries", "Entries that a consumer has not read and that no member holds any more.", []string{"consumer"}, nil)
	itemsDesc      = prometheus.NewDesc("triward_queue_items_total", "Messages of a topic that came since the node started.", []string{"topic"}, nil)
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{lagEntriesDesc, lagBytesDesc, lagSecondsDesc, gapDesc, itemsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.s
	s.mu.Lock()
	for i, t := range Topics() {
		ch <- prometheus.MustNewConstMetric(itemsDesc, prometheus.CounterValue, float64(s.topics[i].last.items), string(t))
	}
	s.mu.Unlock()
	consumers := s.List()
	for i := range consumers {
		x := &consumers[i]
		for _, l := range s.LagOf(x) {
			ch <- prometheus.MustNewConstMetric(lagEntriesDesc, prometheus.GaugeValue, float64(l.Entries), x.Name, string(l.Topic))
			ch <- prometheus.MustNewConstMetric(lagBytesDesc, prometheus.GaugeValue, float64(l.Bytes), x.Name, string(l.Topic))
			ch <- prometheus.MustNewConstMetric(lagSecondsDesc, prometheus.GaugeValue, l.Seconds, x.Name, string(l.Topic))
		}
		ch <- prometheus.MustNewConstMetric(gapDesc, prometheus.GaugeValue, float64(s.Behind(x)), x.Name)
	}
}
