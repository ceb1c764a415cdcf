package systemtest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// violations says what the cluster answers that the ledger does not allow.
type violations struct {
	lost, doubled, foreign, differing int
	forgotten                         int // batches that the cluster asks for again after it acknowledged them
	// broken is what kept the run from being a test at all: a node that does not start, a request that is refused. It
	// says nothing of what the cluster keeps, so it proves no bug and clears none.
	broken   int
	examples []string
}

func (v *violations) add(count *int, format string, args ...any) {
	*count++
	if len(v.examples) < 10 || count == &v.broken {
		v.examples = append(v.examples, fmt.Sprintf(format, args...))
	}
}

// raise makes the counts those of another look at the same data where there they are higher: what is missing on three nodes, or
// twice in a row on one, is missing once.
func (v *violations) raise(o *violations) {
	v.lost, v.doubled, v.foreign = max(v.lost, o.lost), max(v.doubled, o.doubled), max(v.foreign, o.foreign)
	v.differing, v.forgotten, v.broken = max(v.differing, o.differing), max(v.forgotten, o.forgotten), max(v.broken, o.broken)
	v.examples = append(v.examples, o.examples[:min(len(o.examples), max(0, 10-len(v.examples)))]...)
}

// total is what is wrong with what the cluster keeps.
func (v *violations) total() int { return v.lost + v.doubled + v.foreign + v.differing + v.forgotten }

func (v *violations) String() string {
	return fmt.Sprintf("lost %d, doubled %d, never sent %d, nodes differing %d, forgotten %d, broken %d\n%s",
		v.lost, v.doubled, v.foreign, v.differing, v.forgotten, v.broken, strings.Join(v.examples, "\n"))
}

// verify compares every node's answers with the ledger.
func (c *cluster) verify(ctx context.Context, l *ledger, senders []*sender) (*violations, error) {
	v := new(violations)
	return v, c.compare(ctx, l, senders, v)
}

// compare is verify that adds to v.
func (c *cluster) compare(ctx context.Context, l *ledger, senders []*sender, v *violations) error {
	if err := c.settle(ctx, v); err != nil {
		return err
	}
	worst := new(violations) // of one node
	defer func() {
		v.lost, v.doubled, v.foreign = v.lost+worst.lost, v.doubled+worst.doubled, v.foreign+worst.foreign
		v.examples = append(v.examples, worst.examples...)
	}()
	for i := range c.Nodes {
		of := new(violations)
		for _, s := range senders {
			if err := c.verifyLines(ctx, &c.Nodes[i], l, s, of); err != nil {
				return fmt.Errorf("%s: lines of %s: %w", c.Nodes[i].ID, s.name, err)
			}
			if err := c.verifySamples(ctx, &c.Nodes[i], l, s, of); err != nil {
				return fmt.Errorf("%s: samples of %s: %w", c.Nodes[i].ID, s.name, err)
			}
		}
		worst.raise(of)
	}
	return nil
}

type digest struct {
	Node  string `json:"node"`
	Index uint64 `json:"index"`
	Sums  any    `json:"sums"`
}

// settle waits until all nodes report their digest at one index, and compares.
func (c *cluster) settle(ctx context.Context, v *violations) error {
	return until(ctx, 60*time.Second, func(ctx context.Context) error {
		ds := make([]digest, len(c.Nodes))
		for i := range c.Nodes {
			if err := c.get(ctx, &c.Nodes[i], "/v1/digest", nil, &ds[i]); err != nil {
				return fmt.Errorf("%s: %w", c.Nodes[i].ID, err)
			}
		}
		for _, d := range ds[1:] {
			if d.Index != ds[0].Index {
				return fmt.Errorf("digests at different indexes: %d and %d", ds[0].Index, d.Index)
			}
		}
		for _, d := range ds[1:] {
			if !reflect.DeepEqual(d.Sums, ds[0].Sums) {
				v.add(&v.differing, "digests of %s and %s differ at index %d: %v and %v", ds[0].Node, d.Node, d.Index, ds[0].Sums, d.Sums)
			}
		}
		return nil
	})
}

