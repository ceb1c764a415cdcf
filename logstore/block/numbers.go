package block

import (
	"unsafe"

	"github.com/triward/triward/agent/wire"
)

// Numbers are the numbers among the values that lines of a block have in one structured field, in the order of the lines.
type Numbers struct {
	Values     []float64
	Severities []byte
	Times      []int64 // nanoseconds; none when they were not decoded
}

// Size returns about how many bytes they take.
func (n *Numbers) Size() int { return 128 + 8*cap(n.Values) + cap(n.Severities) + 8*cap(n.Times) }

// Numbers returns those of a field, a copy. The fields must be decoded (What.Fields). Errors wrap ErrDamaged.
func (c *Columns) Numbers(name string) (*Numbers, error) {
	n := &Numbers{}
	take := func(line int, value float64) {
		n.Values = append(n.Values, value)
		n.Severities = append(n.Severities, c.Severities[line])
		if len(c.Times) > 0 {
			n.Times = append(n.Times, c.Times[line])
		}
	}
	if !c.byName {
		for line, fields := range c.Fields {
			if value, ok := Number(wire.Labels(fields).Get(name)); ok {
				take(line, value)
			}
		}
		return n, nil
	}
	field := c.Field(name)
	if field == nil {
		return n, nil
	}
	values, err := field.Values()
	if err != nil {
		return nil, err
	}
	numbers, are := make([]float64, values.Entries()), make([]bool, values.Entries())
	for e := range numbers {
		v := values.Value(e)
		numbers[e], are[e] = Number(unsafe.String(unsafe.SliceData(v), len(v))) // only read
	}
	field.Each(func(line, row int) {
		if e := values.Entry(row); are[e] {
			take(line, numbers[e])
		}
	})
	return n, nil
}
