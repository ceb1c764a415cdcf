package systemtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	// feed has nodes make such a file, in time; nil: it comes by itself.
	feed func(context.Context, *trial) error
	// all says that everything depends on every bit of it: that none of several is found is blindness.
	all bool
}

func newest(files []string) []string {
	if len(files) == 0 {
		return nil
	}
	return files[len(files)-1:]
}

// beforeNewest is the newest that is not written any more: of older segments of the log the beginning may be dropped.
func beforeNewest(files []string) []string { return newest(files[:max(0, len(files)-1)]) }

// damageSets are the kinds of files of which one cluster is enough, by row; those that have to be waited for last.
var damageSets = map[string][]fileKind{
	"bit-log": {
		{name: "tail segment of the log", glob: []string{"raft/*.wal"}, pick: newest},
		{name: "wal-meta.db", glob: []string{"raft/wal-meta.db"}},
		{name: "REACH", glob: []string{"raft/REACH"}},
		{name: "MEMBERS", glob: []string{"MEMBERS"}, all: true},
		{name: "sealed segment of the log", glob: []string{"raft/*.wal"}, pick: beforeNewest, feed: feedLog},
	},
	"bit-state": {
		{name: "meta.db", glob: []string{"meta/gen-*/meta.db"}},
		{name: "CURRENT", glob: []string{"meta/CURRENT"}, all: true},
		{name: "verdicts.db", glob: []string{"queue/verdicts.db"}},
		{name: "damage.json", glob: []string{"damage.json"}},
		{name: "scrub.json", glob: []string{"scrub.json"}},
	},
	"bit-metrics": {
		{name: "WAL of samples", glob: []string{"tsdb/gen-*/wal/0*"}},
		{name: "log of late samples", glob: []string{"tsdb/gen-*/wbl/0*"}, feed: feedSamples},
		{name: "chunks of the head", glob: []string{"tsdb/gen-*/chunks_head/0*"}, feed: feedSamples},
		{name: "flushed.json", glob: []string{"tsdb/gen-*/flushed.json"}},
		{name: "blocks.json", glob: []string{"tsdb/gen-*/blocks.json"}, all: true},
		{name: "index of a block", glob: []string{"tsdb/gen-*/*/index"}, all: true},
		{name: "chunks of a block", glob: []string{"tsdb/gen-*/*/chunks/0*"}, all: true},
		{name: "meta.json of a block", glob: []string{"tsdb/gen-*/*/meta.json"}},
		{name: "tombstones of a block", glob: []string{"tsdb/gen-*/*/tombstones"}},
	},
	"bit-lines": {
		{name: "Pebble table", glob: []string{"logs/gen-*/pebble/*.sst"}, all: true},
		{name: "Pebble blob file", glob: []string{"logs/gen-*/pebble/*.blob"}, feed: feedLog},
		{name: "Pebble MANIFEST", glob: []string{"logs/gen-*/pebble/MANIFEST-*"}, pick: newest},
		{name: "Pebble OPTIONS", glob: []string{"logs/gen-*/pebble/OPTIONS-*"}, pick: newest},
		{name: "manifest.json of the lines", glob: []string{"logs/gen-*/manifest.json"}},
		{name: "word index segment", glob: []string{"logs/gen-*/index/*/store/*.zap"}},
		{name: "word index root.bolt", glob: []string{"logs/gen-*/index/*/store/root.bolt"}},
		{name: "word index index_meta.json", glob: []string{"logs/gen-*/index/*/index_meta.json"}},
	},
}

// damageRows flip bits in files of nodes, one at a time.
func damageRows() []faultRow {
	needGo := need{"a program whose blocks are made in time", func() error {
		_, err := exec.LookPath("go")
		return err
	}}
	row := func(name, of string, weight time.Duration) faultRow {
		return faultRow{
			needs: []need{needGo},
			name:  name, fault: "one bit flipped in each kind of file of " + of + ", on a node that is down and on one that runs", weight: weight, goal: damageGoal,
			longer: func() time.Duration { return time.Duration(len(damageSets[name])*flips()) * time.Minute },
			run:    func(ctx context.Context, tr *trial) error { return tr.flipEach(ctx, damageSets[name]) },
		}
	}
	return []faultRow{
		row("bit-log", "the log", 3*time.Minute),
		row("bit-state", "the metadata", 2*time.Minute),
		row("bit-metrics", "the store of metrics", 6*time.Minute),
		row("bit-lines", "the store of lines and its word index", 4*time.Minute),
		{
			name: "damage-two", fault: "damage of different stores on two nodes at once", weight: 2 * time.Minute, goal: damageGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.damageTwo(ctx) },
		},
		{
			name: "damage-majority", fault: "the same store damaged on two nodes of three; repaired by an operator's order", weight: 2 * time.Minute, goal: damageGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.damageMajority(ctx) },
		},
	}
}

