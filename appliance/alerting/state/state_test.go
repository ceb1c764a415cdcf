package state

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
)

const sec = int64(1000)

// one runs a rule on one alert.
type one struct {
	t    *testing.T
	rule Rule
	a    *Alert
	now  int64
	what []string
}

func (o *one) at(now int64, holds bool) *one {
	o.t.Helper()
	o.now = now
	var results []Result
	if holds {
		results = []Result{{ID: "a", Labels: map[string]string{"alertname": "A"}, Value: float64(now), Annotate: func() map[string]string { return map[string]string{"at": fmt.Sprint(now)} }}}
	}
	active := map[string]*Alert{}
	if o.a != nil {
		active["a"] = o.a
	}
	before := o.a
	var copied Alert
	if before != nil {
		copied = *before
	}
	changes, _ := Evaluate(o.rule, now, active, results)
	for _, c := range changes {
		o.a = c.Alert
		for _, h := range c.History {
			o.what = append(o.what, h.What)
		}
	}
	if before != nil && !reflect.DeepEqual(copied, *before) {
		o.t.Error("a record was changed in place")
	}
	return o
}

func (o *one) want(phase Phase) *one {
	o.t.Helper()
	got := Phase("none")
	if o.a != nil {
		got = o.a.Phase
	}
	if got != phase {
		o.t.Fatalf("at %d s: %s, want %s", o.now/sec, got, phase)
	}
	return o
}

func TestPhases(t *testing.T) {
	o := &one{t: t, rule: Rule{ID: "r", For: 10 * sec, KeepFiringFor: 20 * sec}}
	o.at(1*sec, true).want(Pending).at(5*sec, false).want("none")
	o.at(6*sec, true).want(Pending).at(15*sec, true).want(Pending).at(16*sec, true).want(Firing)
	if o.a.FiredAt != 16*sec || o.a.ActiveAt != 6*sec || o.a.Annotations["at"] != "16000" {
		t.Errorf("%+v", o.a)
	}
	o.at(20*sec, false).want(Firing).at(39*sec, false).want(Firing).at(39*sec, true).want(Firing) // keep_firing_for begins anew
	o.at(40*sec, false).want(Firing).at(59*sec, false).want(Firing).at(60*sec, false).want(Resolved)
	o.at(61*sec, true).want(Pending)
	if o.a.Episode != 2 {
		t.Errorf("episode %d", o.a.Episode)
	}
	o.at(62*sec, false).want(Resolved)
	if fmt.Sprint(o.what) != "[fired resolved]" {
		t.Error(o.what)
	}
}

// A condition that begins again before receivers were told of its end must not take that news from them.
func TestPendingKeepsWhatIsToBeTold(t *testing.T) {
	o := &one{t: t, rule: Rule{ID: "r", For: 10 * sec}}
	o.at(0, true).at(10*sec, true).want(Firing)
	timing := Timing{Wait: 0, Interval: 60 * sec, Resolved: true}
	g, c := (&Group{Key: "g"}).Plan(11*sec, []*Alert{o.a}, timing)
	if !c.Firing() || len(c.Alerts) != 1 {
		t.Fatalf("%+v", c)
	}
	g.Claim = ""
	o.at(20*sec, false).want(Resolved).at(25*sec, true).want(Pending)
	due, ok := g.Due([]*Alert{o.a}, timing)
	if !ok || due != 71*sec {
		t.Fatalf("due %d %v", due, ok)
	}
	g, c = g.Plan(due, []*Alert{o.a}, timing)
	if c.Firing() || len(c.Alerts) != 1 || c.Alerts[0].Episode != 1 {
		t.Fatalf("%+v", c)
	}
	g.Claim = ""
	if _, ok := g.Due([]*Alert{o.a}, timing); ok {
		t.Error("it is told twice")
	}
	o.at(80*sec, true).want(Firing)
	if due, ok := g.Due([]*Alert{o.a}, timing); !ok || due != 80*sec { // the group was quiet: it waits as for its first
		t.Errorf("due %d %v", due, ok)
	}
}

func TestLenient(t *testing.T) {
	o := &one{t: t, rule: Rule{ID: "r"}}
	o.at(0, true).want(Firing)
	o.rule.Lenient = true
	o.at(sec, false).want(Firing)
	o.rule.Lenient = false
	o.at(2*sec, false).want(Resolved)
}

