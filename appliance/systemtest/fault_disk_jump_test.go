package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// clockRows are clocks that are set while nodes run. The program is built over a time.Now whose wall clock can be set.
func clockRows() []faultRow {
	needGo := need{"a program whose clock can be set", func() error {
		_, err := exec.LookPath("go")
		return err
	}}
	return []faultRow{
		{
			name: "clock-leader", fault: "the clock of the leader is set an hour and a day on and back", needs: []need{needGo}, weight: 110 * time.Second,
			run: func(ctx context.Context, tr *trial) error { return tr.clockJumps(ctx, true) },
		},
		{
			name: "clock-follower", fault: "the clock of a follower is set an hour and a day on and back", needs: []need{needGo}, weight: 110 * time.Second,
			run: func(ctx context.Context, tr *trial) error { return tr.clockJumps(ctx, false) },
		},
	}
}

// founded is how long ago the nodes of a clock row have their certificates made: those must hold when a clock is a day
// back.
const founded = -30 * time.Hour

// clockFor is how long a wrong clock is looked at: two ticks of the leader, each of which asks all nodes for their clocks.
const clockFor = 12 * time.Second

// clockProgram builds the program once for all rows.
var clockProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tw-clock-")
	if err != nil {
		return "", err
	}
	overlay, err := clockOverlay(context.Background(), dir)
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-overlay", overlay, "-o", dir, "github.com/triward/triward/appliance/cmd/triward").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build a program whose clock can be set: %w: %s", err, out)
	}
	return dir, nil
})

// foundOnClocks founds a cluster a while ago, so to speak, and brings all its clocks to the present.
func (tr *trial) foundOnClocks(ctx context.Context) ([]*wallClock, error) {
	bin, err := clockProgram()
	if err != nil {
		return nil, err
	}
	tr.bin = bin
	tr.t.Cleanup(func() { _ = os.RemoveAll(bin) })
	past, err := newWallClock(filepath.Join(tr.dir, "clock"))
	if err != nil {
		return nil, err
	}
	clocks := make([]*wallClock, 3)
	for i := range clocks {
		if clocks[i], err = newWallClock(filepath.Join(tr.dir, fmt.Sprintf("clock%d", i))); err != nil {
			return nil, err
		}
	}
	for _, c := range append(clocks, past) {
		if err := c.set(founded); err != nil {
			return nil, err
		}
	}
	if err := os.Setenv(clockEnv, past.path); err != nil { // for the commands that found the cluster
		return nil, err
	}
	defer os.Unsetenv(clockEnv)
	err = tr.found(ctx, plan{
		command: func(i int, cmd *exec.Cmd) { cmd.Env = append(os.Environ(), clocks[i].environ()) },
		config:  func(_ int, c map[string]any) { c["logs"] = map[string]any{"retention": clockRetention.String()} },
	})
	if err != nil {
		return nil, err
	}
	for i := range tr.c.Nodes {
		if err := tr.c.kill(&tr.c.Nodes[i]); err != nil {
			return nil, err
		}
	}
	for i, c := range clocks {
		if err := c.set(0); err != nil {
			return nil, err
		}
		if err := tr.c.restart(&tr.c.Nodes[i]); err != nil {
			return nil, err
		}
	}
	return clocks, tr.allReady(ctx)
}

// clockRetention is that of lines in a clock row.
const clockRetention = 24 * time.Hour

const clockRules = `
groups:
  - name: clocks
    interval: 1s
    rules:
      - {alert: Always, expr: vector(1)}
      - {alert: InThreeHours, expr: vector(1), for: 3h}
triward:
  - name: agents
    interval: 1s
    rules:
      - {alert: SilentForHalfAnHour, silent_agent: {after: 30m}}
`

// watched is what must not change because a clock is wrong.
type watched struct {
	Leader string
	Term   uint64
	Early  string // what was cut that is not old enough
	Alerts string
}

// clockJumps sets the clock of a node, over and over: no election, nothing expires, nothing is cut, alerts are right.
func (tr *trial) clockJumps(ctx context.Context, leader bool) error {
	clocks, err := tr.foundOnClocks(ctx)
	if err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	if err := tr.beforeJumps(ctx); err != nil {
		return err
	}
	var join struct{ Token string }
	if err := tr.c.change(ctx, &tr.c.Nodes[0], http.MethodPost, "/v1/tokens/join", map[string]any{"kind": "agent", "uses": 1, "life_s": 1800}, &join); err != nil {
		return err
	}
	jumps := []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, -24 * time.Hour}
	tr.rng.Shuffle(len(jumps), func(i, j int) { jumps[i], jumps[j] = jumps[j], jumps[i] })
	for _, by := range jumps {
		n, err := tr.victim(ctx, leader)
		if err != nil {
			return err
		}
		if err := tr.clockJump(ctx, n, clocks[tr.index(n)], by); err != nil {
			return fmt.Errorf("clock of %s set by %v: %w", n.ID, by, err)
		}
	}
	late, err := newSender("late", []string{tr.c.Nodes[0].AgentURL, tr.c.Nodes[1].AgentURL, tr.c.Nodes[2].AgentURL}, tr.c.tlsConf.Clone(), tr.traffic.ledger)
	if err == nil {
		err = late.enroll(ctx, join.Token)
	}
	if err != nil {
		return fmt.Errorf("a token of half an hour did not hold: %w", err)
	}
	return tr.compare(ctx)
}

