package appliance

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/triward/triward/logstore"
)

// logLoad tells on /metrics how many searches for lines run, wait and were refused.
type logLoad struct{ store *logstore.Store }

var (
	logQueriesNow = prometheus.NewDesc("triward_log_queries",
		"Searches for lines that run or wait for a place, by whom they are for.", []string{"lane", "state"}, nil)
	logQueriesAdmitted = prometheus.NewDesc("triward_log_queries_admitted_total",
		"Searches for lines that were begun.", []string{"lane"}, nil)
	logQueriesRefused = prometheus.NewDesc("triward_log_queries_refused_total",
		"Searches for lines that were refused because too many waited.", []string{"lane"}, nil)
)

// Describe implements prometheus.Collector.
func (l logLoad) Describe(ch chan<- *prometheus.Desc) {
	ch <- logQueriesNow
	ch <- logQueriesAdmitted
	ch <- logQueriesRefused
}

// Collect implements prometheus.Collector.
func (l logLoad) Collect(ch chan<- prometheus.Metric) {
	for name, lane := range map[string]logstore.Lane{"people": logstore.LanePeople, "rules": logstore.LaneWatch, "export": logstore.LaneExport} {
		now := l.store.QueryLoad(lane)
		ch <- prometheus.MustNewConstMetric(logQueriesNow, prometheus.GaugeValue, float64(now.Running), name, "running")
		ch <- prometheus.MustNewConstMetric(logQueriesNow, prometheus.GaugeValue, float64(now.Waiting), name, "waiting")
		ch <- prometheus.MustNewConstMetric(logQueriesAdmitted, prometheus.CounterValue, float64(now.Admitted), name)
		ch <- prometheus.MustNewConstMetric(logQueriesRefused, prometheus.CounterValue, float64(now.Refused), name)
	}
}
