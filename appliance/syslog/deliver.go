package syslog

import (
	"context"
	"fmt"
	"time"

	"github.com/triward/triward/agent/wire"
	"github.com/triward/triward/raftstate/command"
)

const (
	batchesPerEntry = 8
	bytesPerEntry   = 256 << 10
	proposeTimeout  = 20 * time.Second
	minPause        = 100 * time.Millisecond
	maxPause        = 2 * time.Second
)

// deliverer brings what is in the buffer into the log, batch by batch, and repeats what it knows no outcome of: the
// state machine takes each exactly once.
type deliverer struct {
	server *Server
	agent  string
	alone  bool // the next batch goes by itself
	// made is the first sequence that the cluster cannot have: behind what lay in the buffer when it was opened and
	// what was proposed since.
	made    uint64
	renewed time.Time // when an epoch was begun last
}

// identityOf is the name of a node's buffer in the log. The colon keeps it from being an agent's id.
func identityOf(node string) string {
	const prefix = "syslog:"
	if len(prefix)+len(node) <= wire.MaxAgentID {
		return prefix + node
	}
	return fmt.Sprintf("%s%016x", prefix, wire.HashContent([]byte(node)))
}

func (d *deliverer) run(ctx context.Context) {
	pause := minPause
	for ctx.Err() == nil {
		n, err := d.once(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			d.server.failed(err)
			if d.server.warn.Allow() {
				d.server.opts.Log.Warn("messages of syslog wait in the buffer", "err", err)
			}
			sleep(ctx, pause)
			pause = min(2*pause, maxPause)
		case n == 0:
			select {
			case <-d.server.spool.Notify():
			case <-ctx.Done():
			}
		default:
			pause = minPause
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// once proposes the oldest batches and takes over what became of them; n is how many there were.
func (d *deliverer) once(ctx context.Context) (n int, err error) {
	sp := d.server.spool
	acked, _ := sp.Position(wire.LaneLogs)
	count := batchesPerEntry
	if d.alone {
		count = 1
	}
	batches, err := sp.Read(wire.LaneLogs, acked+1, count, bytesPerEntry)
	if err != nil || len(batches) == 0 {
		return 0, err
	}
	cmds := make([]command.Command, len(batches))
	for i := range batches {
		batches[i].Agent = d.agent
		cmds[i] = command.NewBatch(batches[i], d.server.opts.Redactor.Version())
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	made := d.made
	d.made = max(d.made, batches[len(batches)-1].Seq+1)
	_, results, err := d.server.opts.Cluster.Propose(ctx, cmds...)
	if err != nil {
		return len(batches), err
	}
	if len(results) != len(batches) {
		return len(batches), fmt.Errorf("%d results for %d batches", len(results), len(batches))
	}
	for i := range batches {
		if err := d.takeOver(ctx, &batches[i], &results[i], len(batches), made); err != nil {
			return len(batches), err
		}
	}
	d.alone = false
	return len(batches), nil
}

// takeOver does what the result of one batch asks for. An error ends the round: what follows is proposed again. made is
// what d.made was before the round.
func (d *deliverer) takeOver(ctx context.Context, b *wire.Batch, r *command.Result, of int, made uint64) error {
	s := d.server
	switch r.Status {
	case command.StatusDuplicate:
		if r.Expected < made {
			return s.spool.Ack(b.Lane, b.Seq)
		}
		// The cluster has batches of this epoch that this buffer never made: its disk went back in time. What it held
		// when it was opened went out then; what it made since did not, whatever its number.
		if open := s.spool.NextAtOpen(b.Lane); open > 1 {
			if err := s.spool.Ack(b.Lane, open-1); err != nil {
				return err
			}
		}
		return d.renew("the cluster holds batches that this disk does not know")
	case command.StatusOK:
		s.met.delivered.Add(float64(r.Accepted))
		if r.Rejected > 0 {
			why := ""
			if len(r.Items) > 0 {
				why = r.Items[0].Reason
			}
			s.lost("rejected", int(r.Rejected), why)
		}
		return s.spool.Ack(b.Lane, b.Seq)
	case command.StatusUnknownEpoch:
		_, results, err := s.opts.Cluster.Propose(ctx, command.NewOpenEpoch(d.agent, b.Epoch))
		if err != nil {
			return err
		}
		if st := results[0].Status; st != command.StatusOK && st != command.StatusEpochClosed {
			return fmt.Errorf("open the epoch of the buffer: %s %s", st, results[0].Detail)
		}
		return fmt.Errorf("the epoch of the buffer was opened")
	case command.StatusGap, command.StatusEpochClosed, command.StatusCloned:
		if acked, _ := s.spool.Position(b.Lane); r.Status == command.StatusGap && r.Expected > acked {
			return fmt.Errorf("batch %d is to come again", r.Expected)
		}
		return d.renew("the cluster has another past: " + r.Status.String()) // it was restored from a backup
	case command.StatusLimit:
		if of > 1 {
			d.alone = true
			return fmt.Errorf("batches are proposed one by one: %s", r.Detail)
		}
		fallthrough
	case command.StatusInvalid:
		return s.spool.SetAside(b.Lane, b.Seq, r.Status.String()+" "+r.Detail)
	}
	return fmt.Errorf("batch %d: %s %s", b.Seq, r.Status, r.Detail)
}

// renew begins a new epoch: all that is not acknowledged goes out anew. The error says so.
func (d *deliverer) renew(why string) error {
	if wait := time.Until(d.renewed.Add(time.Minute)); !d.renewed.IsZero() && wait > 0 {
		return fmt.Errorf("a new epoch of the buffer is needed in %s: %s", wait.Round(time.Second), why)
	}
	d.renewed = time.Now()
	e, err := d.server.spool.NewEpoch()
	if err != nil {
		return fmt.Errorf("begin a new epoch of the buffer: %w", err)
	}
	d.made = 1 // nothing of it is known to the cluster
	d.server.opts.Log.Warn("the buffer of syslog goes on as a new epoch", "epoch", e.String(), "because", why)
	return fmt.Errorf("new epoch: %s", why)
}
