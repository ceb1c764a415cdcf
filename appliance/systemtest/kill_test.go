package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// binaries returns the folder with triward and triward-agent: the one named by TRIWARD_BIN, else built here.
func binaries(t *testing.T, overlay string) string {
	t.Helper()
	if dir := os.Getenv("TRIWARD_BIN"); dir != "" && overlay == "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	dir := t.TempDir()
	args := append(buildArgs(), "-o", dir)
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	args = append(args, "github.com/triward/triward/appliance/cmd/triward")
	if overlay == "" {
		args = append(args, "github.com/triward/triward/agent/cmd/triward-agent")
	}
	build := exec.CommandContext(t.Context(), "go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return dir
}

// buildArgs begin a build as `make go-build` does, without C: most packages are compiled already then, also by another clone, and
// a link without symbols takes half the time.
func buildArgs() []string { return []string{"build", "-trimpath", "-ldflags=-s -w"} }

// kills is one run of the kill test.
type kills struct {
	follower, leader, all int
	senders               int
	pace                  time.Duration
}

// outcome of a run.
type outcome struct {
	violations *violations
	acked      uint64
	gaps       []time.Duration // after each loss of the leader, until the next acknowledgement
	restarts   []time.Duration // after the start of all nodes, until the next acknowledgement
}

// run sends with several senders while it kills nodes, then compares all nodes with the ledger.
func (k kills) run(t *testing.T, bin string) outcome {
	t.Helper()
	ctx := t.Context()
	dir := t.TempDir()
	ready, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := start(ready, bin, dir, "--agent=false", "--plain-http", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()

	senders := make([]*sender, k.senders)
	for i := range senders {
		if senders[i], err = k.sender(ctx, c, l, i, seriesPerSender); err != nil {
			t.Fatal(err)
		}
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, len(senders))
	for _, s := range senders {
		go func() { ended <- s.run(running, k.pace) }()
	}
	out := k.rounds(t, c, senders)
	v := out.violations
	stop()
	for range senders {
		switch err := <-ended; {
		case errors.Is(err, errForgotten):
			v.add(&v.forgotten, "%v", err)
		case err != nil:
			v.add(&v.broken, "a sender gave up: %v", err)
		}
	}
	for _, s := range senders {
		out.acked += l.of(s.name).acked
	}
	if err := c.compare(ctx, l, senders, v); err != nil {
		v.add(&v.broken, "verification ended early: %v", err)
	}
	if v.broken > 0 {
		t.Logf("nodes said last:\n%s", c.tail())
	}
	return out
}

func (k kills) sender(ctx context.Context, c *cluster, l *ledger, i, series int) (*sender, error) {
	urls := make([]string, len(c.Nodes))
	for j := range urls {
		urls[j] = c.Nodes[(i+j)%len(c.Nodes)].AgentURL
	}
	s, err := newSender(fmt.Sprintf("sender%d", i), urls, c.tlsConf.Clone(), l)
	if err != nil {
		return nil, err
	}
	token, err := c.agentToken(ctx)
	if err != nil {
		return nil, err
	}
	return s, s.register(ctx, token, series)
}

// rounds kills and restarts as asked, waiting for the senders to be answered again each time. It ends at the first
// thing that does not go as it must, and when no sender is left.
func (k kills) rounds(t *testing.T, c *cluster, senders []*sender) outcome {
	ctx := t.Context()
	out := outcome{violations: new(violations)}
	for _, round := range []struct {
		what  string
		times int
		fn    func(context.Context, *cluster, []*sender, *outcome) error
	}{{"kill a follower", k.follower, killFollower}, {"kill the leader", k.leader, killLeader}, {"kill all", k.all, killAll}} {
		for range round.times {
			if !sending(senders) {
				return out
			}
			if err := round.fn(ctx, c, senders, &out); err != nil {
				out.violations.add(&out.violations.broken, "%s: %v", round.what, err)
				return out
			}
		}
	}
	return out
}

func killFollower(ctx context.Context, c *cluster, senders []*sender, _ *outcome) error {
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	n := &c.Nodes[0]
	if n == leader {
		n = &c.Nodes[1]
	}
	if err := c.kill(n); err != nil {
		return err
	}
	if err := progress(ctx, senders, 10); err != nil {
		return fmt.Errorf("with a follower down: %w", err)
	}
	if err := c.restart(n); err != nil {
		return err
	}
	return c.ready(ctx, n)
}

func killLeader(ctx context.Context, c *cluster, senders []*sender, out *outcome) error {
	leader, err := c.leader(ctx)
	if err != nil {
		return err
	}
	if err := progress(ctx, senders, 3); err != nil {
		return fmt.Errorf("before the kill: %w", err)
	}
	takeLongest(senders)
	if err := c.kill(leader); err != nil {
		return err
	}
	if err := progress(ctx, senders, 3); err != nil {
		return fmt.Errorf("without the old leader: %w", err)
	}
	out.gaps = append(out.gaps, takeLongest(senders))
	if err := c.restart(leader); err != nil {
		return err
	}
	return c.ready(ctx, leader)
}

func killAll(ctx context.Context, c *cluster, senders []*sender, out *outcome) error {
	if err := progress(ctx, senders, 5); err != nil {
		return fmt.Errorf("before the kill: %w", err)
	}
	for i := range c.Nodes {
		if err := c.kill(&c.Nodes[i]); err != nil {
			return err
		}
	}
	begin := time.Now()
	for i := range c.Nodes {
		if err := c.restart(&c.Nodes[i]); err != nil {
			return err
		}
	}
	if err := progress(ctx, senders, 1); err != nil {
		return fmt.Errorf("after the start of all: %w", err)
	}
	out.restarts = append(out.restarts, time.Since(begin))
	for i := range c.Nodes {
		if err := c.ready(ctx, &c.Nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

func takeLongest(senders []*sender) time.Duration {
	var d time.Duration
	for _, s := range senders {
		d = max(d, s.takeLongest())
	}
	return d
}

// progress returns when every sender got n more acknowledgements, but for those whose batches were forgotten: they
// send no more, and that is found amiss elsewhere.
func progress(ctx context.Context, senders []*sender, n int) error {
	goal := make([]int, len(senders))
	for i, s := range senders {
		goal[i] = s.ackCount() + n
	}
	return until(ctx, 30*time.Second, func(context.Context) error {
		for i, s := range senders {
			if got := s.ackCount(); got < goal[i] && !s.gaveUp() {
				return fmt.Errorf("%s has %d acknowledgements, waiting for %d", s.name, got, goal[i])
			}
		}
		return nil
	})
}

func (s *sender) ackCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acks
}

// gaveUp reports whether the sender ended because its batches were forgotten.
func (s *sender) gaveUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Is(s.ended, errForgotten)
}

// failure is why the sender ended, when it is for anything else than that its batches were forgotten.
func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.ended, errForgotten) {
		return nil
	}
	return s.ended
}

// sending reports whether there is a sender that did not give up.
func sending(senders []*sender) bool {
	return slices.ContainsFunc(senders, func(s *sender) bool { return !s.gaveUp() })
}

// ready returns when the node says so.
func (c *cluster) ready(ctx context.Context, n *devNode) error {
	return until(ctx, 60*time.Second, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/-/ready", nil)
		if err != nil {
			return err
		}
		resp, err := c.client.Do(r)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s is not ready: %s", n.ID, resp.Status)
		}
		return nil
	})
}

