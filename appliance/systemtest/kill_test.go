package systemtest

import (
	"context"
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
	args := []string{"build", "-o", dir}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	args = append(args, "github.com/triward/triward/appliance/cmd/triward")
	if overlay == "" {
		args = append(args, "github.com/triward/triward/agent/cmd/triward-agent")
	}
	if out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return dir
}

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
	sending, stop := context.WithCancel(ctx)
	ended := make(chan error, len(senders))
	for _, s := range senders {
		go func() { ended <- s.run(sending, k.pace) }()
	}
	out := k.rounds(t, c, senders)
	stop()
	for range senders {
		if err := <-ended; err != nil {
			out.violations.add(&out.violations.lost, "a sender gave up: %v", err)
		}
	}
	for _, s := range senders {
		out.acked += l.of(s.name).acked
	}
	v, err := c.verify(ctx, l, senders)
	if err != nil {
		v.add(&v.lost, "verification ended early: %v", err)
		t.Logf("nodes said last:\n%s", c.tail())
	}
	v.lost += out.violations.lost
	v.examples = append(out.violations.examples, v.examples...)
	out.violations = v
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

// rounds kills and restarts as asked, waiting for the senders to be answered again each time.
func (k kills) rounds(t *testing.T, c *cluster, senders []*sender) outcome {
	ctx := t.Context()
	out := outcome{violations: new(violations)}
	fail := func(what string, err error) {
		if err != nil {
			out.violations.add(&out.violations.lost, "%s: %v", what, err)
		}
	}
	for range k.follower {
		leader, err := c.leader(ctx)
		if err != nil {
			fail("find leader", err)
			return out
		}
		for i := range c.Nodes {
			if n := &c.Nodes[i]; n != leader {
				fail("kill follower", c.kill(n))
				fail("progress with a follower down", progress(ctx, senders, 10))
				fail("start follower", c.restart(n))
				fail("follower ready", c.ready(ctx, n))
				break
			}
		}
	}
	for range k.leader {
		leader, err := c.leader(ctx)
		if err != nil {
			fail("find leader", err)
			return out
		}
		fail("progress before the kill", progress(ctx, senders, 3))
		takeLongest(senders)
		fail("kill leader", c.kill(leader))
		fail("progress without the old leader", progress(ctx, senders, 3))
		out.gaps = append(out.gaps, takeLongest(senders))
		fail("start old leader", c.restart(leader))
		fail("old leader ready", c.ready(ctx, leader))
	}
	for range k.all {
		fail("progress before the kill of all", progress(ctx, senders, 5))
		for i := range c.Nodes {
			fail("kill all", c.kill(&c.Nodes[i]))
		}
		begin := time.Now()
		for i := range c.Nodes {
			fail("start all", c.restart(&c.Nodes[i]))
		}
		fail("progress after the start of all", progress(ctx, senders, 1))
		out.restarts = append(out.restarts, time.Since(begin))
		for i := range c.Nodes {
			fail("ready after the start of all", c.ready(ctx, &c.Nodes[i]))
		}
	}
	return out
}

func takeLongest(senders []*sender) time.Duration {
	var d time.Duration
	for _, s := range senders {
		d = max(d, s.takeLongest())
	}
	return d
}

// progress returns when every sender got n more acknowledgements.
func progress(ctx context.Context, senders []*sender, n int) error {
	goal := make([]int, len(senders))
	for i, s := range senders {
		goal[i] = s.ackCount() + n
	}
	return until(ctx, 30*time.Second, func(context.Context) error {
		for i, s := range senders {
			if got := s.ackCount(); got < goal[i] {
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
	return fmt.Sprintf("p50 %v p99 %v", s[len(s)/2].Round(time.Millisecond), s[len(s)-1].Round(time.Millisecond))
}

// TestKill is the promise itself: whatever is killed, what was acknowledged is there exactly once on each node.
func TestKill(t *testing.T) {
	rounds := 5
	if os.Getenv("TRIWARD_FAULTS") != "" {
		rounds = 20
	}
	k := kills{follower: rounds, leader: rounds, all: rounds, senders: 4, pace: 25 * time.Millisecond}
	out := k.run(t, binaries(t, ""))
	t.Logf("%d batches of each lane acknowledged; first commit after losing the leader: %s; after starting all: %s",
		out.acked, percentiles(out.gaps), percentiles(out.restarts))
	if out.violations.total() > 0 {
		t.Fatal(out.violations)
	}
	for _, g := range append(out.gaps, out.restarts...) {
		if g > 15*time.Second {
			t.Errorf("%v without a commit, goal is 3 s, 15 s fails", g)
		}
	}
}
