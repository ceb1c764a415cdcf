package testcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/appliance"
)

type queueItem struct {
	Index uint64 `json:"index"`
	Item  uint64 `json:"item"`
	Type  string `json:"type"`
	LogMs int64  `json:"log_time_ms"`
	Data  struct {
		Name  string `json:"name"`
		Value any    `json:"value"`
	} `json:"data"`
	Unverified bool `json:"unverified"`
}

type queueConsumer struct {
	Token    uint64 `json:"token"`
	Position string `json:"position"`
	Lag      []struct {
		Topic   string  `json:"topic"`
		Entries uint64  `json:"entries"`
		Seconds float64 `json:"seconds"`
	} `json:"lag"`
	Gap uint64 `json:"gap_entries"`
}

// consume reads as a consumer, in small pages, from whichever node answers, and dies now and then between reading and
// committing, until it has seen the line last. It returns what it read, and how often something came again.
func consume(t *testing.T, c *Cluster, name, last string) (items []queueItem, again int) {
	t.Helper()
	type place struct{ index, item uint64 }
	seen := make(map[place]string)
	turn := 0
	node := func() *Node {
		turn++
		return c.Nodes[turn%len(c.Nodes)]
	}
	deadline := time.Now().Add(3 * Patience)
	var failed error
	done := false // the last line was seen
	var token uint64
	next := ""
	path := "/v1/queue/consumers/" + name
	r := rand.New(rand.NewPCG(1, 2))
	for time.Now().Before(deadline) {
		if token == 0 { // as a process that has just begun
			var opened queueConsumer
			if err := c.Post(node(), path+"/open", map[string]any{"owner": fmt.Sprint("reader ", turn), "force": true}, &opened); err != nil {
				failed = err
				continue
			}
			token, next = opened.Token, opened.Position
		}
		var page struct {
			Items []queueItem `json:"items"`
			Next  string      `json:"next"`
		}
		q := url.Values{"from": {next}, "token": {strconv.FormatUint(token, 10)}, "max": {strconv.Itoa(1 + r.IntN(70))}, "wait": {"500ms"}}
		if err := c.Get(node(), path+"/read?"+q.Encode(), &page); err != nil {
			failed = err
			if strings.Contains(err.Error(), "409") { // this node does not know the token yet, or not any more
				token = 0
			}
			continue
		}
		for _, it := range page.Items {
			if it.Unverified {
				t.Errorf("nothing is known of %d.%d", it.Index, it.Item)
			}
			at, text := place{it.Index, it.Item}, fmt.Sprint(it.Type, it.Data.Name, it.Data.Value)
			if was, ok := seen[at]; ok {
				if again++; was != text {
					t.Errorf("%d.%d was %q and is %q", it.Index, it.Item, was, text)
				}
				continue
			}
			seen[at] = text
			items = append(items, it)
			done = done || it.Data.Value == last
		}
		next = page.Next
		if !done && r.IntN(12) == 0 { // it dies here
			token = 0
			continue
		}
		if err := c.Post(node(), path+"/commit", map[string]any{"token": token, "position": next}, nil); err != nil {
			failed = err
			token = 0 // the outcome is not known: as a new process would, ask where the cursor stands
		}
		if done {
			return items, again
		}
	}
	t.Errorf("the consumer has not seen %q; it has read %d messages; the newest error is %v", last, len(items), failed)
	return items, again
}

