package intake

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/problem"
)

const contentProto = "application/x-protobuf"

// RemoteWrite takes Prometheus remote write 1.0: a snappy block with a prometheus.WriteRequest.
func (in *Intake) RemoteWrite(w http.ResponseWriter, r *http.Request) error {
	media, params, encoding, err := kindOf(r, "snappy")
	if err != nil {
		return err
	}
	if proto := params["proto"]; media != contentProto || proto != "" && proto != "prometheus.WriteRequest" {
		return problem.New(http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Type is %.100q, this takes %q", r.Header.Get("Content-Type"), contentProto)).
			WithHint("set protobuf_message of the sender to prometheus.WriteRequest (remote write 1.0)")
	}
	h := hold{in: in}
	defer h.release()
	body, err := h.read(r, encoding)
	if err != nil {
		return err
	}
	p := &samplePush{in: in}
	reader := writeReader{push: p}
	if err := reader.request(body); err != nil {
		return badProto(err)
	}
	if err := p.push(r.Context()); err != nil {
		return err
	}
	in.met.ignored.WithLabelValues("metadata").Add(float64(reader.metadata))
	in.met.ignored.WithLabelValues("exemplar").Add(float64(reader.exemplars))
	in.met.ignored.WithLabelValues("native_histogram").Add(float64(reader.histograms))
	if err := p.done(in, "remote_write", "samples"); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func badProto(err error) error {
	if _, ok := errors.AsType[*problem.Problem](err); ok {
		return err
	}
	return problem.New(http.StatusBadRequest, "the body is not the protobuf message expected: "+err.Error())
}

// eachField walks over the fields of a protobuf message. fn is given the bytes of fields that have a length, and the
// number of all others.
func eachField(b []byte, fn func(field protowire.Number, kind protowire.Type, data []byte, n uint64) error) error {
	for off := 0; off < len(b); {
		field, kind, n := protowire.ConsumeTag(b[off:])
		if n < 0 {
			return fmt.Errorf("byte %d: %w", off, protowire.ParseError(n))
		}
		off += n
		var data []byte
		var v uint64
		switch kind {
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(b[off:])
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b[off:])
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b[off:])
		default:
			n = protowire.ConsumeFieldValue(field, kind, b[off:])
		}
		if n < 0 {
			return fmt.Errorf("byte %d: field %d: %w", off, field, protowire.ParseError(n))
		}
		off += n
		if err := fn(field, kind, data, v); err != nil {
			return err
		}
	}
	return nil
}

// writeReader reads a prometheus.WriteRequest into a push. Of its parts it knows:
//
//	WriteRequest: 1 TimeSeries*, 3 MetricMetadata*
//	TimeSeries:   1 Label* (1 name, 2 value), 2 Sample* (1 double value, 2 int64 timestamp), 3 Exemplar*, 4 Histogram*
type writeReader struct {
	push                            *samplePush
	metadata, exemplars, histograms int

	nth    int // of the TimeSeries
	labels wire.Labels
	key    []byte
}

// maxMillis is far behind any time that is taken.
const maxMillis = 1 << 50

func (w *writeReader) request(body []byte) error {
	return eachField(body, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		switch {
		case field == 1 && kind == protowire.BytesType:
			if err := w.series(data); err != nil {
				return fmt.Errorf("timeseries %d: %w", w.nth, err)
			}
			w.nth++
		case field == 3:
			w.metadata++
		}
		return nil
	})
}

func (w *writeReader) series(b []byte) error {
	p := w.push
	from, count := len(p.samples), 0
	w.labels = w.labels[:0]
	err := eachField(b, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		if kind != protowire.BytesType {
			return nil
		}
		switch field {
		case 1:
			if count++; count > 2*wire.MaxLabels { // more are refused, but not held
				return nil
			}
			return w.label(data)
		case 2:
			if len(p.samples) >= maxSamples {
				return problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d samples in one request", maxSamples)).
					WithHint("lower max_samples_per_send of the sender")
			}
			s, err := readSample(data)
			if err != nil {
				return err
			}
			if s.t < 0 || s.t > maxMillis {
				p.refuse(1, fmt.Sprintf("timeseries %d", w.nth), fmt.Sprintf("time stamp %d is no time in milliseconds since 1970", s.t))
				return nil
			}
			s.series = int32(len(p.series))
			p.samples = append(p.samples, s)
		case 3:
			w.exemplars++
		case 4:
			w.histograms++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(p.samples) == from {
		return nil
	}
	ls, err := seriesLabels(w.labels, count)
	if err != nil {
		n := len(p.samples) - from
		p.samples = p.samples[:from]
		p.refuse(n, fmt.Sprintf("timeseries %d %s", w.nth, clip(labelText(w.labels), 80)), err.Error())
		return nil
	}
	w.key = ls.AppendKey(w.key[:0])
	p.add(string(w.key))
	return nil
}

// seriesLabels sorts labels and reports what keeps them from being a series; count is how many there were.
func seriesLabels(ls wire.Labels, count int) (wire.Labels, error) {
	if count > wire.MaxLabels {
		return nil, fmt.Errorf("%d labels, at most %d are allowed", count, wire.MaxLabels)
	}
	byName := func(a, b wire.Label) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(ls, byName) {
		slices.SortFunc(ls, byName)
	}
	ls = ours(ls)
	return ls, wire.CheckSeriesLabels(ls)
}

func (w *writeReader) label(b []byte) error {
	var l wire.Label
	err := eachField(b, func(field protowire.Number, kind protowire.Type, data []byte, _ uint64) error {
		switch {
		case kind != protowire.BytesType:
		case field == 1:
			l.Name = string(data)
		case field == 2:
			l.Value = string(data)
		}
		return nil
	})
	if err == nil && l.Value != "" { // an empty value is no label
		w.labels = append(w.labels, l)
	}
	return err
}

func readSample(b []byte) (s sample, err error) {
	err = eachField(b, func(field protowire.Number, kind protowire.Type, _ []byte, n uint64) error {
		switch {
		case field == 1 && kind == protowire.Fixed64Type:
			s.v = math.Float64frombits(n)
		case field == 2 && kind == protowire.VarintType:
			s.t = int64(n)
		}
		return nil
	})
	return s, err
}
