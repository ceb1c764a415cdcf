package simulation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Violation is something that must not be.
type Violation struct {
	Kind ViolationKind
	Text string
}

// String returns kind and text.
func (v Violation) String() string { return string(v.Kind) + ": " + v.Text }

// ViolationKind says which promise was broken.
type ViolationKind string

// Kinds of violations.
const (
	Lost         ViolationKind = "acknowledged and lost"
	Doubled      ViolationKind = "twice"
	Foreign      ViolationKind = "never sent"
	Disordered   ViolationKind = "out of order"
	Differing    ViolationKind = "nodes differ"
	Stale        ViolationKind = "stale read"
	Unlinear     ViolationKind = "not linearizable"
	WrongExpiry  ViolationKind = "wrong expiry"
	WrongTime    ViolationKind = "log time"
	Refused      ViolationKind = "refused"
	NodeFailed   ViolationKind = "node failed"
	NotRecovered ViolationKind = "not recovered"
)

// maxClockError is how far log time may be ahead of the time that a majority of clocks shows: what a leader's own clock is
// allowed, and what an entry may wait.
const maxClockError = 61 * time.Second

// maxListed bounds the violations of one kind that are told.
const maxListed = 5

// checker holds a history against the promises.
type checker struct {
	h     *History
	found []Violation
	count map[ViolationKind]int
}

// Check returns what in a history must not be.
func Check(h *History) []Violation {
	c := &checker{h: h, count: make(map[ViolationKind]int)}
	c.nodes()
	c.log()
	c.batches()
	c.content()
	c.sequences()
	c.registers()
	c.expiry()
	c.states()
	return c.found
}

func (c *checker) fail(kind ViolationKind, format string, args ...any) {
	if c.count[kind]++; c.count[kind] <= maxListed {
		c.found = append(c.found, Violation{kind, fmt.Sprintf(format, args...)})
	}
}

func (c *checker) each(kind string, do func(r *Record)) {
	for i := range c.h.Records {
		if r := &c.h.Records[i]; r.Kind == kind {
			do(r)
		}
	}
}

func at(ns int64) time.Duration { return time.Duration(ns).Round(time.Millisecond) }

// nodes looks at how they fared: none may refuse to start or end itself for a reason that the plan does not give, and
// all must have come to the same log in the end.
func (c *checker) nodes() {
	disks := 0
	c.each(kindFault, func(r *Record) {
		switch FaultKind(r.Key) {
		case faultHungDisk, faultEIO, faultSlowDisk:
			disks++
		}
	})
	c.each(kindRefused, func(r *Record) { c.fail(NodeFailed, "%s at %s: %s", r.Node, at(r.At), r.Text) })
	fatal := 0
	c.each(kindDown, func(r *Record) {
		why, ok := strings.CutPrefix(r.Text, "fatal: ")
		if !ok {
			return
		}
		if fatal++; fatal > disks || !strings.HasPrefix(why, "log: ") {
			c.fail(NodeFailed, "%s ended itself at %s: %s", r.Node, at(r.At), why)
		}
	})
	ended, even := false, false
	c.each(kindEven, func(r *Record) {
		even = true
		if r.Out != outOK {
			c.fail(NotRecovered, "at %s: %s", at(r.At), r.Text)
		}
	})
	c.each(kindEnd, func(*Record) { ended = true })
	if (!even || !ended) && len(c.found) == 0 {
		c.fail(NotRecovered, "the run did not come to its end")
	}
}

// log compares what nodes applied and what they say is committed, at each index.
func (c *checker) log() {
	began := int64(0)
	c.each(kindPlan, func(r *Record) { began = r.Time })
	type told struct {
		node string
		time int64
		sum  string
	}
	applied := make(map[uint64]told)
	type life struct {
		node string
		life int
	}
	last := make(map[life]*Record)
	c.each(kindApplied, func(r *Record) {
		l := life{r.Node, r.Life}
		if p := last[l]; p != nil && (r.Index < p.Index || r.Time < p.Time) {
			c.fail(WrongTime, "%s applied entry %d at log time %d after entry %d at %d", r.Node, r.Index, r.Time, p.Index, p.Time)
		}
		last[l] = r
		if truth := began + r.At/1e6; r.Time > truth+maxClockError.Milliseconds() {
			c.fail(WrongTime, "log time of entry %d on %s is %s ahead", r.Index, r.Node, time.Duration(r.Time-truth)*time.Millisecond)
		}
		was, ok := applied[r.Index]
		switch {
		case !ok:
			applied[r.Index] = told{r.Node, r.Time, r.Sum}
		case was.time != r.Time:
			c.fail(Differing, "log time after entry %d is %d on %s and %d on %s", r.Index, was.time, was.node, r.Time, r.Node)
		case was.sum != "" && r.Sum != "" && was.sum != r.Sum:
			c.fail(Differing, "digests after entry %d: %s on %s, %s on %s", r.Index, was.sum, was.node, r.Sum, r.Node)
		}
	})
	entries := make(map[uint64]*Record)
	c.each(kindEntry, func(r *Record) {
		was, ok := entries[r.Index]
		if !ok {
			entries[r.Index] = r
		} else if was.Term != r.Term || was.Sum != r.Sum {
			c.fail(Differing, "committed entry %d is of term %d (%s) on %s and of term %d (%s) on %s",
				r.Index, was.Term, was.Sum, was.Node, r.Term, r.Sum, r.Node)
		}
	})
}

