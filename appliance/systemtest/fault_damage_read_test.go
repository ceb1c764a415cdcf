package systemtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	oldLines = 600 // of the stock, over the last hours
	oldSpan  = 8 * time.Hour
	oldStep  = time.Minute
	// damagePace is how often a sender of these rows sends: slower than its time goes, so that it is never ahead of the clock,
	// however long the row is.
	damagePace = 250 * time.Millisecond
)

// hurried has blocks of metrics and of lines, and with them word indexes, made every few seconds instead of every few minutes: a
// node that took an image has none, and the next bit is to be flipped in one.
var hurried = map[string][]edit{
	"tsdb/options.go":   {{"	setDefault(&o.CompactEvery, 3*time.Minute)\n", "	setDefault(&o.CompactEvery, 3*time.Second)\n"}},
	"logstore/store.go": {{"		o.SealAge = time.Minute\n", "		o.SealAge = 2 * time.Second\n"}},
}

// hurry has the trial run the program with that change.
func (tr *trial) hurry(ctx context.Context) error {
	overlay, err := overlayOf(tr.dir, hurried)
	if err != nil {
		return err
	}
	tr.logf("the program is built with other times for its blocks")
	bin := filepath.Join(tr.dir, "bin")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "-overlay", overlay, "github.com/triward/triward/appliance/cmd/triward").CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	tr.bin = bin
	return nil
}

