package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAlerts tells of a full disk, a pattern of lines, an event and a silent agent while the leader is killed over and
// over: everything is told once, and its end, and to the second receiver what nobody acknowledged. A message comes twice
// only under its key, and the history says why.
func TestAlerts(t *testing.T) {
	t.Parallel()
	kills := 6
	if text := os.Getenv("TRIWARD_ALERT_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	bin := binaries(t, "")
	dir := t.TempDir()
	ready, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := start(ready, bin, dir, "--agent=false", "--plain-http", "--http-port", "0", "--loopback-receivers")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	w := &watch{t: t, c: c, sink: newSink(t), disks: make(map[string]bool), ended: make(map[string]bool)}
	defer func() {
		if t.Failed() {
			t.Logf("nodes said last:\n%s", c.tail())
		}
	}()
	w.configure()

	file := filepath.Join(dir, "reactor.log")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	agent, err := newHostAgent(ready, c, dir, file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.kill() }()
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { w.pushDisks(ctx) })
	work.Go(func() { w.respond(ctx) })
	defer work.Wait()
	defer stop()

	// What is written to a file is told, although other receivers of it hang, send elsewhere or must not be reached.
	if err := agent.delivered(ctx, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("tailmarker 1\ntailmarker 2\ntailmarker 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.wait(time.Minute, "ops", "FilePattern ", "firing")
	w.wait(time.Minute, "boss", "FilePattern ", "firing")
	w.checkBad()
	if err := agent.kill(); err != nil {
		t.Fatal(err)
	}
	for i := range kills {
		w.round(ctx, i, w.killLeader)
	}
	w.wait(2*time.Minute, "ops", "Silent ", "firing")
	w.wait(2*time.Minute, "boss", "Silent ", "firing")
	if err := agent.start(); err != nil {
		t.Fatal(err)
	}
	subjects := []string{"FilePattern ", "Silent "}
	for i := range kills {
		for _, name := range []string{"Disk", "Pattern", "Door"} {
			subjects = append(subjects, name+" "+roundName(i))
		}
	}
	for _, s := range subjects {
		w.wait(3*time.Minute, "ops", s, "resolved")
	}
	w.settled()
	w.check(subjects, kills)
	w.checkRecorded()
}

const alertRules = `
groups:
  - name: disk
    interval: 1s
    rules:
      - alert: Disk
        expr: node_filesystem_avail_bytes{round!=""} / node_filesystem_size_bytes{round!=""} < 0.1
        for: 1s
        labels: {severity: critical}
  - name: recorded
    interval: 5s
    rules:
      - record: round:disk_free:ratio
        expr: node_filesystem_avail_bytes{round!=""} / node_filesystem_size_bytes{round!=""}
triward:
  - name: rest
    interval: 1s
    rules:
      - {alert: Pattern, logs: {query: meltdown, window: 40s, above: 2, by: round}}
      - {alert: FilePattern, logs: {query: tailmarker, window: 40s, above: 2, by: host}}
      - {alert: Door, event: {query: forced, by: round, hold: 40s}}
      - {alert: Silent, silent_agent: {after: 30s}}
`

const alertRoutes = `
route:
  receiver: ops
  group_by: [alertname, round]
  group_wait: 0s
  group_interval: 1s
  routes:
    - {matchers: ['alertname="FilePattern"'], receiver: bad, continue: true}
    - {matchers: ['alertname=~".+"'], receiver: ops, escalate: {after: 15s, receiver: boss}}
receivers:
  - name: ops
    webhook_configs: [{url: "%[1]s/ops"}]
    email_configs: [{to: ops@site.example, from: triward@site.example, smarthost: "%[2]s", require_tls: false}]
  - name: boss
    webhook_configs: [{url: "%[1]s/boss"}]
  - name: bad
    webhook_configs: [{url: "%[1]s/hang"}, {url: "%[1]s/away"}, {url: "%[3]s/v1/alerts"}, {url: "%[4]s/"}, {url: "http://169.254.169.254/"}]
`

// watch is one run: the cluster, what is wrong in the world, and who is told of it.
type watch struct {
	t    *testing.T
	c    *cluster
	sink *sink
	tr   *trial // of the bench, when it is a row of that

	sending bool // faults come only where a message is on its way, or may be

	kills []killed

	messages, doubled int // as check found them

	mu    sync.Mutex
	disks map[string]bool // rounds whose disk is full
	ended map[string]bool // subjects that were acknowledged or have escalated, so that their cause may go
}

// killed is a node that was killed, stopped or cut off, and when, in ms since 1970.
type killed struct {
	node string
	at   int64
}

func roundName(i int) string { return fmt.Sprintf("r%02d", i) }

// acked reports whether somebody acknowledges the alerts of a round.
func acked(round string) bool { return len(round) >= 3 && (round[len(round)-1]-'0')%2 == 1 }

func (w *watch) configure() {
	w.t.Helper()
	w.put("/v1/routes", map[string]any{"body": fmt.Sprintf(alertRoutes, w.sink.url, w.sink.relay, w.c.Nodes[0].URL, w.c.Nodes[1].AgentURL)})
	w.put("/v1/rules/files/own", map[string]any{"body": alertRules})
	for _, shipped := range []string{"events", "hosts", "triward"} { // what else may be wrong with this machine is no part of this
		w.put("/v1/rules/files/"+shipped, map[string]any{"enabled": false})
	}
}

func (w *watch) put(path string, body any) {
	w.t.Helper()
	if err := w.send(w.t.Context(), http.MethodPut, path, body); err != nil {
		w.t.Fatalf("PUT %s: %v", path, err)
	}
}

// send asks one node after the other until one does it. What is refused as such is not repeated.
func (w *watch) send(ctx context.Context, method, path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	at := 0
	var refused error
	err = until(ctx, time.Minute, func(ctx context.Context) error {
		n := &w.c.Nodes[at%len(w.c.Nodes)]
		at++
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		r, err := http.NewRequestWithContext(ctx, method, n.URL+path, bytes.NewReader(text))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+w.c.Token)
		resp, err := w.c.client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		switch {
		case resp.StatusCode/100 == 2:
			return nil
		case resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests:
			refused = &answerError{resp.StatusCode, string(said)}
			return nil
		}
		return &answerError{resp.StatusCode, string(said)}
	})
	return errors.Join(err, refused)
}

// pushDisks tells twice a second how full the disk of each round is.
func (w *watch) pushDisks(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var list []any
		now := time.Now().UnixMilli()
		w.mu.Lock()
		for round, full := range w.disks {
			free := 50
			if full {
				free = 5
			}
			tags := map[string]string{"round": round, "mountpoint": "/srv"}
			list = append(list,
				map[string]any{"agent_id": "store1", "timestamp": now, "data": map[string]any{"name": "node_filesystem_avail_bytes", "value": free, "tags": tags}},
				map[string]any{"agent_id": "store1", "timestamp": now, "data": map[string]any{"name": "node_filesystem_size_bytes", "value": 100, "tags": tags}})
		}
		w.mu.Unlock()
		if len(list) == 0 {
			continue
		}
		if err := w.send(ctx, http.MethodPost, "/monitor/metrics", list); err != nil && ctx.Err() == nil {
			w.t.Errorf("metrics are not taken: %v", err)
			return
		}
	}
}