// batches looks at the answers to those who sent.
func (c *checker) batches() {
	c.each(kindBatch, func(r *Record) {
		switch r.Out {
		case outOK, outDuplicate, outFail, outUnknown:
		default:
			c.fail(Lost, "batch %d of %s was answered %s at %s: %s", r.Seq, r.Key, r.Out, at(r.At), r.Text)
		}
	})
	// A batch whose every attempt certainly failed, and that is then said to be a duplicate, was applied all the same.
	type key struct {
		lane string
		seq  uint64
	}
	maybe := make(map[key]bool)
	c.each(kindBatch, func(r *Record) {
		k := key{r.Key, r.Seq}
		switch r.Out {
		case outUnknown, outOK:
			maybe[k] = true
		case outDuplicate:
			if !maybe[k] {
				c.fail(Lost, "batch %d of %s is a duplicate at %s, and all that was answered before is that it was not applied", r.Seq, r.Key, at(r.At))
			}
			maybe[k] = true
		}
	})
}

// content holds what the nodes have in the end against what was acknowledged.
func (c *checker) content() {
	acked := make(map[string]map[uint64]bool)
	c.each(kindBatch, func(r *Record) {
		if r.Out == outOK || r.Out == outDuplicate {
			if acked[r.Key] == nil {
				acked[r.Key] = make(map[uint64]bool)
			}
			acked[r.Key][r.Seq] = true
		}
	})
	samples := make(map[sampleKey]float64) // sent
	lines := make(map[string]int64)
	type owned struct {
		key string
		seq uint64
	}
	ofSample := make(map[sampleKey]owned)
	ofLine := make(map[string]owned)
	c.each(kindData, func(r *Record) {
		for _, s := range r.Samples {
			k := sampleKey{s.Series, s.T}
			samples[k], ofSample[k] = s.V, owned{r.Key, r.Seq}
		}
		for _, l := range r.Lines {
			lines[l.Text], ofLine[l.Text] = l.T, owned{r.Key, r.Seq}
		}
	})
	c.each(kindFinal, func(f *Record) {
		floor := int64(f.Seq)
		held := make(map[sampleKey]bool, len(f.Samples))
		for _, s := range f.Samples {
			k := sampleKey{s.Series, s.T}
			switch v, sent := samples[k]; {
			case held[k]:
				c.fail(Doubled, "%s holds a sample of series %d at %d twice", f.Node, s.Series, s.T)
			case !sent || v != s.V:
				c.fail(Foreign, "%s holds %g of series %d at %d", f.Node, s.V, s.Series, s.T)
			}
			held[k] = true
		}
		for k, o := range ofSample {
			if acked[o.key][o.seq] && !held[k] && k.T >= floor {
				c.fail(Lost, "%s lacks a sample of batch %d of %s", f.Node, o.seq, o.key)
			}
		}
		seen := make(map[string]bool, len(f.Lines))
		last := make(map[string]uint64)
		for _, l := range f.Lines {
			o, sent := ofLine[l.Text]
			switch {
			case seen[l.Text]:
				c.fail(Doubled, "%s holds line %q twice", f.Node, l.Text)
			case !sent || lines[l.Text] != l.T:
				c.fail(Foreign, "%s holds line %q at %d", f.Node, l.Text, l.T)
			case o.seq < last[o.key]:
				c.fail(Disordered, "%s holds line %q behind one of batch %d", f.Node, l.Text, last[o.key])
			}
			seen[l.Text] = true
			last[o.key] = max(last[o.key], o.seq)
		}
		for text, o := range ofLine {
			if acked[o.key][o.seq] && !seen[text] && lines[text] >= floor*1e6 {
				c.fail(Lost, "%s lacks line %q", f.Node, text)
			}
		}
	})
}

