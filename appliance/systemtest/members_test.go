package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/triward/triward/appliance/internal/freeaddr"
)

// withSenders starts a cluster of that many nodes with a ledger and senders. What they did is compared by stopAndCompare.
func withSenders(t *testing.T, bin string, nodes, senders int) *loaded {
	t.Helper()
	ctx := t.Context()
	dir := t.TempDir()
	ready, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	c, err := start(ready, bin, dir, "--agent=false", "--http-port", "0", "--nodes", fmt.Sprint(nodes))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	x := &loaded{cluster: c, t: t}
	if x.ledger, err = newLedger(filepath.Join(dir, "ledger")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.ledger.close() })
	running, stop := context.WithCancel(ctx)
	x.stopSending = stop
	t.Cleanup(stop)
	for i := range senders {
		s, err := (kills{}).sender(ctx, c, x.ledger, i, seriesPerSender)
		if err != nil {
			t.Fatal(err)
		}
		x.senders = append(x.senders, s)
	}
	x.ended = make(chan error, senders)
	for _, s := range x.senders {
		go func() { x.ended <- s.run(running, 20*time.Millisecond) }()
	}
	return x
}

// loaded is a cluster under load.
type loaded struct {
	*cluster
	t           *testing.T
	ledger      *ledger
	senders     []*sender
	stopSending func()
	ended       chan error
}

// progress waits until each sender was answered n times more.
func (x *loaded) progress(n int) {
	x.t.Helper()
	if err := progress(x.t.Context(), x.senders, n); err != nil {
		x.t.Fatalf("%v\n%s", err, x.tail())
	}
}

// quiet ends the sending.
func (x *loaded) quiet() {
	x.t.Helper()
	x.stopSending()
	for range x.senders {
		if err := <-x.ended; err != nil {
			x.t.Error(err)
		}
	}
}

// compare holds every node that is listed against the ledger.
func (x *loaded) compare() {
	x.t.Helper()
	v, err := x.verify(x.t.Context(), x.ledger, x.senders)
	if err != nil || v.total() > 0 {
		x.t.Fatalf("%v %v\n%s", err, v, x.tail())
	}
}

// only leaves those nodes in the list of the cluster that keep is told of.
func (x *loaded) only(nodes ...devNode) { x.Nodes = nodes }

// command runs the command line against a node and returns what it printed.
func (c *cluster) command(ctx context.Context, at *devNode, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "triward"), args...)
	cmd.Env = append(os.Environ(), "TRIWARD_TOKEN="+c.Token, "TRIWARD_CA="+c.CA, "TRIWARD_ADDR="+at.URL)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("triward %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// newNode writes the configuration of a further node, on free ports.
func (c *cluster) newNode(id string) (*devNode, error) {
	at, err := freeaddr.Addresses(3)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(c.dir, id)
	n := &devNode{ID: id, URL: "https://" + at[0], AgentURL: "https://" + at[1], Config: filepath.Join(dir, "triward.yaml"), DataDir: filepath.Join(dir, "data")}
	body, err := yaml.Marshal(map[string]any{
		"node_id": id, "data_dir": n.DataDir, "tls": map[string]any{"dir": filepath.Join(dir, "tls")}, "backup": map[string]any{"dir": filepath.Join(dir, "backups")},
		"listen": map[string]any{
			"http":   map[string]any{"address": at[0], "url": n.URL},
			"agents": map[string]any{"address": at[1], "advertise": n.AgentURL},
			"peer":   map[string]any{"address": at[2], "advertise": at[2]},
		},
	})
	if err != nil {
		return nil, err
	}
	return n, errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(n.Config, body, 0o600))
}

// join has a node that is not running join by the command line, at a member, and returns what that said.
func (c *cluster) join(ctx context.Context, at, n *devNode, args ...string) error {
	var token struct {
		Token string `json:"token"`
	}
	out, err := c.command(ctx, at, "cluster", "token", "create", "-o", "json")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), &token); err != nil {
		return fmt.Errorf("token %q: %w", out, err)
	}
	_, err = c.command(ctx, at, append([]string{"cluster", "join", "--config", n.Config, "--addr", at.URL, "--join-token", token.Token}, args...)...)
	return err
}

// part is what GET /v1/cluster says a node is: voter, read-only, joining, or "" for no member.
func (c *cluster) part(ctx context.Context, at *devNode, id string) (string, error) {
	var st struct {
		Nodes []struct {
			ID       string `json:"id"`
			Voter    bool   `json:"voter"`
			ReadOnly bool   `json:"read_only"`
		} `json:"nodes"`
	}
	if err := c.get(ctx, at, "/v1/cluster", nil, &st); err != nil {
		return "", err
	}
	for _, n := range st.Nodes {
		switch {
		case n.ID != id:
		case n.Voter:
			return "voter", nil
		case n.ReadOnly:
			return "read-only", nil
		default:
			return "joining", nil
		}
	}
	return "", nil
}

