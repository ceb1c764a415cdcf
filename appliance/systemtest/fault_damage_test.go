package systemtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// damageGoal is how long a node may take from a flipped bit that it notices until its data is whole again.
const damageGoal = 5 * time.Minute

// fileKind is a kind of file in which a bit is flipped.
type fileKind struct {
	name string
	// glob are patterns below the data directory; of what matches, one file is taken.
	glob []string
	// pick narrows what matched; nil: all of it.
	pick func([]string) []string
}

func newest(files []string) []string {
	if len(files) == 0 {
		return nil
	}
	return files[len(files)-1:]
}

func butNewest(files []string) []string { return files[:max(0, len(files)-1)] }

// damageSets are the kinds of files of which one cluster is enough, by row.
var damageSets = map[string][]fileKind{
	"bit-log": {
		{name: "tail segment of the log", glob: []string{"raft/*.wal"}, pick: newest},
		{name: "sealed segment of the log", glob: []string{"raft/*.wal"}, pick: butNewest},
		{name: "wal-meta.db", glob: []string{"raft/wal-meta.db"}},
		{name: "REACH", glob: []string{"raft/REACH"}},
		{name: "MEMBERS", glob: []string{"MEMBERS"}},
	},
	"bit-state": {
		{name: "meta.db", glob: []string{"meta/gen-*/meta.db"}},
		{name: "CURRENT", glob: []string{"meta/CURRENT"}},
	},
	"bit-metrics": {
		{name: "WAL of samples", glob: []string{"tsdb/gen-*/wal/0*"}},
		{name: "log of late samples", glob: []string{"tsdb/gen-*/wbl/0*"}},
		{name: "chunks of the head", glob: []string{"tsdb/gen-*/chunks_head/0*"}},
		{name: "flushed.json", glob: []string{"tsdb/gen-*/flushed.json"}},
		{name: "blocks.json", glob: []string{"tsdb/gen-*/blocks.json"}},
		{name: "index of a block", glob: []string{"tsdb/gen-*/*/index"}},
		{name: "chunks of a block", glob: []string{"tsdb/gen-*/*/chunks/0*"}},
		{name: "meta.json of a block", glob: []string{"tsdb/gen-*/*/meta.json"}},
		{name: "tombstones of a block", glob: []string{"tsdb/gen-*/*/tombstones"}},
	},
	"bit-lines": {
		{name: "Pebble table", glob: []string{"logs/gen-*/pebble/*.sst"}},
		{name: "Pebble blob file", glob: []string{"logs/gen-*/pebble/*.blob"}},
		{name: "Pebble MANIFEST", glob: []string{"logs/gen-*/pebble/MANIFEST-*"}},
		{name: "Pebble OPTIONS", glob: []string{"logs/gen-*/pebble/OPTIONS-*"}},
		{name: "manifest of Pebble's files", glob: []string{"logs/gen-*/pebble/*.json", "logs/gen-*/*.json"}},
		{name: "word index segment", glob: []string{"logs/gen-*/index/*/store/*.zap"}},
		{name: "word index root.bolt", glob: []string{"logs/gen-*/index/*/store/root.bolt"}},
		{name: "word index index_meta.json", glob: []string{"logs/gen-*/index/*/index_meta.json"}},
	},
}

// damageRows flip bits in files of nodes, one at a time.
func damageRows() []faultRow {
	row := func(name, of string, weight time.Duration) faultRow {
		return faultRow{
			name: name, fault: "one bit flipped in each kind of file of " + of + ", on a node that is down and on one that runs", weight: weight, goal: damageGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.flipEach(ctx, damageSets[name]) },
		}
	}
	return []faultRow{
		row("bit-log", "the log", 10*time.Minute),
		row("bit-state", "the metadata", 6*time.Minute),
		row("bit-metrics", "the store of metrics", 20*time.Minute),
		row("bit-lines", "the store of lines and its word index", 16*time.Minute),
		{
			name: "damage-two", fault: "damage of different stores on two nodes at once", weight: 3 * time.Minute, goal: damageGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.damageTwo(ctx) },
		},
		{
			name: "damage-majority", fault: "the same store damaged on two nodes of three; repaired by an operator's order", weight: 4 * time.Minute, goal: damageGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.damageMajority(ctx) },
		},
	}
}