func TestEventsFireUntil(t *testing.T) {
	active := map[string]*Alert{}
	step := func(now int64, results ...Result) {
		changes, _ := Evaluate(Rule{ID: "r"}, now, active, results)
		for _, c := range changes {
			if c.Alert == nil {
				delete(active, c.ID)
			} else {
				active[c.ID] = c.Alert
			}
		}
	}
	step(0, Result{ID: "a", Until: 30 * sec})
	step(20*sec, Result{ID: "a", Until: 50 * sec})
	step(49 * sec)
	if active["a"].Phase != Firing {
		t.Fatal(active["a"])
	}
	step(50 * sec)
	if active["a"].Phase != Resolved {
		t.Fatal(active["a"])
	}
}

func TestMuteTellsWhatIsNews(t *testing.T) {
	fired := &Alert{ID: "a", Phase: Firing, FiredAt: 5, ChangedAt: 5}
	c, ok := SetMute(10, fired, []string{"s"}, "", false)
	if !ok || c.Alert.ChangedAt != 0 || c.Alert.Told || c.History[0].What != WhatSilenced || c.History[0].Detail != "s" {
		t.Errorf("%+v", c)
	}
	if r := Resolve(11, c.Alert); r.Alert.ChangedAt != 0 {
		t.Error("the end of what nobody knew is told")
	}
	c, _ = SetMute(10, fired, nil, "other", true)
	if !c.Alert.Told || c.Alert.ChangedAt != 5 || c.Alert.Shown() != Inhibited {
		t.Errorf("%+v", c.Alert)
	}
	if r := Resolve(11, c.Alert); r.Alert.ChangedAt != 11 {
		t.Error("the end of what was known is not told")
	}
	c, _ = SetMute(12, c.Alert, nil, "", true)
	if c.Alert.ChangedAt != 5 {
		t.Error("the end of an inhibition is told to who knew")
	}
	if _, ok := SetMute(12, fired, nil, "", false); ok {
		t.Error("no change is a change")
	}
}

func TestDedupKeyNamesTheMessage(t *testing.T) {
	a := &Alert{ID: "a", Phase: Firing, ChangedAt: 5, Episode: 1}
	timing := Timing{Resolved: true, Repeat: sec}
	g := &Group{Key: "g", Receiver: "r", Integration: "webhook/0"}
	g1, c1 := g.Plan(10, []*Alert{a}, timing)
	_, again := g.Plan(10, []*Alert{a}, timing)
	g1.Claim = ""
	_, c2 := g1.Plan(2000, []*Alert{a}, timing)
	other := *g
	other.Integration = "webhook/1"
	_, c3 := other.Plan(10, []*Alert{a}, timing)
	if c1.Key != again.Key || c1.Key == c2.Key || c1.Key == c3.Key {
		t.Error(c1.Key, again.Key, c2.Key, c3.Key)
	}
}

// Whatever happens to the alerts of a group, each change is claimed once, in order.
func TestEveryChangeIsClaimedOnce(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		active := map[string]*Alert{}
		g := &Group{Key: "g"}
		timing := Timing{Wait: 3, Interval: 5, Resolved: true}
		told := map[string]bool{} // as the receiver knows
		for now := int64(1); now < 400; now++ {
			var results []Result
			for i := range 8 {
				id := fmt.Sprint(i)
				if a := active[id]; now < 300 && (a != nil && a.Phase == Firing) != (r.IntN(12) == 0) {
					results = append(results, Result{ID: id})
				}
			}
			changes, _ := Evaluate(Rule{ID: "r", For: int64(r.IntN(2) * 3)}, now, active, results)
			var members []*Alert
			for _, c := range changes {
				if active[c.ID] = c.Alert; c.Alert == nil {
					delete(active, c.ID)
				}
			}
			for _, a := range active {
				members = append(members, a)
			}
			if due, ok := g.Due(members, timing); ok && due <= now {
				next, c := g.Plan(now, members, timing)
				for _, x := range c.Alerts {
					told[x.ID] = x.Firing
				}
				next.Claim = ""
				g = next
			}
		}
		for id, firing := range told {
			if firing {
				t.Fatalf("seed %d: the receiver still thinks that %s fires: %+v", seed, id, active[id])
			}
		}
	}
}

func TestValuesInJSON(t *testing.T) {
	for _, f := range []float64{0, 1.5, -3e300, math.Inf(1), math.Inf(-1), math.NaN()} {
		b, err := Value(f).MarshalJSON()
		var back Value
		if err == nil {
			err = back.UnmarshalJSON(b)
		}
		if err != nil || float64(back) != f && !math.IsNaN(f) {
			t.Errorf("%v became %s and %v: %v", f, b, back, err)
		}
	}
}