// damager founds a cluster that holds lines, samples, rules and users of which everything is known, sends to it and reads of
// every node.
func (tr *trial) damager(ctx context.Context) (*damager, error) {
	if tr.row.name == "bit-metrics" || tr.row.name == "bit-lines" {
		if err := tr.hurry(ctx); err != nil {
			return nil, err
		}
	}
	if err := tr.stocked(ctx); err != nil {
		return nil, err
	}
	d := &damager{tr: tr, begin: time.Now(), due: make(map[toldOf]int)}
	for i := range tr.c.Nodes {
		d.readers = append(d.readers, tr.watchNode(ctx, &tr.c.Nodes[i]))
	}
	tr.atEnd(d.stop)
	for i := range tr.c.Nodes {
		if err := d.answers(ctx, &tr.c.Nodes[i]); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *damager) stop() {
	for _, r := range d.readers {
		r.stop()
	}
}

func (d *damager) right() (n int64) {
	for _, r := range d.readers {
		n += r.right.Load()
	}
	return n
}

// takeWrong returns the wrong answers since the last call.
func (d *damager) takeWrong() (all []string) {
	for _, r := range d.readers {
		r.mu.Lock()
		for _, w := range r.bad {
			all = append(all, r.n.ID+": "+w)
		}
		r.bad = nil
		r.mu.Unlock()
	}
	return all
}

// answers returns when the node has given a right answer to every question.
func (d *damager) answers(ctx context.Context, n *devNode) error {
	r := &reader{tr: d.tr, n: n}
	for _, ask := range r.questions() {
		if err := until(ctx, time.Minute, ask); err != nil {
			return fmt.Errorf("%s gives no right answer: %w", n.ID, err)
		}
	}
	return nil
}

// stocked founds the cluster. The stock comes first, before the nodes store metrics of their own: its samples are in order,
// so that blocks are made of them within minutes.
func (tr *trial) stocked(ctx context.Context) error {
	err := tr.found(ctx, plan{config: func(_ int, c map[string]any) {
		c["self_monitoring"] = false
		c["scrub"] = map[string]any{"rate": "1GiB"}
		c["queue"] = map[string]any{"mark_interval": "5s"}
	}})
	if err != nil {
		return err
	}
	if err := tr.stock(ctx); err != nil {
		return fmt.Errorf("send the stock: %w", err)
	}
	if err := tr.marksHave(ctx); err != nil {
		return err
	}
	for i := range tr.c.Nodes {
		n := &tr.c.Nodes[i]
		if err := withOwnMetrics(n.Config); err != nil {
			return err
		}
		if err := errors.Join(tr.c.kill(n), tr.c.restart(n)); err != nil {
			return err
		}
		if err := tr.c.ready(ctx, n); err != nil {
			return err
		}
	}
	tr.pace = damagePace
	return tr.send(ctx, 1)
}

// marksHave returns when the marks of all nodes have what is stored now, so that a node has it however it starts: an answer without
// it is wrong, also where older answers than the newest are allowed.
func (tr *trial) marksHave(ctx context.Context) error {
	var index uint64
	return until(ctx, time.Minute, func(ctx context.Context) error {
		var st clusterStatus
		if err := tr.c.get(ctx, &tr.c.Nodes[0], "/v1/cluster", nil, &st); err != nil {
			return err
		}
		if index == 0 {
			for _, n := range st.Nodes {
				index = max(index, n.AppliedIndex)
			}
		}
		for _, n := range st.Nodes {
			if n.MarkIndex < index {
				return fmt.Errorf("the mark of %s is at %d, waiting for %d", n.ID, n.MarkIndex, index)
			}
		}
		return nil
	})
}

// withOwnMetrics has the node of a configuration store its own metrics and the events of the cluster.
func withOwnMetrics(path string) error {
	body, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var conf map[string]any
	if err := yaml.Unmarshal(body, &conf); err != nil {
		return err
	}
	delete(conf, "self_monitoring")
	if body, err = yaml.Marshal(conf); err != nil {
		return err
	}
	return os.WriteFile(path, body, 0o600)
}

// item is what senders without an agent deliver.
type item struct {
	Agent string   `json:"agent_id"`
	At    int64    `json:"timestamp"`
	Data  itemData `json:"data"`
}

type itemData struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

// stock sends what the readers know: lines and samples over hours, rules and a user.
func (tr *trial) stock(ctx context.Context) error {
	end := time.Now().Truncate(oldStep)
	tr.stockEnd = end
	for part := 0; part < 8; part++ {
		var lines, samples []item
		for i := part; i < oldLines; i += 8 {
			at := end.Add(-time.Duration(i) * oldSpan / oldLines)
			lines = append(lines, item{"stock", at.UnixNano(), itemData{"stock", stockLine(i)}})
		}
		if err := tr.c.push(ctx, "/monitor/logs", lines); err != nil {
			return err
		}
		for at := end.Add(-oldSpan).Add(time.Duration(part) * oldSpan / 8); at.Before(end.Add(-oldSpan).Add(time.Duration(part+1) * oldSpan / 8)); at = at.Add(oldStep) {
			samples = append(samples, item{"stock", at.UnixMilli(), itemData{"stock_value", at.Unix()}})
		}
		if err := tr.c.push(ctx, "/monitor/metrics", samples); err != nil {
			return err
		}
	}
	user := map[string]any{"name": "stockkeeper", "password": "a long enough password", "role": "auditor"}
	return errors.Join(
		tr.c.change(ctx, &tr.c.Nodes[0], http.MethodPut, "/v1/rules/files/stock", map[string]any{"body": ruleBody("stock")}, nil),
		tr.c.change(ctx, &tr.c.Nodes[0], http.MethodPost, "/v1/users", user, nil),
	)
}

func stockLine(i int) string {
	return fmt.Sprintf("stockline %d is here %s", i, strings.Repeat("word ", 20))
}

// feedSamples sends samples that are older than what the nodes have: they are late, and fill chunks of the head.
func feedSamples(ctx context.Context, tr *trial) error {
	tr.fed++
	name, begin := fmt.Sprintf("late_value_%d", tr.fed), time.Now().Add(-90*time.Minute)
	var samples []item
	for i := range 240 {
		samples = append(samples, item{"stock", begin.Add(time.Duration(i) * time.Second).UnixMilli(), itemData{name, i}})
	}
	if err := tr.c.push(ctx, "/monitor/metrics", samples); err != nil {
		return err
	}
	return pause(ctx, time.Second)
}

// feedLog sends lines that fill a part of a segment of the log.
func feedLog(ctx context.Context, tr *trial) error {
	raw := make([]byte, 12<<10)
	now := time.Now()
	var lines []item
	for i := range 200 {
		_, _ = rand.Read(raw) // never fails
		lines = append(lines, item{"filler", now.UnixNano() + int64(i), itemData{"filler", base64.StdEncoding.EncodeToString(raw)}})
	}
	return tr.c.push(ctx, "/monitor/logs", lines)
}

// push posts a list to a node.
func (c *cluster) push(ctx context.Context, path string, list any) error {
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	return until(ctx, time.Minute, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Nodes[0].URL+path, bytes.NewReader(body))
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
		said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		if err != nil || resp.StatusCode/100 != 2 {
			return fmt.Errorf("%s: %s: %s: %w", path, resp.Status, said, err)
		}
		return nil
	})
}

// reader asks one node again and again what it must know.
type reader struct {
	tr             *trial
	n              *devNode
	cancel         context.CancelFunc
	done           chan struct{}
	right, refused atomic.Int64

	mu  sync.Mutex
	bad []string
}

func (tr *trial) watchNode(ctx context.Context, n *devNode) *reader {
	ctx, cancel := context.WithCancel(ctx)
	r := &reader{tr: tr, n: n, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for ctx.Err() == nil {
			for _, ask := range r.questions() {
				r.count(ctx, ask)
			}
			wait := time.NewTimer(400 * time.Millisecond)
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
			}
		}
	}()
	return r
}

func (r *reader) stop() {
	r.cancel()
	<-r.done
}

func (r *reader) wrong() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bad)
}

