package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// LabelsFromMap returns the labels of m, sorted, leaving out empty values.
func LabelsFromMap(m map[string]string) Labels {
	ls := make(Labels, 0, len(m))
	for n, v := range m {
		if v != "" {
			ls = append(ls, Label{n, v})
		}
	}
	slices.SortFunc(ls, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
	return ls
}

// Map returns the labels as a map of their own.
func (ls Labels) Map() map[string]string {
	m := make(map[string]string, len(ls))
	for _, l := range ls {
		m[l.Name] = l.Value
	}
	return m
}

// With returns a sorted copy in which name has value; an empty value takes the label away.
func (ls Labels) With(name, value string) Labels {
	out := make(Labels, 0, len(ls)+1)
	placed := value == ""
	for _, l := range ls {
		if !placed && l.Name >= name {
			out = append(out, Label{name, value})
			placed = true
		}
		if l.Name != name {
			out = append(out, l)
		}
	}
	if !placed {
		out = append(out, Label{name, value})
	}
	return out
}

// Clone returns a copy that shares no memory with whatever buffer the labels were decoded from.
func (ls Labels) Clone() Labels {
	out := make(Labels, len(ls))
	for i, l := range ls {
		out[i] = Label{strings.Clone(l.Name), strings.Clone(l.Value)}
	}
	return out
}

// AppendKey appends the canonical binary form of the labels: the count, then each name and value with its
// length. Two label sets have the same key only when they are equal.
func (ls Labels) AppendKey(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(ls)))
	for _, l := range ls {
		dst = AppendString(dst, l.Name)
		dst = AppendString(dst, l.Value)
	}
	return dst
}

// LabelsFromKey is the inverse of AppendKey; it returns what follows the labels. Strings are copies.
func LabelsFromKey(b []byte) (Labels, []byte, error) {
	c := NewReader(b, ErrMalformed)
	ls := readLabels(&c, MaxLabels)
	return ls, b[c.off:], c.err
}

func readLabels(c *Reader, limit int) Labels {
	n := c.Count("count of labels", limit, 2)
	if c.err != nil || n == 0 {
		return nil
	}
	ls := make(Labels, n)
	for i := range ls {
		ls[i].Name = string(c.Prefixed(MaxLabelName, "label name"))
		ls[i].Value = string(c.Prefixed(MaxLabelValue, "label value"))
	}
	if c.err != nil {
		return nil
	}
	return ls
}

// CheckSeriesLabels reports what keeps ls from being the labels of a series: it must carry __name__ and keep
// to the limits, the order and UTF-8.
func CheckSeriesLabels(ls Labels) error {
	if len(ls) > MaxLabels {
		return fmt.Errorf("%d labels, at most %d are allowed", len(ls), MaxLabels)
	}
	if ls.Get("__name__") == "" {
		return fmt.Errorf("label __name__ is missing: a series needs the name of its metric")
	}
	return checkLabels(ls)
}

// CheckStreamLabels reports what keeps ls from being the labels of a stream.
func CheckStreamLabels(ls Labels) error {
	if len(ls) > MaxStreamLabels {
		return fmt.Errorf("%d labels, at most %d are allowed for a stream", len(ls), MaxStreamLabels)
	}
	return checkLabels(ls)
}

func checkLabels(ls Labels) error {
	for i, l := range ls {
		switch {
		case l.Name == "":
			return fmt.Errorf("label %d has no name", i)
		case len(l.Name) > MaxLabelName:
			return fmt.Errorf("name of label %d has %d bytes, at most %d are allowed", i, len(l.Name), MaxLabelName)
		case len(l.Value) > MaxLabelValue:
			return fmt.Errorf("value of label %q has %d bytes, at most %d are allowed", l.Name, len(l.Value), MaxLabelValue)
		case l.Value == "":
			return fmt.Errorf("value of label %q is empty: leave the label out", l.Name)
		case !utf8.ValidString(l.Name) || !utf8.ValidString(l.Value):
			return fmt.Errorf("label %q is not valid UTF-8", l.Name)
		case i > 0 && ls[i-1].Name >= l.Name:
			return fmt.Errorf("label %q is out of order or given twice: sort by name", l.Name)
		}
	}
	return nil
}
