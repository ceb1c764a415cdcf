package systemtest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// result is what a trial found.
type result struct {
	violations
	uncompared bool // it ended before what was acknowledged was compared with what the nodes have
	faults     int
	acked      uint64 // batches of each lane
	other      int    // what else a row counts instead, of the kind
	kind       string
	recoveries []time.Duration
	same       []time.Duration // from the end of the last fault until all nodes had the same state
	refusals   []time.Duration // to the answers of nodes without a majority
	// firstRefusals is from the cut to the first such answer.
	firstRefusals []time.Duration
	reads         int           // linearizable ones that were answered
	stales        int           // those of them that lacked what was acknowledged before
	leaders       int           // elected while faults were injected
	under         time.Duration // for how long they were
	goodput       []float64     // of what was acknowledged before a fault, while it lasted
	notes         []string
	err           error // why the row ended early, or what does not hold besides
	took          time.Duration
}

// red says why a trial is not green, "" when it is.
func (r *result) red(row *faultRow) string {
	var why []string
	if r.total() > 0 || r.broken > 0 {
		why = append(why, r.violations.String())
	}
	if r.err != nil {
		why = append(why, r.err.Error())
	}
	if slow := slices.Max(append(r.recoveries, 0)); row.goal > 0 && slow > tooSlow*row.goal {
		why = append(why, fmt.Sprintf("took %v to recover, the goal is %v", slow.Round(time.Millisecond), row.goal))
	}
	if slow := slices.Max(append(r.same, 0)); slow > tooSlow*healGoal {
		why = append(why, fmt.Sprintf("the nodes had the same state %v after the last fault, the goal is %v", slow.Round(time.Millisecond), healGoal))
	}
	if r.under > 30*time.Second && float64(r.leaders)/r.under.Minutes() > tooMuch*changesGoal {
		why = append(why, fmt.Sprintf("%d leaders in %v", r.leaders, r.under.Round(time.Second)))
	}
	if len(r.goodput) > 0 && (middle(r.goodput) < goodputGoal/tooMuch || slices.Min(r.goodput) < goodputGoal/tooSlow) { // one of several may meet others at work
		why = append(why, fmt.Sprintf("goodput fell to %.0f %%, %.0f %% in the middle", 100*slices.Min(r.goodput), 100*middle(r.goodput)))
	}
	if r.uncompared {
		why = append(why, "what was acknowledged was not compared with what the nodes have")
	}
	if r.faults == 0 {
		why = append(why, "no fault was injected")
	}
	return strings.Join(why, "; ")
}

// line is the trial in one line.
func (r *result) line(row *faultRow, seed uint64) string {
	word, why := "ok      ", ""
	if red := r.red(row); red != "" {
		word, why = "RED     ", "\n    "+red+"\n    again with: "+again(row, seed)
	}
	kept := fmt.Sprintf("%d batches acknowledged, lost %d, doubled %d", r.acked, r.lost+r.forgotten, r.doubled)
	if r.uncompared {
		kept = "not compared"
	}
	return fmt.Sprintf("%s %s, seed %d, %v: %d faults, %s; recovery %s; %s%s", word, row.name, seed,
		r.took.Round(time.Second), r.faults, kept, percentiles(r.recoveries), strings.Join(append(r.notes, r.figures()), ", "), why)
}

// middle is the one in the middle of a list that has some.
func middle(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }

// figures are what else was measured, against the goals.
func (r *result) figures() string {
	var out []string
	if len(r.refusals) > 0 {
		out = append(out, fmt.Sprintf("503 without a majority after %s (goal %v)", percentiles(r.refusals), refuseGoal))
	}
	if len(r.firstRefusals) > 0 {
		out = append(out, fmt.Sprintf("the first one after %s of the cut (goal %v)", percentiles(r.firstRefusals), noQuorumGoal))
	}
	if r.reads > 0 {
		out = append(out, fmt.Sprintf("%d linearizable reads answered, %d stale", r.reads, r.stales))
	}
	if r.leaders > 0 && r.under == 0 {
		out = append(out, fmt.Sprintf("%d leaders elected for %d faults", r.leaders, r.faults))
	}
	if r.under > 0 {
		out = append(out, fmt.Sprintf("%d leaders in %v, %.1f a minute (goal %d)", r.leaders, r.under.Round(time.Second), float64(r.leaders)/r.under.Minutes(), changesGoal))
	}
	if len(r.goodput) > 0 {
		out = append(out, fmt.Sprintf("goodput %.0f %% at least, %.0f %% in the middle (goal %.0f %%)",
			100*slices.Min(r.goodput), 100*middle(r.goodput), 100*goodputGoal))
	}
	return strings.Join(out, "; ")
}

// again is the command that repeats a trial.
func again(row *faultRow, seed uint64) string {
	return fmt.Sprintf("make torture ROWS=%s SEED=%d MINUTES=0", row.name, seed)
}