// errWrong is of an answer that is given as a whole one and is not.
var errWrong = errors.New("wrong answer")

func (r *reader) count(ctx context.Context, ask func(context.Context) error) {
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch err := ask(limited); {
	case ctx.Err() != nil:
	case errors.Is(err, errWrong):
		r.mu.Lock()
		r.bad = append(r.bad, err.Error())
		r.mu.Unlock()
	case err != nil:
		r.refused.Add(1)
	default:
		r.right.Add(1)
	}
}

// questions are what a reader asks; each fails with errWrong when the answer is none that the node may give.
func (r *reader) questions() []func(context.Context) error {
	return []func(context.Context) error{r.lines, r.samples, r.words, r.rules, r.users}
}

// span is the time that the stock covers.
func (r *reader) span() (from, to time.Time) {
	return r.tr.stockEnd.Add(-oldSpan - time.Second), r.tr.stockEnd.Add(time.Second)
}

func (r *reader) lines(ctx context.Context) error { return r.search(ctx, "stockline", oldLines) }

func (r *reader) words(ctx context.Context) error { return r.search(ctx, `"stockline 17 is"`, 1) }

func (r *reader) search(ctx context.Context, query string, want int) error {
	from, to := r.span()
	var page struct {
		Rows []struct {
			Text string `json:"text"`
		} `json:"rows"`
		Stats struct {
			Partial bool `json:"partial"`
		} `json:"stats"`
	}
	q := url.Values{
		"query": {query}, "limit": {"5000"}, "start": {strconv.FormatInt(from.UnixMilli(), 10)}, "end": {strconv.FormatInt(to.UnixMilli(), 10)},
	}
	if err := r.tr.c.get(ctx, r.n, "/v1/logs/query", q, &page); err != nil {
		return err
	}
	if page.Stats.Partial {
		return errors.New("partial")
	}
	seen := make(map[string]bool)
	for _, row := range page.Rows {
		if seen[row.Text] || !strings.HasPrefix(row.Text, "stockline ") || !strings.HasSuffix(row.Text, strings.Repeat("word ", 20)) {
			return fmt.Errorf("%w: line %q", errWrong, row.Text)
		}
		seen[row.Text] = true
	}
	if len(page.Rows) != want {
		return fmt.Errorf("%w: %d lines of %d for %s", errWrong, len(page.Rows), want, query)
	}
	return nil
}

func (r *reader) samples(ctx context.Context) error {
	var answer struct {
		Data struct {
			Result []struct {
				Values [][2]json.RawMessage `json:"values"`
			} `json:"result"`
		} `json:"data"`
		Warnings []string `json:"warnings"`
	}
	_, to := r.span()
	q := url.Values{"query": {fmt.Sprintf(`stock_value{agent_id="stock"}[%ds]`, int(oldSpan.Seconds())+60)}, "time": {strconv.FormatInt(to.Unix(), 10)}}
	if err := r.tr.c.get(ctx, r.n, "/api/v1/query", q, &answer); err != nil {
		return err
	}
	if len(answer.Warnings) > 0 {
		return errors.New("partial")
	}
	want := int(oldSpan / oldStep)
	if len(answer.Data.Result) != 1 || len(answer.Data.Result[0].Values) != want {
		got := 0
		if len(answer.Data.Result) > 0 {
			got = len(answer.Data.Result[0].Values)
		}
		return fmt.Errorf("%w: %d series, %d samples of %d", errWrong, len(answer.Data.Result), got, want)
	}
	for _, v := range answer.Data.Result[0].Values {
		at, err := strconv.ParseFloat(string(v[0]), 64)
		value, verr := strconv.ParseFloat(strings.Trim(string(v[1]), `"`), 64)
		if err != nil || verr != nil || at != value {
			return fmt.Errorf("%w: sample %s at %s", errWrong, v[1], v[0])
		}
	}
	return nil
}

func (r *reader) rules(ctx context.Context) error {
	var got struct{ Body string }
	err := r.tr.c.get(ctx, r.n, "/v1/rules/files/stock", nil, &got)
	if a, ok := errors.AsType[*answerError](err); ok && a.status == http.StatusNotFound {
		return fmt.Errorf("%w: no rules: %w", errWrong, err)
	}
	if err == nil && got.Body != ruleBody("stock") {
		return fmt.Errorf("%w: rules %q", errWrong, got.Body)
	}
	return err
}

func (r *reader) users(ctx context.Context) error {
	var list struct{ Users []struct{ Name, Role string } }
	if err := r.tr.c.get(ctx, r.n, "/v1/users", nil, &list); err != nil {
		return err
	}
	for _, u := range list.Users {
		if u.Name == "stockkeeper" && u.Role == "auditor" {
			return nil
		}
	}
	return fmt.Errorf("%w: users %v", errWrong, list.Users)
}
