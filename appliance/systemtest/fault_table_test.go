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
	faults     int
	acked      uint64 // batches of each lane
	recoveries []time.Duration
	refusals   []time.Duration // to the answers of nodes without a majority
	reads      int             // linearizable ones that were answered
	stales     int             // those of them that lacked what was acknowledged before
	leaders    int             // elected while faults were injected
	under      time.Duration   // for how long they were
	goodput    []float64       // of what was acknowledged before a fault, while it lasted
	notes      []string
	err        error // why the row ended early, or what does not hold besides
	took       time.Duration
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
	if slow := slices.MaxFunc(append(r.recoveries, 0), func(a, b time.Duration) int { return int(a - b) }); row.goal > 0 && slow > tooSlow*row.goal {
		why = append(why, fmt.Sprintf("took %v to recover, the goal is %v", slow.Round(time.Millisecond), row.goal))
	}
	if r.under > 30*time.Second && float64(r.leaders)/r.under.Minutes() > tooSlow*changesGoal {
		why = append(why, fmt.Sprintf("%d leaders in %v", r.leaders, r.under.Round(time.Second)))
	}
	if len(r.goodput) > 0 && slices.Min(r.goodput) < goodputGoal/tooSlow {
		why = append(why, fmt.Sprintf("goodput fell to %.0f %%", 100*slices.Min(r.goodput)))
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
	return fmt.Sprintf("%s %s, seed %d, %v: %d faults, %d batches acknowledged, lost %d, doubled %d; recovery %s; %s%s", word, row.name, seed,
		r.took.Round(time.Second), r.faults, r.acked, r.lost+r.forgotten, r.doubled, percentiles(r.recoveries), strings.Join(append(r.notes, r.figures()), ", "), why)
}

// figures are what else was measured, against the goals.
func (r *result) figures() string {
	var out []string
	if len(r.refusals) > 0 {
		out = append(out, fmt.Sprintf("503 without a majority after %s (goal %v)", percentiles(r.refusals), refuseGoal))
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
			100*slices.Min(r.goodput), 100*slices.Sorted(slices.Values(r.goodput))[len(r.goodput)/2], 100*goodputGoal))
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
	s.lost += r.lost + r.forgotten
	s.doubled += r.doubled
	s.foreign += r.foreign
	s.differing += r.differing
	s.broken += r.broken
	s.recoveries = append(s.recoveries, r.recoveries...)
	s.refusals = append(s.refusals, r.refusals...)
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

// report prints the table and fails the test when a row is red, or was not run where everything has to be.
func (b *bench) report(seed uint64) {
	var t strings.Builder
	fmt.Fprintf(&t, "\n| row | trials | faults | batches acknowledged | lost | doubled | differing | recovery | goal | verdict |\n|---|--:|--:|--:|--:|--:|--:|---|---|---|\n")
	var after strings.Builder
	for i := range b.rows {
		row, s := &b.rows[i], &b.sums[i]
		goal, verdict := "", "green"
		if row.goal > 0 {
			goal = row.goal.String()
		}
		switch {
		case s.notRun != "":
			verdict = "NOT RUN: " + s.notRun
			if os.Getenv("CI_STRICT") != "" && !s.tolerated {
				b.t.Errorf("%s was not run: %s", row.name, s.notRun)
			}
		case s.trials == 0:
			verdict = "no time for it"
		case s.red > 0:
			verdict = fmt.Sprintf("**RED** %d of %d", s.red, s.trials)
			for k, why := range s.examples {
				fmt.Fprintf(&after, "\nRED %s: %s\n    again with: %s\n", row.name, why, s.repeat[k])
			}
			b.t.Errorf("%s is red: %s", row.name, s.repeat[0])
		}
		fmt.Fprintf(&t, "| %s | %d | %d | %d | %d | %d | %d | %s | %s | %s |\n", row.name, s.trials, s.faults, s.acked, s.lost, s.doubled,
			s.differing+s.foreign, percentiles(s.recoveries), goal, verdict)
		if figures := s.figures(); len(s.notes) > 0 || figures != "" {
			fmt.Fprintf(&after, "\n%s: %s\n", row.name, figures)
			for _, n := range s.notes {
				fmt.Fprintf(&after, "  %s\n", n)
			}
		}
	}
	text := t.String() + fmt.Sprintf("\nseed %d\n", seed) + after.String()
	fmt.Print(text)
	if to := os.Getenv("TRIWARD_TORTURE_TABLE"); to != "" {
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			b.t.Error(err)
		}
	}
}