// flips is how many bits are flipped in each kind of file, in turn on a node that is down and on one that runs:
// DAMAGE_FLIPS, 2 by default.
func flips() int {
	n, err := strconv.Atoi(os.Getenv("DAMAGE_FLIPS"))
	if err != nil || n < 1 {
		return 2
	}
	return n
}

// wanted reports whether a kind is one that DAMAGE_KINDS, a part of its name, asks for; all are without it.
func (k *fileKind) wanted() bool { return strings.Contains(k.name, os.Getenv("DAMAGE_KINDS")) }

// damager flips bits in the files of a cluster and knows what came of it.
type damager struct {
	tr      *trial
	readers []*reader // one of each node, as long as the row lasts
	begin   time.Time // of the kind
	due     map[toldOf]int
}

// toldOf is what events tell of damage.
type toldOf struct{ node, key string }

// What came of a flipped bit.
const (
	foundAtStart  = "at the start"
	foundBySearch = "by a search"
	foundNever    = "without effect" // all answers stayed right, and neither the search nor a start found anything
)

// flipEach flips bits in files of the kinds while a sender sends and somebody reads of every node all the time.
func (tr *trial) flipEach(ctx context.Context, kinds []fileKind) error {
	d, err := tr.damager(ctx)
	if err != nil {
		return err
	}
	defer d.stop()
	tr.note("| kind | flips | found at the start | by a search | without effect | repaired p50 / max | right answers | wrong | event |")
	var wrong []error
	for i := range kinds {
		if !kinds[i].wanted() {
			continue
		}
		if err := d.kind(ctx, &kinds[i]); err != nil {
			wrong = append(wrong, err)
			if err := tr.allUp(ctx); err != nil {
				return errors.Join(append(wrong, err)...)
			}
		}
	}
	d.stop()
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	return tr.compare(ctx)
}

// blind is how many flips may have had no effect in a kind that depends on each.
const blind = 4

// kind flips the bits of one kind.
func (d *damager) kind(ctx context.Context, k *fileKind) error {
	tr := d.tr
	begin, right := time.Now(), d.right()
	d.begin, d.due = begin, make(map[toldOf]int)
	found := make(map[string]int)
	var took []time.Duration
	var errs []error
	bad := 0
	for i := range flips() {
		n := &tr.c.Nodes[(i+int(tr.seed))%len(tr.c.Nodes)]
		out, err := d.flip(ctx, k, n, i%2 == 0)
		ws := d.takeWrong()
		if bad += len(ws); len(ws) > 0 {
			err = errors.Join(err, fmt.Errorf("%d wrong answers: %s", len(ws), ws[0]))
		}
		if err != nil {
			err = fmt.Errorf("%s, flip %d: %w", k.name, i+1, err)
			tr.logf("%v", err)
			errs = append(errs, err)
			if err := tr.allUp(ctx); err != nil {
				return errors.Join(append(errs, err)...)
			}
			continue
		}
		found[out.how]++
		if out.how != foundNever {
			took = append(took, out.took)
			tr.recovered(out.took)
		}
	}
	told := "yes"
	switch err := d.told(ctx); {
	case err != nil:
		told = "NO"
		errs = append(errs, fmt.Errorf("%s: %w", k.name, err))
	case len(d.due) == 0:
		told = "none due"
	}
	if k.all && flips() >= blind && found[foundNever] == flips() {
		errs = append(errs, fmt.Errorf("%s: none of %d flipped bits was ever found", k.name, flips()))
	}
	times := ""
	if len(took) > 0 {
		slices.Sort(took)
		times = fmt.Sprintf("%.1f s / %.1f s", took[len(took)/2].Seconds(), took[len(took)-1].Seconds())
	}
	line := fmt.Sprintf("| %s | %d | %d | %d | %d | %s | %d | %d | %s |", k.name, flips(), found[foundAtStart], found[foundBySearch], found[foundNever],
		times, d.right()-right, bad, told)
	tr.note("%s", line)
	tr.logf("%s %v for all", line, time.Since(begin).Round(time.Second))
	return errors.Join(errs...)
}

