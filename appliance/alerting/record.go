package alerting

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/prometheus/prometheus/model/value"

	"github.com/triward/triward/appliance/alerting/rules"
	"github.com/triward/triward/appliance/alerting/state"
)

// Bounds of recording rules: the series that one rule may give, and those of which this node remembers that they were
// there at the time before, so that their end can be marked.
const (
	MaxRecorded   = 10_000
	maxRemembered = 200_000
)

// recorded are the series that the rules of a group gave last, by rule and name.
type recorded map[string]map[string]map[string]string

// remember keeps what a rule gave as long as all groups together, counted by total, have room.
func (r recorded) remember(rule string, series map[string]map[string]string, total *atomic.Int64) {
	total.Add(int64(-len(r[rule])))
	delete(r, rule)
	if n := int64(len(series)); n > 0 {
		if total.Add(n) > maxRemembered {
			total.Add(-n)
			return
		}
		r[rule] = series
	}
}

// recordTime is the time that values of a group are for, when it is evaluated at a time: the same for whoever evaluates,
// so that the next leader's values are recognised as those of the one before.
func recordTime(g *rules.Group, at, interval int64) int64 {
	return at - at%interval - g.Offset.Milliseconds()
}

var errNoRecorder = errors.New("this node cannot record")

// record evaluates a recording rule and stores what it gave. Series that it gave the time before and gives no more end
// with a mark of staleness, as Prometheus writes it.
func (s *Service) record(ctx context.Context, e *evaluation, r *rules.Rule) error {
	if s.cfg.Recorder == nil {
		return errNoRecorder
	}
	t := recordTime(e.group, e.at, s.interval(e.group))
	ask := s.cfg.Metrics.Instant
	if r.Language == rules.LanguageLogQL {
		ask = s.askLogQL
	}
	found, err := ask(ctx, r.Expr, t)
	if err != nil {
		return err
	}
	switch {
	case e.group.Limit > 0 && len(found) > e.group.Limit:
		return fmt.Errorf("the expression gave %d series, the group's limit is %d", len(found), e.group.Limit)
	case len(found) > MaxRecorded:
		return fmt.Errorf("the expression gave %d series, at most %d are recorded; aggregate it", len(found), MaxRecorded)
	}
	values := make([]Sample, 0, len(found))
	now := make(map[string]map[string]string, len(found))
	for i := range found {
		ls := RecordLabels(r, found[i].Labels)
		if ls["agent"] != "" && !strings.Contains(r.Name, ":") {
			return fmt.Errorf("%s has the label agent and would look as if the agent had sent it; give the rule a name with a colon, such as level:metric:operation", r.Name)
		}
		key := state.ID("", ls)
		if now[key] != nil {
			return errors.New("the expression gives the same labels twice after those of the rule are applied; keep a label that tells them apart")
		}
		now[key] = ls
		values = append(values, Sample{Labels: ls, T: t, V: found[i].V})
	}
	for _, key := range slices.Sorted(maps.Keys(e.before[r.ID])) {
		if now[key] == nil {
			values = append(values, Sample{Labels: e.before[r.ID][key], T: t, V: math.Float64frombits(value.StaleNaN)})
		}
	}
	if len(values) == 0 {
		return nil
	}
	if err := e.may(ctx); err != nil {
		return err
	}
	err = s.cfg.Recorder.Record(ctx, t, values)
	s.metrics.recorded.Add(float64(len(values)))
	e.before.remember(r.ID, now, e.remembered)
	return err
}

// RecordLabels are those of a recorded series: the rule's beside, or instead of, the element's. An empty one takes a
// label away.
func RecordLabels(r *rules.Rule, found map[string]string) map[string]string {
	ls := maps.Clone(found)
	if ls == nil {
		ls = make(map[string]string)
	}
	maps.Copy(ls, r.Labels)
	ls["__name__"] = r.Name
	maps.DeleteFunc(ls, func(_, v string) bool { return v == "" })
	return ls
}

// mayRecord returns what is asked before values are stored: this node must still lead and hold the lease, so that one
// that was cut off does not store what it sees in its old stores. It is asked once for an evaluation.
func (l *leader) mayRecord() func(ctx context.Context) error {
	asked := false
	return func(ctx context.Context) error {
		if asked {
			return nil
		}
		if err := l.s.cfg.Leadership.Verify(ctx); err != nil {
			return err
		}
		if got, _ := l.s.cfg.Meta.Get(BucketLease, keyLeader); got.ModIndex != l.mod {
			return errDeposed
		}
		asked = true
		return nil
	}
}
