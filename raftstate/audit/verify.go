package audit

import (
	"fmt"
	"iter"
)

// Fault is what is wrong with a record of a chain.
type Fault uint8

// Faults that Verify finds.
const (
	Edited    Fault = 1 // the record is not what its hash was made of
	Missing   Fault = 2 // the record is gone, those behind it are there
	Reordered Fault = 3 // the record is there, but not in its place
	Replaced  Fault = 4 // whole in itself, but it does not continue the record before it, or is not what the head names
	CutOff    Fault = 5 // the record and all behind it up to the head are gone
	Beyond    Fault = 6 // the record lies behind the head
)

// String returns what the fault is, to follow the number of the record.
func (f Fault) String() string {
	switch f {
	case Edited:
		return "was edited"
	case Missing:
		return "is missing"
	case Reordered:
		return "is out of order"
	case Replaced:
		return "does not continue the chain"
	case CutOff:
		return "and all behind it are cut off"
	case Beyond:
		return "lies behind the head"
	}
	return fmt.Sprintf("has the fault %d", uint8(f))
}

// Misfit is the first record that does not fit a chain.
type Misfit struct {
	Seq   uint64 // its number: by its place when it was edited
	Fault Fault
	Why   string // for people; may be empty
}

// Error implements error.
func (m *Misfit) Error() string {
	if m.Why == "" {
		return fmt.Sprintf("audit record %d %s", m.Seq, m.Fault)
	}
	return fmt.Sprintf("audit record %d %s: %s", m.Seq, m.Fault, m.Why)
}

// Verify holds records, as they are kept and in the order of their keys, against the head: each must be what its hash
// was made of, continue the one before, and none from head.First to head.Seq may be absent or more. The error is a
// *Misfit that names the first that does not fit.
//
// A live store goes on while it is read: read the head first, give the records up to head.Seq, and begin anew when
// head.First has moved meanwhile. What the oldest record kept continues is not known unless it is the first of all.
func Verify(head Head, records iter.Seq[[]byte]) error {
	c := checker{head: head, want: max(head.First, 1), known: head.First <= 1}
	for b := range records {
		if m := c.take(b); m != nil {
			return m
		}
	}
	return c.end()
}

type checker struct {
	head   Head
	want   uint64 // the record that is to come
	known  bool   // prev is what it must continue
	prev   Hash
	absent uint64 // a record that did not come in its place; 0 none
	came   uint64 // the one that came for it
}

// take looks at the next record; nil when it fits.
func (c *checker) take(b []byte) *Misfit {
	r, err := ParseRecord(b)
	switch {
	case c.absent != 0: // whether it is missing or comes later is all that is still asked
		if err == nil && r.Seq == c.absent {
			return c.outOfOrder()
		}
		return nil
	case c.want > c.head.Seq:
		return &Misfit{Seq: c.want, Fault: Beyond, Why: fmt.Sprintf("the last one is %d", c.head.Seq)}
	case err != nil:
		return &Misfit{Seq: c.want, Fault: Edited, Why: err.Error()}
	case r.Sum() != r.Hash:
		return &Misfit{Seq: c.want, Fault: Edited, Why: "its content does not have the hash it carries"}
	case r.Seq < c.want:
		return &Misfit{Seq: r.Seq, Fault: Reordered, Why: fmt.Sprintf("it stands in the place of %d", c.want)}
	case r.Seq > c.want:
		c.absent, c.came = c.want, r.Seq
		return nil
	case c.known && r.Prev != c.prev:
		return &Misfit{Seq: r.Seq, Fault: Replaced, Why: fmt.Sprintf("it or record %d was written anew", r.Seq-1)}
	}
	c.prev, c.known = r.Hash, true
	c.want++
	return nil
}

func (c *checker) outOfOrder() *Misfit {
	return &Misfit{Seq: c.absent, Fault: Reordered, Why: fmt.Sprintf("record %d stands in its place", c.came)}
}

func (c *checker) end() error {
	switch {
	case c.absent != 0:
		return &Misfit{Seq: c.absent, Fault: Missing, Why: fmt.Sprintf("record %d stands in its place", c.came)}
	case c.want <= c.head.Seq:
		return &Misfit{Seq: c.want, Fault: CutOff, Why: fmt.Sprintf("the last one is %d", c.head.Seq)}
	case c.prev != c.head.Hash:
		return &Misfit{Seq: c.head.Seq, Fault: Replaced, Why: "the head names another one"}
	}
	return nil
}