// flips is how often a bit is flipped in each kind of file, down and running: DAMAGE_FLIPS, 1 by default.
func flips() int {
	n, err := strconv.Atoi(os.Getenv("DAMAGE_FLIPS"))
	if err != nil || n < 1 {
		return 1
	}
	return n
}

const (
	oldLines = 600 // of the stock, over the last day
	oldSpan  = 8 * time.Hour
	oldStep  = time.Minute
)

// flipEach flips bits in files of the kinds while senders send and somebody reads all the time.
func (tr *trial) flipEach(ctx context.Context, kinds []fileKind) error {
	if err := tr.stocked(ctx, kinds); err != nil {
		return err
	}
	var wrong []error
	for _, k := range kinds {
		for i := range 2 * flips() {
			if err := tr.flipOnce(ctx, &k, i%2 == 0); err != nil {
				err = fmt.Errorf("%s: %w", k.name, err)
				tr.logf("%v", err)
				wrong = append(wrong, err)
				if err := tr.allUp(ctx); err != nil {
					return errors.Join(append(wrong, err)...)
				}
			}
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	return tr.compare(ctx)
}

// stocked founds a cluster that holds lines and samples of which everything is known,
// in as many kinds of files as the row wants.
func (tr *trial) stocked(ctx context.Context, kinds []fileKind) error {
	err := tr.found(ctx, plan{config: func(_ int, c map[string]any) {
		c["scrub"] = map[string]any{"rate": "256MiB"}
		c["queue"] = map[string]any{"mark_interval": "5s"}
	}})
	if err != nil {
		return err
	}
	if err := tr.stock(ctx); err != nil {
		return fmt.Errorf("send the stock: %w", err)
	}
	if slices.ContainsFunc(kinds, func(k fileKind) bool { return strings.HasPrefix(k.name, "sealed") }) {
		tr.fillers = 4
	}
	if err := tr.send(ctx, 1); err != nil {
		return err
	}
	for i := range tr.c.Nodes {
		err := until(ctx, 12*time.Minute, func(context.Context) error {
			for _, k := range kinds {
				if len(tr.files(&tr.c.Nodes[i], &k)) == 0 && !strings.HasPrefix(k.name, "manifest of Pebble") {
					return fmt.Errorf("%s has no %s", tr.c.Nodes[i].ID, k.name)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// stock sends what the readers know: a line each minute and so many samples, over hours.
func (tr *trial) stock(ctx context.Context) error {
	end := time.Now().Truncate(oldStep)
	type data struct {
		Name  string `json:"name"`
		Value any    `json:"value"`
	}
	type item struct {
		Agent string `json:"agent_id"`
		At    int64  `json:"timestamp"`
		Data  data   `json:"data"`
	}
	tr.stockEnd = end
	for part := 0; part < 8; part++ {
		var lines, samples []item
		for i := part; i < oldLines; i += 8 {
			at := end.Add(-time.Duration(i) * oldSpan / oldLines)
			lines = append(lines, item{"stock", at.UnixNano(), data{Name: "stock", Value: stockLine(i)}})
		}
		if err := tr.c.push(ctx, "/monitor/logs", lines); err != nil {
			return err
		}
		for at := end.Add(-oldSpan).Add(time.Duration(part) * oldSpan / 8); at.Before(end.Add(-oldSpan).Add(time.Duration(part+1) * oldSpan / 8)); at = at.Add(oldStep) {
			samples = append(samples, item{"stock", at.UnixMilli(), data{Name: "stock_value", Value: at.Unix()}})
		}
		if err := tr.c.push(ctx, "/monitor/metrics", samples); err != nil {
			return err
		}
	}
	return nil
}

func stockLine(i int) string {
	return fmt.Sprintf("stockline %d is here %s", i, strings.Repeat("word ", 20))
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

// files lists the files of a kind of a node.
func (tr *trial) files(n *devNode, k *fileKind) []string {
	var all []string
	for _, g := range k.glob {
		found, _ := filepath.Glob(filepath.Join(n.DataDir, g)) // the patterns are good
		all = append(all, found...)
	}
	all = slices.DeleteFunc(all, func(f string) bool {
		st, err := os.Stat(f)
		return err != nil || st.Size() == 0 || st.IsDir()
	})
	slices.Sort(all)
	if k.pick != nil {
		all = k.pick(all)
	}
	return all
}

// flipBit flips one bit of a file, at a place that is written. It says which.
func (tr *trial) flipBit(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	used := len(bytes.TrimRight(b, "\x00")) // what is allotted and not written holds nothing
	if used == 0 {
		return "", fmt.Errorf("%s is empty", file)
	}
	at, bit := tr.rng.IntN(used), byte(1)<<tr.rng.IntN(8)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	one := []byte{0}
	if _, err = f.ReadAt(one, int64(at)); err == nil {
		one[0] ^= bit
		_, err = f.WriteAt(one, int64(at))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return fmt.Sprintf("bit %02x of byte %d of %d", bit, at, len(b)), nil
}

// alive reports whether the node's process runs; one that has ended is no more than an entry until it is waited for.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// revive starts a node again that has ended by itself, as its service's unit does.
func (tr *trial) revive(n *devNode) (bool, error) {
	if alive(n.PID) {
		return false, nil
	}
	if cmd := tr.c.again[n.ID]; cmd != nil {
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code == 13 || code == 12 || code == 10 {
			return false, fmt.Errorf("%s ended with exit code %d, after which nobody starts it again", n.ID, code)
		}
		delete(tr.c.again, n.ID)
	}
	return true, tr.c.restart(n)
}

// allUp brings every node up that is down.
func (tr *trial) allUp(ctx context.Context) error {
	for i := range tr.c.Nodes {
		if _, err := tr.revive(&tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	return tr.allReady(ctx)
}

// repairStatus is what a node says of its damage.
type repairStatus struct {
	State   string `json:"state"`
	Refused string `json:"refused"`
	Damage  []struct {
		Part, Place string
		FoundAt     int64 `json:"found_at"`
	} `json:"damage"`
	History []struct {
		Part, Place, How string
		FoundAt          int64 `json:"found_at"`
		RepairedAt       int64 `json:"repaired_at"`
	} `json:"history"`
}

// repairOf asks a node how its data or that of another is.
func (tr *trial) repairOf(ctx context.Context, asked, of *devNode) (st repairStatus, err error) {
	var all struct {
		Nodes []struct {
			ID     string        `json:"id"`
			Repair *repairStatus `json:"repair"`
		} `json:"nodes"`
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := tr.c.get(ctx, asked, "/v1/cluster", nil, &all); err != nil {
		return st, err
	}
	for _, n := range all.Nodes {
		if n.ID == of.ID && n.Repair != nil {
			return *n.Repair, nil
		}
	}
	return repairStatus{State: "whole"}, nil
}

// passes is how many searches for damage a node has ended, told by when the last one was through.
func (tr *trial) lastPass(ctx context.Context, n *devNode) (int64, error) {
	b, err := os.ReadFile(filepath.Join(n.DataDir, "scrub.json"))
	if err != nil {
		return 0, err
	}
	var st struct {
		Began    int64 `json:"last_began"`
		LastPass int64 `json:"last_pass"`
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return 0, err
	}
	if st.LastPass < st.Began {
		return 0, nil
	}
	return st.Began, ctx.Err()
}

// flipOnce flips one bit and waits until the node is whole, or is known never to have depended on it.
func (tr *trial) flipOnce(ctx context.Context, k *fileKind, down bool) error {
	n := &tr.c.Nodes[tr.rng.IntN(len(tr.c.Nodes))]
	files := tr.files(n, k)
	if len(files) == 0 {
		tr.note("%s: %s has none just now", k.name, n.ID)
		return nil
	}
	file := files[tr.rng.IntN(len(files))]
	when := "running"
	if down {
		when = "down"
		if err := tr.c.kill(n); err != nil {
			return err
		}
	}
	what, err := tr.flipBit(file)
	if errors.Is(err, os.ErrNotExist) && !down { // it went while we chose
		return nil
	}
	if err != nil {
		return err
	}
	begin := time.Now()
	tr.faulted(1)
	tr.logf("%s (%s): %s of %s", k.name, when, what, file)
	reader := tr.watchNode(ctx, n)
	defer reader.stop()
	if down {
		if err := tr.c.restart(n); err != nil {
			return err
		}
	}
	ended, err := tr.heals(ctx, n, begin, down)
	if err != nil {
		return err
	}
	took := time.Since(begin)
	reader.stop()
	if ws := reader.wrong(); len(ws) > 0 {
		return fmt.Errorf("%d wrong answers of %s: %s", len(ws), n.ID, ws[0])
	}
	how := "no effect: nothing that the node reads depends on it"
	if ended.How != "" {
		how = fmt.Sprintf("%s: %s, %s", ended.Part, ended.Place, ended.How)
		took = time.Duration(ended.RepairedAt-begin.UnixMilli()) * time.Millisecond
		tr.recovered(max(0, took))
		if err := tr.told(ctx, n, begin); err != nil {
			return err
		}
	}
	tr.note("%s (%s): %s; %v, %d answers right, %d refused or partial", k.name, when, how, took.Round(100*time.Millisecond), reader.right.Load(), reader.refused.Load())
	return nil
}

// mendedAs says how damage ended; How is empty when there was none.
type mendedAs struct {
	Part, Place, How string
	RepairedAt       int64
}

// heals waits until the node is ready and whole. Without damage that was noticed it must have searched for damage since.
func (tr *trial) heals(ctx context.Context, n *devNode, begin time.Time, down bool) (ended mendedAs, err error) {
	var asked, said time.Time
	err = until(ctx, 2*damageGoal, func(ctx context.Context) (why error) {
		defer func() {
			if why != nil && time.Since(said) > 20*time.Second {
				said = time.Now()
				tr.logf("%s: %v", n.ID, why)
			}
		}()
		if again, err := tr.revive(n); err != nil || again {
			return cmp.Or(err, errors.New("it was started again"))
		}
		if err := tr.isReady(ctx, n); err != nil {
			return err
		}
		st, err := tr.repairOf(ctx, n, n)
		if err != nil {
			return err
		}
		if st.State != "whole" {
			return fmt.Errorf("%s is %s: %+v", n.ID, st.State, st)
		}
		for _, h := range st.History {
			if h.FoundAt >= begin.UnixMilli() {
				ended = mendedAs{h.Part, h.Place, h.How, h.RepairedAt}
				return nil
			}
		}
		if asked.IsZero() { // as an operator who is in doubt
			if err := tr.post(ctx, n, "/v1/cluster/scrub"); err != nil {
				return err
			}
			asked = time.Now()
		}
		pass, err := tr.lastPass(ctx, n)
		if err == nil && pass < asked.Add(-time.Second).UnixMilli() {
			err = errors.New("it has not searched for damage since")
		}
		return err
	})
	return ended, err
}

// post asks a node to do something.
func (tr *trial) post(ctx context.Context, n *devNode, path string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL+path, http.NoBody)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+tr.c.Token)
	resp, err := tr.c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
	if err != nil || resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s: %s: %w", path, resp.Status, said, err)
	}
	return nil
}

func (tr *trial) isReady(ctx context.Context, n *devNode) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/-/ready", nil)
	if err != nil {
		return err
	}
	resp, err := tr.c.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
		return fmt.Errorf("%s is not ready: %s", n.ID, said)
	}
	return nil
}

// told waits until events say what was found and that it was repaired.
func (tr *trial) told(ctx context.Context, n *devNode, since time.Time) error {
	for _, kind := range []string{"damage_found", "damage_repaired"} {
		err := until(ctx, 5*time.Minute, func(ctx context.Context) error {
			var page struct {
				Events []struct {
					Kind, Host string
				} `json:"events"`
			}
			q := url.Values{"limit": {"1000"}, "start": {strconv.FormatInt(since.UnixMilli()-1000, 10)}}
			if err := tr.c.get(ctx, n, "/v1/events", q, &page); err != nil {
				return err
			}
			for _, e := range page.Events {
				if e.Kind == kind && e.Host == n.ID {
					return nil
				}
			}
			return fmt.Errorf("no event %s of %s", kind, n.ID)
		})
		if err != nil {
			return err
		}
	}
	return nil
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
			for _, ask := range []func(context.Context) error{r.lines, r.samples, r.words} {
				r.count(ctx, ask)
			}
			wait := time.NewTimer(200 * time.Millisecond)
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

// spoil changes many bytes of the files of a kind of a node that is down.
func (tr *trial) spoil(n *devNode, k *fileKind) error {
	files := tr.files(n, k)
	if len(files) == 0 {
		return fmt.Errorf("%s has no %s", n.ID, k.name)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for i := min(64, len(b)-1); i < len(b); i += 97 {
			b[i] ^= 0x10
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// downAndSpoilt kills the nodes and damages files of a kind on each.
func (tr *trial) downAndSpoilt(kinds map[*devNode]*fileKind) error {
	for n := range kinds {
		if err := tr.c.kill(n); err != nil {
			return err
		}
	}
	for n, k := range kinds {
		if err := tr.spoil(n, k); err != nil {
			return err
		}
		tr.faulted(1)
	}
	return nil
}

// damageTwo damages different stores of two nodes at once.
func (tr *trial) damageTwo(ctx context.Context) error {
	if err := tr.stocked(ctx, nil); err != nil {
		return err
	}
	first := tr.rng.IntN(3)
	a, b := &tr.c.Nodes[first], &tr.c.Nodes[(first+1)%3]
	wal, manifest := damageSets["bit-metrics"][0], damageSets["bit-lines"][2]
	if err := tr.downAndSpoilt(map[*devNode]*fileKind{a: &wal, b: &manifest}); err != nil {
		return err
	}
	begin := time.Now()
	readers := []*reader{tr.watchNode(ctx, a), tr.watchNode(ctx, b)}
	for _, n := range []*devNode{a, b} {
		if err := tr.c.restart(n); err != nil {
			return err
		}
	}
	for i, n := range []*devNode{a, b} {
		ended, err := tr.heals(ctx, n, begin.Add(-time.Minute), true)
		readers[i].stop()
		if err != nil {
			return err
		}
		if ended.How == "" {
			return fmt.Errorf("%s did not notice its damage", n.ID)
		}
		if ws := readers[i].wrong(); len(ws) > 0 {
			return fmt.Errorf("%d wrong answers of %s: %s", len(ws), n.ID, ws[0])
		}
		tr.recovered(time.Duration(ended.RepairedAt-begin.UnixMilli()) * time.Millisecond)
		tr.note("%s: %s: %s, %s", n.ID, ended.Part, ended.Place, ended.How)
	}
	return tr.compare(ctx)
}

// damageMajority damages the same store on two nodes of three, sees it refused and named, and has an operator decide.
func (tr *trial) damageMajority(ctx context.Context) error {
	if err := tr.stocked(ctx, nil); err != nil {
		return err
	}
	first := tr.rng.IntN(3)
	a, b, whole := &tr.c.Nodes[first], &tr.c.Nodes[(first+1)%3], &tr.c.Nodes[(first+2)%3]
	manifest := damageSets["bit-lines"][2]
	if err := tr.downAndSpoilt(map[*devNode]*fileKind{a: &manifest, b: &manifest}); err != nil {
		return err
	}
	for _, n := range []*devNode{a, b} {
		if err := tr.c.restart(n); err != nil {
			return err
		}
	}
	// At least one of them knows that the other is damaged too, and says so to the one that is whole.
	err := until(ctx, 2*time.Minute, func(ctx context.Context) error {
		var said []string
		for _, n := range []*devNode{a, b} {
			st, err := tr.repairOf(ctx, whole, n)
			if err != nil {
				return err
			}
			if strings.Contains(st.Refused, "majority") && strings.Contains(st.Refused, a.ID) && strings.Contains(st.Refused, b.ID) {
				return nil
			}
			said = append(said, fmt.Sprintf("%s: %+v", n.ID, st))
		}
		return fmt.Errorf("the majority is not named: %s", strings.Join(said, "; "))
	})
	if err != nil {
		return err
	}
	begin := time.Now()
	for _, n := range []*devNode{a, b} {
		if err := syscall.Kill(n.PID, syscall.SIGTERM); err != nil {
			return err
		}
		if cmd := tr.c.again[n.ID]; cmd != nil {
			_ = cmd.Wait()
			delete(tr.c.again, n.ID)
		}
		if err := tr.triward(ctx, n, nil, "cluster", "repair", "--offline", "--from", whole.ID); err != nil {
			return err
		}
		if err := tr.c.restart(n); err != nil {
			return err
		}
	}
	for _, n := range []*devNode{a, b} {
		ended, err := tr.heals(ctx, n, begin.Add(-10*time.Minute), true)
		if err != nil {
			return err
		}
		tr.recovered(time.Duration(ended.RepairedAt-begin.UnixMilli()) * time.Millisecond)
		tr.note("%s: %s: %s, %s, ordered", n.ID, ended.Part, ended.Place, ended.How)
	}
	return tr.compare(ctx)
}
