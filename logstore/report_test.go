package logstore

import (
	"errors"
	"testing"
)

// What was found in a store that is not open any more is not damage of the one that is.
func TestDamageOfAnotherStoreIsPassedOver(t *testing.T) {
	told := 0
	s, err := New(Options{Manual: true, OnDamage: func(*DamageError) { told++ }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	day := KindDay{Day: 20_000}
	s.Report("replaced", day, errors.New("it differs"))
	if told != 0 || len(s.Damaged()) > 0 {
		t.Errorf("told %d times, damaged %q", told, s.Damaged())
	}
	s.Report(s.Dir(), day, errors.New("it differs"))
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}