// begin makes everything of a round go wrong.
func (w *watch) begin(ctx context.Context, round string) {
	w.t.Helper()
	w.mu.Lock()
	w.disks[round] = true
	w.mu.Unlock()
	now := time.Now().UnixNano()
	var lines [][2]string
	for i := range int64(3) {
		lines = append(lines, [2]string{strconv.FormatInt(now+i, 10), fmt.Sprintf("reactor meltdown, part %d", i)})
	}
	push := map[string]any{"streams": []any{map[string]any{"stream": map[string]string{"job": "rounds", "round": round}, "values": lines}}}
	if err := w.send(ctx, http.MethodPost, "/loki/api/v1/push", push); err != nil {
		w.t.Fatalf("lines are not taken: %v", err)
	}
	event := []any{map[string]any{
		"agent_id": "door7", "timestamp": now, "data": map[string]any{"name": "door", "value": "forced open", "tags": map[string]string{"round": round}},
	}}
	if err := w.send(ctx, http.MethodPost, "/monitor/events", event); err != nil {
		w.t.Fatalf("events are not taken: %v", err)
	}
}

// respond is the people: they acknowledge the alerts of every second round as soon as they are told, and a disk is
// cleared once it is acknowledged or the second receiver knows.
func (w *watch) respond(ctx context.Context) {
	for seen := 0; ; {
		list, news := w.sink.messages()
		for ; seen < len(list); seen++ {
			m := &list[seen]
			if m.way == "mail" || m.Status != "firing" || len(m.Alerts) != 1 {
				continue
			}
			name, round, _ := strings.Cut(m.subject(), " ")
			over := m.way == "boss"
			if m.way == "ops" && acked(round) && !w.isEnded(m.subject()) {
				err := w.send(ctx, http.MethodPost, "/v1/alerts/ack", map[string]any{"alerts": []string{m.alertID()}, "comment": "on it"})
				if err != nil && ctx.Err() == nil {
					w.t.Errorf("acknowledge %s: %v", m.subject(), err)
				}
				over = true
			}
			if over {
				w.mu.Lock()
				w.ended[m.subject()] = true
				if name == "Disk" {
					w.disks[round] = false
				}
				w.mu.Unlock()
			}
		}
		select {
		case <-news:
		case <-ctx.Done():
			return
		}
	}
}