func percentiles(ds []time.Duration) string {
	if len(ds) == 0 {
		return "none"
	}
	s := slices.Sorted(slices.Values(ds))
	name, most := "max", s[len(s)-1]
	if len(s) >= 100 {
		name, most = "p99", s[len(s)*99/100]
	}
	return fmt.Sprintf("p50 %v %s %v", s[len(s)/2].Round(time.Millisecond), name, most.Round(time.Millisecond))
}

// TestKill is the promise itself: whatever is killed, what was acknowledged is there exactly once on each node.
func TestKill(t *testing.T) {
	t.Parallel()
	const rounds = 5 // make torture has more of them
	k := kills{follower: rounds, leader: rounds, all: rounds, senders: 4, pace: 25 * time.Millisecond}
	out := k.run(t, binaries(t, ""))
	t.Logf("%d batches of each lane acknowledged; first commit after losing the leader: %s; after starting all: %s",
		out.acked, percentiles(out.gaps), percentiles(out.restarts))
	if out.violations.total() > 0 || out.violations.broken > 0 {
		t.Fatal(out.violations)
	}
	for _, g := range append(out.gaps, out.restarts...) {
		if g > 15*time.Second {
			t.Errorf("%v without a commit, goal is 3 s, 15 s fails", g)
		}
	}
}
