package raftstate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// fakeRepairs remembers what it was told.
type fakeRepairs struct {
	mu    sync.Mutex
	found []Damage
	known []Damage
	done  []Repaired
	doing string
	from  string
	whole error
	heard map[string]PeerRepair
	at    func(doing string) // is told what Doing is

	replaced []Damage
	tried    []string
}

func (f *fakeRepairs) Found(d Damage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found, f.known = append(f.found, d), append(f.known, d)
}

func (f *fakeRepairs) Known() []Damage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.known)
}

func (f *fakeRepairs) Doing(what string, _, _ int64) {
	if f.at != nil {
		f.at(what)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doing = what
}

func (f *fakeRepairs) Done(r Repaired) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, r)
	f.known = slices.DeleteFunc(f.known, func(d Damage) bool {
		return slices.Contains(r.Parts, d.Part) && (r.Places == nil || slices.Contains(r.Places, d.Place)) &&
			(r.How != HowImage || slices.Contains(f.replaced, d))
	})
}

func (f *fakeRepairs) Replacing(parts []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replaced = slices.DeleteFunc(slices.Clone(f.known), func(d Damage) bool { return !slices.Contains(parts, d.Part) })
}

func (f *fakeRepairs) From() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.from
}

func (f *fakeRepairs) Tried() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tried)
}

func (f *fakeRepairs) Whole(context.Context, []Damage) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.whole
}

func (f *fakeRepairs) Heard(node string, said PeerRepair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heard == nil {
		f.heard = map[string]PeerRepair{}
	}
	f.heard[node] = said
}

func (f *fakeRepairs) says() (done []Repaired, doing string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.done), f.doing
}

// pagesOf reaches the pages of the nodes of a cluster.
type pagesOf struct{ c *testCluster }