// flipped is what came of one bit.
type flipped struct {
	how  string
	took time.Duration // from the flip, or the start of a node that was down, until all was repaired
}

// flip flips a bit of a file of the kind and waits until the node is whole and gives right answers. A node that runs is told
// to search at once, as by an operator in doubt; when that finds nothing it is killed and started again, since a start reads
// what searches leave out.
func (d *damager) flip(ctx context.Context, k *fileKind, n *devNode, down bool) (out flipped, err error) {
	tr := d.tr
	what, err := d.flipBit(ctx, k, n, down)
	if err != nil {
		return out, err
	}
	tr.faulted(1)
	begin, when := time.Now(), "running"
	type step struct {
		how string
		do  func() error
	}
	steps := []step{
		{foundBySearch, func() error { return tr.search(ctx, n) }},
		{foundAtStart, func() error { return errors.Join(tr.c.kill(n), tr.c.restart(n)) }},
	}
	if down {
		when = "down"
		steps = []step{{foundAtStart, func() error { return tr.c.restart(n) }}, steps[0]}
	}
	out.how = foundNever
	var all []mendedAs
	for _, s := range steps {
		if err := s.do(); err != nil {
			return out, err
		}
		if all, err = tr.heals(ctx, n, begin); err != nil {
			return out, err
		}
		if len(all) > 0 {
			out.how = s.how
			break
		}
	}
	text := out.how
	for _, m := range all {
		d.due[toldOf{n.ID, m.Part + ": " + m.Place}]++
		out.took = max(out.took, time.Duration(m.RepairedAt-begin.UnixMilli())*time.Millisecond)
		text += fmt.Sprintf("; %s: %s, %s", m.Part, m.Place, m.How)
	}
	if err := d.answers(ctx, n); err != nil {
		return out, err
	}
	tr.logf("%s of %s (%s), %s: %s; repaired in %v, %v in all", k.name, n.ID, when, what, text, out.took, time.Since(begin).Round(100*time.Millisecond))
	return out, nil
}

// flipBit flips a bit of a file of the kind of a node, which is killed before when it is to be down. A file that there is none
// of is waited for.
func (d *damager) flipBit(ctx context.Context, k *fileKind, n *devNode, down bool) (what string, err error) {
	tr := d.tr
	err = until(ctx, 6*time.Minute, func(ctx context.Context) error {
		if len(tr.files(n, k)) > 0 {
			return nil
		}
		if k.feed != nil {
			if err := k.feed(ctx, tr); err != nil {
				return err
			}
		}
		return fmt.Errorf("%s has no %s", n.ID, k.name)
	})
	if err != nil {
		return "", err
	}
	if down {
		if err := tr.c.kill(n); err != nil {
			return "", err
		}
	}
	for range 10 { // files go while one is chosen
		files := tr.files(n, k)
		if len(files) == 0 {
			return "", fmt.Errorf("%s has no %s", n.ID, k.name)
		}
		what, err = tr.flipBit(files[tr.rng.IntN(len(files))], n.DataDir)
		if !errors.Is(err, os.ErrNotExist) {
			return what, err
		}
	}
	return what, err
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
		return err != nil || st.Size() == 0 || st.IsDir() || strings.Contains(f, ".tmp")
	})
	slices.Sort(all)
	if k.pick != nil {
		all = k.pick(all)
	}
	return all
}

// flipBit flips one bit of a file, at a place where something is written: most of a sparse file holds nothing. It says which.
func (tr *trial) flipBit(file, below string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	used := len(b) - bytes.Count(b, []byte{0})
	if used == 0 {
		return "", fmt.Errorf("%s is empty", file)
	}
	at, bit := 0, byte(1)<<tr.rng.IntN(8)
	for skip := tr.rng.IntN(used); ; at++ {
		if b[at] == 0 {
			continue
		}
		if skip == 0 {
			break
		}
		skip--
	}
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
	name, err := filepath.Rel(below, file)
	return fmt.Sprintf("bit %02x of byte %d of %d of %s", bit, at, len(b), name), err
}
