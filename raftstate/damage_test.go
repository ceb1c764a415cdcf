package raftstate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/meta"
	"github.com/triward/triward/raftstate/snapshot"
)

// flip changes one byte of the line text in the node's log files and reports whether it was there.
func flip(t *testing.T, dir, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, raftDir, "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := bytes.Index(b, []byte(text))
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{b[at] ^ 1}, int64(at)); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return true
	}
	return false
}

func wantDamaged(t *testing.T, err error, part string) {
	t.Helper()
	var fatal *FatalError
	if !errors.As(err, &fatal) || fatal.Code != ExitDamaged || !strings.Contains(err.Error(), part) {
		t.Errorf("error is %v, wanted was exit code %d for %s", err, ExitDamaged, part)
	}
}

func TestStartRefusesDamage(t *testing.T) {
	cases := []struct {
		name, part string
		harm       func(t *testing.T, dir string, mark uint64)
	}{
		{"flipped bit above the mark", "damaged", func(t *testing.T, dir string, _ uint64) {
			if !flip(t, dir, "tail agent-1 22") {
				t.Fatal("line not found in the log")
			}
		}},
		{"store behind the mark", "store of logs", func(t *testing.T, dir string, _ uint64) {
			if err := os.RemoveAll(filepath.Join(dir, "logs", "gen-000001", fakeFile)); err != nil {
				t.Fatal(err)
			}
		}},
		{"log gone", "is gone", func(t *testing.T, dir string, _ uint64) {
			if err := os.RemoveAll(filepath.Join(dir, raftDir)); err != nil {
				t.Fatal(err)
			}
		}},
		{"hole between state and log", "begins at", func(t *testing.T, dir string, mark uint64) {
			s, err := logfile.Open(filepath.Join(dir, raftDir), logfile.Options{SegmentBytes: 1 << 20})
			if err == nil {
				err = errors.Join(s.DeleteRange(1, mark+2), s.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		{"raft's own storage cut", "wal-meta.db", func(t *testing.T, dir string, _ uint64) {
			if err := os.Truncate(filepath.Join(dir, raftDir, "wal-meta.db"), 3*4096); err != nil {
				t.Fatal(err)
			}
		}},
		{"metadata flipped", "metadata", func(t *testing.T, dir string, _ uint64) {
			name := filepath.Join(dir, "meta", "gen-000001", metaName)
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for i := 8192; i < len(b); i += 512 {
				b[i] ^= 0x40
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCluster(t, 1, nil)
				n := c.leader()
				w := newWriter(t, n, "agent-1")
				for range 20 {
					w.write(n)
				}
				if err := n.raft.Load().Snapshot().Error(); err != nil {
					t.Fatal(err)
				}
				mark := n.Status().MarkIndex
				w.text = "tail"
				for range 5 {
					w.write(n)
				}
				c.kill("n1")
				k.harm(t, n.dir, mark)
				wantDamaged(t, c.open("n1"), k.part)
			})
		})
	}
}

// State of another version stops the node with the exit code for it, but is not called damaged.
func TestStartRefusesAnotherVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		newWriter(t, n, "agent-1").write(n)
		if err := n.raft.Load().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		c.kill("n1")
		db, err := bolt.Open(filepath.Join(n.dir, "meta", "gen-000001", metaName), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			key, value := []byte("state"), []byte{9, 1, 2, 3}
			sum := crc32.Checksum(slices.Concat(key, value), crc32.MakeTable(crc32.Castagnoli))
			return tx.Bucket([]byte("state")).Put(key, binary.LittleEndian.AppendUint32(value, sum))
		})
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		err = c.open("n1")
		wantDamaged(t, err, "version 9")
		if !errors.Is(err, ErrVersion) || errors.Is(err, meta.ErrDamaged) || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("%v", err)
		}
	})
}

func TestStartOfAnotherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		c.leader()
		c.kill("n1")
		c.nodes["n1"].id = "n9"
		wantDamaged(t, c.open("n1"), "belongs to node")
	})
}

func TestStaleLogIsCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		for range 20 {
			w.write(n)
		}
		if err := n.raft.Load().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		mark := n.Status().MarkIndex
		c.kill("n1")
		s, err := logfile.Open(filepath.Join(n.dir, raftDir), logfile.Options{SegmentBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.DeleteRange(mark-3, mark+100), s.Close()); err != nil {
			t.Fatal(err)
		}
		c.start("n1")
		w.write(c.leader())
		w.check(c.nodes["n1"])
	})
}

func TestDamageBehindTheMarkHealsByInstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, func(cfg *Config) { cfg.LogCache = 1; cfg.MarkInterval = time.Second })
		w := newWriter(t, c.leader(), "agent-1")
		away := c.follower()
		c.settle()
		c.kill(away.id)
		w.text = "damage me"
		for range 50 {
			w.write(c.leader())
		}
		time.Sleep(5 * time.Second) // a mark
		leader := c.leader()
		if !flip(t, leader.dir, "damage me agent-1 25") {
			t.Fatal("line not found in the log")
		}
		c.start(away.id)
		w.write(c.leader())
		c.settle()
		w.check(c.nodes[away.id])
		if c.leader() == leader && c.nodes[away.id].seen.installs() == 0 {
			t.Error("the node caught up without an install")
		}
	})
}

func TestDamageFoundWhileReadingIsFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 3, func(cfg *Config) { cfg.LogCache = 1; cfg.MarkInterval = time.Hour })
		w := newWriter(t, c.leader(), "agent-1")
		away := c.follower()
		c.settle()
		c.kill(away.id)
		w.text = "damage me"
		for range 50 {
			w.write(c.leader())
		}
		leader := c.leader()
		if !flip(t, leader.dir, "damage me agent-1 25") {
			t.Fatal("line not found in the log")
		}
		c.start(away.id)
		err := <-leader.fatal
		wantDamaged(t, err, "log")
		if !errors.Is(err, logfile.ErrCorrupt) {
			t.Errorf("fatal: %v", err)
		}
	})
}

// image returns the bytes of an image of the node and its snapshot metadata.
func image(t *testing.T, n *testNode) ([]byte, *cutImage) {
	t.Helper()
	img, err := n.cut("test")
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	if h, err := n.WriteImage(t.Context(), &written); err != nil || h.Index != img.mark.Index || int64(written.Len()) != img.image.Size() {
		t.Errorf("image of %d bytes, %+v, %v", written.Len(), h, err)
	}
	r := img.image.Open()
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != img.image.Size() {
		t.Errorf("image has %d bytes, %d were announced", len(b), img.image.Size())
	}
	return b, img
}

func TestBadImagesLeaveTheStateAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		for range 30 {
			w.write(n)
		}
		good, img := image(t, n)
		flipped := bytes.Clone(good)
		flipped[bytes.Index(flipped, []byte("agent-1 17"))] ^= 1
		newer := bytes.Replace(good, []byte(`{"format":1,`), []byte(`{"format":9,`), 1)
		install := func(b []byte, index uint64) error {
			sink, err := marks{n.Node}.Create(raft.SnapshotVersionMax, index, img.mark.Term, raft.Configuration{}, 1, nil)
			if err != nil {
				return err
			}
			if _, err := io.Copy(sink, bytes.NewReader(b)); err != nil {
				return errors.Join(err, sink.Cancel())
			}
			return sink.Close()
		}
		for name, b := range map[string][]byte{"cut": good[:len(good)/2], "no end": good[:len(good)-1536], "flipped": flipped, "newer": newer, "empty": good[:1]} {
			if err := install(b, img.mark.Index); !errors.Is(err, snapshot.ErrImage) {
				t.Errorf("image %s: %v", name, err)
			}
		}
		if err := install(good, img.mark.Index+1); !errors.Is(err, snapshot.ErrImage) {
			t.Errorf("image of another entry: %v", err)
		}
		dirs, err := filepath.Glob(filepath.Join(n.dir, "*", "gen-*"))
		if err != nil || len(dirs) != 3 {
			t.Errorf("left behind: %v, %v", dirs, err)
		}
		if n.Status().Installing {
			t.Error("the node says that it installs")
		}
		w.write(n)
		w.check(n)
		if err := os.MkdirAll(filepath.Join(n.dir, "tsdb", "gen-000077", "x"), 0o700); err != nil {
			t.Fatal(err)
		}
		c.kill("n1")
		c.start("n1")
		if _, err := os.Stat(filepath.Join(n.dir, "tsdb", "gen-000077")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left-over generation: %v", err)
		}
		c.leader()
		w.check(c.nodes["n1"])
	})
}

func TestHungDiskIsFatal(t *testing.T) {
	c := newTestCluster(t, 1, func(cfg *Config) { cfg.HungDisk = time.Nanosecond }) // any write hangs that long
	n := c.nodes["n1"]
	waitFor(t, "the watchdog", func() bool { return n.Status().Fatal != "" })
	var fatal *FatalError
	if err := <-n.fatal; !errors.As(err, &fatal) || fatal.Code != ExitStorage || !strings.Contains(err.Error(), "hanging") {
		t.Errorf("fatal: %v", err)
	}
	if _, _, err := n.Propose(t.Context(), command.NewTick("x")); err == nil {
		t.Error("proposals still succeed")
	}
}