func (w *watch) isEnded(subject string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended[subject]
}

// round lets things go wrong and injects a fault somewhere on the way of their messages, another place each time.
func (w *watch) round(ctx context.Context, i int, fault func(context.Context)) {
	w.t.Helper()
	round := roundName(i)
	at, wait := i%4, rand.IntN(3000)
	if w.tr != nil {
		wait = w.tr.rng.IntN(3000)
	}
	if w.sending { // each fault meets a message on its way
		at = 1 + i%2*2
	}
	switch at {
	case 0: // before it is noticed
		w.begin(ctx, round)
		fault(ctx)
	case 1: // the receiver has it, and the sender dies before it hears so
		taken, release := w.sink.hold()
		defer release()
		w.begin(ctx, round)
		select {
		case <-taken:
		case <-time.After(time.Minute):
			w.t.Fatal("no message came")
		}
		fault(ctx)
	case 2: // right after the answer
		w.begin(ctx, round)
		w.wait(time.Minute, "ops", "Disk "+round, "firing")
		fault(ctx)
	case 3: // anywhere
		w.begin(ctx, round)
		select {
		case <-time.After(time.Duration(wait) * time.Millisecond):
		case <-ctx.Done():
		}
		fault(ctx)
	}
}

// faulty notes that a node is killed, stopped or cut off now.
func (w *watch) faulty(n *devNode) {
	w.kills = append(w.kills, killed{n.ID, time.Now().UnixMilli()})
}

func (w *watch) killLeader(ctx context.Context) {
	w.t.Helper()
	n, err := w.c.leader(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	w.faulty(n)
	if err := w.c.kill(n); err != nil {
		w.t.Fatal(err)
	}
	if err := w.c.restart(n); err != nil {
		w.t.Fatal(err)
	}
	if err := w.c.ready(ctx, n); err != nil {
		w.t.Fatal(err)
	}
}

// wait returns when a message of the subject came.
func (w *watch) wait(limit time.Duration, way, subject, status string) {
	w.t.Helper()
	deadline := time.After(limit)
	for {
		list, news := w.sink.messages()
		for i := range list {
			if list[i].way == way && list[i].subject() == subject && list[i].Status == status {
				return
			}
		}
		select {
		case <-news:
		case <-deadline:
			w.t.Fatalf("%s was not told within %s that %sis %s; %d messages came\nalerts: %s\nhistory: %s",
				way, limit, subject, status, len(list), w.show("/v1/alerts"), w.show("/v1/alerts/history?limit=40"))
		}
	}
}

// show is an answer as text, for the eyes.
func (w *watch) show(path string) string {
	var raw json.RawMessage
	p, query, _ := strings.Cut(path, "?")
	q, _ := url.ParseQuery(query)
	if err := w.c.get(w.t.Context(), &w.c.Nodes[0], p, q, &raw); err != nil {
		return err.Error()
	}
	return string(raw)
}
