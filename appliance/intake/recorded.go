package intake

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance/problem"
)

// Recorded is one series of what a recording rule gave: its labels with __name__, and the value.
type Recorded struct {
	Labels map[string]string
	Value  float64
}

// Record stores what recording rules gave for the time t (ms). Values that the series hold for that time already stay as
// they are and count as duplicates. The error names series that were refused; all others are stored all the same.
// Unlike those of senders, labels are kept as they are, `agent` included: the caller answers for them.
func (in *Intake) Record(ctx context.Context, t int64, list []Recorded) (accepted, duplicates int, err error) {
	p := &samplePush{in: in}
	h := hold{in: in}
	defer h.release()
	var size int64
	var key []byte
	for i := range list {
		ls := make(wire.Labels, 0, len(list[i].Labels))
		for _, name := range slices.Sorted(maps.Keys(list[i].Labels)) {
			if v := list[i].Labels[name]; v != "" { // an empty value is no label
				ls = append(ls, wire.Label{Name: name, Value: v})
			}
		}
		if err := wire.CheckSeriesLabels(ls); err != nil {
			p.refuse(1, labelText(ls), err.Error())
			continue
		}
		key = ls.AppendKey(key[:0])
		p.samples = append(p.samples, sample{series: p.add(string(key)), t: t, v: list[i].Value})
		size += int64(len(key)) + 16
	}
	if err := h.take(size); err != nil {
		return 0, 0, err
	}
	if err := p.push(ctx); err != nil {
		return p.accepted, p.duplicates, err
	}
	if err := p.done(in, "recorded", "samples"); err != nil {
		if bad, ok := errors.AsType[*problem.Problem](err); ok {
			err = errors.New(bad.Detail)
		}
		return p.accepted, p.duplicates, err
	}
	return p.accepted, p.duplicates, nil
}
