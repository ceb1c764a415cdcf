package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/triward/triward/agent/wire"
)

// resumeGoal is how long after there is room again writes may still stand still.
const resumeGoal = 5 * time.Second

// Of a disk of so many bytes 320 MiB are no room for data (docs/retention.md): the warning comes at four fifths of the
// rest, data is refused from 192 MiB left on, and everything from 96 MiB left on.
const (
	tightBytes = 700 << 20
	nearlyFull = 350 << 20        // left: more than nine tenths of the room is used
	noDataLeft = 130 << 20        // far enough from the limit for what a node deletes by itself meanwhile
	fullOneFor = 70 * time.Second // the store of metrics writes chunks once a minute
	grownBytes = 2 * tightBytes
)

// fullRows are disks that fill up and grow.
func fullRows() []faultRow {
	row := func(name, fault string, short bool, run func(context.Context, *trial) error) faultRow {
		return faultRow{name: name, fault: fault, needs: []need{needLoop}, weight: 100 * time.Second, short: short, goal: resumeGoal, run: run}
	}
	return []faultRow{
		row("full-follower", "the disk of a follower fills up, and grows", false, func(ctx context.Context, tr *trial) error { return tr.fullOne(ctx, false) }),
		row("full-leader", "the disk of the leader fills up, and grows", false, func(ctx context.Context, tr *trial) error { return tr.fullOne(ctx, true) }),
		row("full-all", "the disks of all nodes fill up, and grow", true, func(ctx context.Context, tr *trial) error { return tr.fullAll(ctx) }),
	}
}

// tightDisk is a small file system in memory that can grow while it is used.
type tightDisk struct {
	at   string
	size int64
}

func newTightDisk(at string, size int64) (*tightDisk, error) {
	if err := os.MkdirAll(at, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		return nil, fmt.Errorf("mount a small disk at %s: %w", at, err)
	}
	return &tightDisk{at, size}, nil
}

func (d *tightDisk) resize(size int64) error {
	if err := unix.Mount("tmpfs", d.at, "tmpfs", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		return fmt.Errorf("resize %s: %w", d.at, err)
	}
	d.size = size
	return nil
}

// occupy writes a file that leaves so many bytes free.
func (d *tightDisk) occupy(leave int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.at, &st); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(d.at, "filler"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for left := int64(st.Bavail)*st.Bsize - leave; left > 0; left -= 1 << 20 {
		if _, err := f.Write(make([]byte, min(left, 1<<20))); err != nil && !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("fill %s: %w", d.at, err)
		}
	}
	return nil
}

func (d *tightDisk) close() error {
	err := until(context.Background(), 10*time.Second, func(context.Context) error { return unix.Unmount(d.at, 0) })
	if err != nil {
		err = errors.Join(err, unix.Unmount(d.at, unix.MNT_DETACH))
	}
	return err
}

// foundOnTight founds a cluster whose nodes have small disks of their own, and begins to send.
func (tr *trial) foundOnTight(ctx context.Context) ([]*tightDisk, error) {
	if err := privateMounts(); err != nil {
		return nil, fmt.Errorf("keep mounts private: %w", err)
	}
	disks := make([]*tightDisk, 3)
	for i := range disks {
		d, err := newTightDisk(filepath.Join(tr.dir, "mnt", strconv.Itoa(i)), tightBytes)
		if err != nil {
			return nil, err
		}
		disks[i] = d
		tr.atEnd(func() { _ = d.close() })
	}
	if err := tr.found(ctx, plan{dataDir: func(i int) string { return filepath.Join(disks[i].at, "data") }}); err != nil {
		return nil, err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return nil, err
	}
	return disks, tr.diskRule(ctx)
}

// diskRule is the shipped rule about full disks, without the five minutes that it waits.
func (tr *trial) diskRule(ctx context.Context) error {
	const rule = `
groups:
  - name: now
    interval: 1s
    rules:
      - {alert: DiskFillsNow, expr: triward_disk_used_ratio > triward_disk_warn_ratio, labels: {severity: warning}}
`
	return until(ctx, time.Minute, func(ctx context.Context) error {
		return tr.c.change(ctx, &tr.c.Nodes[0], http.MethodPut, "/v1/rules/files/disks", map[string]any{"body": rule}, new(json.RawMessage))
	})
}

// warned returns when an alert fires that names the disk of the node.
func (tr *trial) warned(ctx context.Context, n *devNode) error {
	return until(ctx, 90*time.Second, func(ctx context.Context) error {
		leader, err := tr.c.leader(ctx)
		if err != nil {
			return err
		}
		var now struct {
			Alerts []struct {
				State  string
				Labels map[string]string
			}
		}
		if err := tr.c.get(ctx, leader, "/v1/alerts", nil, &now); err != nil {
			return err
		}
		for _, a := range now.Alerts {
			if a.Labels["alertname"] == "DiskFillsNow" && a.Labels["host"] == n.ID && a.State == "firing" {
				return nil
			}
		}
		return fmt.Errorf("no alert says that the disk of %s fills: %v", n.ID, now.Alerts)
	})
}

// nearly fills a disk beyond the line of the warning, of which an alert must tell.
func (tr *trial) nearly(ctx context.Context, d *tightDisk, n *devNode) error {
	if err := d.occupy(nearlyFull); err != nil {
		return err
	}
	return tr.warned(ctx, n)
}

