package fleet

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/triward/triward/agent/wire"
)

// Config of a View. Zero fields take the defaults named.
type Config struct {
	Directory Directory
	Registry  Registry
	// Wanted says which configuration the agents of a group are to have, of which group it is; version 0 for none.
	Wanted func(group string) (of string, version uint64, hash string)
	Warmer Warmer       // nil: the view starts empty
	Log    *slog.Logger // default: discards

	LateAfter  time.Duration // 45 s without a sign of life
	DownAfter  time.Duration // 2 min; values older than that are missing
	MaxSeries  int           // 2,000,000 series whose newest value is kept
	SweepEvery time.Duration // 10 min: how often series that the cluster forgot are dropped
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Wanted == nil {
		c.Wanted = func(string) (string, uint64, string) { return "", 0, "" }
	}
	setDefault(&c.LateAfter, 45*time.Second)
	setDefault(&c.DownAfter, 2*time.Minute)
	setDefault(&c.MaxSeries, 2_000_000)
	setDefault(&c.SweepEvery, 10*time.Minute)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// pageLen is how many series share a page: ids are given out one after another.
const pageLen = 4096

// slot is the newest value of a series.
type slot struct {
	t     int64 // ms; 0 when nothing was seen
	v     float64
	track *track // what the hosts view does with it; nil for nothing
}

type page struct {
	slots [pageLen]slot
	used  int
}

// View is what is known of agents and hosts at this moment. Observe is for the apply goroutine; everything else may
// be called from any goroutine at any time.
type View struct {
	cfg  Config
	stop context.CancelFunc
	work sync.WaitGroup
	cold chan struct{} // one place: much was missed, read the stores again

	mu      sync.Mutex
	logTime int64
	pages   map[uint64]*page
	series  int
	refused int // series beyond the bound
	hosts   map[string]*host
	touched []*host // during Observe
}

// New makes a view that knows nothing yet.
func New(cfg Config) *View {
	cfg.defaults()
	return &View{cfg: cfg, stop: func() {}, cold: make(chan struct{}, 1), pages: make(map[uint64]*page), hosts: make(map[string]*host)}
}

// Start fills the view from the stores and keeps it tidy, in the background, until Close. Observe may run before,
// during and after.
func (v *View) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	v.stop = cancel
	v.work.Go(func() {
		v.warm(ctx)
		ticker := time.NewTicker(v.cfg.SweepEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-v.cold:
				v.warm(ctx)
			case <-ticker.C:
				v.sweep(ctx)
			}
		}
	})
}

// Close ends the background work and waits for it. It is idempotent.
func (v *View) Close() error {
	v.stop()
	v.work.Wait()
	return nil
}

// Observe takes what a group of entries brought. It copies what it keeps and never waits for a reader longer than
// it takes to copy one host.
func (v *View) Observe(logTime int64, samples *wire.Samples, logs []wire.LogEntry) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.logTime = max(v.logTime, logTime)
	if samples != nil {
		for i, id := range samples.IDs {
			v.put(id, samples.T[i], samples.Values[i])
		}
	}
	for i := range logs {
		v.countLogs(&logs[i])
	}
	for _, h := range v.touched {
		h.touched = false
		h.point(v.logTime, v.cfg.DownAfter.Milliseconds())
	}
	v.touched = v.touched[:0]
}

// Installed says that the state of the node was replaced by that of another: what was missed is read from the stores
// in the background. It never blocks.
func (v *View) Installed(logTime int64) {
	v.mu.Lock()
	v.logTime = max(v.logTime, logTime)
	v.mu.Unlock()
	select {
	case v.cold <- struct{}{}:
	default:
	}
}

// put takes one sample unless a newer one of the series is known.
func (v *View) put(id uint64, t int64, value float64) {
	p := v.pages[id/pageLen]
	if p == nil {
		if len(v.pages)*pageLen >= v.cfg.MaxSeries {
			v.refused++
			return
		}
		p = new(page)
		v.pages[id/pageLen] = p
	}
	s := &p.slots[id%pageLen]
	if s.t == 0 {
		labels, ok := v.cfg.Directory.SeriesLabels(id)
		if !ok {
			return
		}
		p.used++
		v.series++
		if agent := labels.Get("agent"); agent != "" {
			h := v.host(agent)
			h.ids = append(h.ids, id)
			s.track = h.classify(labels)
		}
	} else if t <= s.t {
		return
	}
	s.t, s.v = t, value
	if s.track == nil {
		return
	}
	s.track.take(t, value)
	if h := s.track.host; !h.touched {
		h.touched = true
		v.touched = append(v.touched, h)
	}
}

