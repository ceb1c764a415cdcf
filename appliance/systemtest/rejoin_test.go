package systemtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// shortLog makes a node keep little of the log behind its mark, so that a node that was away must install.
func shortLog(config string) error {
	b, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var m map[string]any
	if err := yaml.Unmarshal(b, &m); err != nil {
		return err
	}
	queue, ok := m["queue"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s has no queue", config)
	}
	queue["mark_interval"] = "1s"
	queue["retention"] = map[string]any{"bytes": "1MiB", "time": "1s"}
	if b, err = yaml.Marshal(m); err != nil {
		return err
	}
	return os.WriteFile(config, b, 0o600)
}

// TestRejoin: a node whose data is gone, and one that was away for longer than the log reaches back, come back
// by installing a snapshot while writes go on, and hold everything exactly once afterwards.
func TestRejoin(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	ready, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := start(ready, binaries(t, ""), dir, "--agent=false", "--plain-http", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	for i := range c.Nodes { // one by one, so that the cluster lives on
		n := &c.Nodes[i]
		for _, err := range []error{shortLog(n.Config), c.kill(n), c.restart(n), c.ready(ctx, n)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	senders := make([]*sender, 4)
	for i := range senders {
		if senders[i], err = (kills{}).sender(ctx, c, l, i, seriesPerSender); err != nil {
			t.Fatal(err)
		}
	}
	filler := senders[3] // fills the log, so that it is cut soon
	filler.padding = 8 << 10
	sending, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, len(senders))
	for _, s := range senders {
		go func() { ended <- s.run(sending, 5*time.Millisecond) }()
	}
	t.Run("emptied", func(t *testing.T) { rejoin(t, c, senders, true) })
	t.Run("away", func(t *testing.T) { rejoin(t, c, senders, false) })
	stop()
	for range senders {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	v, err := c.verify(ctx, l, senders[:3])
	if err != nil || v.total() > 0 {
		t.Fatalf("%v %v\n%s", err, v, c.tail())
	}
}

// rejoin takes a follower away, lets the log move on past what is kept, and brings it back.
func rejoin(t *testing.T, c *cluster, senders []*sender, emptied bool) {
	ctx := t.Context()
	leader, err := c.leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	n := &c.Nodes[0]
	if n == leader {
		n = &c.Nodes[1]
	}
	if err := c.kill(n); err != nil {
		t.Fatal(err)
	}
	var gone clusterStatus
	if err := c.get(ctx, leader, "/v1/cluster", nil, &gone); err != nil {
		t.Fatal(err)
	}
	if emptied {
		if err := os.RemoveAll(n.DataDir); err != nil {
			t.Fatal(err)
		}
	}
	if err := truncatedPast(ctx, c, leader, applied(gone, leader.ID)); err != nil {
		t.Fatal(err)
	}
	takeLongest(senders)
	st, err := c.log.Stat()
	if err != nil {
		t.Fatal(err)
	}
	before := st.Size()
	begin := time.Now()
	if err := c.restart(n); err != nil {
		t.Fatal(err)
	}
	if err := c.ready(ctx, n); err != nil {
		t.Fatalf("%v\n%s", err, c.tail())
	}
	if err := progress(ctx, senders, 10); err != nil {
		t.Error(err)
	}
	t.Logf("ready %v after its start; writes stood still for at most %v", time.Since(begin).Round(time.Millisecond), takeLongest(senders).Round(time.Millisecond))
	log, err := os.ReadFile(c.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log[before:]), "image installed") {
		t.Errorf("the node came back without an install\n%s", c.tail())
	}
}

func applied(st clusterStatus, id string) uint64 {
	for _, n := range st.Nodes {
		if n.ID == id {
			return n.AppliedIndex
		}
	}
	return 0
}

// truncatedPast returns when the leader's log begins after index.
func truncatedPast(ctx context.Context, c *cluster, leader *devNode, index uint64) error {
	return until(ctx, 60*time.Second, func(ctx context.Context) error {
		var q struct {
			FirstIndex uint64 `json:"first_index"`
		}
		if err := c.get(ctx, leader, "/v1/queue", nil, &q); err != nil {
			return err
		}
		if q.FirstIndex <= index {
			return fmt.Errorf("the log begins at %d, waiting for it to begin after %d", q.FirstIndex, index)
		}
		return nil
	})
}
