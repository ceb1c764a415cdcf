package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/triward/triward/logstore/words"
)

// Lines are picked by their templates, however many of these there are, also when only the outline is known.
func TestPickTakesTheLinesOfTemplates(t *testing.T) {
	c := codec(t)
	for _, forms := range []int{1, 5, 300} {
		rng := rand.New(rand.NewPCG(uint64(forms), 2))
		var lines []Line
		for i := range 5000 {
			lines = append(lines, Line{T: int64(i), Text: fmt.Appendf(nil, "form%s of %d", string(rune('g'+i%forms/20))+string(rune('g'+i%forms%20)), rng.Uint32())})
			if rng.IntN(50) == 0 {
				lines[i].Text = fmt.Appendf(nil, "%c%c%c only once", 'g'+rune(i/400), 'g'+rune(i/20%20), 'g'+rune(i%20))
			}
		}
		_, text := encode(t, c, lines, Version2)
		var v, seen View
		if _, err := c.View(&v, text, len(lines)); err != nil {
			t.Fatal(err)
		}
		if v.Templates() < forms {
			t.Fatalf("%d templates of %d forms", v.Templates(), forms)
		}
		o := v.Outline(func(s *Shape) *Shape { return s.Clone(1) })
		if _, err := c.ViewSeen(&seen, text, len(lines), o); err != nil {
			t.Fatal(err)
		}
		want := make([]bool, len(lines))
		take := make([]bool, v.Templates()+1)
		for k := range take {
			take[k] = rng.IntN(2) == 0
		}
		for k := range v.Templates() {
			if v.Template(k).Count() != len(v.Template(k).Lines()) {
				t.Fatalf("template %d has %d lines and not %d", k, len(v.Template(k).Lines()), v.Template(k).Count())
			}
			for _, i := range v.Template(k).Lines() {
				want[i] = take[k+1]
			}
		}
		for _, i := range v.FlatLines() {
			want[i] = take[0]
		}
		set := make([]uint64, (len(lines)+63)/64)
		seen.Pick(take, set)
		for i := range lines {
			if got := set[i/64]>>(i%64)&1 == 1; got != want[i] || seen.Err() != nil {
				t.Fatalf("%d forms: line %d is picked: %v, want %v: %v", forms, i, got, want[i], seen.Err())
			}
		}
		if seen.dictRead {
			t.Error("the templates were read, though only their numbers are needed")
		}
		if got := len(seen.FlatLines()); got != o.FlatLines || got == 0 {
			t.Errorf("%d lines without a template, %d are in the outline", got, o.FlatLines)
		}
		seen.Pick(take[:1], set)
		if !errors.Is(seen.Err(), ErrDamaged) {
			t.Errorf("numbers of templates that are not there give %v", seen.Err())
		}
	}
}

// An outline that has learned its values says no only for words that no slot has.
func TestOutlinesKnowTheWordsOfSlots(t *testing.T) {
	c := codec(t)
	var lines []Line
	for i := range 300 {
		lines = append(lines, Line{T: int64(i), Text: fmt.Appendf(nil, "login of user=%s from host%d, id %x%d for é%d", []string{"Anna", "böb", "fed"}[i%3], i, i, i, i)})
	}
	_, text := encode(t, c, lines, Version2)
	var v View
	if _, err := c.View(&v, text, len(lines)); err != nil {
		t.Fatal(err)
	}
	o := v.Outline(func(s *Shape) *Shape { return s.Clone(1) })
	if !o.MayBeValue("nobody", false) || o.Learned() {
		t.Error("an outline that has learned nothing says no")
	}
	if !o.Learn(&v) || !o.Learned() {
		t.Fatal(v.Err())
	}
	for word, want := range map[string][2]bool{ // whole, and as the beginning of a word
		"anna": {true, true}, "an": {false, true}, "annab": {false, false}, "böb": {true, true}, "é": {true, true}, "é5": {true, true}, "host": {true, true}, "host7": {true, true}, "hos": {false, true},
		"hos7": {false, false}, "login": {false, false}, "user": {false, false}, "fed": {true, true}, "abc": {true, true}, "17": {true, true}, "x17": {false, false}, "磁": {false, false},
	} {
		if got := [2]bool{o.MayBeValue(word, false), o.MayBeValue(word, true)}; got != want {
			t.Errorf("%q may be a value: %v, want %v", word, got, want)
		}
	}
	for i := range lines {
		lines[i].Text = fmt.Appendf(nil, "login of user=%c%c%cx%d", 'g'+rune(i%20), 'g'+rune(i/20), 'g'+rune(i%7), i)
	}
	_, text = encode(t, c, lines, Version2)
	if _, err := c.View(&v, text, len(lines)); err != nil {
		t.Fatal(err)
	}
	o = v.Outline(func(s *Shape) *Shape { return s.Clone(1) })
	if !o.Learn(&v) || !o.MayBeValue("nobody", false) || o.Size() > maxLeads {
		t.Errorf("very many values: %d bytes are kept", o.Size())
	}
}