func (c *cluster) verifyLines(ctx context.Context, n *devNode, l *ledger, s *sender, v *violations) error {
	seen := make(map[string]int)
	q := url.Values{
		"query": {`ledgerline host:` + s.name}, "limit": {"5000"},
		"start": {strconv.FormatInt(s.base-1000, 10)}, "end": {strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10)},
	}
	for {
		var page struct {
			Rows []struct {
				Text string `json:"text"`
			} `json:"rows"`
			Next  string `json:"next"`
			Stats struct {
				Partial bool   `json:"partial"`
				Node    string `json:"node"`
			} `json:"stats"`
		}
		if err := c.get(ctx, n, "/v1/logs/query", q, &page); err != nil {
			return err
		}
		if page.Stats.Partial || page.Stats.Node != "" {
			return fmt.Errorf("the answer is partial")
		}
		for _, r := range page.Rows {
			seen[r.Text]++
		}
		if page.Next == "" {
			break
		}
		q.Set("cursor", page.Next)
	}
	a := l.of(s.name)
	for seq := uint64(1); seq <= a.sent; seq++ {
		for i := range s.linesOfBatch() {
			text := ledgerLine(s.name, seq, i)
			switch k := seen[text]; {
			case k == 0 && seq <= a.acked:
				v.add(&v.lost, "%s lost acknowledged line %q", n.ID, text)
			case k > 1:
				v.add(&v.doubled, "%s has line %q %d times", n.ID, text, k)
			}
			delete(seen, text)
		}
	}
	for text := range seen {
		v.add(&v.foreign, "%s has a line that was never sent: %q", n.ID, text)
	}
	return nil
}

func (c *cluster) verifySamples(ctx context.Context, n *devNode, l *ledger, s *sender, v *violations) error {
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string    `json:"metric"`
				Values [][2]json.RawMessage `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	a := l.of(s.name)
	last := s.base + int64(a.sent)*stepMs
	q := url.Values{
		"query": {fmt.Sprintf(`ledger_seq{sender=%q}[%dms]`, s.name, last-s.base+1000)},
		"time":  {fmt.Sprintf("%d.%03d", last/1000, last%1000)},
	}
	if err := c.get(ctx, n, "/api/v1/query", q, &answer); err != nil {
		return err
	}
	if got := len(answer.Data.Result); got != seriesPerSender && a.acked > 0 {
		v.add(&v.lost, "%s has %d series of %s, want %d", n.ID, got, s.name, seriesPerSender)
	}
	for _, series := range answer.Data.Result {
		values := make(map[int64]string, len(series.Values))
		for _, p := range series.Values {
			sec, err := strconv.ParseFloat(string(p[0]), 64)
			if err != nil {
				return fmt.Errorf("time stamp %s: %w", p[0], err)
			}
			t := int64(sec*1000 + 0.5)
			if _, double := values[t]; double {
				v.add(&v.doubled, "%s has two samples of %v at %d", n.ID, series.Metric, t)
			}
			values[t] = strings.Trim(string(p[1]), `"`)
		}
		for seq := uint64(1); seq <= a.sent; seq++ {
			t := s.base + int64(seq)*stepMs
			got, ok := values[t]
			switch {
			case !ok && seq <= a.acked:
				v.add(&v.lost, "%s lost acknowledged sample %d of %v", n.ID, seq, series.Metric)
			case ok && got != strconv.FormatUint(seq, 10):
				v.add(&v.foreign, "%s has %s for sample %d of %v", n.ID, got, seq, series.Metric)
			}
			delete(values, t)
		}
		for t := range values {
			v.add(&v.foreign, "%s has a sample at %d of %v that was never sent", n.ID, t, series.Metric)
		}
	}
	return nil
}
