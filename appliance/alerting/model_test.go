package alerting

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/triward/triward/appliance/alerting/notify"
	"github.com/triward/triward/appliance/alerting/route"
)

// TestAnyFaultAtAnyPoint lets conditions come and go while leaders die, are deposed and lose the outcome of commits, and
// receivers fail before or after they took a message. At the end each episode that lasted must have been told and its
// end too; a message came twice only under its key, and only after a fault of the sender.
//
// TRIWARD_ALERT_TRIALS says how many trials there are, TRIWARD_MODEL_SEED the first one.
func TestAnyFaultAtAnyPoint(t *testing.T) {
	trials, first := uint64(30), uint64(0)
	if testing.Short() {
		trials = 8
	}
	for name, v := range map[string]*uint64{"TRIWARD_ALERT_TRIALS": &trials, "TRIWARD_MODEL_SEED": &first} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatalf("%s=%q: %v", name, s, err)
			}
			*v = n
		}
	}
	var steps, messages atomic.Int64
	t.Run("trials", func(t *testing.T) {
		for seed := first; seed < first+trials; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				tr := anyFault(t, seed)
				steps.Add(int64(tr.steps))
				messages.Add(int64(len(tr.messages())))
			})
		}
	})
	t.Logf("%d trials from seed %d: %d steps, %d messages received", trials, first, steps.Load(), messages.Load())
}

// A seed gives the same messages every time.
func TestAnyFaultIsRepeatedExactly(t *testing.T) {
	tell := func() string {
		tr := anyFault(t, 3)
		var b strings.Builder
		for _, m := range tr.messages() {
			fmt.Fprintf(&b, "%s:", m.key)
			for _, a := range m.alerts {
				fmt.Fprintf(&b, " %s=%t", a.Labels["room"], a.Firing)
			}
			b.WriteString("\n")
		}
		return b.String()
	}
	if a, b := tell(), tell(); a != b {
		t.Errorf("the first time\n%s\nthe second time\n%s", a, b)
	}
}

// trial is one run.
type trial struct {
	*fakeCluster
	r      *rand.Rand
	calm   bool            // no more faults
	faulty map[string]bool // dedup keys whose sender met a fault between claim and result
	steps  int             // seconds in which something may have happened
}

func anyFault(t *testing.T, seed uint64) *trial {
	tr := &trial{fakeCluster: newFakeCluster(t, 3), r: rand.New(rand.NewPCG(seed, 7)), faulty: make(map[string]bool)}
	c := tr.fakeCluster
	c.step()
	c.put("own", strings.ReplaceAll(testRules, "for: 30s", "for: 4s"))
	c.route(testRoutes)
	c.answer = tr.answer
	c.meta.lose = func(string) int {
		if tr.calm || tr.r.IntN(12) > 0 {
			return 0
		}
		lose := 1 + tr.r.IntN(2)
		if lose == 1 { // a sender that is cut off: when it is deposed before it comes through, how its message went is not known
			tr.mu.Lock()
			for key := range c.meta.keys {
				if key[0] == BucketSends {
					tr.faulty[key[1]] = true
				}
			}
			tr.mu.Unlock()
		}
		return lose
	}
	rooms := []string{"a", "b", "c"}
	hot := map[string]bool{}
	began := map[string]int{}
	set := func() {
		var list []Sample
		for _, name := range rooms {
			if hot[name] {
				list = append(list, Sample{Labels: map[string]string{"room": name}})
			}
		}
		c.world.set("up == 0", list...)
	}
	for range 40 {
		name := rooms[tr.r.IntN(len(rooms))]
		if hot[name] = !hot[name]; hot[name] {
			began[name]++
		}
		set()
		for range 8 + tr.r.IntN(20) {
			tr.disturb()
			c.run(time.Second)
			tr.steps++
		}
	}
	tr.calm = true
	clear(hot)
	set()
	for i := range c.nodes {
		if c.nodes[i].dead {
			c.restart(i)
		}
	}
	c.run(5 * time.Minute)
	tr.check(began)
	if n := len(c.meta.keysOf(BucketSends)); n != 0 {
		t.Errorf("%d claims are not settled", n)
	}
	return tr
}

// disturb makes something go wrong, mostly not.
func (tr *trial) disturb() {
	switch c := tr.fakeCluster; tr.r.IntN(25) {
	case 0: // the leader dies
		i := tr.leading()
		tr.blame(c.nodes[i].name)
		c.kill(i)
		c.elect((i + 1 + tr.r.IntN(2)) % 3)
		c.restart(i)
	case 1: // the leader is deposed and does not know yet
		c.elect(tr.r.IntN(3))
	case 2: // nobody leads for a while
		c.mu.Lock()
		c.leads = ""
		c.mu.Unlock()
		c.run(time.Duration(1+tr.r.IntN(20)) * time.Second)
		c.elect(tr.r.IntN(3))
	}
}

func (tr *trial) leading() int {
	for i, n := range tr.nodes {
		if n.name == tr.leads {
			return i
		}
	}
	return 0
}

// blame notes the messages whose sender dies between its claim and the result.
func (tr *trial) blame(node string) {
	for _, key := range tr.meta.keysOf(BucketSends) {
		tr.faulty[key] = true
	}
	_ = node
}

// answer is how a receiver takes a message: not at all, or it takes it and its answer is lost.
func (tr *trial) answer(_ string, _ *route.Integration, m *notify.Message) (bool, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.calm {
		return true, nil
	}
	switch tr.r.IntN(10) {
	case 0:
		return false, errors.New("connection refused")
	case 1:
		tr.faulty[m.Key] = true
		return true, errors.New("no answer within 5s")
	}
	return true, nil
}

