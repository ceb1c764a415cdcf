package collect

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	dto "github.com/prometheus/client_model/go"

	"github.com/triward/triward/agent/wire"
)

// Numbers gives local numbers to series by their canonical key (wire.Labels.AppendKey). The key is only valid
// during the call.
type Numbers interface {
	Number(key []byte) (uint64, error)
}

// Flattener turns metric families into columns. It uses its memory again and is not safe for concurrent use.
type Flattener struct {
	numbers Numbers
	key     []byte
	pairs   wire.Labels
	samples []sample
	refused int
	lastErr error
}

type sample struct {
	id uint64
	v  float64
}

// NewFlattener makes a Flattener that asks numbers for series.
func NewFlattener(numbers Numbers) *Flattener { return &Flattener{numbers: numbers} }

// Flatten returns one scrape at time t (milliseconds) with ids ascending. refused counts samples without a
// number, err is the last reason. The scrape is the caller's.
func (f *Flattener) Flatten(t int64, families []*dto.MetricFamily) (s wire.Scrape, refused int, err error) {
	f.samples, f.refused, f.lastErr = f.samples[:0], 0, nil
	for _, mf := range families {
		f.family(mf)
	}
	slices.SortStableFunc(f.samples, func(a, b sample) int { return cmp.Compare(a.id, b.id) })
	f.samples = slices.CompactFunc(f.samples, func(a, b sample) bool { return a.id == b.id })
	s = wire.Scrape{T: t, IDs: make([]uint64, len(f.samples)), Values: make([]float64, len(f.samples))}
	for i, x := range f.samples {
		s.IDs[i], s.Values[i] = x.id, x.v
	}
	return s, f.refused, f.lastErr
}

func (f *Flattener) family(mf *dto.MetricFamily) {
	name := mf.GetName()
	for _, m := range mf.GetMetric() {
		switch mf.GetType() {
		case dto.MetricType_COUNTER:
			f.add(name, m, "", "", m.GetCounter().GetValue())
		case dto.MetricType_GAUGE:
			f.add(name, m, "", "", m.GetGauge().GetValue())
		case dto.MetricType_UNTYPED:
			f.add(name, m, "", "", m.GetUntyped().GetValue())
		case dto.MetricType_SUMMARY:
			for _, q := range m.GetSummary().GetQuantile() {
				f.add(name, m, "quantile", formatBound(q.GetQuantile()), q.GetValue())
			}
			f.add(name+"_sum", m, "", "", m.GetSummary().GetSampleSum())
			f.add(name+"_count", m, "", "", float64(m.GetSummary().GetSampleCount()))
		case dto.MetricType_HISTOGRAM:
			f.histogram(name, m)
		}
	}
}

func (f *Flattener) histogram(name string, m *dto.Metric) {
	h := m.GetHistogram()
	inf := false
	for _, b := range h.GetBucket() {
		inf = inf || math.IsInf(b.GetUpperBound(), 1)
		f.add(name+"_bucket", m, "le", formatBound(b.GetUpperBound()), float64(b.GetCumulativeCount()))
	}
	if !inf {
		f.add(name+"_bucket", m, "le", "+Inf", float64(h.GetSampleCount()))
	}
	f.add(name+"_sum", m, "", "", h.GetSampleSum())
	f.add(name+"_count", m, "", "", float64(h.GetSampleCount()))
}

func formatBound(v float64) string {
	if math.IsInf(v, 1) {
		return "+Inf"
	}
	s := strconv.FormatFloat(v, 'g', -1, 64)
	if !slices.ContainsFunc([]byte(s), func(c byte) bool { return c == '.' || c == 'e' || c == 'N' || c == 'I' }) {
		s += ".0" // as the OpenMetrics form and Prometheus' own normalisation have it
	}
	return s
}

func (f *Flattener) add(name string, m *dto.Metric, extra, extraValue string, v float64) {
	f.pairs = append(f.pairs[:0], wire.Label{Name: "__name__", Value: name})
	for _, p := range m.GetLabel() {
		if p.GetValue() != "" {
			f.pairs = append(f.pairs, wire.Label{Name: p.GetName(), Value: cut(p.GetValue())})
		}
	}
	if extra != "" {
		f.pairs = append(f.pairs, wire.Label{Name: extra, Value: extraValue})
	}
	slices.SortFunc(f.pairs, func(a, b wire.Label) int { return cmp.Compare(a.Name, b.Name) })
	if err := wire.CheckSeriesLabels(f.pairs); err != nil {
		f.refused++
		f.lastErr = err
		return
	}
	f.key = f.pairs.AppendKey(f.key[:0])
	id, err := f.numbers.Number(f.key)
	if err != nil {
		f.refused++
		f.lastErr = err
		return
	}
	f.samples = append(f.samples, sample{id, v})
}

// cut shortens a value that is longer than the wire allows, at the border of a character.
func cut(s string) string {
	if len(s) <= wire.MaxLabelValue {
		return s
	}
	n := wire.MaxLabelValue
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
