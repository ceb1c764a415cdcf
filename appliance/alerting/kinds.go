package alerting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
)

// maxValues bounds the values of a label that one rule looks at.
const maxValues = 1000

// lateLines is how long after the time that it bears a line may come and still be counted, in ms: agents send in batches,
// and a change of the leader holds them up.
const lateLines = 30_000

// countLines holds the number of lines of a window against the rule's threshold; interval (ms) is how often it is asked.
func (s *Service) countLines(ctx context.Context, r *rules.Rule, at, interval int64) ([]Sample, error) {
	window := r.Window.Milliseconds()
	reach := max(0, interval+lateLines-window)
	if r.Above == nil {
		reach = 0
	}
	out, err := s.linesBeyond(ctx, r, at-reach-window, at)
	if err != nil || reach == 0 || len(out) == 0 {
		return out, err
	}
	// The window is short beside the interval and the way of the lines: it is moved over all that no evaluation has seen
	// yet. What has too few lines in all of it has too few in each part.
	most := make(map[string]Sample)
	for end := at; end > at-reach-window/2; end -= max(window/2, 1) {
		part, err := s.linesBeyond(ctx, r, end-window, end)
		if err != nil {
			return nil, err
		}
		for _, p := range part {
			key := p.Labels[r.By]
			if have, ok := most[key]; !ok || p.V > have.V {
				p.T = at
				most[key] = p
			}
		}
		if len(most) == len(out) {
			break
		}
	}
	out = out[:0]
	for _, key := range slices.Sorted(maps.Keys(most)) {
		out = append(out, most[key])
	}
	return out, nil
}

// linesBeyond counts the lines of [start, end) and returns the counts that pass the rule's threshold.
func (s *Service) linesBeyond(ctx context.Context, r *rules.Rule, start, end int64) ([]Sample, error) {
	counts, more, err := s.cfg.Logs.Count(ctx, r.Query, start, end, r.By, maxValues)
	if err != nil {
		return nil, err
	}
	if r.By == "" && len(counts) == 0 {
		counts = []Count{{}}
	}
	var out []Sample
	for _, c := range counts {
		n := float64(c.Lines)
		if r.Above != nil && n > *r.Above || r.Below != nil && n < *r.Below {
			sample := Sample{T: end, V: n, Labels: map[string]string{}}
			if r.By != "" {
				sample.Labels[r.By] = c.Value
			}
			out = append(out, sample)
		}
	}
	if more && r.Above != nil && len(out) == maxValues {
		return nil, fmt.Errorf("more than %d values of %s have lines; make the query narrower", maxValues, r.By)
	}
	return out, nil
}

// silentAgents are those of which nothing was heard for the rule's time. What could not be heard while the cluster was
// down counts for nobody.
func (s *Service) silentAgents(r *rules.Rule, at, resumed int64) []Sample {
	var out []Sample
	for _, a := range s.cfg.Fleet.Agents() {
		if a.LastSeen == 0 || !matches(r.Match, a.Tags) {
			continue
		}
		silent := at - max(a.LastSeen, resumed)
		if silent < r.After.Milliseconds() {
			continue
		}
		out = append(out, Sample{T: at, V: float64(at-a.LastSeen) / 1000, Labels: map[string]string{"agent": a.ID, "host": a.Host}})
	}
	return out
}

func matches(want, tags map[string]string) bool {
	for k, v := range want {
		if tags[k] != v {
			return false
		}
	}
	return true
}

