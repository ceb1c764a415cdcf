package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/triward/triward/agent/wire"
)

const (
	smallDisk = 400 << 20        // the log keeps 128 MiB of it free and preallocates 64 MiB
	fullFor   = 40 * time.Second // marks are at most 30 s apart: one of them fails
)

// mountSmall mounts a file system of so many bytes until the test ends.
func mountSmall(t *testing.T, at string, size int) {
	t.Helper()
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("unmount %s: %v", at, err)
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
}

// fill writes a file until the disk has no byte left.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err = f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("fill the disk: %w", err)
	}
	return nil
}

// TestFullDisk: a node whose disk is full says so with 507, goes on answering questions, loses nothing that it
// acknowledged, and takes data again by itself when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if !mayMount(t) {
		return
	}
	ctx := t.Context()
	dir := t.TempDir()
	disk := filepath.Join(dir, "data")
	mountSmall(t, disk, smallDisk)
	boot, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	c, err := start(boot, binaries(t, ""), dir, "--nodes", "1", "--agent=false", "--plain-http", "--http-port", "0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	l, err := newLedger(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	senders := make([]*sender, 3)
	for i := range senders {
		if senders[i], err = (kills{}).sender(boot, c, l, i, seriesPerSender); err != nil {
			t.Fatal(err)
		}
	}
	probe, running := senders[2], senders[:2] // the probe sends by hand
	sending, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, len(running))
	for _, s := range running {
		go func() { ended <- s.run(sending, 25*time.Millisecond) }()
	}
	if err := progress(ctx, running, 50); err != nil {
		t.Fatal(err)
	}

	fullDisk(t, c, running, probe, filepath.Join(disk, "filler"))
	stop()
	for range running {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	v, err := c.verify(ctx, l, senders)
	if err != nil || v.total() > 0 {
		t.Errorf("%v %v", err, v)
	}
	log, err := os.ReadFile(c.log.Name())
	if err != nil {
		t.Error(err)
	}
	tries := bytes.Count(log, []byte("background work of Pebble failed"))
	if most := 2 * int(fullFor.Seconds()); tries > most {
		t.Errorf("the log store failed %d times in %v, %d at most are bearable: it tries without a pause", tries, fullFor, most)
	}
	t.Logf("the log store tried %d times in vain", tries)
	if t.Failed() {
		t.Logf("the node said last:\n%s", c.tail())
	}
}

// fullDisk fills the disk, looks at the node for a while, and makes room again.
func fullDisk(t *testing.T, c *cluster, running []*sender, probe *sender, filler string) {
	t.Helper()
	ctx, n := t.Context(), &c.Nodes[0]
	if err := fill(filler); err != nil {
		t.Fatal(err)
	}
	batches := []wire.Batch{probe.metricsBatch(1), probe.logsBatch(1)}
	probe.ledger.sent(probe.name, 1)
	if err := until(ctx, 10*time.Second, func(ctx context.Context) error { return c.refuses(ctx, n, probe, batches) }); err != nil {
		t.Fatalf("%v\n%s", err, c.tail())
	}
	acks := running[0].ackCount() + running[1].ackCount()
	began, looks := time.Now(), 0
	err := until(ctx, fullFor+30*time.Second, func(ctx context.Context) error {
		if err := errors.Join(c.refuses(ctx, n, probe, batches), c.answers(ctx, n, running[0])); err != nil {
			t.Errorf("after %v: %v", time.Since(began).Round(time.Millisecond), err)
			return nil
		}
		looks++
		if d := time.Since(began); d < fullFor {
			return fmt.Errorf("full for %v only", d)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if now := running[0].ackCount() + running[1].ackCount(); now > acks+len(running) { // what was under way may end
		t.Errorf("%d requests were acknowledged while the disk was full", now-acks)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := progress(ctx, running, 10); err != nil {
		t.Fatalf("after there is room again: %v\n%s", err, c.tail())
	}
	took := time.Since(begin)
	if took > 15*time.Second {
		t.Errorf("sending went on only %v after there was room", took)
	}
	if err := probe.deliver(ctx, batches); err != nil {
		t.Error(err)
	}
	if err := probe.ledger.acknowledged(probe.name, 1); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(n.PID, 0); err != nil {
		t.Errorf("the process did not stay up: %v", err)
	}
	t.Logf("507 and readable in all %d looks at a disk full for %v; ten more acknowledgements each %v after there was room",
		looks, fullFor, took.Round(time.Millisecond))
}

// refuses says how the answers to agents and to users who write differ from a 507 with its reason.
func (c *cluster) refuses(ctx context.Context, n *devNode, s *sender, batches []wire.Batch) error {
	batch, err := http.NewRequestWithContext(ctx, http.MethodPost, s.nodes[0]+"/v1/agent/batches", bytes.NewReader(wire.AppendRequest(nil, s.epoch, batches)))
	if err != nil {
		return err
	}
	batch.Header.Set("Content-Type", wire.ContentType)
	token, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL+"/v1/tokens/join", strings.NewReader(`{"kind":"agent"}`))
	if err != nil {
		return err
	}
	token.Header.Set("Content-Type", "application/json")
	token.Header.Set("Authorization", "Bearer "+c.Token)
	return errors.Join(insufficient(s.http, batch), insufficient(c.client, token))
}

func insufficient(client *http.Client, r *http.Request) error {
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var p struct {
		Status int
		Title  string
	}
	if err := json.Unmarshal(b, &p); err != nil || resp.StatusCode != http.StatusInsufficientStorage ||
		p.Status != resp.StatusCode || p.Title == "" || resp.Header.Get("Content-Type") != "application/problem+json" ||
		resp.Header.Get("Retry-After") == "" {
		return fmt.Errorf("%s answers %s %v %s", r.URL.Path, resp.Status, resp.Header, b)
	}
	return nil
}

// answers says what of reading does not work.
func (c *cluster) answers(ctx context.Context, n *devNode, s *sender) error {
	var lines struct{ Rows []json.RawMessage }
	var samples struct {
		Data struct{ Result []json.RawMessage }
	}
	errs := []error{
		c.get(ctx, n, "/v1/logs/query", url.Values{"query": {"ledgerline host:" + s.name}, "limit": {"5"}, "start": {fmt.Sprint(s.base - 1000)}, "end": {fmt.Sprint(time.Now().UnixMilli())}}, &lines),
		c.get(ctx, n, "/api/v1/query", url.Values{"query": {fmt.Sprintf("count(last_over_time(ledger_seq{sender=%q}[2h]))", s.name)}}, &samples),
	}
	if len(lines.Rows) != 5 || len(samples.Data.Result) != 1 {
		errs = append(errs, fmt.Errorf("%d lines and %d results while the disk is full", len(lines.Rows), len(samples.Data.Result)))
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/-/healthy", nil)
	if err != nil {
		return err
	}
	resp, err := c.client.Do(r)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		errs = append(errs, fmt.Errorf("/-/healthy says %s", resp.Status))
	}
	return errors.Join(errs...)
}
