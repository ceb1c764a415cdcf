// Package claim has work done by one node at a time: who does it holds a claim in the replicated metadata, renews it while
// it works, and stops working before the claim ends for the others.
//
// It promises: of a claim there is at most one holder by log time; a holder that cannot renew it ends its work 40 to 50
// seconds after the last renewal, while the others wait for a minute of log time; a node that went down blocks the work no
// longer than that.
//
// What the work is, and what becomes of it, is the user's. The package must not import api, cli or raftstate.
package claim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/record"
)

// CommitLimit is how long a transaction of the work may take.
const CommitLimit = 10 * time.Second

// Life is how long a claim lasts without a renewal, by log time.
const Life = 60 * time.Second

const (
	renewEvery = 5 * time.Second
	// fear is when a holder that could not renew its claim gives up: before it ends for the others.
	fear = 40 * time.Second
	// recordFor is how long it is tried to write down what became of work, recordAtEnd when the node is stopping.
	recordFor   = 10 * time.Minute
	recordAtEnd = 3 * time.Second
	recordAgain = time.Second
)

// Of says where the claims of some work are kept, as values C.
type Of[C any] struct {
	Meta        auth.Meta
	Bucket, Key string
	// ID tells a claim from those before and after it.
	ID func(c *C) string
	// Cancelled returns why the holder is asked to end its work; may be nil.
	Cancelled func(held *C) error
	// Lost is the cause with which the work ends whose claim was lost, Stopping that of a node that stops.
	Lost, Stopping error
}

// Held returns the claim that somebody has, and the index that wrote it.
func (o *Of[C]) Held() (c C, mod uint64, ok bool) { return record.Get[C](o.Meta, o.Bucket, o.Key) }

// Op writes a claim, which lasts for its life from now on.
func (o *Of[C]) Op(c *C) auth.Op {
	return auth.Op{Bucket: o.Bucket, Key: o.Key, Value: record.Encode(c), Expires: o.Meta.LogTime() + Life.Milliseconds()}
}

// Release adds to a transaction the end of a claim, and the condition that it is held until then; nothing when it is not held
// any more.
func (o *Of[C]) Release(txn *auth.Txn, id string) {
	if held, mod, ok := o.Held(); ok && o.ID(&held) == id {
		txn.Compares = append(txn.Compares, auth.Compare{Bucket: o.Bucket, Key: o.Key, ModIndex: mod})
		txn.Ops = append(txn.Ops, auth.Op{Delete: true, Bucket: o.Bucket, Key: o.Key})
	}
}

// Hold is a claim that this node has. Safe for concurrent use.
type Hold[C any] struct {
	of      *Of[C]
	mu      sync.Mutex
	claim   C
	renewed time.Time // before the last renewal was asked for
}

// Take makes a claim, together with what else txn has. An error that is auth.ErrConflict says that somebody else holds it,
// or that another condition of txn did not hold.
func (o *Of[C]) Take(ctx context.Context, c C, txn auth.Txn) (*Hold[C], error) {
	h := &Hold[C]{of: o, claim: c, renewed: time.Now()}
	txn.Compares = append([]auth.Compare{{Bucket: o.Bucket, Key: o.Key}}, txn.Compares...)
	txn.Ops = append([]auth.Op{o.Op(&c)}, txn.Ops...)
	ctx, cancel := context.WithTimeout(ctx, CommitLimit)
	defer cancel()
	if _, err := o.Meta.Commit(ctx, txn); err != nil {
		return nil, err
	}
	return h, nil
}

// Claim returns the claim as it is now.
func (h *Hold[C]) Claim() C {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.claim
}

// Change changes the claim; the next renewal shows it to the others.
func (h *Hold[C]) Change(change func(c *C)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.claim)
}

// Renew renews the claim. An error that is the Lost of its Of, or what Cancelled returned, is for good.
func (h *Hold[C]) Renew(ctx context.Context) error {
	_, err := h.renew(ctx)
	return err
}

func (h *Hold[C]) renew(ctx context.Context) (final bool, err error) {
	ours, asked := h.Claim(), time.Now()
	held, mod, ok := h.of.Held()
	if !ok || h.of.ID(&held) != h.of.ID(&ours) {
		return true, h.of.Lost
	}
	if h.of.Cancelled != nil {
		if err := h.of.Cancelled(&held); err != nil {
			return true, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	_, err = h.of.Meta.Commit(ctx, auth.Txn{
		Compares: []auth.Compare{{Bucket: h.of.Bucket, Key: h.of.Key, ModIndex: mod}},
		Ops:      []auth.Op{h.of.Op(&ours)},
	})
	if err == nil {
		h.mu.Lock()
		h.renewed = asked
		h.mu.Unlock()
	}
	return false, err
}

// keep renews the claim until ctx ends, and ends the work when it cannot.
func (h *Hold[C]) keep(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		final, err := h.renew(ctx)
		h.mu.Lock()
		since := time.Since(h.renewed)
		h.mu.Unlock()
		switch {
		case err == nil, ctx.Err() != nil:
		case final:
			end(err)
			return
		case since > fear:
			end(fmt.Errorf("%w: %w", h.of.Lost, err))
			return
		}
	}
}

// While does the work and renews the claim meanwhile. The context of the work ends with ctx, with stopping, and with the
// claim; an error of work that ended so is why that was.
func (h *Hold[C]) While(ctx, stopping context.Context, work func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(stopping, func() { cancel(h.of.Stopping) })()
	var keeping sync.WaitGroup
	keeping.Go(func() { h.keep(ctx, cancel) })
	err := work(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	keeping.Wait()
	return err
}

// Record calls write until it returns nil, for ten minutes at the most and not for long once the node is stopping; again is
// told each error. It is for what became of the work: a claim that cannot be released ends by itself.
func Record(stopping context.Context, write func(ctx context.Context) error, again func(err error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(stopping), recordFor)
	defer cancel()
	defer context.AfterFunc(stopping, func() {
		hurry := time.NewTimer(recordAtEnd)
		defer hurry.Stop()
		select {
		case <-ctx.Done():
		case <-hurry.C:
			cancel()
		}
	})()
	for ctx.Err() == nil {
		err := write(ctx)
		if err == nil {
			return
		}
		again(err)
		wait := time.NewTimer(recordAgain)
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
}
