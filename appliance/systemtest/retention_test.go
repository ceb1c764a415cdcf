package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
)

// The disk of TestSmallDiskStaysUp holds about a third of what is sent to it.
const (
	retentionDisk = 640 << 20
	retentionDays = 18
	dayBytes      = 24 << 20 // of lines a day, which take half of it on disk
	lineBytes     = 8 << 10
	floodPace     = 14 << 20 // bytes a second
)

// retentionView is what GET /v1/retention tells, as far as the test looks at it.
type retentionView struct {
	Policy  map[string]any `json:"policy"`
	Version uint64         `json:"version"`
	Kinds   []struct {
		Kind          string `json:"kind"`
		Items         int64  `json:"items"`
		Oldest, Floor int64
	} `json:"kinds"`
	Nodes []struct {
		State   string  `json:"state"`
		Why     string  `json:"why"`
		UsedPct float64 `json:"used_pct"`
		Free    int64   `json:"free"`
		Kinds   map[string]int64
		Queue   int64
	} `json:"nodes"`
	History []struct {
		Kind     string
		From, To int64
		Reason   string
	} `json:"history"`
}

// flood sends lines of one day after the other.
type flood struct {
	*sender
	seq  uint64
	sent map[int64]int64 // lines acknowledged by day
	pace int64           // bytes a second; 0: as fast as they are taken
}

// day sends n bytes of lines of a day and reports whether the disk was full; then what was not taken is given up.
func (f *flood) day(ctx context.Context, day, n int64) (full bool, err error) {
	const perBatch = 24
	var tick <-chan time.Time
	if f.pace > 0 {
		ticker := time.NewTicker(time.Second * perBatch * lineBytes / time.Duration(f.pace))
		defer ticker.Stop()
		tick = ticker.C
	}
	for at := int64(0); at < n; at += perBatch * lineBytes {
		f.seq++
		st := wire.LogStream{Kind: wire.StreamLog, Labels: wire.Labels{{Name: "file", Value: "/flood"}, {Name: "source", Value: "file"}}}
		for i := range int64(perBatch) {
			st.Lines = append(st.Lines, wire.LogLine{
				T: day*86400e9 + (at*100+i)*1000, Severity: wire.SeverityInfo, Text: append([]byte("floodline "), junk(lineBytes)...),
			})
		}
		b := f.batch(wire.LaneLogs, f.seq, wire.AppendLogs(nil, &wire.LogBatch{Streams: []wire.LogStream{st}}))
		body := wire.AppendRequest(nil, f.epoch, []wire.Batch{b})
		for {
			var answer struct {
				Results []struct{ Status, Detail string }
			}
			err := f.call(ctx, "/v1/agent/batches", wire.ContentType, body, &answer)
			if p, ok := errors.AsType[*answerError](err); ok && p.status == http.StatusInsufficientStorage {
				f.seq--
				return true, nil
			}
			if err == nil {
				if len(answer.Results) != 1 || answer.Results[0].Status != "ok" {
					return false, fmt.Errorf("batch %d: %+v", f.seq, answer)
				}
				break
			}
			if err := f.again(ctx, err); err != nil {
				return false, err
			}
		}
		f.sent[day] += perBatch
		if tick != nil {
			<-tick
		}
	}
	return false, nil
}

