package systemtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// passNames are the kinds of background work of the log store.
var passNames = []string{"seal", "merge", "index"}

// searchRows are faults in the middle of the work that makes lines searchable.
func searchRows() []faultRow {
	return []faultRow{{
		name: "kill-index", fault: "kill -9 or power loss inside a sealing, a merging or an indexing of blocks; a wiped node", needs: []need{needLoop},
		weight: 120 * time.Second, short: true, goal: powerGoal, run: func(ctx context.Context, tr *trial) error { return tr.cutPasses(ctx) },
	}}
}

// passWatch follows what a node says of its background work and hands the rest on, but for what is for finding bugs only.
type passWatch struct {
	mu      sync.Mutex
	to      io.Writer
	line    []byte // the beginning of one
	began   map[string]time.Time
	ended   map[string]time.Time // of the pass that began last, or before
	took    map[string]time.Duration
	waiting map[string]chan struct{} // closed when one begins
}

func newPassWatch(to io.Writer) *passWatch {
	return &passWatch{to: to, began: map[string]time.Time{}, ended: map[string]time.Time{}, took: map[string]time.Duration{}, waiting: map[string]chan struct{}{}}
}

var passLine = regexp.MustCompile(`^time=(\S+) level=DEBUG msg="log store: pass (begins|is done|has failed)".* pass=(\w+)`)

// Write implements io.Writer.
func (w *passWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for line := range bytes.Lines(p) {
		w.line = append(w.line, line...)
		if line[len(line)-1] != '\n' {
			break
		}
		if err := w.take(w.line); err != nil {
			return 0, err
		}
		w.line = w.line[:0]
	}
	return len(p), nil
}

func (w *passWatch) take(line []byte) error {
	m := passLine.FindSubmatch(line)
	if m == nil {
		if bytes.Contains(line, []byte(" level=DEBUG ")) {
			return nil
		}
		_, err := w.to.Write(line)
		return err
	}
	at, err := time.Parse(time.RFC3339Nano, string(m[1]))
	if err != nil {
		return fmt.Errorf("time of %q: %w", line, err)
	}
	kind := string(m[3])
	if string(m[2]) != "begins" {
		w.ended[kind], w.took[kind] = at, at.Sub(w.began[kind])
		return nil
	}
	w.began[kind] = at
	delete(w.ended, kind)
	if ch := w.waiting[kind]; ch != nil {
		close(ch)
		delete(w.waiting, kind)
	}
	return nil
}