// silentStreams are the values of a label that had lines within the rule's window and have none for its time.
func (s *Service) silentStreams(ctx context.Context, r *rules.Rule, at, resumed int64) ([]Sample, error) {
	after := r.After.Milliseconds()
	if at-resumed < after {
		return nil, errRecovering
	}
	known, more, err := s.cfg.Logs.Count(ctx, r.Query, at-r.Window.Milliseconds(), at-after, r.By, maxValues)
	if err != nil {
		return nil, err
	}
	if more {
		return nil, fmt.Errorf("more than %d streams; make the query narrower", maxValues)
	}
	heard, _, err := s.cfg.Logs.Count(ctx, r.Query, at-after, at+futureLines, r.By, maxValues)
	if err != nil {
		return nil, err
	}
	var out []Sample
	for _, c := range known {
		if slices.ContainsFunc(heard, func(h Count) bool { return h.Value == c.Value }) {
			continue
		}
		out = append(out, Sample{T: at, V: float64(after) / 1000, Labels: map[string]string{r.By: c.Value}})
	}
	return out, nil
}

// futureLines is how far before log time a line may be, in ms.
const futureLines = 10 * 60_000

// eventCursor is how far events were read: every event is looked at once, however late it came. Each rule has its own
// place, so that one whose search fails holds no other up; what is stored is the last of them.
type eventCursor struct {
	at      map[string]uint64 // by rule
	mod     uint64            // of the record
	saved   uint64            // what the record says
	known   bool
	savedAt int64 // log time
}

func (c *eventCursor) read(meta Meta) {
	v, ok := meta.Get(BucketLease, keyEvents)
	var rec cursor
	known := ok && json.Unmarshal(v.Data, &rec) == nil
	*c = eventCursor{at: make(map[string]uint64), mod: v.ModIndex, saved: rec.Index, known: known, savedAt: c.savedAt}
}

const (
	eventsAtOnce = 500
	eventsOfOne  = 5000            // looked at of one entry, which cannot be read in parts
	eventTime    = 5 * time.Second // for the search of one rule
	saveEvents   = 60_000          // ms between notes of a cursor that found nothing
)

// readEvents raises alerts for events that came since the last look, and ends those whose time is over.
func (l *leader) readEvents(ctx context.Context) error {
	c := &l.events
	through := l.s.cfg.Logs.Applied()
	if !c.known { // the first leader of a cluster begins with what comes
		c.saved, c.known = through, true
	}
	last, matched := through, false
	live := make(map[string]bool)
	for _, r := range l.s.board.eventRules() {
		live[r.ID] = true
		at, ok := c.at[r.ID]
		if !ok {
			at = c.saved
		}
		next, found, err := l.readEventRule(ctx, r, at, through)
		if errors.Is(err, errDeposed) || errors.Is(err, ErrConflict) {
			c.read(l.s.cfg.Meta)
			return err
		}
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			l.s.metrics.failures.Inc()
			if err := l.setHealth(ctx, r.ID, err.Error()); err != nil {
				return err
			}
		}
		c.at[r.ID] = next
		last, matched = min(last, next), matched || found
	}
	for id := range c.at {
		if !live[id] {
			delete(c.at, id)
		}
	}
	// All that matched is committed: only now may the record move on. An event looked at twice fires nothing twice.
	if last <= c.saved || !matched && l.now-c.savedAt < saveEvents {
		return nil
	}
	err := l.commit(ctx, Txn{
		Compares: []Compare{{BucketLease, keyEvents, c.mod}},
		Ops:      []Op{{Bucket: BucketLease, Key: keyEvents, Value: encode(cursor{last})}},
	})
	if err != nil {
		c.read(l.s.cfg.Meta)
		return err
	}
	v, _ := l.s.cfg.Meta.Get(BucketLease, keyEvents)
	c.mod, c.saved, c.savedAt = v.ModIndex, last, l.now
	return nil
}

// readEventRule looks at the events of one rule behind `at` and commits what they change. next is how far it came.
func (l *leader) readEventRule(ctx context.Context, r *rules.Rule, at, through uint64) (next uint64, found bool, err error) {
	var results []state.Result
	next = at
	if through > at {
		search, cancel := context.WithTimeout(ctx, eventTime)
		results, next, err = l.s.eventResults(search, r, at, through, l.now)
		cancel()
		if err != nil {
			return at, false, err
		}
	}
	b := l.s.board
	b.mu.RLock()
	nothing := len(b.byRule[r.ID]) == 0 && len(results) == 0
	_, sick := b.health[r.ID]
	b.mu.RUnlock()
	if nothing && !sick {
		return next, false, nil
	}
	if err := l.takeResults(ctx, r, results, Txn{}); err != nil {
		return at, false, err
	}
	return next, len(results) > 0, nil
}

