package selfmon

import (
	"cmp"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/triward/triward/appliance/intake"
)

// Job is the label of everything that nodes say of themselves.
const Job = "triward"

// MaxSeries bounds the series of one node. What is beyond it, families in the order of their names, is not stored.
const MaxSeries = 1500

// stored are the families that are stored, by the beginning of their names: all of our own, and of the libraries those
// that tell how the process and the store of metrics are. The rest is at /metrics.
var stored = []string{
	"triward_", "process_", "go_goroutines", "go_memstats_alloc_bytes", "go_memstats_heap_inuse_bytes", "go_memstats_sys_bytes",
	"go_gc_duration_seconds", "prometheus_tsdb_head_series", "prometheus_tsdb_head_chunks", "prometheus_tsdb_blocks_loaded",
	"prometheus_tsdb_compactions_failed_total", "prometheus_tsdb_wal_corruptions_total",
}

// Samples are the series of the families that are stored, with the node's labels; over is how many are beyond MaxSeries.
// Of histograms and summaries only sum and count are stored, since a bucket is a series.
func Samples(node string, families []*dto.MetricFamily) (list []intake.Recorded, over int) {
	list = append(list, recorded(node, "up", nil, 1))
	families = slices.Clone(families)
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	add := func(name string, labels []*dto.LabelPair, v float64) {
		switch {
		case math.IsNaN(v):
		case len(list) >= MaxSeries:
			over++
		default:
			list = append(list, recorded(node, name, labels, v))
		}
	}
	for _, f := range families {
		name := f.GetName()
		if !slices.ContainsFunc(stored, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		for _, x := range f.GetMetric() {
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				add(name, x.GetLabel(), x.GetCounter().GetValue())
			case dto.MetricType_GAUGE:
				add(name, x.GetLabel(), x.GetGauge().GetValue())
			case dto.MetricType_UNTYPED:
				add(name, x.GetLabel(), x.GetUntyped().GetValue())
			case dto.MetricType_SUMMARY:
				add(name+"_sum", x.GetLabel(), x.GetSummary().GetSampleSum())
				add(name+"_count", x.GetLabel(), float64(x.GetSummary().GetSampleCount()))
			case dto.MetricType_HISTOGRAM:
				add(name+"_sum", x.GetLabel(), x.GetHistogram().GetSampleSum())
				add(name+"_count", x.GetLabel(), float64(x.GetHistogram().GetSampleCount()))
			}
		}
	}
	return list, over
}

func recorded(node, name string, labels []*dto.LabelPair, v float64) intake.Recorded {
	r := intake.Recorded{Labels: make(map[string]string, len(labels)+3), Value: v}
	for _, l := range labels {
		key := l.GetName()
		if key == "host" || key == "job" || key == "agent" {
			key = "exported_" + key
		}
		r.Labels[key] = l.GetValue()
	}
	r.Labels["__name__"], r.Labels["host"], r.Labels["job"] = name, node, Job
	return r
}
