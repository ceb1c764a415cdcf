package systemtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// powerGoal is how long after the power is back a node may take to serve again.
const powerGoal = 20 * time.Second

var (
	needLoop     = need{"disks of its own", func() error { return diskTools() }}
	needStrace   = need{"strace", func() error { return diskTools("strace") }}
	needThrottle = need{"disks that can be made slow", func() error { return errors.Join(diskTools(), canThrottle()) }}
)

// powerRows are losses of power: what was not on the disk is gone.
func powerRows() []faultRow {
	return []faultRow{
		{
			name: "power-one", fault: "power loss of one node at any moment", needs: []need{needLoop}, weight: 90 * time.Second, short: true, quick: 25 * time.Second, goal: powerGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.powerRounds(ctx, powerRow{}) },
		},
		{
			name: "power-all", fault: "power loss of all nodes at once, at any moment", needs: []need{needLoop}, weight: 150 * time.Second, short: true, quick: 40 * time.Second, goal: powerGoal,
			run: func(ctx context.Context, tr *trial) error {
				return tr.powerRounds(ctx, powerRow{all: true, settled: true})
			},
		},
		{
			name: "power-torn", fault: "power loss of all nodes, each in the middle of a write to its log", needs: []need{needLoop}, weight: 85 * time.Second, goal: powerGoal,
			run: func(ctx context.Context, tr *trial) error {
				return tr.powerRounds(ctx, powerRow{all: true, settled: true, torn: true})
			},
		},
		{
			name: "power-marks", fault: "power loss of one or all nodes while a mark is made every second", needs: []need{needLoop}, weight: 60 * time.Second, goal: powerGoal,
			run: func(ctx context.Context, tr *trial) error { return tr.powerRounds(ctx, powerRow{marks: true}) },
		},
		{
			name: "power-install", fault: "power loss of a node while it installs an image, or of the node that gives it", needs: []need{needLoop}, weight: 120 * time.Second, goal: powerGoal,
			run: func(ctx context.Context, tr *trial) error {
				return tr.powerRounds(ctx, powerRow{marks: true, install: true})
			},
		},
	}
}

// powerRow says how a row of losses of power goes.
type powerRow struct {
	all     bool // all nodes lose it
	settled bool // each node has made a mark before, which holds who the members are
	torn    bool // a part of the write after the last one that was synced is on the disk
	marks   bool // marks are made all the time, and the log behind them is short
	install bool // one node is away before, so that it must install
}

// rounds is how many losses a trial has.
func (r powerRow) rounds() int {
	switch {
	case os.Getenv("TRIWARD_FAULTS") != "":
		return 5
	case r.marks:
		return 10
	case r.torn:
		return 15
	}
	return 30
}

// diskBytes is the size of a node's disk: the log keeps a reserve of 192 MiB free.
const diskBytes = 1 << 30