func (p pagesOf) RoundTrip(r *http.Request) (*http.Response, error) {
	n := p.c.nodes[r.URL.Host]
	if n == nil || n.pages.Load() == nil {
		return nil, fmt.Errorf("node %s is not there", r.URL.Host)
	}
	w := httptest.NewRecorder()
	var cut any
	func() {
		defer func() { cut = recover() }()
		(*n.pages.Load()).ServeHTTP(w, r)
	}()
	resp := w.Result()
	if cut != nil {
		resp.Body = io.NopCloser(io.MultiReader(resp.Body, errReader{}))
	}
	return resp, nil
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// mendingCluster is a cluster whose nodes mend themselves.
func mendingCluster(t *testing.T, size int, tune func(*Config)) *testCluster {
	t.Helper()
	return newTestCluster(t, size, func(cfg *Config) {
		cfg.MarkInterval = time.Second
		cfg.TickInterval = time.Second
		if tune != nil {
			tune(cfg)
		}
	})
}

// overwrite changes bytes of every page behind the first two of a file.
func overwrite(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := min(8192, len(b)-1); i < len(b); i += 512 {
		b[i] ^= 0x40
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
}

// entryAtMark is what the log of a node that is down holds of the last entry in its state.
func entryAtMark(t *testing.T, dir string) []byte {
	t.Helper()
	state, err := meta.Open(filepath.Join(dir, "meta", "gen-000001", metaName), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	mark, ok := state.Mark()
	if err := state.Close(); err != nil || !ok {
		t.Fatal(ok, err)
	}
	s, err := logfile.Open(filepath.Join(dir, raftDir), logfile.Options{SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := errors.Join(s.GetLog(mark.Index, &l), s.Close()); err != nil || len(l.Data) < 8 {
		t.Fatalf("entry %d of %d bytes: %v", mark.Index, len(l.Data), err)
	}
	return l.Data
}

func TestStartMendsDamage(t *testing.T) {
	gen := func(dir, kind string) string { return filepath.Join(dir, kind, "gen-000001") }
	cases := []struct {
		name, how string
		aside     string // kind of what is set aside
		probation bool
		harm      func(t *testing.T, dir string)
	}{
		{"metadata flipped", HowImage, "meta", false, func(t *testing.T, dir string) { overwrite(t, filepath.Join(gen(dir, "meta"), metaName)) }},
		{"metadata cut", HowImage, "meta", false, func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(gen(dir, "meta"), metaName), 4*4096); err != nil {
				t.Fatal(err)
			}
		}},
		{"metadata gone", HowImage, "meta", false, func(t *testing.T, dir string) { remove(t, filepath.Join(gen(dir, "meta"), metaName)) }},
		{"metrics damaged", HowImage, "tsdb", false, func(t *testing.T, dir string) { overwrite(t, filepath.Join(gen(dir, "tsdb"), fakeFile)) }},
		{"metrics gone", HowImage, "", false, func(t *testing.T, dir string) { remove(t, gen(dir, "tsdb")) }},
		{"lines damaged", HowImage, "logs", false, func(t *testing.T, dir string) { overwrite(t, filepath.Join(gen(dir, "logs"), fakeFile)) }},
		{"lines gone", HowImage, "", false, func(t *testing.T, dir string) { remove(t, gen(dir, "logs")) }},
		{"pointer flipped", HowPointer, "", false, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "meta", "CURRENT"), []byte("gen-000003\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"pointer gone", HowPointer, "", false, func(t *testing.T, dir string) { remove(t, filepath.Join(dir, "meta", "CURRENT")) }},
		{"log flipped above the mark", HowLogFilled, "", false, func(t *testing.T, dir string) {
			if !flip(t, dir, "tail agent-1 22") {
				t.Fatal("line not found in the log")
			}
		}},
		{"log flipped at the mark", HowLogDrop, "", false, func(t *testing.T, dir string) {
			if !flip(t, dir, string(entryAtMark(t, dir))) {
				t.Fatal("entry not found in the log")
			}
		}},
		{"reach flipped", HowLogFilled, "", false, func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, raftDir, "REACH"), []byte("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"raft's own storage flipped", HowLogAside, "raft", true, func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, raftDir, "wal-meta.db")) }},
		{"log gone", HowLogAside, "raft", true, func(t *testing.T, dir string) { remove(t, filepath.Join(dir, raftDir)) }},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := mendingCluster(t, 3, nil)
				w := newWriter(t, c.leader(), "agent-1")
				for range 20 {
					w.write(c.leader())
				}
				time.Sleep(5 * time.Second) // marks and members are written down
				n := c.follower()
				c.kill(n.id)
				n.repairs = &fakeRepairs{}
				c.tune = func(cfg *Config) { cfg.MarkInterval = time.Hour }
				c.start(n.id)
				c.settle()
				w.text = "tail"
				for range 5 {
					w.write(c.leader())
				}
				c.settle()
				c.kill(n.id)
				for range 5 {
					w.write(c.leader())
				}
				k.harm(t, n.dir)
				term := n.raft.Load().CurrentTerm()
				c.start(n.id)
				if got := n.probation.Load(); got != k.probation {
					t.Errorf("probation is %v", got)
				}
				if k.how == HowImage && n.raft.Load().CurrentTerm() < term {
					t.Errorf("term is %d, was %d", n.raft.Load().CurrentTerm(), term)
				}
				w.write(c.leader())
				c.settle()
				w.check(n)
				c.wait("the repair to be told", func() bool { done, _ := n.repairs.says(); return len(done) == 1 })
				done, doing := n.repairs.says()
				if done[0].How != k.how || len(n.repairs.found) != 1 || len(n.repairs.Known()) != 0 || doing != "" {
					t.Errorf("found %v, done %+v, doing %q", n.repairs.found, done, doing)
				}
				asides, err := snapshot.NewLayout(n.dir).SetAsides()
				if err != nil || (len(asides) == 1) != (k.aside != "") || k.aside != "" && !strings.Contains(asides[0].Dir, k.aside) {
					t.Errorf("set aside: %+v, %v", asides, err)
				}
				// It starts again from what it has mended.
				w.write(c.leader())
				c.kill(n.id)
				c.start(n.id)
				w.write(c.leader())
				c.settle()
				w.check(n)
				if done, _ := n.repairs.says(); len(done) != 1 || n.probation.Load() {
					t.Errorf("repaired again: %+v", done)
				}
			})
		})
	}
}

// A lone voter has nobody to ask.
func TestALoneNodeDoesNotMend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mendingCluster(t, 1, nil)
		n := c.leader()
		newWriter(t, n, "agent-1").write(n)
		time.Sleep(5 * time.Second)
		c.kill("n1")
		n.repairs = &fakeRepairs{}
		overwrite(t, filepath.Join(n.dir, "meta", "gen-000001", metaName))
		wantDamaged(t, c.open("n1"), "metadata")
	})
}