// beforeJumps stores what a wrong clock would cut, and rules that it would let fire.
func (tr *trial) beforeJumps(ctx context.Context) error {
	n := &tr.c.Nodes[0]
	err := until(ctx, time.Minute, func(ctx context.Context) error {
		return tr.c.change(ctx, n, http.MethodPut, "/v1/rules/files/clocks", map[string]any{"body": clockRules}, new(json.RawMessage))
	})
	if err != nil {
		return err
	}
	old := time.Now().Add(-20 * time.Hour).UnixNano()
	push := map[string]any{"streams": []any{map[string]any{"stream": map[string]string{"job": "old"}, "values": [][2]string{{fmt.Sprint(old), "an old line"}}}}}
	if err := tr.push(ctx, n, "/loki/api/v1/push", push); err != nil {
		return err
	}
	return until(ctx, time.Minute, func(ctx context.Context) error {
		w, err := tr.look(ctx, n)
		if err == nil && !strings.Contains(w.Alerts, "Always firing") {
			err = fmt.Errorf("alerts: %s", w.Alerts)
		}
		return err
	})
}

// push posts something whose answer has no body.
func (tr *trial) push(ctx context.Context, n *devNode, path string, body any) error {
	err := tr.c.change(ctx, n, http.MethodPost, path, body, new(json.RawMessage))
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok && syntax.Offset == 0 {
		return nil
	}
	return err
}

// clockJump sets one clock, looks on for a while and sets it right again.
func (tr *trial) clockJump(ctx context.Context, n *devNode, clock *wallClock, by time.Duration) error {
	before, err := tr.look(ctx, n)
	if err != nil {
		return err
	}
	takeLongest(tr.traffic.senders)
	if err := clock.set(by); err != nil {
		return err
	}
	defer func() { _ = clock.set(0) }()
	if err := tr.clockIsOff(ctx, n, by); err != nil {
		return err
	}
	tr.faulted(1)
	end := time.Now().Add(clockFor)
	for time.Now().Before(end) {
		if err := tr.progress(ctx, 5); err != nil {
			return err
		}
		for i := range tr.c.Nodes {
			after, err := tr.look(ctx, &tr.c.Nodes[i])
			if err != nil {
				return err
			}
			if after != before {
				return fmt.Errorf("%s: before %+v, now %+v", tr.c.Nodes[i].ID, before, after)
			}
		}
	}
	tr.recovered(takeLongest(tr.traffic.senders))
	if err := clock.set(0); err != nil {
		return err
	}
	tr.mended()
	return tr.progress(ctx, 20)
}

// clockIsOff holds that the clock of a node is off by so much, as it dates its answers.
func (tr *trial) clockIsOff(ctx context.Context, n *devNode, by time.Duration) error {
	return until(ctx, 20*time.Second, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/-/ready", nil)
		if err != nil {
			return err
		}
		resp, err := tr.c.client.Do(r)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		at, err := http.ParseTime(resp.Header.Get("Date"))
		if err != nil {
			return fmt.Errorf("date of an answer of %s: %w", n.ID, err)
		}
		if off := time.Until(at) - by; off.Abs() > time.Minute {
			return fmt.Errorf("the clock of %s is off by %v and was set off by %v", n.ID, time.Until(at).Round(time.Second), by)
		}
		return nil
	})
}

// look asks a node for what must not change.
func (tr *trial) look(ctx context.Context, n *devNode) (watched, error) {
	var w watched
	var st struct {
		Leader string
		Term   uint64
	}
	var cuts retentionView
	var alerts struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	err := until(ctx, 20*time.Second, func(ctx context.Context) error {
		return errors.Join(tr.c.get(ctx, n, "/v1/cluster", nil, &st), tr.c.get(ctx, n, "/v1/retention", nil, &cuts), tr.c.get(ctx, n, "/v1/alerts", nil, &alerts))
	})
	if err != nil {
		return w, err
	}
	w.Leader, w.Term = st.Leader, st.Term
	oldest := time.Now().Add(-clockRetention).UnixMilli() // a cut that is due may come any time, whole days of it
	for _, k := range cuts.Kinds {
		if k.Floor > oldest {
			w.Early += fmt.Sprintf("%s up to %d ", k.Kind, k.Floor)
		}
	}
	var firing []string
	for _, a := range alerts.Alerts {
		switch name := a.Labels["alertname"]; name { // those of the clocks themselves come and go
		case "Always", "InThreeHours", "SilentForHalfAnHour":
			firing = append(firing, name+" "+a.State)
		}
	}
	slices.Sort(firing)
	w.Alerts = strings.Join(firing, ", ")
	return w, nil
}