func (c *cluster) waitPart(ctx context.Context, at *devNode, id, want string) error {
	return until(ctx, 2*time.Minute, func(ctx context.Context) error {
		got, err := c.part(ctx, at, id)
		if err == nil && got != want {
			err = fmt.Errorf("node %s is %q, want %q", id, got, want)
		}
		return err
	})
}

func all(t *testing.T, tail func() string, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("%v\n%s", err, tail())
	}
}

// TestRecover: two of three nodes are lost for good while the third has most of its log not yet in its stores. It goes on
// alone by `triward cluster recover`, with everything acknowledged that it had received; two new nodes join; one of the
// lost, when it comes back after all, is refused.
func TestRecover(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	x := withSenders(t, binaries(t, ""), 3, 2)
	leader, err := x.leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	left := &x.Nodes[0] // a follower: it learns last what is committed
	if left == leader {
		left = &x.Nodes[1]
	}
	x.progress(20)
	x.quiet()
	if err := x.caughtUp(ctx, leader, left); err != nil {
		t.Fatal(err)
	}
	if out, err := x.command(ctx, leader, "cluster", "recover", "--config", left.Config, "--yes-lose-unreplicated"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a running node was recovered: %v", err)
	}
	if err := x.kill(left); err != nil {
		t.Fatal(err)
	}
	if out, err := x.command(ctx, leader, "cluster", "recover", "--config", left.Config, "--yes-lose-unreplicated"); err == nil || !strings.Contains(out, "the majority of the cluster is not lost") {
		t.Errorf("a node was recovered whose cluster is up: %v", err)
	}
	var lost []devNode
	for i := range x.Nodes {
		if n := &x.Nodes[i]; n.ID != left.ID {
			lost = append(lost, *n)
			if err := x.kill(n); err != nil {
				t.Fatal(err)
			}
		}
	}
	if out, err := x.command(ctx, leader, "cluster", "recover", "--config", left.Config); err == nil || !strings.Contains(out, "lost for good") || !strings.Contains(out, "--yes") {
		t.Errorf("not confirmed, and yet: %v\n%s", err, out)
	}
	out, err := x.command(ctx, leader, "cluster", "recover", "--config", left.Config, "--yes-lose-unreplicated")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out)
	x.only(*left)
	left = &x.Nodes[0]
	all(t, x.tail, x.restart(left), x.ready(ctx, left))
	x.compare()

	for _, id := range []string{"n8", "n9"} {
		n, err := x.newNode(id)
		if err != nil {
			t.Fatal(err)
		}
		all(t, x.tail, x.join(ctx, left, n), x.restart(n), x.ready(ctx, n), x.waitPart(ctx, left, id, "voter"))
		x.Nodes = append(x.Nodes, *n)
		left = &x.Nodes[0]
	}
	x.compare()
	var audit struct {
		Records []struct {
			Action string `json:"action"`
		} `json:"records"`
	}
	if err := x.get(ctx, left, "/v1/audit?limit=100", nil, &audit); err != nil || !strings.Contains(fmt.Sprint(audit.Records), "cluster.recover") {
		t.Errorf("audit records %v %v", audit.Records, err)
	}

	// One of the lost comes back after all: nobody takes it, and it disturbs nobody.
	size := x.logSize()
	if err := x.restart(&lost[0]); err != nil {
		t.Fatal(err)
	}
	err = until(ctx, time.Minute, func(context.Context) error {
		b, err := os.ReadFile(x.log.Name())
		if err == nil && !strings.Contains(string(b[size:]), "another incarnation") {
			err = errors.New("nobody was refused for being of another incarnation")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if got, err := x.part(ctx, left, lost[0].ID); got != "" || err != nil {
		t.Errorf("the lost node %s is %q (%v)", lost[0].ID, got, err)
	}
	var st clusterStatus
	if err := x.get(ctx, &lost[0], "/v1/cluster", nil, &st); err == nil && st.Leader != "" {
		t.Errorf("the lost node says that %s leads", st.Leader)
	}
	x.compare()
}

func (c *cluster) logSize() int64 {
	st, err := c.log.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

// caughtUp waits until a node has applied what the leader had committed.
func (c *cluster) caughtUp(ctx context.Context, leader, n *devNode) error {
	var at clusterStatus
	if err := c.get(ctx, leader, "/v1/cluster", nil, &at); err != nil {
		return err
	}
	want := applied(at, leader.ID)
	return until(ctx, time.Minute, func(ctx context.Context) error {
		var st clusterStatus
		if err := c.get(ctx, n, "/v1/cluster", nil, &st); err != nil {
			return err
		}
		if got := applied(st, n.ID); got < want {
			return fmt.Errorf("%s has applied %d of %d", n.ID, got, want)
		}
		return nil
	})
}

// TestWipedNodeHelpsNobodyToLead: what the leader and one follower alone hold is not lost when that follower is wiped while
// the leader is cut off from the third: the wiped one, whether it starts as it is or asks to join anew, neither votes for
// the third, which lacks it, nor lets it lead.
func TestWipedNodeHelpsNobodyToLead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	x := withSenders(t, binaries(t, ""), 3, 2)
	leader, err := x.leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var wiped, behind *devNode
	for i := range x.Nodes {
		switch n := &x.Nodes[i]; {
		case n == leader:
		case wiped == nil:
			wiped = n
		default:
			behind = n
		}
	}
	x.progress(5)
	if err := x.kill(behind); err != nil {
		t.Fatal(err)
	}
	x.progress(10) // what comes now the third lacks
	x.quiet()
	all(t, x.tail, x.kill(leader), x.kill(wiped), os.RemoveAll(wiped.DataDir), x.restart(wiped), x.restart(behind))
	nobody := func(span time.Duration) {
		t.Helper()
		end := time.NewTimer(span)
		defer end.Stop()
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end.C:
				return
			case <-tick.C:
			}
			for _, n := range []*devNode{wiped, behind} {
				var st clusterStatus
				if x.get(ctx, n, "/v1/cluster", nil, &st) == nil && st.Leader != "" {
					t.Fatalf("%s says that %s leads, which lacks what was acknowledged\n%s", n.ID, st.Leader, x.tail())
				}
			}
		}
	}
	nobody(8 * time.Second)
	// Now as one that joins anew under its name: without a leader nobody takes it in.
	if err := x.kill(wiped); err != nil {
		t.Fatal(err)
	}
	all(t, x.tail, os.RemoveAll(wiped.DataDir), os.RemoveAll(filepath.Join(filepath.Dir(wiped.Config), "tls")))
	if err := x.join(ctx, behind, wiped); err == nil {
		t.Fatal("a node was taken in by a member that has no majority")
	}
	nobody(3 * time.Second)
	all(t, x.tail, x.restart(leader), x.ready(ctx, leader))
	all(t, x.tail, x.join(ctx, leader, wiped), x.restart(wiped), x.ready(ctx, wiped), x.waitPart(ctx, leader, wiped.ID, "voter"))
	x.compare()
	// It counts again: with it alone the third goes on.
	all(t, x.tail, x.kill(leader))
	if _, err := x.leader(ctx); err != nil {
		t.Fatal(err)
	}
	all(t, x.tail, x.restart(leader), x.ready(ctx, leader))
	x.compare()
}