// next returns when a pass of the kind begins, with how long the one before took.
func (w *passWatch) next(ctx context.Context, kind string) (time.Duration, error) {
	w.mu.Lock()
	ch := w.waiting[kind]
	if ch == nil {
		ch = make(chan struct{})
		w.waiting[kind] = ch
	}
	took := w.took[kind]
	w.mu.Unlock()
	select {
	case <-ch:
		return took, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// inside reports whether a pass of the kind had begun and not ended at that time. It is asked once the process is gone and all
// that it said is read.
func (w *passWatch) inside(kind string, at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	began, ok := w.began[kind]
	ended, over := w.ended[kind]
	return ok && !began.After(at) && (!over || ended.After(at))
}

// cuts is the row kind-index as it goes.
type cuts struct {
	*trial
	disks   []*loopDisk
	watches []*passWatch
	old     *sender // of lines of the day before, whose blocks are indexed as soon as they are sealed
	tries   map[string]int
	hits    map[string]int
	unbuilt int // questions to a node while blocks were not in its index
}

// cutPasses cuts nodes off in the middle of each kind of work, and compares after each time.
func (tr *trial) cutPasses(ctx context.Context) error {
	c := &cuts{trial: tr, tries: map[string]int{}, hits: map[string]int{}}
	disks, err := tr.foundOnDisks(ctx, plan{
		config: func(_ int, conf map[string]any) {
			powerRow{marks: true}.config(0, conf)
			conf["log"] = map[string]any{"level": "debug"}
			conf["logs"] = map[string]any{"seal_age": "1s"}
			conf["self_monitoring"] = false
		},
		command: func(i int, cmd *exec.Cmd) {
			for len(c.watches) <= i {
				c.watches = append(c.watches, newPassWatch(tr.c.log))
			}
			c.watches[i] = newPassWatch(tr.c.log)
			cmd.Stdout, cmd.Stderr = c.watches[i], c.watches[i]
		},
	})
	if err != nil {
		return err
	}
	c.disks = disks
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	if err := c.fill(ctx); err != nil {
		return err
	}
	for round := range 2 {
		for _, kind := range passNames {
			if err := c.until(ctx, kind, round); err != nil {
				return err
			}
			if tr.total() > 0 {
				return tr.compare(ctx)
			}
		}
		if err := c.wipe(ctx); err != nil {
			return fmt.Errorf("wipe a node: %w", err)
		}
		if tr.total() > 0 {
			return tr.compare(ctx)
		}
	}
	for _, kind := range passNames {
		tr.note("%d of %d cuts fell inside a pass of the kind %s", c.hits[kind], c.tries[kind], kind)
	}
	if c.unbuilt == 0 {
		return errors.Join(errors.New("no question met a node whose index was not built yet"), tr.compare(ctx))
	}
	tr.note("a node that had just installed was asked %d questions while blocks were not in its index", c.unbuilt)
	return tr.compare(ctx)
}

// fill begins two senders of many lines in many files: of the day before, whose small blocks are not waited for, and of today,
// whose small blocks are merged.
func (c *cuts) fill(ctx context.Context) error {
	for k := range 2 {
		s, err := c.sender(ctx, c.traffic.ledger, len(c.traffic.senders)+k)
		if err != nil {
			return err
		}
		s.lines, s.files, s.linesOnly = 128, 16, true
		if k == 0 {
			s.base -= 24 * 3600 * 1000
		}
		filling, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- s.run(filling, 2*pace) }()
		c.atEnd(func() {
			stop()
			<-ended
		})
		c.flooders = append(c.flooders, s)
	}
	return nil
}

// maxTries is how often a cut is tried until one falls inside.
const maxTries = 12

// until cuts until a cut falls inside a pass of the kind.
func (c *cuts) until(ctx context.Context, kind string, round int) error {
	for try := range maxTries {
		began := time.Now()
		hit, how, err := c.cut(ctx, kind, round+try)
		if err != nil {
			return fmt.Errorf("a cut at %s: %w", kind, err)
		}
		c.tries[kind]++
		if hit {
			c.hits[kind]++
			c.faulted(1)
		}
		if err := c.compareAll(ctx); err != nil {
			return fmt.Errorf("after a cut at %s: %w", kind, err)
		}
		c.logf("%s, %s, inside: %t, in %v: lost %d, doubled %d, differing %d", kind, how, hit, time.Since(began).Round(time.Millisecond), c.lost+c.forgotten, c.doubled, c.differing+c.foreign)
		if hit || c.total() > 0 {
			return nil
		}
	}
	return fmt.Errorf("none of %d cuts fell inside a pass of the kind %s", maxTries, kind)
}

// cut waits until a node begins a pass and cuts it off at some moment of it, by kill -9 or by a loss of power, alone or with all
// the others.
func (c *cuts) cut(ctx context.Context, kind string, nth int) (hit bool, how string, err error) {
	who := c.rng.Perm(len(c.c.Nodes)) // the first one is aimed at
	if c.rng.IntN(3) > 0 {
		who = who[:1]
	}
	at := who[0]
	power, share := nth%2 == 0, c.rng.Float64()
	how = fmt.Sprintf("kill -9 of %d", len(who))
	if power {
		how = fmt.Sprintf("loss of power of %d", len(who))
	}
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	took, err := c.watches[at].next(waiting, kind)
	if err != nil {
		return false, how, fmt.Errorf("%s began none: %w", c.c.Nodes[at].ID, err)
	}
	if err := pause(ctx, time.Duration(0.7*share*float64(took))); err != nil {
		return false, how, err
	}
	gone := make([]time.Time, len(who))
	if power {
		for k, i := range who {
			if err := c.disks[i].losePower(); err != nil {
				return false, how, err
			}
			gone[k] = time.Now()
		}
	}
	for _, i := range who {
		if err := c.c.kill(&c.c.Nodes[i]); err != nil {
			return false, how, err
		}
	}
	for k, i := range who {
		if !power { // what it has said it had done
			gone[k] = time.Now()
		}
		hit = hit || c.watches[i].inside(kind, gone[k])
	}
	if len(who) == 1 {
		if err := c.progress(ctx, 3); err != nil {
			return hit, how, fmt.Errorf("without %s: %w", c.c.Nodes[at].ID, err)
		}
	}
	if power {
		for _, i := range who {
			if err := c.disks[i].restorePower(ctx, nth%4 == 0); err != nil {
				return hit, how, err
			}
		}
	}
	return hit, how, c.backAgain(ctx, who)
}

// wipe takes away all that a follower has stored, lets it install, and asks it at once, while others that were not cut have their
// index and it has not.
func (c *cuts) wipe(ctx context.Context) error {
	n, err := c.follower(ctx)
	if err != nil {
		return err
	}
	leader, err := c.c.leader(ctx)
	if err != nil {
		return err
	}
	if err := c.c.kill(n); err != nil {
		return err
	}
	var gone clusterStatus
	if err := c.c.get(ctx, leader, "/v1/cluster", nil, &gone); err != nil {
		return err
	}
	if err := os.RemoveAll(n.DataDir); err != nil {
		return err
	}
	if err := truncatedPast(ctx, c.c, leader, applied(gone, leader.ID)); err != nil {
		return err
	}
	goOn := c.hold()
	err = c.askAtOnce(ctx, leader, n)
	goOn()
	if err != nil {
		return err
	}
	c.faulted(1)
	if err := c.allReady(ctx); err != nil {
		return err
	}
	return c.compareAll(ctx)
}

// askAtOnce starts a node that must install, with all senders held, and asks it as soon as it answers.
func (c *cuts) askAtOnce(ctx context.Context, leader, n *devNode) error {
	defer c.anew()()
	var st clusterStatus
	if err := c.c.get(ctx, leader, "/v1/cluster", nil, &st); err != nil {
		return err
	}
	if err := c.c.restart(n); err != nil {
		return err
	}
	index, s := applied(st, leader.ID), c.flooders[0]
	err := until(ctx, time.Minute, func(ctx context.Context) error { // it answers before it says that it is ready
		_, err := c.countOf(ctx, n, s, "host:"+s.name, index)
		return err
	})
	if err != nil {
		return c.whyNot(err)
	}
	return c.searchAll(ctx, n, index)
}

// compareAll holds all senders, compares every node with the ledger and what it finds with what it should, and lets them go on.
func (c *cuts) compareAll(ctx context.Context) error {
	defer c.hold()()
	defer c.anew()()
	if err := c.c.compare(ctx, c.traffic.ledger, c.traffic.senders, &c.violations); err != nil {
		return fmt.Errorf("compare the nodes with the ledger: %w", err)
	}
	worst := new(violations)
	for i := range c.c.Nodes {
		of := new(violations)
		if err := c.searchNode(ctx, &c.c.Nodes[i], 0, of); err != nil {
			return err
		}
		worst.raise(of)
	}
	c.lost, c.doubled, c.examples = c.lost+worst.lost, c.doubled+worst.doubled, append(c.examples, worst.examples...)
	return nil
}

// searchAll is compareAll of one node that has just come.
func (c *cuts) searchAll(ctx context.Context, n *devNode, index uint64) error {
	of := new(violations)
	if err := c.searchNode(ctx, n, index, of); err != nil {
		return fmt.Errorf("ask %s at once: %w", n.ID, err)
	}
	c.lost, c.doubled, c.examples = c.lost+of.lost, c.doubled+of.doubled, append(c.examples, of.examples...)
	return nil
}

// searchNode asks a node in all ways for what the ledger says that each sender has there.
func (c *cuts) searchNode(ctx context.Context, n *devNode, index uint64, v *violations) error {
	for _, s := range append(c.flooders[:len(c.flooders):len(c.flooders)], c.traffic.senders...) {
		acked := c.traffic.ledger.of(s.name).acked // all that was sent: it is held
		if acked == 0 {
			continue
		}
		for _, q := range c.questions(s, acked) {
			got, err := c.countOf(ctx, n, s, q.text, index)
			if err != nil {
				return fmt.Errorf("%s, %q: %w", n.ID, q.text, err)
			}
			switch {
			case got < q.want:
				v.add(&v.lost, "%s finds %d lines of %d by %q", n.ID, got, q.want, q.text)
			case got > q.want:
				v.add(&v.doubled, "%s finds %d lines instead of %d by %q", n.ID, got, q.want, q.text)
			}
		}
	}
	return nil
}

// question is a search and how many lines it has to find.
type question struct {
	text string
	want int64
}

// questions are the kinds of searches, about lines of a sender that the trial chooses.
func (c *cuts) questions(s *sender, acked uint64) []question {
	lines := s.linesOfBatch()
	seq := 1 + c.rng.Uint64N(acked)
	crc := func(seq uint64, i int) string {
		text := ledgerLine(s.name, seq, i)
		return text[len(text)-8:]
	}
	id := crc(seq, c.rng.IntN(lines))
	var same, begin int64 // other lines may have the id, or begin as it does
	for q := uint64(1); q <= acked; q++ {
		for i := range lines {
			other := crc(q, i)
			if other == id {
				same++
			}
			if other[:3] == id[:3] {
				begin++
			}
		}
	}
	n := int64(acked) * int64(lines)
	line := c.rng.IntN(lines)
	host := " host:" + s.name
	all := n
	if !s.linesOnly {
		all += int64(acked) // the line that is ahead of its time
	}
	return []question{
		{"host:" + s.name, all},
		{"ledgerline" + host, n},
		{`"crc=` + id + `"` + host, same},
		{`"crc=` + id[:3] + `"*` + host, begin},
		{fmt.Sprintf(`"seq=%d line"`, seq) + host, int64(lines)},
		{fmt.Sprintf(`"line=%d crc"`, line) + host, int64(acked)},
		{"ledgerl*" + host, n},
		{fmt.Sprintf(`/seq=%d line=[0-9]+ crc=[0-9a-f]{8}/`, seq) + host, int64(lines)},
		{fmt.Sprintf(`ledgerline -"seq=%d"`, seq) + host, n - int64(lines)},
	}
}

// countOf asks how many lines a node finds, on the histogram by hours, whose bars must be the total.
func (c *cuts) countOf(ctx context.Context, n *devNode, s *sender, text string, index uint64) (int64, error) {
	q := url.Values{
		"query": {text}, "step": {"1h"},
		"start": {strconv.FormatInt(s.base-1000, 10)}, "end": {strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10)},
	}
	if index > 0 {
		q.Set("min_index", strconv.FormatUint(index, 10))
		c.noteUnbuilt(ctx, n)
	}
	var hits struct {
		Total   int64
		Series  []struct{ Counts []int64 }
		Partial bool
		Stats   struct{ Node string }
	}
	if err := c.c.get(ctx, n, "/v1/logs/hits", q, &hits); err != nil {
		return 0, err
	}
	if hits.Partial || hits.Stats.Node != "" {
		return 0, errors.New("the answer is partial")
	}
	var sum int64
	for _, bars := range hits.Series {
		for _, k := range bars.Counts {
			sum += k
		}
	}
	if sum != hits.Total {
		return 0, fmt.Errorf("the bars are %d together, the total is %d", sum, hits.Total)
	}
	return sum, nil
}

// noteUnbuilt counts a question that a node is asked while blocks are not in its index.
func (c *cuts) noteUnbuilt(ctx context.Context, n *devNode) {
	o := &ourLogs{tr: c.trial}
	if b, err := o.metrics(ctx, n); err == nil && sumOf(b, "triward_logs_unindexed_blocks")+sumOf(b, "triward_logs_index_rebuilds") > 0 {
		c.unbuilt++
	}
}