// TestReinstallWhileWritesGoOn replaces the state of a running node and applies its own log again.
func TestReinstallWhileWritesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mendingCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		n := c.follower()
		c.settle()
		c.kill(n.id)
		n.repairs = &fakeRepairs{}
		c.start(n.id)
		for range 50 {
			w.write(c.leader())
		}
		c.settle()
		stop := writing(c, w, "")
		n.repairs.Found(Damage{Part: PartMetrics, Place: "a block"})
		n.metrics.mu.Lock() // what is damaged
		clear(n.metrics.content.Samples)
		n.metrics.mu.Unlock()
		held := make(chan struct{})
		var r Repaired
		err := errNotNow
		for errors.Is(err, errNotNow) {
			r, err = n.Reinstall(t.Context(), func(context.Context) error {
				time.Sleep(3 * time.Second) // entries come meanwhile
				return nil
			})
		}
		close(held)
		if err != nil || r.How != HowImage || r.From == "" || r.Bytes == 0 {
			t.Errorf("%+v, %v", r, err)
		}
		stop()
		c.settle()
		for _, id := range c.ids {
			w.check(c.nodes[id])
		}
		if n.seen.installs() != 1 || len(n.repairs.Known()) != 0 {
			t.Errorf("%d installs, damage %v", n.seen.installs(), n.repairs.Known())
		}
		time.Sleep(time.Minute)
		if asides, err := n.layout.SetAsides(); err != nil || len(asides) != 1 || asides[0].Dir != r.Aside {
			t.Errorf("set aside: %+v, %v, announced %s", asides, err, r.Aside)
		}
		c.kill(n.id)
		c.start(n.id)
		w.write(c.leader())
		c.settle()
		w.check(n)
		if got, want := deciding(t, n), deciding(t, c.leader()); got != want {
			t.Errorf("the deciding state differs from the leader's:\n%s\nwant\n%s", got, want)
		}
	})
}