// eventRules are the rules of events that are evaluated, in order.
func (b *board) eventRules() []*rules.Rule {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var list []*rules.Rule
	for _, name := range b.fileNames() {
		f := b.files[name]
		if f.parsed == nil {
			continue
		}
		for gi := range f.parsed.Groups {
			g := &f.parsed.Groups[gi]
			for ri := range g.Rules {
				if g.Rules[ri].Kind == rules.Event && f.active(&g.Rules[ri]) {
					list = append(list, &g.Rules[ri])
				}
			}
		}
	}
	return list
}

// eventResults are the alerts of the events of entries behind `after` up to `through`. last is the entry up to which
// they are complete.
func (s *Service) eventResults(ctx context.Context, r *rules.Rule, after, through uint64, now int64) (out []state.Result, last uint64, err error) {
	if r.Refused != "" {
		return nil, 0, errors.New(r.Refused)
	}
	lines, more, err := s.cfg.Logs.EventsAfter(ctx, r.Query, after, eventsAtOnce)
	if err != nil {
		return nil, 0, err
	}
	if n := len(lines); more && n > 0 && lines[0].Index == lines[n-1].Index {
		if lines, more, err = s.cfg.Logs.EventsAfter(ctx, r.Query, after, eventsOfOne); err != nil {
			return nil, 0, err
		}
		if n = len(lines); more && n > 0 && lines[0].Index == lines[n-1].Index {
			s.log.Warn("one entry of the log brought more events than a rule looks at; the others raise no alerts", "rule", r.ID, "events", n)
		}
	}
	last = through
	if more && len(lines) > 0 {
		// The last entry may be cut: leave it for the next look, unless it is all there is.
		if last = lines[len(lines)-1].Index - 1; last <= after {
			last = after + 1
		}
	}
	external := s.external()
	at := make(map[string]int)
	for i := range lines {
		ln := &lines[i]
		if ln.Index > last {
			break
		}
		ls := map[string]string{}
		for by := range strings.SplitSeq(r.By, ",") {
			by = strings.TrimSpace(by)
			if v := ln.Labels[by]; v != "" {
				ls[by] = v
			} else if v := ln.Fields[by]; v != "" {
				ls[by] = v
			}
		}
		data := map[string]string{"event": ln.Text}
		for k, v := range ln.Fields {
			data[k] = v
		}
		for k, v := range ln.Labels {
			data[k] = v
		}
		for k, v := range ls {
			data[k] = v
		}
		// Templates see all that the event has; the alert is told apart by the labels of `by` alone.
		labels := rules.NewExpander(ctx, r, now, ls, 1, s.templateQuery, external).Labels()
		if err := rules.CheckLabels(labels); err != nil {
			s.log.Warn("an event raises no alert", "rule", r.ID, "err", err)
			continue
		}
		id := state.ID(r.ID, labels)
		n, ok := at[id]
		if !ok {
			n = len(out)
			at[id] = n
			out = append(out, state.Result{ID: id, Labels: labels, Until: until(now, r.Window.Milliseconds())})
		}
		out[n].Value++
		x := rules.NewExpander(ctx, r, now, data, out[n].Value, s.templateQuery, external)
		out[n].Annotate = x.Annotations
	}
	return out, last, nil
}

// until is when an alert of an event ends. It moves in steps of a tenth of the hold time, so that a storm of events does
// not write a record for each.
func until(now, hold int64) int64 {
	step := max(hold/10, 1000)
	return (now + hold + step - 1) / step * step
}