// sequences holds linearizable looks at the last sequence of a lane against what was acknowledged before and sent until
// then.
func (c *checker) sequences() {
	type point struct {
		at  int64
		seq uint64
	}
	acked, sent := make(map[string][]point), make(map[string][]point)
	c.each(kindBatch, func(r *Record) {
		if r.Out == outOK || r.Out == outDuplicate {
			acked[r.Key] = append(acked[r.Key], point{r.At, r.Seq})
		}
		sent[r.Key] = append(sent[r.Key], point{r.Call, r.Seq})
	})
	most := func(ps []point, before int64) (seq uint64) {
		for _, p := range ps {
			if p.at < before {
				seq = max(seq, p.seq)
			}
		}
		return seq
	}
	c.each(kindSeen, func(r *Record) {
		if least := most(acked[r.Key], r.Call); r.Seq < least {
			c.fail(Stale, "%s says at %s that %s is at %d, %d was acknowledged before it was asked", r.Node, at(r.At), r.Key, r.Seq, least)
		}
		if top := most(sent[r.Key], r.At); r.Seq > top && top > 0 {
			c.fail(Foreign, "%s says at %s that %s is at %d, %d were sent", r.Node, at(r.At), r.Key, r.Seq, top)
		}
	})
}

// registers asks porcupine whether the reads and writes of each key can have happened one after the other.
func (c *checker) registers() {
	byKey := make(map[string][]porcupine.Operation)
	var keys []string
	end := int64(1)
	for i := range c.h.Records {
		end = max(end, c.h.Records[i].At+1)
	}
	add := func(r *Record, ret int64) {
		if byKey[r.Key] == nil {
			keys = append(keys, r.Key)
		}
		byKey[r.Key] = append(byKey[r.Key], porcupine.Operation{ClientId: r.Client, Input: r, Output: r.Out, Call: r.Call, Return: ret})
	}
	c.each(kindGet, func(r *Record) { add(r, r.At) })
	c.each(kindSet, func(r *Record) {
		switch r.Out {
		case outOK, outConflict:
			add(r, r.At)
		case outUnknown:
			add(r, end)
		case outFail:
		default:
			c.fail(Refused, "set %s was answered %s", r.Key, r.Out)
		}
	})
	slices.Sort(keys)
	for _, k := range keys {
		switch porcupine.CheckOperationsTimeout(registerModel, byKey[k], 10*time.Second) {
		case porcupine.Ok:
		case porcupine.Illegal:
			c.fail(Unlinear, "key %s: %s", k, describe(byKey[k]))
		default:
			c.fail(Unlinear, "key %s: it took too long to find out", k)
		}
	}
}

// registerModel is a register with compare-and-set. Its state is the value, "" when the key is absent; every value is
// written at most once, so that a value stands for the entry that wrote it.
var registerModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		r := input.(*Record)
		if r.Kind == kindGet {
			return state == r.To, state
		}
		holds := r.From == anyValue || state == r.From
		switch output {
		case outOK:
			return holds, r.To
		case outConflict:
			return !holds, state
		}
		if holds { // unknown; that it never happens is as if it came after everything else
			return true, r.To
		}
		return true, state
	},
}

func describe(ops []porcupine.Operation) string {
	var b strings.Builder
	for _, o := range ops {
		r := o.Input.(*Record)
		fmt.Fprintf(&b, "\n  client %d at %s, %s to %s: %s %q -> %q %s", r.Client, r.Node, at(r.Call), at(r.At), r.Kind, r.From, r.To, r.Out)
	}
	return b.String()
}

// expiry looks at keys that go by themselves: they are there until their time has come and not after.
func (c *checker) expiry() {
	ends := make(map[string]int64)
	c.each(kindToken, func(r *Record) { ends[r.Key] = r.Time })
	c.each(kindGone, func(r *Record) {
		end, made := ends[r.Key]
		switch {
		case made && r.Out == outAbsent && r.Time < end:
			c.fail(WrongExpiry, "%s lacks key %s, whose time comes in %s", r.Node, r.Key, time.Duration(end-r.Time)*time.Millisecond)
		case made && r.Out == outOK && r.Time >= end:
			c.fail(WrongExpiry, "%s holds key %s, whose time came %s ago", r.Node, r.Key, time.Duration(r.Time-end)*time.Millisecond)
		}
	})
}

// states compares the deciding state of the nodes, and that of a log applied anew.
func (c *checker) states() {
	sums := make(map[uint64]*Record)
	c.each(kindState, func(r *Record) {
		if was := sums[r.Index]; was == nil {
			sums[r.Index] = r
		} else if was.Sum != r.Sum {
			c.fail(Differing, "state at entry %d is %.12s on %s and %.12s on %s", r.Index, was.Sum, was.Node, r.Sum, r.Node)
		}
	})
	c.each(kindReplay, func(r *Record) {
		if was := sums[r.Index]; was != nil && was.Sum != r.Sum {
			c.fail(Differing, "state at entry %d is %.12s on %s and %.12s when the log is applied anew %s", r.Index, was.Sum, was.Node, r.Sum, r.Text)
		}
	})
}
