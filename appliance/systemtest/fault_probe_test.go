package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Goals of what a node without a majority answers.
const (
	refuseGoal  = time.Second // to a 503
	goodputGoal = 0.5         // of what was acknowledged before, while a majority is connected
	// changesGoal is how many leaders a minute there may be.
	changesGoal = 2
)

// client returns one that makes a connection for each request, from the harness or, when p is set, from that machine.
func (tr *trial) client(p *place) *http.Client {
	tp := &http.Transport{TLSClientConfig: tr.c.tlsConf, DisableKeepAlives: true}
	if p != nil {
		tp.DialContext = p.dial
	}
	return &http.Client{Transport: tp, Timeout: 15 * time.Second}
}

// write tries to store a sample through a node and returns the status of its answer and what it says.
func (tr *trial) write(ctx context.Context, client *http.Client, n *devNode) (status int, body string, err error) {
	text, err := json.Marshal([]any{map[string]any{
		"agent_id": "probe", "timestamp": time.Now().UnixMilli(), "data": map[string]any{"name": "probe_written", "value": 1},
	}})
	if err != nil {
		return 0, "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL+"/monitor/metrics", bytes.NewReader(text))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+tr.c.Token)
	resp, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	return resp.StatusCode, string(b), err
}

// refuses holds that a node without a majority answers a write with 503, a code and a word on who led last, and soon. It
// gives the node until it knows that it has none.
func (tr *trial) refuses(ctx context.Context, client *http.Client, n *devNode) error {
	err := until(ctx, 20*time.Second, func(ctx context.Context) error {
		switch status, body, err := tr.write(ctx, client, n); {
		case err != nil:
			return err
		case status == http.StatusServiceUnavailable && strings.Contains(body, `"no_quorum"`):
			return nil
		default:
			return fmt.Errorf("%s answers %d: %s", n.ID, status, body)
		}
	})
	if err != nil {
		return fmt.Errorf("a node without a majority: %w", err)
	}
	begin := time.Now()
	status, body, err := tr.write(ctx, client, n)
	if err != nil {
		return fmt.Errorf("a node without a majority: %w", err)
	}
	took := time.Since(begin)
	tr.refusals = append(tr.refusals, took)
	var p struct{ Code, Detail, Hint string }
	if err := json.Unmarshal([]byte(body), &p); err != nil || status != http.StatusServiceUnavailable || p.Code != "no_quorum" || p.Hint == "" ||
		!strings.Contains(p.Detail, "led last") {
		return fmt.Errorf("%s has no majority and answers %d: %s", n.ID, status, body)
	}
	if took > tooSlow*refuseGoal {
		return fmt.Errorf("%s has no majority and took %v to say so, the goal is %v", n.ID, took, refuseGoal)
	}
	return nil
}

// reading is what a linearizable read gave.
type reading struct {
	s           *sender
	before, got uint64 // batches acknowledged before it began, and the newest one that it has
	answered    bool
}

// read asks a node for the newest batch of a sender, linearizably. It may run beside the row.
func (tr *trial) read(ctx context.Context, client *http.Client, n *devNode, s *sender) (reading, error) {
	r := reading{s: s, before: tr.traffic.ledger.of(s.name).acked}
	got, status, err := tr.newest(ctx, client, n, s, "linearizable")
	switch {
	case status == 0, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		return r, nil // no answer is no stale answer
	case err != nil:
		return r, fmt.Errorf("a linearizable read of %s: %w", n.ID, err)
	}
	r.got, r.answered = got, true
	return r, nil
}

// judge holds that a read has all that was acknowledged before it.
func (tr *trial) judge(n *devNode, r reading) error {
	if !r.answered {
		return nil
	}
	tr.reads++
	if r.got < r.before {
		tr.stales++
		return fmt.Errorf("a linearizable read of %s has batch %d of %s, batch %d was acknowledged before", n.ID, r.got, r.s.name, r.before)
	}
	return nil
}

// fresh is read and judge of any sender. It reports whether the node answered.
func (tr *trial) fresh(ctx context.Context, client *http.Client, n *devNode) (answered bool, err error) {
	r, err := tr.read(ctx, client, n, tr.traffic.senders[tr.rng.IntN(len(tr.traffic.senders))])
	return r.answered, errors.Join(err, tr.judge(n, r))
}

// stale is the newest batch of a sender that a node has, whatever others have.
func (tr *trial) stale(ctx context.Context, n *devNode, s *sender) (uint64, error) {
	got, status, err := tr.newest(ctx, tr.client(nil), n, s, "stale")
	if err != nil {
		return 0, fmt.Errorf("read of %s (status %d): %w", n.ID, status, err)
	}
	return got, nil
}

// newest is the newest batch of a sender that a node has; status is 0 when it gave no answer.
func (tr *trial) newest(ctx context.Context, client *http.Client, n *devNode, s *sender, consistency string) (got uint64, status int, err error) {
	q := url.Values{"query": {fmt.Sprintf(`max(max_over_time(ledger_seq{sender=%q}[2h]))`, s.name)}, "consistency": {consistency}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/api/v1/query?"+q.Encode(), nil)
	if err != nil {
		return 0, 0, err
	}
	r.Header.Set("Authorization", "Bearer "+tr.c.Token)
	resp, err := client.Do(r)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, resp.StatusCode, &answerError{resp.StatusCode, string(b)}
	}
	var answer struct {
		Data struct {
			Result []struct{ Value [2]json.RawMessage }
		}
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		return 0, resp.StatusCode, err
	}
	if len(answer.Data.Result) == 1 {
		got, err = strconv.ParseUint(strings.Trim(string(answer.Data.Result[0].Value[1]), `"`), 10, 64)
	}
	return got, resp.StatusCode, err
}

// sameState returns when all nodes have digests at the same index, which must be the same, and notes how long after the end
// of the last fault that was.
func (tr *trial) sameState(ctx context.Context) error {
	var v violations
	if err := tr.c.settle(ctx, &v); err != nil {
		return err
	}
	if last := latest(tr.mendedAt, tr.c.started); !last.IsZero() {
		tr.same = append(tr.same, time.Since(last))
	}
	if v.differing > 0 {
		return errors.New(v.String())
	}
	return nil
}

// latest is the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// elections counts the leaders that the nodes have told of in their log from a place of it on.
func (tr *trial) elections(from int64) (n int) {
	b, err := os.ReadFile(tr.c.log.Name())
	if err != nil || int64(len(b)) < from {
		return 0
	}
	for line := range strings.Lines(string(b[from:])) {
		if strings.Contains(line, "msg=leadership") && strings.Contains(line, "leader=true") {
			n++
		}
	}
	return n
}

// logEnd is the place up to which the nodes have written their log.
func (tr *trial) logEnd() int64 {
	st, err := tr.c.log.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

// pause waits for d, or as long as ctx lasts.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// between is a duration of the trial's choice.
func (tr *trial) between(least, most time.Duration) time.Duration {
	return least + time.Duration(tr.rng.Int64N(int64(most-least)))
}

// rate is how many batches are acknowledged a second while d passes.
func (tr *trial) rate(ctx context.Context, d time.Duration) (float64, error) {
	before, begin := tr.acks(), time.Now()
	if err := pause(ctx, d); err != nil {
		return 0, err
	}
	return float64(tr.acks()-before) / time.Since(begin).Seconds(), nil
}
