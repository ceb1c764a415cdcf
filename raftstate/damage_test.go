package raftstate

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"
	bolterr "go.etcd.io/bbolt/errors"

	"github.com/triward/triward/raftstate/command"
	"github.com/triward/triward/raftstate/logfile"
	"github.com/triward/triward/raftstate/machine"
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

// TestObstaclesAreNotDamage: whoever is told to replace the data does so.
func TestObstaclesAreNotDamage(t *testing.T) {
	file := func(errno error) error {
		return fmt.Errorf("open state: %w", &os.PathError{Op: "open", Path: "/data/meta.db", Err: errno})
	}
	for name, k := range map[string]struct {
		err  error
		code int // 0: no FatalError
		hint string
	}{
		"no space":        {file(syscall.ENOSPC), ExitStorage, "free space"},
		"no right":        {file(syscall.EACCES), ExitStorage, "own its data directory"},
		"read only":       {file(syscall.EROFS), ExitStorage, "write to it"},
		"files":           {file(syscall.EMFILE), ExitStorage, "limit of open files"},
		"broken disk":     {file(syscall.EIO), ExitStorage, "check the disk"},
		"in use":          {fmt.Errorf("open state: %w", bolterr.ErrTimeout), ExitStorage, "another process"},
		"interrupted":     {fmt.Errorf("verify: %w", context.Canceled), 0, ""},
		"damaged state":   {fmt.Errorf("open: %w", meta.ErrDamaged), ExitDamaged, "keep the directory"},
		"damaged log":     {fmt.Errorf("open: %w", logfile.ErrCorrupt), ExitDamaged, "keep the directory"},
		"another version": {fmt.Errorf("open: %w", logfile.ErrVersion), ExitDamaged, "upgrade"},
	} {
		for what, err := range map[string]error{"state": refused("x", k.err), "store": refusedStore("x", k.err)} {
			var fatal *FatalError
			if !errors.As(err, &fatal) {
				fatal = &FatalError{}
			}
			other := what == "store" && name == "another version" // stores have no such error
			if fatal.Code != k.code || !strings.Contains(fatal.Hint, k.hint) && !other || !errors.Is(err, k.err) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
			if fatal.Code != ExitDamaged && strings.Contains(err.Error(), "aside") {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	if err := refusedStore("store of logs", errors.New("manifest is torn")); err.(*FatalError).Code != ExitDamaged { //nolint:errorlint // as returned
		t.Errorf("a store that is damaged: %v", err)
	}
	if err := refusedStore("store of metrics", fmt.Errorf("open: %w", newerStore{})); !errors.Is(err, ErrVersion) {
		t.Errorf("a store of another version: %v", err)
	}
	if err := refused("log", file(syscall.ENOENT)); err.(*FatalError).Code != ExitStorage { //nolint:errorlint // as returned
		t.Errorf("what nothing explains: %v", err)
	}
}

type newerStore struct{}

func (newerStore) Error() string { return "blocks.json is of version 2" }

func (newerStore) OtherVersion() {}

// TestStartTellsObstaclesApart starts a node whose file is in use, and one that is interrupted.
func TestStartTellsObstaclesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, nil)
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		w.write(n)
		c.kill("n1")
		var cancel context.CancelFunc
		c.ctx, cancel = context.WithCancel(t.Context())
		cancel()
		var fatal *FatalError
		if err := c.open("n1"); !errors.Is(err, context.Canceled) || errors.As(err, &fatal) {
			t.Errorf("interrupted: %v", err)
		}
		c.ctx = nil
		for _, name := range []string{filepath.Join("meta", "gen-000001", metaName), filepath.Join(raftDir, "wal-meta.db")} {
			db, err := bolt.Open(filepath.Join(n.dir, name), 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.open("n1"); !errors.As(err, &fatal) || fatal.Code != ExitStorage || !strings.Contains(fatal.Hint, "another process") {
				t.Errorf("%s is in use: %v", name, err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
		c.start("n1")
		c.leader()
		w.check(n)
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

// install gives the node an image as raft does.
func install(n *testNode, b []byte, m *meta.Mark) error {
	sink, err := marks{n.Node}.Create(raft.SnapshotVersionMax, m.Index, m.Term, raft.Configuration{}, 1, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(sink, bytes.NewReader(b)); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// raiseFormat makes the state of a node that is down have a format that this program does not know.
func raiseFormat(t *testing.T, n *testNode) {
	t.Helper()
	s, err := meta.Open(filepath.Join(n.dir, "meta", "gen-000001", metaName), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	mark, _ := s.Mark()
	var changes []meta.Change
	tx := s.Begin(mark.Index, 0, &changes)
	tx.SetFormat(machine.Format + 1)
	tx.End()
	s.Publish(mark.Index, mark.Term, nil)
	if err := errors.Join(s.Freeze(mark.Index, mark.Term).Commit(mark), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestNewerFormatIsRefused: a node that does not know the format of the cluster stops and changes nothing, whether its
// own state has it or an image of another node.
func TestNewerFormatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCluster(t, 1, func(cfg *Config) { cfg.Bootstrap = []Server{{ID: cfg.NodeID, Addr: cfg.NodeID}} })
		n := c.leader()
		w := newWriter(t, n, "agent-1")
		for range 10 {
			w.write(n)
		}
		if err := n.raft.Load().Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		c.kill("n1")
		raiseFormat(t, n)
		before := contents(t, n.dir)
		err := c.open("n1")
		wantDamaged(t, err, fmt.Sprintf("the cluster's format is %d, this program knows up to %d", machine.Format+1, machine.Format))
		if !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("%v", err)
		}
		if after := contents(t, n.dir); after != before {
			t.Errorf("files changed from\n%s\nto\n%s", before, after)
		}

		tune := c.tune
		c.tune = func(cfg *Config) { tune(cfg); cfg.format = machine.Format + 1 }
		c.start("n1")
		c.leader()
		newer, img := image(t, c.nodes["n1"])
		hidden := bytes.Replace(newer, fmt.Appendf(nil, `"cluster_format":%d,`, machine.Format+1), []byte(`                   `), 1)
		otherImage := bytes.Replace(hidden, []byte(`{"format":1,`), []byte(`{"format":9,`), 1)
		if bytes.Equal(newer, hidden) || bytes.Equal(hidden, otherImage) {
			t.Fatalf("header of the image: %.200q", newer[512:])
		}
		for name, b := range map[string][]byte{"state": newer, "state, not announced": hidden, "image": otherImage} {
			old := newTestCluster(t, 1, nil)
			o := old.leader()
			newWriter(t, o, "agent-1").write(o)
			if err := install(o, b, &img.mark); !errors.Is(err, ErrVersion) {
				t.Errorf("%s: %v", name, err)
			}
			wantDamaged(t, <-o.fatal, "newer format")
			if dirs, err := filepath.Glob(filepath.Join(o.dir, "*", "gen-*")); err != nil || len(dirs) != 3 {
				t.Errorf("%s: left behind: %v, %v", name, dirs, err)
			}
			old.kill("n1")
			old.start("n1")
			old.leader()
		}
	})
}

// contents lists the files below dir with what they hold.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %d %08x\n", path, len(content), crc32.ChecksumIEEE(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
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
		for name, b := range map[string][]byte{"cut": good[:len(good)/2], "no end": good[:len(good)-1536], "flipped": flipped, "empty": good[:1]} {
			if err := install(n, b, &img.mark); !errors.Is(err, snapshot.ErrImage) {
				t.Errorf("image %s: %v", name, err)
			}
		}
		later := img.mark
		later.Index++
		if err := install(n, good, &later); !errors.Is(err, snapshot.ErrImage) {
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
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var load sync.WaitGroup
	for range 4 { // the watchdog looks once a millisecond, and has to meet a write
		load.Go(func() {
			for ctx.Err() == nil {
				_, _, _ = n.Propose(ctx, command.NewTick("x"))
			}
		})
	}
	waitFor(t, "the watchdog", func() bool { return n.Status().Fatal != "" })
	cancel()
	load.Wait()
	var fatal *FatalError
	if err := <-n.fatal; !errors.As(err, &fatal) || fatal.Code != ExitStorage || !strings.Contains(err.Error(), "hanging") {
		t.Errorf("fatal: %v", err)
	}
	if _, _, err := n.Propose(t.Context(), command.NewTick("x")); err == nil {
		t.Error("proposals still succeed")
	}
}
