package raftstate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/raftstate/logfile"
)

// spoilReach makes the file that says where the log ended unreadable.
func spoilReach(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, raftDir, "REACH"), []byte("\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// shorten takes the last count entries from a log without a word of it where it says how far it reached.
func shorten(t *testing.T, dir string, count uint64) {
	t.Helper()
	name := filepath.Join(dir, raftDir, "REACH")
	said, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := logfile.Open(filepath.Join(dir, raftDir), logfile.Options{SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.LastIndex()
	if err == nil {
		err = errors.Join(s.DeleteRange(last-count+1, last), s.Close())
	}
	if err = errors.Join(err, os.WriteFile(name, said, 0o600)); err != nil {
		t.Fatal(err)
	}
}

func rot(text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if !flip(t, dir, text) {
			t.Fatal("line not found in the log")
		}
	}
}

// Nodes that lost power together, several of them with a damaged end of the log, go on by themselves where nothing is
// missing, and elect nobody where something may be.
func TestDamagedEndsOfLogsAfterAPowerLoss(t *testing.T) {
	lose := func(t *testing.T, dir string) { shorten(t, dir, 2) }
	cases := []struct {
		name string
		size int
		harm map[string]func(*testing.T, string) // by node
		down string                              // stays off
		how  string                              // of each that was harmed; "": nobody leads
	}{
		{"same entry on two of three", 3, map[string]func(*testing.T, string){"n2": rot("tail agent-1 22"), "n3": rot("tail agent-1 22")}, "", HowLogFilled},
		{"different entries on two of three", 3, map[string]func(*testing.T, string){"n1": rot("tail agent-1 22"), "n3": rot("tail agent-1 24")}, "", HowLogFilled},
		{"one entry, the third node is off", 3, map[string]func(*testing.T, string){"n2": rot("tail agent-1 22")}, "n3", HowLogFilled},
		{"reach on two of three", 3, map[string]func(*testing.T, string){"n2": spoilReach, "n3": spoilReach}, "", HowLogFilled},
		{"reach, the third node is off", 3, map[string]func(*testing.T, string){"n2": spoilReach}, "n3", HowLogFilled},
		{"reach on one of two", 2, map[string]func(*testing.T, string){"n2": spoilReach}, "", HowLogFilled},
		{"entry on one of two", 2, map[string]func(*testing.T, string){"n1": rot("tail agent-1 22")}, "", HowLogFilled},
		{"lost end on one of two", 2, map[string]func(*testing.T, string){"n1": lose}, "", HowLogFilled},
		{"lost end on one of three", 3, map[string]func(*testing.T, string){"n1": lose}, "", HowLogFilled},
		{"lost end, the third node is off", 3, map[string]func(*testing.T, string){"n1": lose}, "n3", ""},
		{"lost end on two of three", 3, map[string]func(*testing.T, string){"n1": lose, "n2": lose}, "", ""},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := mendingCluster(t, k.size, nil)
				w := newWriter(t, c.leader(), "agent-1")
				for range 20 {
					w.write(c.leader())
				}
				time.Sleep(5 * time.Second) // marks and members are written down
				c.settle()
				for _, id := range c.ids {
					c.kill(id)
					c.nodes[id].repairs = &fakeRepairs{}
				}
				c.tune = func(cfg *Config) { cfg.MarkInterval = time.Hour }
				for _, id := range c.ids {
					c.start(id)
				}
				w.text = "tail"
				for range 5 {
					w.write(c.leader())
				}
				c.settle()
				for _, id := range c.ids {
					c.kill(id)
				}
				for id, harm := range k.harm {
					harm(t, c.nodes[id].dir)
				}
				// Those that are whole are up first; a node that is mended waits for them in its start.
				for _, harmed := range []bool{false, true} {
					for _, id := range c.ids {
						if (k.harm[id] != nil) == harmed && id != k.down {
							c.start(id)
						}
					}
				}
				if k.how == "" {
					for range 600 {
						time.Sleep(100 * time.Millisecond)
						for _, id := range c.ids {
							if n := c.nodes[id]; n.up && n.raft.Load().State().String() == "Leader" {
								t.Fatalf("%s leads", id)
							}
						}
					}
					return
				}
				w.write(c.leader())
				c.settle()
				for _, id := range c.ids {
					n := c.nodes[id]
					if !n.up {
						continue
					}
					w.check(n)
					if done, doing := n.repairs.says(); k.harm[id] != nil && (len(done) != 1 || done[0].How != k.how || doing != "") {
						t.Errorf("%s: done %+v, doing %q", id, done, doing)
					}
					if n.probation.Load() {
						t.Errorf("%s is on probation", id)
					}
				}
				// What was mended is so for good.
				for id := range k.harm {
					c.kill(id)
					c.start(id)
				}
				w.write(c.leader())
				c.settle()
			})
		})
	}
}

