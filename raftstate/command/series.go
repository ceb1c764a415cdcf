package command

import (
	"encoding/binary"

	"github.com/triward/triward/agent/wire"
)

// RegisterSeries asks for the ids of an agent's series.
type RegisterSeries struct {
	Agent  string
	Series []wire.Labels
}

// NewRegisterSeries registers series of an agent: at most wire.MaxSeriesPerCall, whose names and values are
// MaxSeriesBytes long together at most. The caller splits what is more, and what gives a command longer than
// MaxEntry. Sets that are registered already keep their ids.
//
// Names and values are written once into a table; the sets refer to it by position.
func NewRegisterSeries(agent string, series []wire.Labels) Command {
	dst := wire.AppendString(nil, agent)
	at := make(map[string]uint64)
	var table []string
	place := func(s string) {
		if _, ok := at[s]; !ok {
			at[s] = uint64(len(table))
			table = append(table, s)
		}
	}
	for _, ls := range series {
		for i := range ls {
			place(ls[i].Name)
			place(ls[i].Value)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(table)))
	for _, s := range table {
		dst = wire.AppendString(dst, s)
	}
	dst = binary.AppendUvarint(dst, uint64(len(series)))
	for _, ls := range series {
		dst = binary.AppendUvarint(dst, uint64(len(ls)))
		for i := range ls {
			dst = binary.AppendUvarint(dst, at[ls[i].Name])
			dst = binary.AppendUvarint(dst, at[ls[i].Value])
		}
	}
	return Command{TypeRegisterSeries, bodyVersion, dst}
}

// DecodeRegisterSeries is the inverse of NewRegisterSeries. Strings are copies; order, names and values of the
// labels are not checked.
func DecodeRegisterSeries(c Command) (RegisterSeries, error) {
	var reg RegisterSeries
	r, err := expect(c, TypeRegisterSeries)
	if err != nil {
		return reg, err
	}
	if reg.Agent = r.Text(wire.MaxAgentID, "agent"); r.Err() == nil && reg.Agent == "" {
		r.Fail("empty agent")
	}
	table := make([]string, r.Count("count of strings", len(c.Body), 1))
	for i := range table {
		table[i] = r.Text(wire.MaxLabelValue, "string")
	}
	reg.Series = make([]wire.Labels, r.Count("count of series", wire.MaxSeriesPerCall, 1))
	total := 0
	text := func() string {
		k := r.Uvarint("position of a string")
		if r.Err() != nil {
			return ""
		}
		if k >= uint64(len(table)) {
			r.Fail("position of a string out of bounds")
			return ""
		}
		if total += len(table[k]); total > MaxSeriesBytes {
			r.Fail("label sets longer than allowed")
			return ""
		}
		return table[k]
	}
	for i := range reg.Series {
		ls := make(wire.Labels, r.Count("count of labels", wire.MaxLabels, 2))
		for j := range ls {
			ls[j] = wire.Label{Name: text(), Value: text()}
		}
		if r.Err() != nil {
			break
		}
		reg.Series[i] = ls
	}
	return reg, checked(&r, TypeRegisterSeries)
}
