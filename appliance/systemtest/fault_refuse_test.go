package systemtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// electionTime is raft's election time-out: no leader goes on for longer without its followers.
const electionTime = time.Second

// noQuorumGoal is how long after a cut a node may take to answer a write with 503: it has to notice first.
const noQuorumGoal = electionTime + refuseGoal

// refusalWatch is somebody who writes at a node from the moment on in which it is cut off.
type refusalWatch struct {
	cancel context.CancelFunc
	work   sync.WaitGroup
	begin  time.Time

	mu    sync.Mutex
	first time.Duration // to the first 503 with the code no_quorum; 0: there was none
	wrong []string      // answers of a node that has a majority, of which there must be none
}

// watchRefusals begins to write at a node that has just been cut off, five times a second, each time over a connection of its
// own. reached says that the harness reaches it; otherwise the writes come from its own machine.
func (tr *trial) watchRefusals(ctx context.Context, n *devNode, reached bool) *refusalWatch {
	w := &refusalWatch{begin: time.Now()}
	ctx, w.cancel = context.WithCancel(ctx)
	tr.atEnd(w.end)
	client := tr.client(nil)
	if !reached {
		client = tr.client(tr.places[tr.index(n)])
	}
	w.work.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			w.work.Go(func() {
				status, body, err := tr.write(ctx, client, n)
				if err == nil {
					w.note(ctx, status, body)
				}
			})
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return w
}

// note writes down an answer that came while the cut lasted.
func (w *refusalWatch) note(ctx context.Context, status int, body string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case ctx.Err() != nil:
	case status < http.StatusInternalServerError:
		w.wrong = append(w.wrong, fmt.Sprintf("%d: %.200s", status, body))
	case w.first == 0 && strings.Contains(body, `"no_quorum"`):
		w.first = time.Since(w.begin)
	}
}

func (w *refusalWatch) end() {
	w.cancel()
	w.work.Wait()
}

// refusedInTime ends the watch, which must be before the cut ends, and holds what it saw.
func (tr *trial) refusedInTime(w *refusalWatch, n *devNode) error {
	w.end()
	switch {
	case len(w.wrong) > 0:
		return fmt.Errorf("%s has no majority and answers %d writes as if it had one, such as %s", n.ID, len(w.wrong), w.wrong[0])
	case w.first == 0:
		return errors.New(n.ID + " has no majority and never answered 503 with the code no_quorum")
	case w.first > tooSlow*noQuorumGoal:
		return fmt.Errorf("%s has no majority and first said so after %v, the goal is %v", n.ID, w.first, noQuorumGoal)
	}
	tr.firstRefusals = append(tr.firstRefusals, w.first)
	return nil
}