// privateMounts keeps what is mounted within the bench's namespace, once.
var privateMounts = sync.OnceValue(func() error {
	if os.Getenv(inBench) == "" {
		return nil
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
})

// foundOnDisks founds a cluster whose nodes have disks of their own.
func (tr *trial) foundOnDisks(ctx context.Context, p plan) ([]*loopDisk, error) {
	if err := privateMounts(); err != nil {
		return nil, fmt.Errorf("keep mounts private: %w", err)
	}
	disks := make([]*loopDisk, 3)
	for i := range disks {
		d, err := newLoopDisk(ctx, filepath.Join(tr.dir, fmt.Sprintf("disk%d", i)), filepath.Join(tr.dir, "mnt", strconv.Itoa(i)), diskBytes)
		if err != nil {
			return nil, err
		}
		disks[i] = d
		tr.atEnd(func() {
			if err := d.close(); err != nil {
				fmt.Printf("    %v\n", err)
			}
		})
	}
	p.dataDir = func(i int) string { return filepath.Join(disks[i].at, "data") }
	return disks, tr.found(ctx, p)
}

// config is the configuration that the row wants.
func (r powerRow) config(_ int, c map[string]any) {
	if r.marks {
		c["queue"] = map[string]any{"mark_interval": "1s", "retention": map[string]any{"bytes": "1MiB", "time": "1s"}}
	}
}

// powerRounds takes the power, over and over, and compares after each time.
func (tr *trial) powerRounds(ctx context.Context, r powerRow) error {
	disks, err := tr.foundOnDisks(ctx, plan{config: r.config})
	if err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	if r.settled {
		if err := tr.marked(ctx); err != nil {
			return err
		}
	}
	if r.install {
		if err := tr.flood(ctx); err != nil {
			return err
		}
	}
	rounds := r.rounds()
	for i := range rounds {
		began := time.Now()
		if err := tr.powerRound(ctx, r, disks, i); err != nil {
			return fmt.Errorf("loss of power %d: %w", i+1, err)
		}
		if slices.ContainsFunc(tr.traffic.senders, (*sender).gaveUp) {
			return tr.askedAgain(ctx)
		}
		if err := tr.compareNow(ctx); err != nil {
			return fmt.Errorf("after loss of power %d: %w", i+1, err)
		}
		tr.logf("%d of %d in %v: lost %d, doubled %d, differing %d", i+1, rounds, time.Since(began).Round(time.Millisecond), tr.lost+tr.forgotten, tr.doubled, tr.differing+tr.foreign)
		if tr.total() > 0 {
			break
		}
	}
	return tr.compare(ctx)
}

// askedAgain ends a trial in which the cluster asks for what it had acknowledged: that is found, whether or not the nodes
// still come to one state.
func (tr *trial) askedAgain(ctx context.Context) error {
	if err := tr.compare(ctx); err != nil {
		if tr.total() == 0 {
			return err
		}
		tr.note("the nodes could not be compared: %v", err)
	}
	return nil
}

// marked returns when every node has a mark behind what is acknowledged now.
func (tr *trial) marked(ctx context.Context) error {
	leader, err := tr.c.leader(ctx)
	if err != nil {
		return err
	}
	var now clusterStatus
	if err := tr.c.get(ctx, leader, "/v1/cluster", nil, &now); err != nil {
		return err
	}
	at := applied(now, leader.ID)
	return until(ctx, 90*time.Second, func(ctx context.Context) error {
		var st clusterStatus
		if err := tr.c.get(ctx, leader, "/v1/cluster", nil, &st); err != nil {
			return err
		}
		for _, n := range st.Nodes {
			if n.MarkIndex < at {
				return fmt.Errorf("the mark of %s is at %d, waiting for %d", n.ID, n.MarkIndex, at)
			}
		}
		return nil
	})
}

// powerRound is one loss of power and the way back.
func (tr *trial) powerRound(ctx context.Context, r powerRow, disks []*loopDisk, round int) error {
	hit := tr.rng.Perm(len(disks))
	if !r.all && !(r.marks && tr.rng.IntN(3) == 0) {
		hit = hit[:1]
	}
	if r.install {
		if err := tr.mustInstall(ctx, hit[0]); err != nil {
			return err
		}
		if tr.rng.IntN(3) == 0 { // the one that gives the image
			leader, err := tr.c.leader(ctx)
			if err != nil {
				return err
			}
			hit = []int{tr.index(leader)}
		}
	}
	if err := pause(ctx, time.Duration(tr.rng.IntN(1500))*time.Millisecond); err != nil {
		return err
	}
	tr.faulted(1)
	if err := tr.darken(hit, disks); err != nil {
		return err
	}
	if len(hit) == 1 && !r.install { // the others go on; the one that installs may be needed for a majority
		if err := tr.progress(ctx, 3); err != nil {
			return fmt.Errorf("without %s: %w", tr.c.Nodes[hit[0]].ID, err)
		}
	}
	for _, i := range hit {
		if err := disks[i].restorePower(ctx, round%2 == 1); err != nil {
			return err
		}
		if r.torn {
			if err := tr.tear(tr.c.Nodes[i].DataDir); err != nil {
				return err
			}
		}
	}
	return tr.backAgain(ctx, hit)
}

// backAgain starts nodes and returns when all are ready.
func (tr *trial) backAgain(ctx context.Context, hit []int) error {
	began := time.Now()
	for _, i := range hit {
		if err := tr.c.restart(&tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	if err := tr.progress(ctx, 1); err != nil {
		return tr.whyNot(fmt.Errorf("after the power is back: %w", err))
	}
	if err := tr.allReady(ctx); err != nil {
		return tr.whyNot(err)
	}
	tr.recovered(time.Since(began))
	return nil
}

// tear leaves the first part of an entry behind the end of the log, which was never synced and never acknowledged. Frames
// of the log have a head of 8 bytes, kind and length, and begin at multiples of 8 (hashicorp/raft-wal).
func (tr *trial) tear(dataDir string) error {
	segments, err := filepath.Glob(filepath.Join(dataDir, "raft", "*.wal"))
	if err != nil || len(segments) == 0 {
		return errors.Join(err, fmt.Errorf("no log below %s", dataDir))
	}
	f, err := os.OpenFile(slices.Max(segments), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	end := (len(bytes.TrimRight(b, "\x00")) + 7) / 8 * 8
	whole := 64 + tr.rng.IntN(8192)
	frame := binary.LittleEndian.AppendUint32([]byte{1, 0, 0, 0}, uint32(whole))
	for range tr.rng.IntN(whole) {
		frame = append(frame, byte(tr.rng.IntN(256)))
	}
	frame = frame[:min(len(frame), max(0, len(b)-end))]
	if _, err := f.WriteAt(frame, int64(end)); err != nil {
		return fmt.Errorf("tear a write: %w", err)
	}
	return f.Sync()
}

// darken takes the power of nodes, all at once, and then their processes, which are dead from there on.
func (tr *trial) darken(hit []int, disks []*loopDisk) error {
	for _, i := range hit {
		if err := disks[i].losePower(); err != nil {
			return err
		}
	}
	for _, i := range hit {
		if err := tr.c.kill(&tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

// whyNot adds which nodes ended by themselves, which is what a refusal to start looks like.
func (tr *trial) whyNot(err error) error {
	for i := range tr.c.Nodes {
		if n := &tr.c.Nodes[i]; tr.c.ended(n) {
			err = fmt.Errorf("%w; %s ended by itself", err, n.ID)
		}
	}
	return err
}

// flood begins a sender of much, which is not compared with the ledger itself.
func (tr *trial) flood(ctx context.Context) error {
	s, err := (kills{}).sender(ctx, tr.c, tr.traffic.ledger, len(tr.traffic.senders), seriesPerSender)
	if err != nil {
		return err
	}
	s.padding = 8 << 10
	flooding, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.run(flooding, 2*pace) }()
	tr.atEnd(func() {
		stop()
		<-ended
	})
	tr.flooders = append(tr.flooders, s)
	return nil
}

// mustInstall stops a node until the others no longer have the log that it would need, and starts it.
func (tr *trial) mustInstall(ctx context.Context, i int) error {
	n := &tr.c.Nodes[i]
	if err := tr.c.kill(n); err != nil {
		return err
	}
	var leader *devNode
	var gone clusterStatus
	err := until(ctx, time.Minute, func(ctx context.Context) (err error) {
		if leader, err = tr.c.leader(ctx); err == nil && leader == n {
			err = fmt.Errorf("%s is still named the leader", n.ID)
		}
		if err != nil {
			return err
		}
		return tr.c.get(ctx, leader, "/v1/cluster", nil, &gone)
	})
	if err != nil {
		return err
	}
	if err := truncatedPast(ctx, tr.c, leader, applied(gone, leader.ID)); err != nil {
		return err
	}
	return tr.c.restart(n)
}

// hold has all senders wait, with nothing under way, until the function that it returns is called.
func (tr *trial) hold() (goOn func()) {
	senders := slices.Concat(tr.traffic.senders, tr.flooders)
	for _, s := range senders {
		s.held.Lock()
	}
	return func() {
		for _, s := range senders {
			s.held.Unlock()
		}
	}
}

// compareNow holds all senders, compares every node with the ledger, and lets them go on.
func (tr *trial) compareNow(ctx context.Context) error {
	senders := tr.traffic.senders
	defer tr.hold()()
	defer tr.anew()()
	if err := tr.c.compare(ctx, tr.traffic.ledger, senders, &tr.violations); err != nil {
		return fmt.Errorf("compare the nodes with the ledger: %w", err)
	}
	return nil
}