// check holds what receivers got against what happened.
func (tr *trial) check(began map[string]int) {
	t := tr.t
	seen := map[string]int{}
	content := map[string]string{}
	state := map[string]bool{} // rooms as the receiver knows them
	ends, starts := map[string]int{}, map[string]int{}
	explained := map[string]bool{}
	for _, h := range tr.nodes[0].service.History(HistoryFilter{What: []string{"send_lost", "send_failed"}, Limit: MaxHistory}).Records {
		explained[h.History.Key] = true
	}
	for _, m := range tr.messages() {
		seen[m.key]++
		text := ""
		for _, a := range m.alerts {
			text += fmt.Sprintf("%s=%t ", a.Labels["room"], a.Firing)
		}
		if was, ok := content[m.key]; ok && was != text {
			t.Errorf("key %s said %q and then %q", m.key, was, text)
		}
		content[m.key] = text
		if seen[m.key] > 1 {
			if !tr.faulty[m.key] {
				t.Errorf("message %s (%s) came %d times without a fault of its sender", m.key, text, seen[m.key])
			}
			if !explained[m.key] {
				t.Errorf("the history does not say why message %s came %d times", m.key, seen[m.key])
			}
			continue
		}
		for _, a := range m.alerts {
			name := a.Labels["room"]
			switch {
			case a.Firing && !state[name]:
				starts[name]++
			case !a.Firing:
				ends[name]++
			}
			state[name] = a.Firing
		}
	}
	for name, n := range began {
		if state[name] {
			t.Errorf("the receiver was not told that %s is over", name)
		}
		if n > 0 && ends[name] == 0 {
			t.Errorf("%s began %d times and was never told", name, n)
		}
		if starts[name] > n || ends[name] > n {
			t.Errorf("%s began %d times; told were %d beginnings and %d ends", name, n, starts[name], ends[name])
		}
	}
}

// A thousand alerts at once are told in messages that follow each other at once, and none is left out.
func TestManyAlertsAtOnce(t *testing.T) {
	c := newFakeCluster(t, 1)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes)
	var list []Sample
	for i := range 2100 {
		list = append(list, Sample{Labels: map[string]string{"room": fmt.Sprint(i)}})
	}
	c.world.set("up == 0", list...)
	c.run(20 * time.Second)
	told := map[string]bool{}
	for _, m := range c.messages() {
		if len(m.alerts) > 300 {
			t.Errorf("%d alerts in one message", len(m.alerts))
		}
		for _, a := range m.alerts {
			told[a.Labels["room"]] = true
		}
	}
	if len(told) != 2000 {
		t.Errorf("%d alerts were told", len(told))
	}
	health := ""
	for _, f := range c.nodes[0].service.Files() {
		for _, r := range f.Rules {
			health += r.Error
		}
	}
	if !strings.Contains(health, "100 alerts beyond the bounds") {
		t.Errorf("health: %q", health)
	}
	c.world.set("up == 0")
	c.run(40 * time.Second)
	ended := map[string]bool{}
	for _, m := range c.messages() {
		for _, a := range m.alerts {
			if !a.Firing {
				ended[a.Labels["room"]] = true
			}
		}
	}
	if len(ended) != 2000 {
		t.Errorf("the end of %d alerts was told", len(ended))
	}
}

// A leader that was deposed and does not know it changes nothing and sends nothing.
func TestDeposedLeader(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes)
	c.run(2 * time.Second)
	old := c.nodes[0].leader
	c.elect(1)
	c.nodes[1].step()
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	c.meta.advance(10 * time.Second)
	if err := old.step(context.Background()); !errors.Is(err, errDeposed) {
		t.Fatalf("the old leader stepped: %v", err)
	}
	if err := old.commit(context.Background(), Txn{Ops: []Op{{Bucket: BucketAlerts, Key: "x", Value: []byte("{}")}}}); !errors.Is(err, errDeposed) {
		t.Fatalf("the old leader committed: %v", err)
	}
	if len(c.messages()) != 0 || len(c.meta.keysOf(BucketAlerts)) != 0 {
		t.Error("it had an effect")
	}
}

// A leader that is deposed while a message is under way commits how it went, and the next one waits for that: the
// message comes once.
func TestDeposedWhileSending(t *testing.T) {
	c := newFakeCluster(t, 2)
	c.step()
	c.put("own", testRules)
	c.route(testRoutes)
	c.world.set("up == 0", Sample{Labels: map[string]string{"room": "a"}})
	began, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	c.answer = func(string, *route.Integration, *notify.Message) (bool, error) {
		first := false
		once.Do(func() { first = true })
		if first {
			close(began)
			<-release
		}
		return true, nil
	}
	old := c.nodes[0].leader
	for len(c.meta.keysOf(BucketSends)) == 0 {
		c.meta.advance(time.Second)
		if err := old.step(t.Context()); err != nil {
			t.Fatal(err)
		}
		for old.running > 0 {
			e := <-old.evaluated
			old.evaluated <- e
			if err := old.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	<-began
	c.nodes[0].leader = nil
	c.elect(1)
	for range 4 {
		c.meta.advance(time.Second)
		c.nodes[1].step()
	}
	if n := len(c.messages()); n != 0 {
		t.Fatalf("%d messages: the next leader does not wait", n)
	}
	close(release)
	old.end()
	for range 20 {
		c.meta.advance(time.Second)
		c.nodes[1].step()
	}
	if n := len(c.messages()); n != 1 {
		t.Fatalf("%d messages", n)
	}
}