// TestReinstallRefuses: what is damaged is given to nobody, a majority is not mended without a person, and an image that
// is cut off leaves everything as it was.
func TestReinstallRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mendingCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		for range 20 {
			w.write(c.leader())
		}
		c.settle()
		for _, id := range c.ids {
			c.kill(id)
			c.nodes[id].repairs = &fakeRepairs{}
		}
		for _, id := range c.ids {
			c.start(id)
		}
		c.settle()
		n := c.follower()
		var others []*testNode
		for _, id := range c.ids {
			if id != n.id {
				others = append(others, c.nodes[id])
			}
		}
		day := Damage{Part: PartLogs, Kind: "logs", From: 1000, To: 2000, Place: "logs of a day"}
		later := Damage{Part: PartLogs, Kind: "logs", From: 3000, To: 4000, Place: "logs of another day"}
		n.repairs.Found(day)

		// The same range on a majority.
		others[0].repairs.Found(day)
		if _, err := n.Reinstall(t.Context(), nil); !errors.Is(err, ErrMajority) || !strings.Contains(err.Error(), others[0].id) {
			t.Errorf("majority: %v", err)
		}
		// An operator decides, and the node that was chosen looks whether it is whole.
		n.repairs.from = others[0].id
		if _, err := n.Reinstall(t.Context(), nil); !errors.Is(err, ErrNoGiver) || !strings.Contains(err.Error(), "damaged itself") {
			t.Errorf("chosen is damaged: %v", err)
		}
		n.repairs.from = others[1].id
		others[1].repairs.whole = errors.New("two lines are missing")
		if _, err := n.Reinstall(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "two lines are missing") {
			t.Errorf("chosen is not whole: %v", err)
		}
		others[1].repairs.whole, n.repairs.from = nil, ""

		// Another range on two nodes is mended from the third.
		others[0].repairs.known = []Damage{later}
		r, err := n.Reinstall(t.Context(), nil)
		if err != nil || r.From != others[1].id {
			t.Errorf("disjoint: %+v, %v", r, err)
		}
		if _, ok := others[0].repairs.heard[n.id]; !ok {
			t.Error("the others were not told of the damage")
		}
		c.settle()
		w.check(n)

		// Who does not hold what was accepted gives nothing, asked or not: another one does. One whose state did not help is
		// asked last.
		others[0].repairs.known = nil
		n.repairs.Found(day)
		others[1].repairs.whole = errors.New("two lines are missing")
		if r, err := n.Reinstall(t.Context(), nil); err != nil || r.From != others[0].id {
			t.Errorf("one is not whole: %+v, %v", r, err)
		}
		others[1].repairs.whole = nil
		for _, o := range others {
			n.repairs.Found(day)
			n.repairs.tried = []string{o.id}
			if r, err := n.Reinstall(t.Context(), nil); err != nil || r.From == o.id {
				t.Errorf("%s was tried: %+v, %v", o.id, r, err)
			}
		}
		c.settle()
		others[0].repairs.known = []Damage{later}

		// No image without room for it.
		n.cfg.FreeBytes = func(string) (int64, error) { return 100, nil }
		n.cfg.DiskReserve = 1
		n.repairs.Found(day)
		if _, err := n.Reinstall(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "a repair needs") {
			t.Errorf("no room: %v", err)
		}
		n.cfg.FreeBytes = nil
		before := contents(t, filepath.Join(n.dir, "meta"))
		others[1].cfg.Repairs = nil
		h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != repairImagePath {
				others[1].Node.pages().ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			others[1].Node.pages().ServeHTTP(rec, r)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			panic(http.ErrAbortHandler)
		}))
		others[1].pages.Store(&h)
		if _, err := n.Reinstall(t.Context(), nil); !errors.Is(err, snapshot.ErrImage) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut: %v", err)
		}
		if after := contents(t, filepath.Join(n.dir, "meta")); after != before {
			t.Errorf("files changed from\n%s\nto\n%s", before, after)
		}
		w.write(c.leader())
		c.settle()
		w.check(n)
	})
}

// TestDamagedEntryThatIsApplied: a running node drops it, and goes on.
func TestDamagedEntryThatIsApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mendingCluster(t, 3, func(cfg *Config) { cfg.LogCache = 1; cfg.MarkInterval = time.Hour })
		w := newWriter(t, c.leader(), "agent-1")
		away, n := c.follower(), c.leader()
		time.Sleep(10 * time.Second)
		c.settle()
		n.cfg.Repairs = &fakeRepairs{}
		w.text = "damage me"
		for range 20 {
			w.write(n)
		}
		c.settle()
		if !flip(t, n.dir, "damage me agent-1 15") {
			t.Fatal("line not found in the log")
		}
		if err := n.ScrubLog(t.Context(), 0, func(int) error { return nil }); err != nil {
			t.Error(err)
		}
		c.wait("the entry to be dropped", func() bool { done, _ := n.cfg.Repairs.(*fakeRepairs).says(); return len(done) == 1 })
		c.kill(away.id)
		w.write(c.leader())
		c.start(away.id)
		w.write(c.leader())
		c.settle()
		w.check(n)
		w.check(away)
	})
}