func (v *View) host(agent string) *host {
	h := v.hosts[agent]
	if h == nil {
		h = newHost(agent)
		v.hosts[agent] = h
	}
	return h
}

// countLogs counts the lines of the entry for the hosts that sent them.
func (v *View) countLogs(e *wire.LogEntry) {
	for _, a := range e.Batches {
		if a.Agent == "" || a.Batch == nil {
			continue
		}
		h := v.host(a.Agent)
		errs := 0
		for si := range a.Batch.Streams {
			s := &a.Batch.Streams[si]
			if s.Kind != wire.StreamLog {
				continue
			}
			for li := range s.Lines {
				if s.Lines[li].Severity >= wire.SeverityError {
					errs++
				}
			}
		}
		h.errors.add(v.logTime, errs)
	}
}

// Sample is the newest value of a series.
type Sample struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	T      int64             `json:"t"`
	V      Number            `json:"v"`
}

// Latest returns the newest values of the agent's series whose names start with prefix, in the order of their names,
// at most limit of them; more says that there were others. ok is false when nothing of the agent was ever seen.
func (v *View) Latest(agent, prefix string, limit int) (samples []Sample, more, ok bool) {
	type held struct {
		id uint64
		t  int64
		v  float64
	}
	v.mu.Lock()
	h := v.hosts[agent]
	if h == nil {
		v.mu.Unlock()
		return nil, false, false
	}
	all := make([]held, 0, len(h.ids))
	for _, id := range h.ids {
		if p := v.pages[id/pageLen]; p != nil {
			if s := &p.slots[id%pageLen]; s.t != 0 {
				all = append(all, held{id, s.t, s.v})
			}
		}
	}
	v.mu.Unlock()
	for _, s := range all {
		labels, known := v.cfg.Directory.SeriesLabels(s.id)
		if !known {
			continue
		}
		name := labels.Get("__name__")
		if len(name) < len(prefix) || name[:len(prefix)] != prefix {
			continue
		}
		m := labels.Map()
		delete(m, "__name__")
		samples = append(samples, Sample{Name: name, Labels: m, T: s.t, V: Number(s.v)})
	}
	slices.SortStableFunc(samples, func(a, b Sample) int { return cmp.Compare(a.Name, b.Name) })
	if len(samples) > limit {
		samples, more = samples[:limit], true
	}
	return samples, more, true
}

// Stats says how much the view holds.
type Stats struct {
	Series  int // whose newest value is kept
	Refused int // samples of series beyond the bound
	Hosts   int
	LogTime int64 // ms
}

// Stats returns how much the view holds.
func (v *View) Stats() Stats {
	v.mu.Lock()
	defer v.mu.Unlock()
	return Stats{Series: v.series, Refused: v.refused, Hosts: len(v.hosts), LogTime: v.logTime}
}

// sweep drops series that the cluster forgot and hosts without a record and without series.
func (v *View) sweep(ctx context.Context) {
	v.mu.Lock()
	agents := make([]string, 0, len(v.hosts))
	for agent := range v.hosts {
		agents = append(agents, agent)
	}
	v.mu.Unlock()
	for _, agent := range agents {
		if ctx.Err() != nil {
			return
		}
		_, _, registered := v.cfg.Registry.Get(BucketAgents, agent)
		v.mu.Lock()
		h := v.hosts[agent]
		if h == nil {
			v.mu.Unlock()
			continue
		}
		kept := h.ids[:0]
		for _, id := range h.ids {
			if _, ok := v.cfg.Directory.SeriesLabels(id); ok {
				kept = append(kept, id)
				continue
			}
			v.forget(id)
		}
		if len(kept) < len(h.ids) {
			h.ids = slices.Clone(kept)
			h.rebuild(v)
		}
		if len(h.ids) == 0 && !registered {
			delete(v.hosts, agent)
		}
		v.mu.Unlock()
	}
}

func (v *View) forget(id uint64) {
	p := v.pages[id/pageLen]
	if p == nil || p.slots[id%pageLen].t == 0 {
		return
	}
	p.slots[id%pageLen] = slot{}
	v.series--
	if p.used--; p.used == 0 {
		delete(v.pages, id/pageLen)
	}
}
