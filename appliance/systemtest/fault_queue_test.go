package systemtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// queueRows are those of a consumer of the queue.
func queueRows() []faultRow {
	return []faultRow{{
		name: "consumer", fault: "kill -9 of the leader, and of the consumer that reads the queue meanwhile; its record is held against the ledger",
		weight: 60 * time.Second, goal: leaderGoal, run: consumerKills,
	}}
}

// consumer is `triward queue consume --follow`, which writes to a file, and is killed and started again.
type consumer struct {
	tr    *trial
	file  *os.File
	cmd   *exec.Cmd
	said  bytes.Buffer
	turns int
}

const consumerName = "ledger"

// consumerKills sends through kills of leaders while a consumer reads, which is killed too.
func consumerKills(ctx context.Context, tr *trial) error {
	if err := tr.found(ctx, plan{}); err != nil {
		return err
	}
	if out, err := tr.c.cli(ctx, &tr.c.Nodes[0], "queue", "consumer", "create", consumerName, "--from", "beginning"); err != nil {
		return fmt.Errorf("make a consumer: %w: %s", err, out)
	}
	file, err := os.OpenFile(filepath.Join(tr.dir, "consumed"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	tr.atEnd(func() { _ = file.Close() })
	r := &consumer{tr: tr, file: file}
	tr.atEnd(r.kill)
	if err := r.start(); err != nil {
		return err
	}
	if err := tr.send(ctx, trialSenders); err != nil {
		return err
	}
	for range 5 {
		if err := tr.killLeader(ctx); err != nil {
			return err
		}
		r.kill()
		if err := r.start(); err != nil {
			return err
		}
		tr.faulted(2)
		if err := tr.allReady(ctx); err != nil {
			return err
		}
		if err := tr.progress(ctx, 2+tr.rng.IntN(10)); err != nil {
			return err
		}
	}
	if err := tr.compare(ctx); err != nil {
		return err
	}
	return r.compare(ctx)
}

// start begins to read, at the next node, from where the cursor stands.
func (r *consumer) start() error {
	n := &r.tr.c.Nodes[r.turns%len(r.tr.c.Nodes)]
	r.turns++
	// What was cut off in the middle of a line is not to spoil the next one.
	if _, err := r.file.WriteString("\n"); err != nil {
		return err
	}
	r.cmd = exec.Command(filepath.Join(r.tr.bin, "triward"), "queue", "consume", consumerName, "--follow", "--force")
	r.cmd.Env = append(os.Environ(), "TRIWARD_ADDR="+n.URL, "TRIWARD_TOKEN="+r.tr.c.Token, "TRIWARD_CA="+r.tr.c.CA)
	r.said.Reset()
	r.cmd.Stdout, r.cmd.Stderr = r.file, &r.said
	return r.cmd.Start()
}

func (r *consumer) kill() {
	if r.cmd == nil {
		return
	}
	_ = r.cmd.Process.Kill() // gone already: that is seen by what it did not write
	_ = r.cmd.Wait()
	r.cmd = nil
}

// compare waits until the consumer has read all, and holds its record against the ledger: every message once by its
// identity, in the order in which it was sent.
func (r *consumer) compare(ctx context.Context) error {
	err := until(ctx, time.Minute, func(ctx context.Context) error {
		out, err := r.tr.c.cli(ctx, &r.tr.c.Nodes[0], "queue", "lag", consumerName, "-o", "json")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		var list []struct {
			Lag []struct{ Entries uint64 }
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
			return fmt.Errorf("%w: %s", err, out)
		}
		for _, l := range list[0].Lag {
			if l.Entries > 0 {
				return fmt.Errorf("the consumer is behind: %s\n%s", out, r.said.String())
			}
		}
		return nil
	})
	if err != nil {
		if r.cmd.Process.Signal(os.Interrupt) != nil { // it ended by itself
			err = errors.Join(err, fmt.Errorf("the consumer ended: %s", &r.said))
		}
		return err
	}
	r.kill()
	if _, err := r.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	record, again, err := readRecord(r.file)
	if err != nil {
		return err
	}
	v := &r.tr.violations
	for _, s := range r.tr.traffic.senders {
		a := r.tr.traffic.ledger.of(s.name)
		got := record.lines[s.agent]
		next := 0
		for seq := uint64(1); seq <= a.sent; seq++ {
			for i := range linesPerBatch {
				switch want := ledgerLine(s.name, seq, i); {
				case next < len(got) && got[next] == want:
					next++
				case seq <= a.acked:
					v.add(&v.lost, "the consumer lacks line %q, or has it out of order", want)
				}
			}
		}
		for _, text := range got[next:] {
			v.add(&v.doubled, "the consumer has line %q twice, out of order, or it was never sent", text)
		}
		for column, values := range record.values[s.agent] {
			for i, value := range values {
				if value != float64(i+1) {
					v.add(&v.doubled, "the consumer has value %v as number %d of column %s of %s", value, i+1, column, s.name)
					break
				}
			}
			if n := uint64(len(values)); n < a.acked || n > a.sent {
				v.add(&v.lost, "the consumer has %d values of column %s of %s, %d were acknowledged and %d sent", n, column, s.name, a.acked, a.sent)
			}
		}
		if n := len(record.values[s.agent]); n != seriesPerSender && a.acked > 0 {
			v.add(&v.lost, "the consumer has %d series of %s, want %d", n, s.name, seriesPerSender)
		}
	}
	r.tr.note("the consumer read %d messages, %d of them again", record.count, again)
	return nil
}

// record is what a consumer wrote down, by agent, without what came again.
type record struct {
	count  int
	lines  map[string][]string
	values map[string]map[string][]float64 // by column
}

func readRecord(from io.Reader) (*record, int, error) {
	rec := &record{lines: make(map[string][]string), values: make(map[string]map[string][]float64)}
	type place struct{ index, item uint64 }
	seen := make(map[place]bool)
	again := 0
	in := bufio.NewReaderSize(from, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return rec, again, nil
		}
		if err != nil {
			return nil, 0, err
		}
		var m struct {
			Index, Item uint64
			Type        string
			AgentID     string `json:"agent_id"`
			Unverified  bool
			Data        struct {
				Name  string
				Value any
				Tags  map[string]string
			}
		}
		if json.Unmarshal(line, &m) != nil || m.Index == 0 { // cut off where the consumer was killed
			continue
		}
		if m.Unverified {
			return nil, 0, fmt.Errorf("nobody knows whether this was stored: %s", line)
		}
		if at := (place{m.Index, m.Item}); seen[at] {
			again++
			continue
		} else {
			seen[at] = true
		}
		rec.count++
		switch {
		case m.Type == "log" && bytes.Contains(line, []byte("ledgerline")):
			rec.lines[m.AgentID] = append(rec.lines[m.AgentID], fmt.Sprint(m.Data.Value))
		case m.Type == "metric" && m.Data.Name == "ledger_seq":
			of := rec.values[m.AgentID]
			if of == nil {
				of = make(map[string][]float64)
				rec.values[m.AgentID] = of
			}
			value, _ := m.Data.Value.(float64)
			of[m.Data.Tags["column"]] = append(of[m.Data.Tags["column"]], value)
		}
	}
}
