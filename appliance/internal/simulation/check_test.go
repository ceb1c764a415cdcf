package simulation

import (
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// TestCheckerBites changes the history of a run in which nothing is wrong, and each change must be told as what it is.
func TestCheckerBites(t *testing.T) {
	good := RunSeed(t, 2, Options{Replay: true})
	if found := Check(good); len(found) > 0 {
		t.Fatalf("%v", found)
	}
	first := func(h *History, kind string, which func(r *Record) bool) *Record {
		for i := range h.Records {
			if r := &h.Records[i]; r.Kind == kind && (which == nil || which(r)) {
				return r
			}
		}
		t.Fatalf("the history has no %s", kind)
		return nil
	}
	holdsLines := func(r *Record) bool { return len(r.Lines) > 10 }
	for name, k := range map[string]struct {
		want ViolationKind
		do   func(h *History)
	}{
		"a line is gone": {Lost, func(h *History) {
			f := first(h, kindFinal, holdsLines)
			f.Lines = slices.Delete(slices.Clone(f.Lines), 5, 6)
		}},
		"a sample is gone": {Lost, func(h *History) {
			f := first(h, kindFinal, nil)
			f.Samples = f.Samples[:len(f.Samples)-1]
		}},
		"a line is there twice": {Doubled, func(h *History) {
			f := first(h, kindFinal, holdsLines)
			f.Lines = append(slices.Clone(f.Lines), f.Lines[3])
		}},
		"a line that nobody sent": {Foreign, func(h *History) {
			f := first(h, kindFinal, holdsLines)
			f.Lines = append(slices.Clone(f.Lines), Line{Text: "w9 1 0"})
		}},
		"another value": {Foreign, func(h *History) {
			f := first(h, kindFinal, nil)
			f.Samples = slices.Clone(f.Samples)
			f.Samples[0].V++
		}},
		"lines in another order": {Disordered, func(h *History) {
			f := first(h, kindFinal, holdsLines)
			f.Lines = slices.Clone(f.Lines)
			slices.Reverse(f.Lines)
		}},
		"digests differ": {Differing, func(h *History) {
			seen := make(map[uint64]bool)
			first(h, kindApplied, func(r *Record) bool {
				again := seen[r.Index] && r.Sum != ""
				seen[r.Index] = r.Sum != ""
				return again
			}).Sum = "other"
		}},
		"states differ":      {Differing, func(h *History) { first(h, kindState, nil).Sum = "other" }},
		"replay differs":     {Differing, func(h *History) { first(h, kindReplay, nil).Sum = "other" }},
		"entries differ":     {Differing, func(h *History) { first(h, kindEntry, func(r *Record) bool { return r.Node == "n2" }).Term += 7 }},
		"log time goes back": {WrongTime, func(h *History) { first(h, kindApplied, func(r *Record) bool { return r.Index > 20 }).Time = 1 }},
		"log time runs ahead": {WrongTime, func(h *History) {
			first(h, kindApplied, func(r *Record) bool { return r.Index > 20 }).Time += 1000_000
		}},
		"an old sequence is read": {Stale, func(h *History) {
			first(h, kindSeen, func(r *Record) bool { return r.Seq > 10 }).Seq -= 5
		}},
		"an old value is read": {Unlinear, func(h *History) {
			first(h, kindGet, func(r *Record) bool { return r.To != "" }).To = "an old one"
		}},
		"a set that conflicted is said to hold": {Unlinear, func(h *History) {
			first(h, kindSet, func(r *Record) bool { return r.Out == outOK && r.From != anyValue }).From = "another"
		}},
		"a key goes too early": {WrongExpiry, func(h *History) {
			h.Records = append(h.Records, Record{Kind: kindToken, Key: "x", Time: 2000}, Record{Kind: kindGone, Key: "x", Out: outAbsent, Time: 1999})
		}},
		"a key stays": {WrongExpiry, func(h *History) {
			h.Records = append(h.Records, Record{Kind: kindToken, Key: "x", Time: 2000}, Record{Kind: kindGone, Key: "x", Out: outOK, Time: 2000})
		}},
		"a gap": {Lost, func(h *History) { first(h, kindBatch, nil).Out = "gap" }},
		"a node cannot be started": {NodeFailed, func(h *History) {
			h.Records = append(h.Records, Record{Kind: kindRefused, Node: "n1", Text: "damaged"})
		}},
		"a node ends itself": {NodeFailed, func(h *History) {
			h.Records = append(h.Records, Record{Kind: kindDown, Node: "n1", Text: "fatal: store of logs"})
		}},
		"nodes stay apart":   {NotRecovered, func(h *History) { first(h, kindEven, nil).Out = outTimeout }},
		"the run breaks off": {NotRecovered, func(h *History) { h.Records = h.Records[:len(h.Records)/2] }},
	} {
		t.Run(name, func(t *testing.T) {
			h := &History{Records: slices.Clone(good.Records)}
			k.do(h)
			found := Check(h)
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.Kind == k.want }) {
				t.Errorf("found %v, want %s", found, k.want)
			}
		})
	}
}

// A history that was saved is what it was.
func TestHistoryIsReadAgain(t *testing.T) {
	h := RunSeed(t, 3, Options{})
	path := filepath.Join(t.TempDir(), "history.json")
	if err := h.Save(path); err != nil {
		t.Fatal(err)
	}
	again, err := ReadHistory(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Records) < 500 || !reflect.DeepEqual(h, again) {
		t.Errorf("%d records were written, %d read, and they differ", len(h.Records), len(again.Records))
	}
}

// A seed gives the same plan every time.
func TestPlansAreRepeatedExactly(t *testing.T) {
	kinds := make(map[FaultKind]int)
	for seed := range uint64(300) {
		p := NewPlan(seed)
		if again := NewPlan(seed); !reflect.DeepEqual(p, again) {
			t.Fatalf("seed %d: %s and %s", seed, p, again)
		}
		for _, f := range p.Faults {
			kinds[f.Kind]++
		}
	}
	for _, k := range kindsOfFaults {
		if kinds[k.kind] < 5 {
			t.Errorf("%s comes %d times in 300 plans", k.kind, kinds[k.kind])
		}
	}
}