// What a recovery of the only node that is left would give up of a damaged log is told, and is cut only when it is wanted.
func TestDamagedLogOfALastNodeIsCut(t *testing.T) {
	for name, k := range map[string]struct {
		harm func(*testing.T, string)
		lost uint64
	}{
		"an entry":   {rot("tail agent-1 24"), 2},
		"the end":    {func(t *testing.T, dir string) { shorten(t, dir, 3) }, 3},
		"the reach":  {spoilReach, 0},
		"last batch": {rot("tail agent-1 25"), 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCluster(t, 1, func(cfg *Config) { cfg.TickInterval = time.Hour })
				n := c.leader()
				w := newWriter(t, n, "agent-1")
				for range 20 {
					w.write(n)
				}
				if err := n.raft.Load().Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
				w.text = "tail"
				for range 5 {
					w.write(n)
				}
				last := n.Status().LastIndex
				c.kill("n1")
				k.harm(t, n.dir)
				before := contents(t, filepath.Join(n.dir, raftDir))
				left, err := Inspect(t.Context(), n.dir)
				if err != nil || left.Damage == "" || left.GivenUp != k.lost || left.Cut != last+1-k.lost || left.Last != last-k.lost {
					t.Fatalf("%+v, %v; the log ended at %d", left, err, last)
				}
				if after := contents(t, filepath.Join(n.dir, raftDir)); after != before {
					t.Error("looking changed the log")
				}
				wantDamaged(t, c.open("n1"), "log")
				if err := CutDamaged(t.Context(), n.dir); err != nil {
					t.Fatal(err)
				}
				if left, err = Inspect(t.Context(), n.dir); err != nil || left.Damage != "" || left.Cut != 0 || left.Last != last-k.lost {
					t.Errorf("after the cut: %+v, %v", left, err)
				}
				c.start("n1")
				if err := CutDamaged(t.Context(), t.TempDir()); err == nil {
					t.Error("an empty directory was cut")
				}
			})
		})
	}
}

// A node that is stopped while it applies its log again stops, and its next start goes on.
func TestReplayCanBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mendingCluster(t, 3, nil)
		w := newWriter(t, c.leader(), "agent-1")
		n := c.follower()
		c.settle()
		c.kill(n.id)
		n.repairs = &fakeRepairs{}
		c.start(n.id)
		c.settle()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		batches := 0
		n.repairs.at = func(doing string) {
			if strings.HasPrefix(doing, "applying the own log") {
				batches++
				cancel()
			}
		}
		var goal uint64
		_, err := n.Reinstall(ctx, func(context.Context) error {
			for range 5 * replayBatch { // they come after the image was cut
				w.write(c.leader())
			}
			c.settle()
			goal = n.Status().AppliedIndex
			return nil
		})
		if !errors.Is(err, ErrStopped) || batches != 1 || goal == 0 {
			t.Fatalf("%v after %d batches", err, batches)
		}
		c.kill(n.id)
		n.repairs = &fakeRepairs{}
		c.start(n.id)
		c.settle()
		w.check(n)
		if at := n.Status().AppliedIndex; at < goal {
			t.Errorf("it is at entry %d, it had been at %d", at, goal)
		}
	})
}
