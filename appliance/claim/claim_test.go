package claim

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/triward/triward/appliance/auth"
	"github.com/triward/triward/appliance/auth/authtest"
)

type job struct {
	ID     string
	Done   int
	Cancel bool
}

var (
	errLost      = errors.New("lost")
	errStopping  = errors.New("stopping")
	errCancelled = errors.New("cancelled")
)

func jobs(m *authtest.Meta) *Of[job] {
	return &Of[job]{
		Meta: m, Bucket: "jobs", Key: "running", ID: func(j *job) string { return j.ID }, Lost: errLost, Stopping: errStopping,
		Cancelled: func(held *job) error {
			if held.Cancel {
				return errCancelled
			}
			return nil
		},
	}
}

// inBubble runs a test with metadata whose log time goes as time does.
func inBubble(t *testing.T, test func(t *testing.T, m *authtest.Meta, of *Of[job])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &authtest.Meta{}
		m.Advance(time.Now().UnixMilli())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for tick := time.NewTicker(time.Second); ; {
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
					m.Advance(1000)
				}
			}
		}()
		test(t, m, jobs(m))
		cancel()
		synctest.Wait()
	})
}

func take(t *testing.T, of *Of[job], id string) *Hold[job] {
	t.Helper()
	h, err := of.Take(t.Context(), job{ID: id}, auth.Txn{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestOneHolder(t *testing.T) {
	inBubble(t, func(t *testing.T, m *authtest.Meta, of *Of[job]) {
		h := take(t, of, "a")
		also := auth.Txn{Ops: []auth.Op{{Bucket: "jobs", Key: "beside", Value: []byte("1")}}}
		if _, err := of.Take(t.Context(), job{ID: "b"}, also); !errors.Is(err, auth.ErrConflict) {
			t.Fatal(err)
		}
		if _, ok := m.Get("jobs", "beside"); ok {
			t.Error("what belongs to a claim came without it")
		}
		err := h.While(t.Context(), t.Context(), func(context.Context) error {
			time.Sleep(10 * Life)
			h.Change(func(j *job) { j.Done = 7 })
			time.Sleep(2 * renewEvery)
			return nil
		})
		if held, _, ok := of.Held(); err != nil || !ok || held.ID != "a" || held.Done != 7 {
			t.Fatalf("%+v %v %v: a claim whose work goes on ended, or does not say how far it is", held, ok, err)
		}
		var txn auth.Txn
		if of.Release(&txn, "b"); len(txn.Ops)+len(txn.Compares) != 0 {
			t.Error("another's claim was to be released")
		}
		of.Release(&txn, "a")
		if _, err := m.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
		take(t, of, "b")
		if err := h.Renew(t.Context()); !errors.Is(err, errLost) {
			t.Errorf("a claim that another one has was renewed: %v", err)
		}
	})
}

// TestEndsBeforeTheClaim: who cannot reach the others stops before one of them may begin.
func TestEndsBeforeTheClaim(t *testing.T) {
	inBubble(t, func(t *testing.T, m *authtest.Meta, of *Of[job]) {
		h := take(t, of, "a")
		unreachable := errors.New("no leader")
		err := h.While(t.Context(), t.Context(), func(ctx context.Context) error {
			time.Sleep(20 * time.Second)
			m.Fail(unreachable)
			<-ctx.Done()
			if _, _, held := of.Held(); !held {
				t.Error("the claim ended for the others before the work did")
			}
			return ctx.Err()
		})
		if !errors.Is(err, errLost) || !errors.Is(err, unreachable) {
			t.Errorf("it ended by %v", err)
		}
		m.Fail(nil)
		time.Sleep(Life)
		take(t, of, "b") // blocked no longer than that by a node that is gone
	})
}

func TestEndsWhenTold(t *testing.T) {
	inBubble(t, func(t *testing.T, m *authtest.Meta, of *Of[job]) {
		wait := func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * Life):
				return errors.New("nobody ended it")
			}
		}
		cancelled := take(t, of, "a")
		_, mod, _ := of.Held()
		if _, err := m.Commit(t.Context(), auth.Txn{
			Compares: []auth.Compare{{Bucket: "jobs", Key: "running", ModIndex: mod}}, Ops: []auth.Op{of.Op(&job{ID: "a", Cancel: true})},
		}); err != nil {
			t.Fatal(err)
		}
		if err := cancelled.While(t.Context(), t.Context(), wait); !errors.Is(err, errCancelled) {
			t.Errorf("it ended by %v", err)
		}
		time.Sleep(Life)
		lost := take(t, of, "b")
		if _, err := m.Commit(t.Context(), auth.Txn{Ops: []auth.Op{of.Op(&job{ID: "c"})}}); err != nil {
			t.Fatal(err)
		}
		if err := lost.While(t.Context(), t.Context(), wait); !errors.Is(err, errLost) {
			t.Errorf("it ended by %v", err)
		}
		time.Sleep(Life)
		stopping, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, stop)
		if err := take(t, of, "d").While(t.Context(), stopping, wait); !errors.Is(err, errStopping) {
			t.Errorf("it ended by %v", err)
		}
	})
}

func TestRecord(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *authtest.Meta, _ *Of[job]) {
		bad := errors.New("no leader")
		tries, told := 0, 0
		Record(t.Context(), func(context.Context) error {
			if tries++; tries < 5 {
				return bad
			}
			return nil
		}, func(error) { told++ })
		if tries != 5 || told != 4 {
			t.Errorf("%d attempts, %d errors told", tries, told)
		}
		stopping, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, stop)
		began := time.Now()
		Record(stopping, func(context.Context) error { return bad }, func(error) {})
		if took := time.Since(began); took < time.Minute || took > time.Minute+2*recordAtEnd {
			t.Errorf("it was tried for %v", took)
		}
	})
}