// A consumer is given exactly what was acknowledged, in order, though every batch was sent twice and the leader is taken
// away again and again, and though the consumer itself dies between reading and committing.
func TestConsumerReadsExactlyWhatWasStored(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	must(t, c.Post(c.Nodes[0], "/v1/queue/consumers", map[string]any{"name": "mirror", "topics": []string{"metrics", "logs"}, "from": "beginning"}, nil))
	a := c.NewAgent(t, "web1", map[string]string{"__name__": "m"})
	const rounds = 120
	var wg sync.WaitGroup
	var items []queueItem
	again := 0
	wg.Go(func() { items, again = consume(t, c, "mirror", fmt.Sprintf("line %d.4", rounds-1)) })
	base := time.Now().Add(-time.Hour).UnixMilli()
	var gone *Node
	for k := range rounds {
		switch k % 30 {
		case 10:
			gone = c.Leader(t)
			gone.Stop(t)
		case 20:
			gone.Start(t)
		}
		var texts []string
		for i := range 5 {
			texts = append(texts, fmt.Sprintf("line %d.%d", k, i))
		}
		at := base + int64(k)*1000
		batches := []wire.Batch{a.Lines(at*1e6, texts...), a.Metrics(wire.Scrape{T: at, IDs: a.Series, Values: []float64{float64(k)}})}
		for range 2 {
			Until(t, "batches", func() error {
				results, err := a.Send(c.Nodes[rand.IntN(3)], batches...)
				if err != nil {
					return err
				}
				for _, r := range results {
					if r.Status != "ok" && r.Status != "duplicate" {
						return fmt.Errorf("%+v", r)
					}
				}
				return nil
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	line, value := 0, 0
	var last queueItem
	for _, it := range items {
		if it.Index < last.Index || it.Index == last.Index && it.Item <= last.Item {
			t.Fatalf("%d.%d comes behind %d.%d", it.Index, it.Item, last.Index, last.Item)
		}
		last = it
		switch it.Type {
		case "log":
			if want := fmt.Sprintf("line %d.%d", line/5, line%5); it.Data.Value != want {
				t.Fatalf("message %d.%d is %v, want %q", it.Index, it.Item, it.Data.Value, want)
			}
			line++
		case "metric":
			if it.Data.Name != "m" || it.Data.Value != float64(value) {
				t.Fatalf("message %d.%d is %+v, want %d", it.Index, it.Item, it.Data, value)
			}
			value++
		}
	}
	// The last sample may stand behind the last line.
	if line != 5*rounds || value < rounds-1 {
		t.Errorf("%d lines and %d samples, want %d and %d", line, value, 5*rounds, rounds)
	}
	if again == 0 {
		t.Error("nothing came again: the consumer never died with something in hand")
	}
	t.Logf("%d messages, %d of them again", len(items)+again, again)
}

func TestConsumerIsFencedAndReplayed(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	n := c.Nodes[0]
	a := c.NewAgent(t, "web1")
	var middle time.Time
	for k := range 10 {
		if k == 5 {
			time.Sleep(20 * time.Millisecond) // stamps are milliseconds: the second half is later
			middle = time.Now()
		}
		_, err := a.Send(n, a.Lines(time.Now().UnixNano(), fmt.Sprint("line ", k)))
		must(t, err)
	}
	const path = "/v1/queue/consumers/mirror"
	must(t, c.Post(n, "/v1/queue/consumers", map[string]any{"name": "mirror", "topics": []string{"monitor.logs"}, "from": "beginning"}, nil))
	var first, second, third queueConsumer
	must(t, c.Post(n, path+"/open", map[string]any{"owner": "one"}, &first))
	refused := func(what, code string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("a second reader", `"code":"held"`, c.Post(n, path+"/open", map[string]any{"owner": "two"}, &second))
	must(t, c.Post(n, path+"/open", map[string]any{"owner": "two", "force": true}, &second))
	read := func(q string) (texts []string, next string) {
		t.Helper()
		var page struct {
			Items []queueItem `json:"items"`
			Next  string      `json:"next"`
		}
		must(t, c.Get(n, path+"/read?"+q, &page))
		for _, it := range page.Items {
			texts = append(texts, fmt.Sprint(it.Data.Value))
		}
		return texts, page.Next
	}
	texts, next := read("max=3")
	if got := strings.Join(texts, ","); got != "line 0,line 1,line 2" {
		t.Errorf("the first three are %s", got)
	}
	refused("a commit of the first reader", `"code":"fenced"`, c.Post(n, path+"/commit", map[string]any{"token": first.Token, "position": next}, nil))
	refused("a read of the first reader", `"code":"fenced"`, c.Get(n, fmt.Sprintf("%s/read?token=%d", path, first.Token), nil))
	must(t, c.Post(n, path+"/commit", map[string]any{"token": second.Token, "position": next}, &third))
	if third.Position != next || third.Lag[0].Entries == 0 {
		t.Errorf("after the commit of %s: %+v", next, third)
	}
	must(t, c.Post(n, path+"/commit", map[string]any{"token": second.Token, "position": "1.0"}, &third)) // an old one, repeated
	if third.Position != next {
		t.Errorf("an old commit moved the cursor to %s", third.Position)
	}
	refused("a position of the future", "400", c.Post(n, path+"/commit", map[string]any{"token": second.Token, "position": "99999999.0"}, nil))
	must(t, c.Post(n, path+"/replay", map[string]any{"from": middle.UTC().Format(time.RFC3339Nano)}, &third))
	refused("a commit of who was replayed", `"code":"fenced"`, c.Post(n, path+"/commit", map[string]any{"token": second.Token, "position": next}, nil))
	texts, next = read("")
	if got := strings.Join(texts, ","); got != "line 5,line 6,line 7,line 8,line 9" {
		t.Errorf("from the middle on there are %s", got)
	}
	must(t, c.Post(n, path+"/open", map[string]any{"owner": "two"}, &second))
	must(t, c.Post(n, path+"/commit", map[string]any{"token": second.Token, "position": next, "release": true}, &third))
	for _, l := range third.Lag {
		if l.Entries != 0 || l.Seconds != 0 {
			t.Errorf("who has read all is behind: %+v", l)
		}
	}
	// What waits is woken by what comes.
	woken := make(chan string, 1)
	go func() {
		texts, _ := read("wait=30s")
		woken <- strings.Join(texts, ",")
	}()
	_, err := a.Send(n, a.Lines(time.Now().UnixNano(), "late"))
	must(t, err)
	if got := <-woken; got != "late" {
		t.Errorf("woken with %q", got)
	}
}

// Nothing that is secret comes out of the queue, though all of the metadata goes through it.
func TestQueueShowsNothingOfTheMetadataButAlerts(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	n := c.Nodes[0]
	must(t, c.Post(n, "/v1/users", map[string]string{"name": "wolfhild-of-nowhere", "password": "correct horse of wolfhild", "role": "viewer"}, nil))
	resp, err := c.do(http.MethodGet, n.URL()+"/v1/queue/peek?from=beginning&limit=1000", nil, nil)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	for _, secret := range []string{"argon2", "passhash", "wolfhild", Password} {
		if strings.Contains(string(body), secret) {
			t.Errorf("peek shows %q: %.2000s", secret, body)
		}
	}
	if !json.Valid(body) {
		t.Errorf("no JSON: %.500s", body)
	}
}

// A consumer that retention overtakes is told what it missed, in every way there is, and goes on behind it.
func TestConsumerIsOvertakenByRetention(t *testing.T) {
	t.Parallel()
	c := StartWith(t, 3, func(cfg *appliance.Config) {
		cfg.Queue.Retention.Bytes = 1 << 20
		cfg.SelfMonitoring = true
	})
	n := c.Leader(t)
	must(t, c.Post(n, "/v1/queue/consumers", map[string]any{"name": "slow", "topics": []string{"logs"}, "from": "beginning"}, nil))
	a := c.NewAgent(t, "web1")
	r := rand.New(rand.NewPCG(3, 4))
	text := make([]byte, 100_000)
	Until(t, "a log that was cut", func() error {
		for i := range text {
			text[i] = byte('!' + r.IntN(90))
		}
		if _, err := a.Send(n, a.Lines(time.Now().UnixNano(), string(text))); err != nil {
			return err
		}
		for _, m := range c.Nodes {
			if first := m.App.Node().Status().FirstIndex; first < 20 {
				return fmt.Errorf("%s has the log from %d on", m.Config.NodeID, first)
			}
		}
		return nil
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+"/v1/queue/consumers/slow/read", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := c.HTTP.Do(req)
	must(t, err)
	defer resp.Body.Close()
	var said struct {
		Code string `json:"code"`
		Gap  struct {
			From string `json:"from"`
			To   uint64 `json:"to"`
			Next string `json:"next"`
		} `json:"gap"`
		Again []string `json:"again"`
	}
	must(t, json.NewDecoder(resp.Body).Decode(&said))
	if resp.StatusCode != http.StatusGone || said.Code != "gap" || said.Gap.From != "1.0" || said.Gap.To < 19 || said.Gap.Next != fmt.Sprintf("%d.0", said.Gap.To+1) || len(said.Again) != 1 {
		t.Fatalf("%s %+v", resp.Status, said)
	}
	must(t, c.Get(n, said.Again[0], nil))
	Until(t, "the event of the gap", func() error {
		var page struct{ Events []event }
		if err := c.Get(n, "/v1/events?limit=5000&kind=queue_gap", &page); err != nil {
			return err
		}
		if countEvents(page.Events, "queue_gap", "") != 1 {
			return fmt.Errorf("it is told %d times", len(page.Events))
		}
		return nil
	})
	var opened queueConsumer
	Until(t, "a reader", func() error {
		return c.Post(n, "/v1/queue/consumers/slow/open", map[string]any{"owner": "one"}, &opened)
	})
	if opened.Gap == 0 {
		t.Errorf("the gap is not shown: %+v", opened)
	}
	Until(t, "a commit behind the gap", func() error {
		return c.Post(n, "/v1/queue/consumers/slow/commit", map[string]any{"token": opened.Token, "position": said.Gap.Next}, nil)
	})
	Until(t, "messages behind the gap", func() error { // retention may have gone on meanwhile
		var page struct {
			Items []queueItem `json:"items"`
		}
		q := ""
		if err := c.Get(n, "/v1/queue/consumers/slow/read"+q, &page); err != nil {
			return errors.Join(err, c.Post(n, "/v1/queue/consumers/slow/replay", map[string]any{"from": "beginning"}, nil))
		}
		if len(page.Items) == 0 {
			return fmt.Errorf("there are none")
		}
		return nil
	})
}
