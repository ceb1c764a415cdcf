package systemtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// notifyRows are the messages of alerts through faults of the node that sends them: none is lost, and one that comes twice
// has its key and its reason in the history (D13). One trial of each has 288 faults or more and takes half an hour.
func notifyRows() []faultRow {
	return []faultRow{
		notifyRow("notify-kill", "kill -9 of the leader", 130, 480*time.Second, false, func(w *watch, ctx context.Context) {
			w.tr.faulted(1)
			w.killLeader(ctx)
		}),
		notifyRow("notify-part", "the leader is cut off from the others, or from everybody, for 3 to 9 s", 24, 280*time.Second, true, func(w *watch, ctx context.Context) {
			side := w.tr.apart
			if w.tr.rng.IntN(2) == 0 {
				side = w.tr.island
			}
			w.cutLeader(ctx, side, 3*time.Second, 9*time.Second)
		}),
		notifyRow("notify-oneway", "what the leader sends to the others is lost, or what they send to it, for 3 to 9 s", 24, 280*time.Second, true, func(w *watch, ctx context.Context) {
			out := w.tr.rng.IntN(2) == 0
			w.cutLeader(ctx, func(ctx context.Context, i int) error { return w.tr.oneWay(ctx, i, out) }, 3*time.Second, 9*time.Second)
		}),
		notifyRow("notify-flap", "the cables of the leader are cut and mended six times, 0.3 to 3 s each", 16, 450*time.Second, true, func(w *watch, ctx context.Context) {
			w.flap(ctx, 6)
		}),
		notifyRow("notify-stop", "SIGSTOP of the leader for 5 to 30 s", 8, 230*time.Second, false, func(w *watch, ctx context.Context) {
			w.haltLeader(ctx, 5*time.Second, 30*time.Second)
		}),
		{
			name: "notify-mixed", fault: "one of kill -9, SIGSTOP, a cut, a cut in one direction, flapping, each on the leader", needs: []need{needNet},
			weight: 80 * time.Second, short: true, run: func(ctx context.Context, tr *trial) error { return tr.notify(ctx, 6, true, (*watch).anyFault) },
		},
	}
}

func notifyRow(name, fault string, rounds int, weight time.Duration, apart bool, fn func(*watch, context.Context)) faultRow {
	r := faultRow{
		name: name, fault: fault + ", on the way of messages", weight: weight,
		run: func(ctx context.Context, tr *trial) error { return tr.notify(ctx, rounds, apart, fn) },
	}
	if apart {
		r.needs = []need{needNet}
	}
	return r
}

// notify lets three alerts a round happen, with a fault on the way of each round's messages, and checks all that was told.
func (tr *trial) notify(ctx context.Context, rounds int, apart bool, fault func(*watch, context.Context)) error {
	if err := tr.found(ctx, plan{apart: apart}); err != nil {
		return err
	}
	host := "127.0.0.1"
	if apart {
		host = switchAddr
	}
	var w *watch
	ok := tr.t.Run(fmt.Sprintf("%s/seed-%d", tr.row.name, tr.seed), func(t *testing.T) {
		w = &watch{t: t, c: tr.c, sink: newSinkAt(t, host), disks: make(map[string]bool), ended: make(map[string]bool), tr: tr, sending: tr.row.name == "notify-stop"}
		w.rounds(ctx, rounds, func(ctx context.Context) { fault(w, ctx) })
	})

	tr.note("%d faults, %d messages, %d came twice, each explained", tr.faults, w.messages, w.doubled)
	tr.other, tr.kind = w.messages, "messages"
	if !ok {
		return errors.New("messages are not as they must be, see above")
	}
	return tr.sameState(ctx)
}

// rounds is all of it but the founding of the cluster.
func (w *watch) rounds(ctx context.Context, rounds int, fault func(context.Context)) {
	w.t.Helper()
	w.configure()
	ctx, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { w.pushDisks(ctx) })
	work.Go(func() { w.respond(ctx) })
	defer work.Wait()
	defer stop()
	var subjects []string
	for i := range rounds {
		w.round(ctx, i, fault)
		for _, name := range []string{"Disk", "Pattern", "Door"} {
			subjects = append(subjects, name+" "+roundName(i))
		}
	}
	for _, s := range subjects {
		w.wait(3*time.Minute, "ops", s, "resolved")
	}
	w.settled()
	w.check(subjects, len(w.kills))
	w.checkRecorded()
}

// must ends the test of a row.
func (w *watch) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// back returns when all nodes are ready again.
func (w *watch) back(ctx context.Context) {
	w.t.Helper()
	w.must(w.tr.allReady(ctx))
}

// leads is the leader, noted as faulty.
func (w *watch) leads(ctx context.Context) *devNode {
	w.t.Helper()
	n, err := w.c.leader(ctx)
	w.must(err)
	w.faulty(n)
	w.tr.faulted(1)
	return n
}

// cutLeader cuts the leader off for a while.
func (w *watch) cutLeader(ctx context.Context, cut func(context.Context, int) error, least, most time.Duration) {
	w.t.Helper()
	n := w.leads(ctx)
	w.must(cut(ctx, w.tr.index(n)))
	w.must(pause(ctx, w.tr.between(least, most)))
	w.must(w.tr.heal(ctx))
	w.faulty(n) // it may look back on the cut only now
	w.back(ctx)
}

// flap cuts the node that leads several times.
func (w *watch) flap(ctx context.Context, times int) {
	w.t.Helper()
	for range times {
		w.cutLeader(ctx, w.tr.apart, 300*time.Millisecond, 3*time.Second)
	}
}

// haltLeader stops the leader for a while.
func (w *watch) haltLeader(ctx context.Context, least, most time.Duration) {
	w.t.Helper()
	n := w.leads(ctx)
	w.must(syscall.Kill(n.PID, syscall.SIGSTOP))
	err := pause(ctx, w.tr.between(least, most))
	w.must(errors.Join(err, syscall.Kill(n.PID, syscall.SIGCONT)))
	w.tr.mended()
	w.faulty(n)
	w.back(ctx)
}

// anyFault is one of all of them.
func (w *watch) anyFault(ctx context.Context) {
	w.t.Helper()
	switch w.tr.rng.IntN(5) {
	case 0:
		w.tr.faulted(1)
		w.killLeader(ctx)
	case 1:
		w.haltLeader(ctx, 5*time.Second, 15*time.Second)
	case 2:
		w.cutLeader(ctx, w.tr.apart, 3*time.Second, 9*time.Second)
	case 3:
		w.cutLeader(ctx, func(ctx context.Context, i int) error { return w.tr.oneWay(ctx, i, i%2 == 0) }, 3*time.Second, 9*time.Second)
	case 4:
		w.flap(ctx, 2)
	}
}
