package systemtest

import (
	"errors"
	"testing"
)

// What is found again, on another node or by another look, is not counted again.
func TestViolationsAreCountedOnce(t *testing.T) {
	var v violations
	first := violations{lost: 5, doubled: 1, examples: []string{"a"}}
	v.raise(&first)
	v.raise(&violations{lost: 5, doubled: 0, differing: 2})
	v.raise(&first)
	if v.lost != 5 || v.doubled != 1 || v.differing != 2 || v.total() != 8 {
		t.Errorf("%v", &v)
	}
}

// A trial whose data was not compared says so and is red.
func TestUncomparedIsNotGreen(t *testing.T) {
	row := faultRow{name: "x"}
	r := result{faults: 1, uncompared: true}
	if r.red(&row) == "" {
		t.Error("green")
	}
	r = result{faults: 1}
	if why := r.red(&row); why != "" {
		t.Error(why)
	}
}

// A sender that was refused tells why, at once; one whose batches were forgotten is found amiss elsewhere.
func TestWhySendersEnd(t *testing.T) {
	s := &sender{ended: errors.New("answered {Rejected: 1}")}
	if s.failure() == nil || s.gaveUp() {
		t.Error("it ended")
	}
	s.ended = errForgotten
	if s.failure() != nil || !s.gaveUp() {
		t.Error("its batches were forgotten")
	}
}
