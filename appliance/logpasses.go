package appliance

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/logstore"
)

var (
	logPassBegunDesc    = prometheus.NewDesc("triward_logs_passes_begun_total", "Passes of background work of the log store that were begun: seal, merge or index.", []string{"pass"}, nil)
	logPassFinishedDesc = prometheus.NewDesc("triward_logs_passes_finished_total", "Passes of background work of the log store whose result was committed.", []string{"pass"}, nil)
	logPassFailedDesc   = prometheus.NewDesc("triward_logs_passes_failed_total", "Passes of background work of the log store that failed; they are tried again.", []string{"pass"}, nil)
	logInboxDesc        = prometheus.NewDesc("triward_logs_inbox_bytes", "Bytes of lines in memory and on disk that wait to be sealed into blocks.", nil, nil)
	logUnindexedDesc    = prometheus.NewDesc("triward_logs_unindexed_blocks", "Blocks that wait for the word index.", nil, nil)
	logPilesDesc        = prometheus.NewDesc("triward_logs_small_piles", "Streams of a day with small blocks that wait for others to be merged with.", nil, nil)
	logRebuildsDesc     = prometheus.NewDesc("triward_logs_index_rebuilds", "Days whose word index is to be made again.", nil, nil)
	logDiskDesc         = prometheus.NewDesc("triward_logs_disk_bytes", "Bytes on disk of the log store, by part.", []string{"part"}, nil)
)

// logPartsAge is for how long the bytes by part are told without being looked up again: the files of the word index are
// counted one by one.
const logPartsAge = 5 * time.Second

// logsCollector tells of the log store as metrics.
type logsCollector struct {
	store *logstore.Store

	mu    sync.Mutex
	at    time.Time
	parts []logstore.Part
}

// Describe implements prometheus.Collector.
func (c *logsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		logPassBegunDesc, logPassFinishedDesc, logPassFailedDesc, logInboxDesc, logUnindexedDesc, logPilesDesc, logRebuildsDesc, logDiskDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *logsCollector) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	for _, p := range c.store.Passes() {
		put(logPassBegunDesc, prometheus.CounterValue, float64(p.Begun), p.Pass.String())
		put(logPassFinishedDesc, prometheus.CounterValue, float64(p.Finished), p.Pass.String())
		put(logPassFailedDesc, prometheus.CounterValue, float64(p.Failed), p.Pass.String())
	}
	w := c.store.Waiting()
	put(logInboxDesc, prometheus.GaugeValue, float64(w.InboxBytes))
	put(logUnindexedDesc, prometheus.GaugeValue, float64(w.Unindexed))
	put(logPilesDesc, prometheus.GaugeValue, float64(w.Piles))
	put(logRebuildsDesc, prometheus.GaugeValue, float64(w.Rebuilds))
	for _, p := range c.partsNow() {
		put(logDiskDesc, prometheus.GaugeValue, float64(p.Bytes), p.Name)
	}
}

// partsNow returns the bytes by part; nothing while the store is not open.
func (c *logsCollector) partsNow() []logstore.Part {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.at) > logPartsAge {
		c.at = now
		c.parts, _ = c.store.Parts() // it is swapped or damaged, which others tell of
	}
	return c.parts
}