// Of every slot with letters it is known what its values may be, and of one that never changes what it is.
func TestOutlinesKnowSlotsByThemselves(t *testing.T) {
	c := codec(t)
	var lines []Line
	for i := range 400 {
		text := fmt.Appendf(nil, "login tty=%s user=%s rest=%d", "NODEVssh", []string{"Anna", "bob"}[i/2%2], i)
		if i%2 == 1 {
			text = fmt.Appendf(nil, "logout user=%s of %s, code=fed", "Zoe", []string{"x7", "y8"}[i/2%2])
		}
		lines = append(lines, Line{T: int64(i), Text: text})
	}
	_, text := encode(t, c, lines, Version2)
	var v View
	if _, err := c.View(&v, text, len(lines)); err != nil {
		t.Fatal(err)
	}
	o := v.Outline(func(s *Shape) *Shape { return s.Clone(1) })
	if !o.MayBeValueOf(0, 0, "nobody", false) || o.OnlyValue(0, 0) != nil {
		t.Error("an outline that has learned nothing says something")
	}
	if !o.Learn(&v) {
		t.Fatal(v.Err())
	}
	only := map[string]int{}
	for i := range v.Templates() {
		tpl := v.Template(i)
		for slot := range tpl.Slots() {
			values, same := map[string]bool{}, true
			column := tpl.Column(slot)
			for k := range column.Len() {
				values[string(column.At(k))] = true
				same = len(values) == 1
			}
			for value := range values {
				folded := string(words.AppendFold(nil, []byte(value)))
				if !o.MayBeValueOf(i, slot, folded, false) || !o.MayBeValueOf(i, slot, folded[:1], true) {
					t.Errorf("slot %d of %q has %q", slot, tpl.AppendText(nil, "<*>"), value)
				}
			}
			got := o.OnlyValue(i, slot)
			if got != nil && (!same || !values[string(got)]) {
				t.Errorf("slot %d of %q is always %q, it has %v", slot, tpl.AppendText(nil, "<*>"), got, values)
			}
			only[string(got)]++
			if tpl.Classes(slot)&(Lower|Upper|Wide) != 0 && o.MayBeValueOf(i, slot, "nobody", false) && o.MayBeValueOf(i, slot, "someone", false) && o.MayBeValueOf(i, slot, "whoever", false) {
				t.Errorf("slot %d of %q may be anything", slot, tpl.AppendText(nil, "<*>"))
			}
		}
	}
	if only["NODEVssh"] != 1 || only["Zoe"] != 1 || o.Size() < 12*len(only) {
		t.Errorf("always the same are %v in %d bytes", only, o.Size())
	}
}

// What is damaged in the columns is told by who learns from them.
func TestDamageIsNotLearned(t *testing.T) {
	c := codec(t)
	var lines []Line
	for i := range 300 {
		lines = append(lines, Line{T: int64(i), Text: fmt.Appendf(nil, "user=u%dx", i)})
	}
	_, text := encode(t, c, lines, Version2)
	damageLastColumn(t, c, text)
	var v View
	if _, err := c.View(&v, text, len(lines)); err != nil {
		t.Fatal(err)
	}
	o := v.Outline(func(s *Shape) *Shape { return s.Clone(1) })
	if o.Learn(&v) || o.Learned() || !errors.Is(v.Err(), ErrDamaged) {
		t.Errorf("learned from damage: %v", v.Err())
	}
}

func TestNumbersAreReadAsTheLibraryDoes(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	for range 20_000 {
		b := binary.AppendUvarint(nil, rng.Uint64()>>rng.IntN(64))
		for range rng.IntN(10) {
			b = append(b, byte(rng.Uint32()))
		}
		if rng.IntN(10) == 0 {
			b = b[:rng.IntN(len(b)+1)]
		}
		want, n := binary.Uvarint(b)
		if got, k := nextUvarint(b); got != want || k != n {
			t.Fatalf("%x is read as %d of %d bytes, want %d of %d", b, got, k, want, n)
		}
	}
	ones := []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80}
	if _, n := nextUvarint(ones); n >= 0 {
		t.Errorf("a number without an end is read as %d bytes", n)
	}
}