// summary is what the trials of one row found together.
type summary struct {
	result
	trials, red int
	notRun      string
	tolerated   bool     // that it was not run
	repeat      []string // commands that repeat what failed
}

func (s *summary) add(row *faultRow, r *result, seed uint64) {
	s.trials++
	s.faults += r.faults
	s.acked += r.acked
	s.other += r.other
	s.kind = r.kind
	s.uncompared = s.uncompared || r.uncompared
	s.lost += r.lost + r.forgotten
	s.doubled += r.doubled
	s.foreign += r.foreign
	s.differing += r.differing
	s.broken += r.broken
	s.recoveries = append(s.recoveries, r.recoveries...)
	s.same = append(s.same, r.same...)
	s.refusals = append(s.refusals, r.refusals...)
	s.firstRefusals = append(s.firstRefusals, r.firstRefusals...)
	s.goodput = append(s.goodput, r.goodput...)
	s.reads += r.reads
	s.stales += r.stales
	s.leaders += r.leaders
	s.under += r.under
	s.notes = append(s.notes, r.notes...)
	if why := r.red(row); why != "" {
		s.red++
		s.examples = append(s.examples, why)
		s.repeat = append(s.repeat, again(row, seed))
	}
}

// tableHead is the head of the table here and in docs/reliability.md, of which the first four columns are the rows' own.
const tableHead = `| row | fault | must hold | goal | trials | faults | batches acknowledged | lost | doubled | to recover p50 / p99 | same state after | verdict |
|---|---|---|---|--:|--:|--:|--:|--:|---|---|---|
`

// own is what the table says of a row before it has run.
func (r *faultRow) own() string {
	goal := ""
	if r.goal > 0 {
		goal = fmt.Sprint(r.goal)
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |", r.name, r.fault, promises[r.name], goal)
}

// measured is the rest of its line.
func (s *summary) measured(verdict string) string {
	if s.trials == 0 {
		return fmt.Sprintf(" | | | | | | | %s |", verdict)
	}
	at := func(ds []time.Duration) string {
		if len(ds) == 0 {
			return ""
		}
		d := slices.Sorted(slices.Values(ds))
		return fmt.Sprintf("%.1f s / %.1f s", d[len(d)/2].Seconds(), d[len(d)-1].Seconds())
	}
	acked := fmt.Sprint(s.acked)
	if s.kind != "" {
		acked = fmt.Sprintf("%d %s", s.other, s.kind)
	}
	lost, doubled := fmt.Sprint(s.lost), fmt.Sprint(s.doubled)
	if s.uncompared {
		lost, doubled = lost+", not all compared", doubled+", not all compared"
	}
	return fmt.Sprintf(" %d | %d | %s | %s | %s | %s | %s | %s |", s.trials, s.faults, acked, lost, doubled, at(s.recoveries), at(s.same), verdict)
}

// report prints the table and fails the test when a row is red, or was not run where everything has to be. The last line says
// how many rows ran.
func (b *bench) report() {
	var t, after strings.Builder
	t.WriteString("\n" + tableHead)
	ran, red := 0, 0
	var idle []string
	for i := range b.rows {
		row, s := &b.rows[i], &b.sums[i]
		verdict := "green"
		switch {
		case s.notRun != "":
			verdict = "**NOT RUN**: " + s.notRun
		case s.trials == 0:
			verdict = "**NOT RUN**: no time for it"
		case s.red > 0:
			red++
			verdict = fmt.Sprintf("**RED** %d of %d", s.red, s.trials)
			for k, why := range s.examples {
				fmt.Fprintf(&after, "\nRED %s: %s\n    again with: %s\n", row.name, why, s.repeat[k])
			}
			b.t.Errorf("%s is red: %s", row.name, s.repeat[0])
		}
		if s.trials > 0 {
			ran++
		} else {
			idle = append(idle, row.name)
			if os.Getenv("CI_STRICT") != "" && !s.tolerated {
				b.t.Errorf("%s: %s", row.name, verdict)
			}
		}
		t.WriteString(row.own() + s.measured(verdict) + "\n")
		if figures := s.figures(); len(s.notes) > 0 || figures != "" {
			fmt.Fprintf(&after, "\n%s: %s\n", row.name, figures)
			for _, n := range s.notes {
				fmt.Fprintf(&after, "  %s\n", n)
			}
		}
	}
	text := t.String() + after.String() + "\n" + b.last(ran, red, idle) + "\n"
	fmt.Print(text)
	if to := os.Getenv("TRIWARD_TORTURE_TABLE"); to != "" {
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			b.t.Error(err)
		}
	}
}

// last is what there is to say of all of it. Only a run of all its rows has passed.
func (b *bench) last(ran, red int, idle []string) string {
	text := fmt.Sprintf("%s: %d of %d rows ran, %d red", b.what, ran, len(b.rows), red)
	switch {
	case len(idle) > 0:
		return text + "; not run: " + strings.Join(idle, ", ")
	case red == 0:
		return text + ": passed"
	}
	return text
}