// fullOne fills one disk: the cluster goes on, the node answers questions, and it catches up when its disk has grown.
func (tr *trial) fullOne(ctx context.Context, leader bool) error {
	disks, err := tr.foundOnTight(ctx)
	if err != nil {
		return err
	}
	n, err := tr.victim(ctx, leader)
	if err != nil {
		return err
	}
	d := disks[tr.index(n)]
	if err := tr.nearly(ctx, d, n); err != nil {
		return err
	}
	takeLongest(tr.traffic.senders)
	if err := d.occupy(0); err != nil {
		return err
	}
	tr.faulted(1)
	for end := time.Now().Add(fullOneFor); time.Now().Before(end); {
		if err := tr.progress(ctx, 20); err != nil {
			return fmt.Errorf("the disk of %s alone is full: %w", n.ID, err)
		}
		if err := tr.readable(ctx, n); err != nil {
			return fmt.Errorf("with a full disk: %w", err)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	gap := takeLongest(tr.traffic.senders)
	tr.recovered(gap)
	tr.note("writes stood still for %v when the disk of %s filled up", gap.Round(10*time.Millisecond), n.ID)
	if tr.c.ended(n) {
		return fmt.Errorf("%s ended because its disk is full", n.ID)
	}
	if now, err := tr.c.leader(ctx); err != nil || leader && now == n {
		return errors.Join(err, fmt.Errorf("leader after the disk of %s filled up: %v", n.ID, now))
	}
	if err := d.resize(grownBytes); err != nil {
		return err
	}
	tr.mended()
	if err := tr.hasRoomAgain(ctx, n); err != nil {
		return fmt.Errorf("the disk of %s has grown: %w", n.ID, err)
	}
	return tr.compare(ctx)
}

// hasRoomAgain returns when a node has applied about as much as the leader, and notes how long that took.
func (tr *trial) hasRoomAgain(ctx context.Context, n *devNode) error {
	began := time.Now()
	err := until(ctx, 8*time.Minute, func(ctx context.Context) error {
		leader, err := tr.c.leader(ctx)
		if err != nil {
			return err
		}
		var st clusterStatus
		if err := tr.c.get(ctx, leader, "/v1/cluster", nil, &st); err != nil {
			return err
		}
		if has, want := applied(st, n.ID), applied(st, leader.ID); has+100 < want {
			return fmt.Errorf("%s has applied %d of %d entries", n.ID, has, want)
		}
		return nil
	})
	if err == nil {
		tr.note("%s caught up in %v", n.ID, time.Since(began).Round(100*time.Millisecond))
	}
	return err
}

// fullAll fills all disks: nothing is taken and everything answers, and it goes on by itself when they have grown.
func (tr *trial) fullAll(ctx context.Context) error {
	disks, err := tr.foundOnTight(ctx)
	if err != nil {
		return err
	}
	for i, d := range disks {
		if err := tr.nearly(ctx, d, &tr.c.Nodes[i]); err != nil {
			return err
		}
	}
	probe, err := (kills{}).sender(ctx, tr.c, tr.traffic.ledger, len(tr.traffic.senders), seriesPerSender)
	if err != nil {
		return err
	}
	for _, d := range disks { // room for what frees room is left, not for data
		if err := d.occupy(noDataLeft); err != nil {
			return err
		}
	}
	tr.faulted(1)
	if err := tr.standsStill(ctx, probe); err != nil {
		return err
	}
	if err := tr.deletes(ctx); err != nil {
		return fmt.Errorf("with disks too full for data: %w", err)
	}
	for _, d := range disks {
		if err := d.occupy(0); err != nil {
			return err
		}
	}
	tr.faulted(1)
	if err := tr.standsStill(ctx, probe); err != nil {
		return err
	}
	for _, d := range disks {
		if err := d.resize(grownBytes); err != nil {
			return err
		}
	}
	tr.mended()
	began := time.Now()
	if err := tr.progress(ctx, 1); err != nil {
		return fmt.Errorf("after the disks have grown: %w", err)
	}
	tr.recovered(time.Since(began))
	return tr.compare(ctx)
}

// standsStill looks at a cluster that takes no data for a while: 507 with its reason, answers to questions, no node ends.
func (tr *trial) standsStill(ctx context.Context, probe *sender) error {
	var acks int
	err := until(ctx, 30*time.Second, func(ctx context.Context) error {
		before := tr.acks()
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if acks = tr.acks(); acks != before {
			return fmt.Errorf("data is still taken: %d batches in a second", acks-before)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for range 10 {
		for i := range tr.c.Nodes {
			n := &tr.c.Nodes[i]
			if err := errors.Join(tr.refused(ctx, n, probe), tr.readable(ctx, n)); err != nil {
				return fmt.Errorf("all disks are full, %s: %w", n.ID, err)
			}
			if tr.c.ended(n) {
				return fmt.Errorf("%s ended because its disk is full", n.ID)
			}
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	if now := tr.acks(); now != acks {
		return fmt.Errorf("%d batches were acknowledged although all disks are full", now-acks)
	}
	return nil
}

// refused says how the answer to a batch, which is not of the ledger, differs from a 507 with its reason.
func (tr *trial) refused(ctx context.Context, n *devNode, probe *sender) error {
	body := wire.AppendRequest(nil, probe.epoch, []wire.Batch{probe.metricsBatch(1)})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.AgentURL+"/v1/agent/batches", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", wire.ContentType)
	return insufficient(probe.http, r)
}

// readable says what of asking a node does not work.
func (tr *trial) readable(ctx context.Context, n *devNode) error {
	return tr.c.answers(ctx, n, tr.traffic.senders[0])
}

// deletes shows that what frees room still goes.
func (tr *trial) deletes(ctx context.Context) error {
	return until(ctx, 30*time.Second, func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodDelete, tr.c.Nodes[0].URL+"/v1/rules/files/disks", nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+tr.c.Token)
		resp, err := tr.c.client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			return &answerError{resp.StatusCode, string(text)}
		}
		return nil
	})
}
