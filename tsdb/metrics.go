package tsdb

import (
	"errors"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Counters of the library that tell of something its functions do not return.
const (
	walCorruptions  = "prometheus_tsdb_wal_corruptions_total"
	lateWriteFailed = "prometheus_tsdb_out_of_order_wbl_writes_failed_total"
)

// tracker is the registerer of one opened store: it remembers what was registered, so that all of it can be taken
// back when the store is replaced, and it keeps hold of the counters that the store itself reads.
type tracker struct {
	next prometheus.Registerer // may be nil

	mu         sync.Mutex
	collectors []prometheus.Collector
	counters   map[string]prometheus.Counter
}

func newTracker(next prometheus.Registerer) *tracker {
	return &tracker{next: next, counters: make(map[string]prometheus.Counter)}
}

// Register registers c and remembers it.
func (t *tracker) Register(c prometheus.Collector) error {
	if t.next != nil {
		if err := t.next.Register(c); err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.collectors = append(t.collectors, c)
	descs := make(chan *prometheus.Desc, 64)
	go func() { c.Describe(descs); close(descs) }()
	for d := range descs {
		for _, name := range [...]string{walCorruptions, lateWriteFailed} {
			if counter, ok := c.(prometheus.Counter); ok && strings.Contains(d.String(), `"`+name+`"`) {
				t.counters[name] = counter
			}
		}
	}
	return nil
}

// MustRegister panics when a collector cannot be registered, as the library expects.
func (t *tracker) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		if err := t.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister takes c back.
func (t *tracker) Unregister(c prometheus.Collector) bool {
	return t.next != nil && t.next.Unregister(c)
}

// suspend takes all collectors back from the registerer behind; resume registers them again.
func (t *tracker) suspend() {
	if t.next == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.collectors {
		t.next.Unregister(c)
	}
}

func (t *tracker) resume() error {
	if t.next == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, c := range t.collectors {
		errs = append(errs, t.next.Register(c))
	}
	return errors.Join(errs...)
}

// count returns the value of one of the kept counters, 0 when the library does not have it.
func (t *tracker) count(name string) float64 {
	t.mu.Lock()
	c := t.counters[name]
	t.mu.Unlock()
	if c == nil {
		return 0
	}
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return m.GetCounter().GetValue()
}

// storeMetrics are the store's own, alive as long as the Store.
type storeMetrics struct {
	appended, passed prometheus.Counter
	compactions      *prometheus.CounterVec
	cutSeconds       prometheus.Histogram
}

func newStoreMetrics(r prometheus.Registerer) (*storeMetrics, error) {
	m := &storeMetrics{
		appended: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_tsdb_samples_appended_total", Help: "Samples handed to the metrics store and taken.",
		}),
		passed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "triward_tsdb_samples_passed_over_total", Help: "Samples that the metrics store had already.",
		}),
		compactions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "triward_tsdb_compactions_total", Help: "Runs of the compaction schedule by result.",
		}, []string{"result"}),
		cutSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "triward_tsdb_cut_seconds", Help: "How long Apply stood still for an image of the metrics store.",
			Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3},
		}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.appended), r.Register(m.passed), r.Register(m.compactions), r.Register(m.cutSeconds))
}

func (m *storeMetrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range []prometheus.Collector{m.appended, m.passed, m.compactions, m.cutSeconds} {
		r.Unregister(c)
	}
}
