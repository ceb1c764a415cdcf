package index

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestTermsAreThoseOfTheBlocks(t *testing.T) {
	d, name, in := filled(t, 60, 7)
	for _, prefix := range []string{"", "w", "worda", "only", "onlyb", "zzz"} {
		var want []TermCount
		for _, term := range slices.Sorted(maps.Keys(in)) {
			if strings.HasPrefix(term, prefix) {
				want = append(want, TermCount{term, uint64(len(in[term]))})
			}
		}
		for _, limit := range []int{1, 5, 10_000} {
			got, err := d.Terms(t.Context(), 1, name, prefix, limit)
			if err != nil || !slices.Equal(got, want[:min(limit, len(want))]) {
				t.Fatalf("%q, at most %d: %v %v, want %v", prefix, limit, got, err, want[:min(limit, len(want))])
			}
		}
	}
	// Of the terms with a prefix, those that count.
	odd := func(term string) bool { return term[len(term)-1]%2 == 1 }
	ids, all, err := d.Find(t.Context(), 1, name, &Query{Op: Prefix, Text: "word", Accept: odd})
	want := map[uint64]bool{}
	for term, docs := range in {
		for _, id := range docs {
			if strings.HasPrefix(term, "word") && odd(term) {
				want[id] = true
			}
		}
	}
	if err != nil || all || !slices.Equal(slices.Sorted(maps.Keys(ids)), slices.Sorted(maps.Keys(want))) {
		t.Fatalf("%v %v %v, want %v", ids, all, err, want)
	}
}

// A question for very many terms is answered with every block, and one that nobody waits for ends.
func TestManyTerms(t *testing.T) {
	d, name, _ := filled(t, 1, 1)
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "many%c%c%c\n", 'a'+i%26, 'a'+i/26%26, 'a'+i/676)
	}
	if err := d.Add(1, name, []Doc{{ID: 2, Terms: []byte(b.String())}}); err != nil {
		t.Fatal(err)
	}
	asked := 0
	first := func(n int) func(string) bool {
		seen := 0
		return func(string) bool { asked++; seen++; return seen <= n }
	}
	for n, every := range map[int]bool{maxPrefixTerms: false, maxPrefixTerms + 1: true, 5000: true} {
		ids, all, err := d.Find(t.Context(), 1, name, &Query{Op: Prefix, Text: "m", Accept: first(n)})
		if err != nil || all != every || !all && len(ids) != 1 {
			t.Errorf("%d terms: %v, all %v, %v", n, ids, all, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked = 0
	stop := func(string) bool {
		if asked++; asked == 300 {
			cancel()
		}
		return false
	}
	if _, _, err := d.Find(ctx, 1, name, &Query{Op: Prefix, Text: "m", Accept: stop}); !errors.Is(err, context.Canceled) || asked > 300+termsAtOnce {
		t.Errorf("after %d terms: %v", asked, err)
	}
	if _, err := d.Terms(ctx, 1, name, "m", 5000); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnusable) {
		t.Error(err)
	}
}

// Terms of damaged segments are not used.
func TestTermsOfDamageAreRefused(t *testing.T) {
	d, name, in := filled(t, 40, 40)
	rng := rand.New(rand.NewPCG(1, 9))
	for range 30 {
		back := flip(t, segments(t, d, name)[0], rng)
		got, err := d.Terms(t.Context(), 1, name, "word", 10_000)
		if !errors.Is(err, ErrUnusable) || got != nil {
			t.Fatalf("%d terms, %v", len(got), err)
		}
		back()
	}
	if got, err := d.Terms(t.Context(), 1, name, "", 10_000); err != nil || len(got) != len(in) {
		t.Errorf("%d terms of %d, %v", len(got), len(in), err)
	}
}
