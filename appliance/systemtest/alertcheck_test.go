package systemtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// happened is a record of the history.
type happened struct {
	T        int64             `json:"t"`
	What     string            `json:"what"`
	Alert    string            `json:"alert"`
	Labels   map[string]string `json:"labels"`
	Receiver string            `json:"receiver"`
	Key      string            `json:"dedup_key"`
	Node     string            `json:"node"`
	Attempt  int               `json:"attempt"`
	Detail   string            `json:"detail"`
}

// history reads all that happened, oldest first.
func (w *watch) history() []happened {
	w.t.Helper()
	var all []happened
	for cursor := ""; ; {
		var page struct {
			Records []happened `json:"records"`
			Next    string     `json:"next"`
		}
		err := until(w.t.Context(), 30*time.Second, func(ctx context.Context) error {
			return w.c.get(ctx, &w.c.Nodes[0], "/v1/alerts/history", url.Values{"limit": {"1000"}, "cursor": {cursor}}, &page)
		})
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, page.Records...)
		if cursor = page.Next; cursor == "" {
			slices.Reverse(all)
			return all
		}
	}
}

// settled returns when nothing fires and each message that came has its result in the history.
func (w *watch) settled() {
	w.t.Helper()
	err := until(w.t.Context(), time.Minute, func(ctx context.Context) error {
		var now struct {
			Counts map[string]int `json:"counts"`
			Alerts []struct {
				State  string            `json:"state"`
				Labels map[string]string `json:"labels"`
			} `json:"alerts"`
		}
		if err := w.c.get(ctx, &w.c.Nodes[0], "/v1/alerts", nil, &now); err != nil {
			return err
		}
		for _, state := range []string{"firing", "acknowledged", "pending"} {
			if now.Counts[state] > 0 {
				var open []string
				for _, a := range now.Alerts {
					open = append(open, fmt.Sprintf("%s %v", a.State, a.Labels))
				}
				return fmt.Errorf("%d alerts are %s: %s", now.Counts[state], state, strings.Join(open, "; "))
			}
		}
		sent := make(map[string]bool)
		for _, h := range w.history() {
			if h.What == "sent" {
				sent[h.Key] = true
			}
		}
		list, _ := w.sink.messages()
		mails := 0
		for i := range list {
			if !sent[list[i].key] {
				return fmt.Errorf("the result of %s to %s is not in the history", list[i].key, list[i].way)
			}
			if list[i].way == "mail" {
				mails++
			}
		}
		if mails == 0 {
			return errors.New("no mail came")
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
}

// checkBad looks at how receivers were treated that hang, redirect or must not be reached.
func (w *watch) checkBad() {
	w.t.Helper()
	err := until(w.t.Context(), 30*time.Second, func(context.Context) error {
		why := make(map[string]string)
		for _, h := range w.history() {
			if h.What == "send_failed" {
				why[h.Receiver] = h.Detail
			}
		}
		for receiver, want := range map[string]string{
			"bad/webhook/0": "no answer within", "bad/webhook/1": "redirects are not followed", "bad/webhook/2": "is a port of this cluster",
			"bad/webhook/3": "is a port of this cluster", "bad/webhook/4": "is a link-local",
		} {
			if !strings.Contains(why[receiver], want) {
				return fmt.Errorf("%s: %q, want %q", receiver, why[receiver], want)
			}
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	if w.sink.hung == 0 || w.sink.strayed > 0 {
		w.t.Errorf("%d requests hang, %d followed a redirect", w.sink.hung, w.sink.strayed)
	}
}

// diedBefore reports whether the node was killed, stopped or cut off in the two minutes before a log time.
func (w *watch) diedBefore(node string, t int64) bool {
	return slices.ContainsFunc(w.kills, func(k killed) bool { return k.node == node && k.at <= t+1000 && k.at >= t-120_000 })
}

// check holds what was told against what happened.
func (w *watch) check(subjects []string, kills int) {
	w.t.Helper()
	past := w.history()
	list, _ := w.sink.messages()
	times := make(map[string]int)             // by key
	keys := make(map[string]map[string]bool)  // by way, subject and status
	mails := make(map[string]map[string]bool) // keys by subject
	about := make(map[string]string)
	for i := range list {
		m := &list[i]
		times[m.key]++
		if m.way == "mail" {
			continue
		}
		what := m.way + " " + m.subject() + " " + m.Status
		about[m.key] = what
		if keys[what] == nil {
			keys[what] = make(map[string]bool)
		}
		keys[what][m.key] = true
	}
	fired, ackedAt, escalatedAt := make(map[string]int), make(map[string]int64), make(map[string]int64)
	reasons := make(map[string][]string)
	for _, h := range past {
		subject := h.Labels["alertname"] + " " + h.Labels["round"]
		switch h.What {
		case "fired":
			fired[subject]++
		case "acknowledged":
			ackedAt[subject] = h.T
		case "escalated":
			escalatedAt[subject] = h.T
		case "send_lost", "send_failed":
			if h.What == "send_lost" && !w.diedBefore(h.Node, h.T) {
				w.t.Errorf("%s says that attempt %d of %s was lost, but nothing was done to that node", h.Key, h.Attempt, h.Node)
			}
			reasons[h.Key] = append(reasons[h.Key], fmt.Sprintf("%s: attempt %d by %s to %s at %d (%s)", h.What, h.Attempt, h.Node, h.Receiver, h.T, h.Detail))
		case "undelivered":
			if !strings.HasPrefix(h.Receiver, "bad/") {
				w.t.Errorf("a message to %s was given up: %s", h.Receiver, h.Detail)
			}
		case "sent":
			if times[h.Key] == 0 {
				w.t.Errorf("the history says that %s was sent to %s; it did not come", h.Key, h.Receiver)
			}
			if h.Receiver == "ops/email/0" {
				if mails[subject] == nil {
					mails[subject] = make(map[string]bool)
				}
				mails[subject][h.Key] = true
			}
		}
	}
	for _, s := range subjects {
		if fired[s] != 1 {
			w.t.Errorf("%s fired %d times", s, fired[s])
		}
		told := func(way, status string, want int) {
			if n := len(keys[way+" "+s+" "+status]); n != want {
				w.t.Errorf("%s: %d messages to %s that it is %s, want %d", s, n, way, status, want)
			}
		}
		told("ops", "firing", 1)
		told("ops", "resolved", 1)
		if n := len(mails[s]); n != 2 {
			w.t.Errorf("%s: %d mails, want 2", s, n)
		}
		escalated := 1
		if _, round, _ := strings.Cut(s, " "); acked(round) {
			escalated = 0
			if ackedAt[s] == 0 {
				w.t.Errorf("%s was not acknowledged", s)
			}
		}
		if at := escalatedAt[s]; escalated == 0 && at != 0 {
			escalated = 1 // it was told so late that nobody could acknowledge it in time
			if at >= ackedAt[s] {
				w.t.Errorf("%s was escalated after it was acknowledged", s)
			}
		}
		told("boss", "firing", escalated)
		told("boss", "resolved", escalated)
	}
	w.doubled, w.messages = 0, len(list)
	for _, key := range slices.Sorted(maps.Keys(times)) {
		if times[key] == 1 {
			continue
		}
		w.doubled += times[key] - 1
		if len(reasons[key]) < times[key]-1 { // D13
			w.t.Errorf("%s (%s) came %d times; the history gives no reason: %q", key, about[key], times[key], reasons[key])
		}
		w.t.Logf("%s (%s) came %d times: %s", key, about[key], times[key], strings.Join(reasons[key], "; "))
	}
	w.t.Logf("%d faults, %d alerts, %d messages under %d keys: %d doubled, each explained",
		kills, len(subjects), len(list), len(times), w.doubled)
}

// checkRecorded looks at what the recording rule gave under all the leaders: the same samples on every node, each for a
// multiple of the interval.
func (w *watch) checkRecorded() {
	w.t.Helper()
	type answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string    `json:"metric"`
				Values [][2]json.RawMessage `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	at := time.Now().Add(-5 * time.Second).Unix()
	query := url.Values{"query": {`{__name__="round:disk_free:ratio"}[1h]`}, "time": {strconv.FormatInt(at, 10)}, "consistency": {"linearizable"}}
	seen := ""
	for i := range w.c.Nodes {
		var got answer
		err := until(w.t.Context(), 30*time.Second, func(ctx context.Context) error {
			got = answer{}
			return w.c.get(ctx, &w.c.Nodes[i], "/api/v1/query", query, &got)
		})
		if err != nil {
			w.t.Fatal(err)
		}
		samples := 0
		var text strings.Builder
		for _, r := range got.Data.Result {
			fmt.Fprintln(&text, r.Metric)
			for _, v := range r.Values {
				samples++
				fmt.Fprintf(&text, "%s %s\n", v[0], v[1])
				if t, err := strconv.ParseFloat(string(v[0]), 64); err != nil || int64(t*1000)%5000 != 0 {
					w.t.Errorf("a sample is recorded for %s", v[0])
				}
			}
		}
		if samples < 10 {
			w.t.Errorf("%s has %d recorded samples", w.c.Nodes[i].ID, samples)
		}
		if seen == "" {
			seen = text.String()
			w.t.Logf("%d samples of %d series were recorded", samples, len(got.Data.Result))
		} else if seen != text.String() {
			w.t.Errorf("%s has other recorded samples:\n%s\nand\n%s", w.c.Nodes[i].ID, text.String(), seen)
		}
	}
}