// TestSmallDiskStaysUp: a node that gets more than its disk can hold goes on by retention: it warns, drops the oldest
// days, never answers 507, and what it kept is whole. Without cuts for room the same stream ends with 507; turned on
// again, they make it go on.
func TestSmallDiskStaysUp(t *testing.T) {
	t.Parallel()
	if !mayMount(t) {
		return
	}
	ctx := t.Context()
	dir := t.TempDir()
	mountSmall(t, filepath.Join(dir, "data"), retentionDisk)
	boot, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := start(boot, binaries(t, ""), dir, "--nodes", "1", "--agent=false", "--plain-http", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	token, err := c.agentToken(boot)
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSender("flood", []string{c.Nodes[0].AgentURL}, c.tlsConf, nil)
	if err == nil {
		err = s.register(boot, token, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	f := &flood{sender: s, sent: make(map[int64]int64), pace: floodPace}
	began := time.Now()
	last := time.Now().Unix()/86400 - 2
	c.floodAll(t, f, last)
	took := time.Since(began)
	c.keptWhole(t, f, last)
	c.saysSo(t)
	if !t.Failed() {
		c.bites(t, f, last)
	}
	if t.Failed() {
		t.Logf("the node said last:\n%s", c.tail())
	}
	t.Logf("%d MiB of lines of %d days went to a disk of %d MiB in %v", retentionDays*dayBytes>>20, retentionDays, retentionDisk>>20, took.Round(time.Second))
}

func (c *cluster) retention(ctx context.Context) (v retentionView, err error) {
	return v, c.get(ctx, &c.Nodes[0], "/v1/retention", url.Values{"limit": {"1000"}}, &v)
}

// floodAll sends all days and looks at the disk after each.
func (c *cluster) floodAll(t *testing.T, f *flood, last int64) {
	t.Helper()
	warned, most := false, 0.0
	for d := last - retentionDays + 1; d <= last; d++ {
		full, err := f.day(t.Context(), d, dayBytes)
		if err != nil {
			t.Fatal(err)
		}
		if full {
			t.Fatalf("507 on day %d of %d\n%s", d-last+retentionDays, retentionDays, c.tail())
		}
		var v retentionView
		if err := c.get(t.Context(), &c.Nodes[0], "/v1/retention", nil, &v); err != nil {
			t.Fatal(err)
		}
		n := v.Nodes[0]
		most = max(most, n.UsedPct)
		warned = warned || n.State == "warning" || n.State == "cutting"
		t.Logf("day %2d: %s %.0f %%, %d MiB free, logs %d MiB, queue %d MiB, %d cuts", d-last+retentionDays, n.State, n.UsedPct, n.Free>>20, n.Kinds["logs"]>>20, n.Queue>>20, len(v.History))
		if n.State == "stuck" {
			t.Errorf("day %d: stuck: %s", d, n.Why)
		}
	}
	if !warned {
		t.Errorf("no warning, though the disk was used to %.0f %%", most)
	}
}

// keptWhole checks that days went from the oldest on and that of the others every line is there.
func (c *cluster) keptWhole(t *testing.T, f *flood, last int64) {
	t.Helper()
	v, floor, err := c.floorOfLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if floor <= last-retentionDays+1 || floor > last {
		t.Fatalf("floor of lines is day %d, they were sent from %d to %d: %+v", floor, last-retentionDays+1, last, v)
	}
	bySize, to := 0, int64(0)
	for i := len(v.History) - 1; i >= 0; i-- {
		h := v.History[i]
		if h.Kind != "logs" {
			continue
		}
		if to != 0 && h.From != to {
			t.Errorf("history has a gap: %+v", v.History)
		}
		if to = h.To; h.Reason == "size" {
			bySize++
		}
	}
	if bySize == 0 || to != floor*86400_000 {
		t.Errorf("%d cuts by size, the last to %d, the floor is %d: %+v", bySize, to, floor*86400_000, v.History)
	}
	// The oldest may go while they are counted.
	for settled := false; !settled; {
		err = c.countDays(t.Context(), f, last, floor)
		_, now, ferr := c.floorOfLogs(t.Context())
		if ferr != nil {
			t.Fatal(ferr)
		}
		settled, floor = now == floor, now
	}
	if err != nil {
		t.Error(err)
	}
	t.Logf("days from %d of %d on are kept, after %d cuts", floor-last+retentionDays, retentionDays, bySize)
}

// floorOfLogs is the first day whose lines are kept, and all that is said of retention.
func (c *cluster) floorOfLogs(ctx context.Context) (v retentionView, floor int64, err error) {
	v, err = c.retention(ctx)
	for _, k := range v.Kinds {
		if k.Kind == "logs" {
			floor = k.Floor / 86400_000
		}
	}
	return v, floor, err
}

// countDays asks for the lines of each day: all of them from floor on, and none before.
func (c *cluster) countDays(ctx context.Context, f *flood, last, floor int64) error {
	var errs []error
	for d := last - retentionDays + 1; d <= last; d++ {
		want := f.sent[d]
		if d < floor {
			want = 0
		}
		var hits struct {
			Total int64
			Stats struct{ Partial bool }
		}
		err := c.get(ctx, &c.Nodes[0], "/v1/logs/hits", url.Values{
			"query": {"floodline"}, "start": {fmt.Sprint(d * 86400_000)}, "end": {fmt.Sprint((d + 1) * 86400_000)}, "step": {"1d"},
		}, &hits)
		if err != nil || hits.Total != want || hits.Stats.Partial {
			errs = append(errs, fmt.Errorf("day %d has %+v, want %d lines: %v", d, hits, want, err))
		}
	}
	return errors.Join(errs...)
}

// saysSo checks that an operator is told: by the log, the command line and the metrics.
func (c *cluster) saysSo(t *testing.T) {
	t.Helper()
	log, err := os.ReadFile(c.log.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"a disk fills up", "the oldest data goes for want of room"} {
		if !bytes.Contains(log, []byte(line)) {
			t.Errorf("the log does not say %q", line)
		}
	}
	for _, line := range []string{"is damaged", "are damaged"} {
		if bytes.Contains(log, []byte(line)) {
			t.Errorf("what retention removed is called damage: the log says %q", line)
		}
	}
	cmd := exec.Command(filepath.Join(c.bin, "triward"), "retention", "show", "--addr", c.Nodes[0].URL)
	cmd.Env = append(os.Environ(), "TRIWARD_TOKEN="+c.Token)
	out, err := cmd.Output() // exit code 3 while the disk is beyond a line
	exit, _ := errors.AsType[*exec.ExitError](err)
	if err != nil && (exit == nil || exit.ExitCode() != 3) || !strings.Contains(string(out), "size") {
		t.Errorf("triward retention show: %v\n%s", err, out)
	}
}

// setLimit changes the policy: from how many percent on days go, and the shares of the kinds.
func (c *cluster) setLimit(ctx context.Context, limit, share int) error {
	v, err := c.retention(ctx)
	if err != nil {
		return err
	}
	v.Policy["limit_pct"] = limit
	for _, k := range []string{"metrics", "logs", "events"} {
		v.Policy[k].(map[string]any)["share_pct"] = share
	}
	v.Policy["version"] = v.Version
	body, err := json.Marshal(v.Policy)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, c.Nodes[0].URL+"/v1/retention", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("PUT /v1/retention: %s", resp.Status)
	}
	return nil
}

// bites checks that it is the cuts for room which keep the node up.
func (c *cluster) bites(t *testing.T, f *flood, last int64) {
	t.Helper()
	if err := c.setLimit(t.Context(), 0, 100); err != nil {
		t.Fatal(err)
	}
	f.pace = 0
	full := false
	for range retentionDisk / dayBytes * 2 { // twice what the disk has
		var err error
		if full, err = f.day(t.Context(), last-1, dayBytes); err != nil {
			t.Fatal(err)
		}
		if full {
			break
		}
	}
	if !full {
		t.Fatal("no 507 although nothing goes for want of room: the test proves nothing")
	}
	if err := c.setLimit(t.Context(), 85, 70); err != nil {
		t.Fatalf("turn cuts for room on while the disk is full: %v", err)
	}
	began := time.Now()
	err := until(t.Context(), time.Minute, func(ctx context.Context) error {
		if full, err := f.day(ctx, last, 1<<20); err != nil || full {
			return fmt.Errorf("full: %v: %w", full, err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("it does not go on by itself: %v", err)
	}
	t.Logf("507 without cuts for room; lines are taken again %v after they were turned on", time.Since(began).Round(time.Second))
}