// TestFiveNodes: five voters bear the loss of two, also of the leader, under load; a node that is lost is removed while it is
// down and told so when it comes back.
func TestFiveNodes(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	x := withSenders(t, binaries(t, ""), 5, 2)
	x.progress(5)
	for range 2 {
		leader, err := x.leader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := x.kill(leader); err != nil {
			t.Fatal(err)
		}
		x.progress(5)
	}
	var down, up []*devNode
	for i := range x.Nodes {
		n := &x.Nodes[i]
		var st clusterStatus
		if x.get(ctx, n, "/v1/cluster", nil, &st) == nil {
			up = append(up, n)
		} else {
			down = append(down, n)
		}
	}
	if len(up) != 3 || len(down) != 2 {
		t.Fatalf("%d nodes are up, %d down", len(up), len(down))
	}
	if out, err := x.command(ctx, up[0], "cluster", "remove", up[1].ID, "--yes"); err == nil || !strings.Contains(out, "would answer") {
		t.Errorf("a living node of three out of five was removed: %v", err)
	}
	if _, err := x.command(ctx, up[0], "cluster", "remove", down[0].ID, "--yes"); err != nil {
		t.Error(err)
	}
	x.progress(3)
	all(t, x.tail, x.restart(down[1]), x.ready(ctx, down[1]), x.restart(down[0]))
	err := until(ctx, time.Minute, func(context.Context) error {
		_, err := os.Stat(filepath.Join(down[0].DataDir, "REMOVED"))
		return err
	})
	if err != nil {
		t.Fatalf("the removed node was not told: %v\n%s", err, x.tail())
	}
	err = x.again[down[0].ID].Wait()
	delete(x.again, down[0].ID)
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 10 {
		t.Errorf("the removed node ended with %v, want exit code 10", err)
	}
	x.progress(3)
	x.quiet()
	x.only(*up[0], *up[1], *up[2], *down[1])
	x.compare()
}
